"""A competition's file, and one row per patient, from the table of `predict`; expected values by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tumorboard.base.errors import InputError
from tumorboard.commands.by_patient import join_patients, patients_of
from tumorboard.commands.predict import describe_rows
from tumorboard.commands.submission import (
    Column,
    Form,
    check_probabilities,
    fill_columns,
    infer_columns,
    open_form,
    parse_template,
    read_sample,
    six_digits,
)
from tumorboard.panel.deciding import Deciding, unfitted
from tumorboard.panel.votes import VOTES

CLASSES = ("MEL", "NV")


def decisions(*rows: tuple[str, float | None]) -> pd.DataFrame:
    """Images with the probability of NV; None: not classified."""
    table = pd.DataFrame({"path": [path for path, _ in rows], "p_NV": [value for _, value in rows]})
    table["p_MEL"] = 1 - table["p_NV"].astype(float)
    table["decided"] = [None if value is None else "NV" if value >= 0.5 else "MEL" for _, value in rows]
    table["probability"] = table[["p_NV", "p_MEL"]].max(axis=1)
    table["unlike"] = 0.0
    table["problem"] = ["" if value is not None else "empty: no bytes" for _, value in rows]
    return table


def contents(columns: list[Column]) -> dict[str, str]:
    return {column.header: column.content for column in columns}


def sample_of(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "sample.csv"
    file.write_text(text, encoding="utf-8")
    return read_sample(file)


# ----- Templates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "positive", "expected"),
    [
        ("id,label", None, {"id": "id", "label": "label"}),
        ("image = file , target=probability", "NV", {"image": "file", "target": "p_NV"}),
        ("path,classes", None, {"path": "path", "MEL": "p_MEL", "NV": "p_NV"}),
        ("id,NV,p_MEL", None, {"id": "id", "NV": "p_NV", "p_MEL": "p_MEL"}),
        ("label,id", None, {"label": "label", "id": "id"}),
    ],
)
def test_a_template_says_what_each_column_holds(template: str, positive: str | None, expected: dict[str, str]) -> None:
    columns = contents(parse_template(template, CLASSES, positive))
    assert columns == expected
    assert list(columns) == list(expected), "in the template's order"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("id,lable", "there is no 'lable'; did you mean label?"),
        ("id,target=melanoma", "there is no 'melanoma'"),
        ("id,", "a column without a name"),
        ("id,probability", "name the class itself, as in probability=NV"),
        ("label,NV", "has no column that names the rows: add id, file or path"),
        ("id,label,label", "has two columns 'label'"),
        ("id,classes,NV", "has two columns 'NV'"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(template: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_template(template, CLASSES, None)
    assert message in str(raised.value)


def test_a_class_that_has_the_name_of_a_keyword_is_reached_by_its_column() -> None:
    assert contents(parse_template("id,x=p_label", ("label", "other"), None)) == {"id": "id", "x": "p_label"}


@pytest.mark.parametrize("template", ["id,probability,label", "id,probability=NV", "id,classes", "id,probability=p_NV"])
def test_a_share_of_votes_is_no_probability(template: str) -> None:
    columns = parse_template(template, CLASSES, "NV")
    header = "MEL" if template == "id,classes" else "probability"
    with pytest.raises(InputError) as raised:
        check_probabilities(columns, "hard")
    assert str(raised.value) == (
        f"the competition's column '{header}' is to hold probabilities, but the hard vote has shares of votes and no "
        "probabilities: choose a vote that has them, --vote single, soft, product, weighted or stacking; or ask for "
        "labels alone, --submission 'id,label'"
    )
    for vote in sorted({*VOTES} - {"hard"}):
        check_probabilities(columns, vote)
    check_probabilities(parse_template("id,file,path,label", CLASSES, None), "hard")


# ----- Samples --------------------------------------------------------------------------------------------------------

PATHS = ["new/a.1.png", "new/b.png"]


@pytest.mark.parametrize(
    ("text", "positive", "expected"),
    [
        ("image,MEL,NV\na.1,0,0\nb,0,0\n", None, {"image": "id", "MEL": "p_MEL", "NV": "p_NV"}),
        ("image;NV\na.1.png;0.5\nb.png;0.5\n", None, {"image": "file", "NV": "p_NV"}),
        ("name,diagnosis\nnew/b.png,NV\nnew/a.1.png,MEL\n", None, {"name": "path", "diagnosis": "label"}),
        ("id,target\nb,0\na.1,0.5\n", "MEL", {"id": "id", "target": "p_MEL"}),
        ("id,target\nb,\na.1,\n", "MEL", {"id": "id", "target": "p_MEL"}),
    ],
)
def test_a_sample_says_what_its_columns_hold(
    tmp_path: Path, text: str, positive: str | None, expected: dict[str, str]
) -> None:
    assert contents(infer_columns(sample_of(tmp_path, text), PATHS, CLASSES, positive)) == expected


@pytest.mark.parametrize(
    ("text", "positive", "message"),
    [
        ("id,target\nb,0\n", None, "column 'target' is not clear: it is no class of the panel (MEL, NV)"),
        ("id,target\nb,BKL\n", "MEL", "column 'target' is not clear"),
        ("id,MEL,BKL\nb,0,0\n", "MEL", "column 'BKL' is not clear"),
        ("id,NV,NV\nb,0,0\n", None, "has two columns 'NV'"),
        ("id,NV\n", None, "has no rows"),
        ("id,NV\nb\n", None, "line 2: 1 values for 2 columns"),
    ],
)
def test_a_sample_that_is_not_clear_is_refused_by_column(
    tmp_path: Path, text: str, positive: str | None, message: str
) -> None:
    with pytest.raises(InputError) as raised:
        infer_columns(sample_of(tmp_path, text), PATHS, CLASSES, positive)
    assert message in str(raised.value)
    assert "sample.csv" in str(raised.value)


def test_a_file_has_the_columns_and_the_order_of_its_sample(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, "NV,image,MEL\n0,b,0\n0,a.1,0\n")
    columns = parse_template("image=id,classes", CLASSES, None)
    table = fill_columns(decisions(("new/a.1.png", 0.25), ("new/b.png", 2 / 3)), columns, sample)
    assert table.to_csv(index=False) == "NV,image,MEL\n0.666667,b,0.333333\n0.250000,a.1,0.750000\n"


@pytest.mark.parametrize(
    ("text", "template", "message"),
    [
        ("id,NV\na.1,0\nb,0\nc,0\n", "id,NV", "'c': not among the predicted files"),
        ("id,NV\nx,0\ny,0\nz,0\nu,0\n", "id,NV", "'x', 'y', 'z' and 1 more: not among the predicted files"),
        ("id,NV\nb,0\n", "id,NV", "sample.csv: lacks 'a.1'"),
        ("id,NV\na.1,0\nb,0\nb,0\n", "id,NV", "has two rows 'b'"),
        ("id,NV\na.1,0\nb,0\n", "id,NV,label", "lacks the column 'label' of --submission"),
        ("id,NV,site\na.1,0,x\nb,0,x\n", "id,NV", "has the column 'site', which --submission lacks"),
        ("ID,NV\na.1,0\nb,0\n", "id,NV", "has the column 'ID', which --submission lacks"),
    ],
)
def test_a_sample_of_other_rows_or_columns_is_refused_before_anything_is_classified(
    tmp_path: Path, text: str, template: str, message: str
) -> None:
    sample_of(tmp_path, text)
    with pytest.raises(InputError) as raised:
        open_form(template, tmp_path / "sample.csv", names=PATHS, patients=False, classes=CLASSES, positive=None)
    assert message in str(raised.value)


def test_names_that_are_one_without_extension_are_refused_unless_the_extension_stays() -> None:
    table = decisions(("x/a.png", 0.5), ("x/a.jpg", 0.5))
    with pytest.raises(InputError, match=r"x/a\.png and x/a\.jpg are both called 'a'"):
        fill_columns(table, parse_template("id,label", CLASSES, None))
    assert fill_columns(table, parse_template("id=file,label", CLASSES, None))["id"].tolist() == ["a.png", "a.jpg"]
    with pytest.raises(InputError, match=r"x/a\.png and y/a\.png are both called 'a\.png'"):
        fill_columns(decisions(("x/a.png", 0.5), ("y/a.png", 0.5)), parse_template("file,label", CLASSES, None))


def test_a_file_that_was_not_classified_keeps_its_row_with_empty_cells_and_is_counted() -> None:
    rows = decisions(("a.png", 0.75), ("b.png", None))
    form = Form(parse_template("id,label,classes", CLASSES, None), None)
    table = fill_columns(rows, form.columns)
    assert table.to_numpy().tolist() == [["a", "NV", "0.250000", "0.750000"], ["b", "", "", ""]]
    assert "rows with empty cells, since nothing was classified: 1;" in "\n".join(describe_rows(rows, None, form))


def test_undecided_rows_have_no_label_and_are_counted() -> None:
    rows = decisions(("a.png", 0.55)).assign(decided="")
    form = Form(parse_template("id,label", CLASSES, None), None)
    assert fill_columns(rows, form.columns)["label"].tolist() == [""]
    assert "are undecided (evaluate.abstain) and have no label: 1" in "\n".join(describe_rows(rows, None, form))


def test_names_stay_as_they_are_where_a_competition_reads_them() -> None:
    """Another name would be another image; the ordinary table defuses it."""
    assert fill_columns(decisions(("=1+1.png", 0.5)), parse_template("id,label", CLASSES, None))["id"][0] == "=1+1"


def test_probabilities_have_six_digits_and_other_columns_stay() -> None:
    table = six_digits(decisions(("a", 1e-7), ("b", None)))
    assert table["p_NV"].tolist() == ["0.000000", None]
    assert table["p_MEL"].tolist() == ["1.000000", None]
    assert table["unlike"].tolist() == ["0.000000", "0.000000"]


def test_no_form_is_made_where_none_is_asked_for() -> None:
    assert open_form(None, None, names=PATHS, patients=False, classes=CLASSES, positive=None) is None


# ----- Patients -------------------------------------------------------------------------------------------------------


def deciding(threshold: float | None = None, abstain: float = 0.0) -> Deciding:
    fit = unfitted(["cnn"])
    if threshold is not None:
        fit = replace(fit, threshold=threshold)
    return Deciding(fit=fit, vote="soft", positive=None if threshold is None else "NV", abstain=abstain)


def test_a_patient_has_the_mean_of_its_images_that_were_classified() -> None:
    table = decisions(("p1_a.png", 0.9), ("p2_a.png", 0.2), ("p1_b.png", 0.2), ("p1_c.png", None), ("p3.png", None))
    table.loc[2, "unlike"] = 1.5
    joined = join_patients(table, ["p1", "p2", "p1", "p1", "p3"], deciding())
    assert joined["path"].tolist() == ["p1", "p2", "p3"]
    assert joined["p_NV"].tolist()[:2] == pytest.approx([0.55, 0.2])
    assert joined["p_MEL"].tolist()[:2] == pytest.approx([0.45, 0.8])
    assert joined["decided"].tolist() == ["NV", "MEL", ""]
    assert joined["probability"].tolist()[:2] == pytest.approx([0.55, 0.8])
    assert pd.isna(joined["probability"][2])
    assert joined["agreeing"].tolist() == ["1 of 2", "1 of 1", ""]
    assert joined["images"].tolist() == [2, 1, 0]
    assert joined["unlike"].tolist() == [1, 0, 0]
    assert joined["problem"].tolist() == [
        "1 file was not classified, of 3",
        "",
        "1 file was not classified, of 1",
    ]


def test_a_patient_is_decided_by_the_panels_threshold_and_left_undecided_below_abstain() -> None:
    table = decisions(("a.png", 0.3), ("b.png", 0.2))
    above = join_patients(table, ["p", "p"], deciding(threshold=0.25))
    assert (above["decided"].tolist(), above["threshold"].tolist()) == (["NV"], [0.25])
    assert join_patients(table, ["p", "p"], deciding(threshold=0.26))["decided"].tolist() == ["MEL"]
    assert join_patients(table, ["p", "p"], deciding())["threshold"].isna().all()
    unusable = join_patients(decisions(("a.png", None)), ["p"], deciding(threshold=0.25))
    assert unusable["threshold"].isna().all(), "nothing was decided"
    assert join_patients(table, ["p", "p"], deciding(abstain=0.8))["decided"].tolist() == [""]


def test_patients_come_from_the_studys_pattern_another_pattern_or_a_table(tmp_path: Path) -> None:
    files = [tmp_path / "P07_1.png", tmp_path / "sub/P11_1.png"]
    assert patients_of("study", files, r"(P\d+)_") == ["P07", "P11"]
    assert patients_of(r"/(P\d)", files, None) == ["P0", "P1"]
    (tmp_path / "t.csv").write_text("group,path\nx,P07_1.png\ny,sub/P11_1.png\nz,unused.png\n", encoding="utf-8")
    assert patients_of(str(tmp_path / "t.csv"), files, None) == ["x", "y"]
    (tmp_path / "t.csv").write_text("group,,path,\nx,1,P07_1.png,\ny,,sub/P11_1.png,2\n", encoding="utf-8")
    roundabout = [tmp_path / "elsewhere/.." / file.relative_to(tmp_path) for file in files]
    assert patients_of(str(tmp_path / "t.csv"), roundabout, None) == ["x", "y"]


def test_a_table_of_patients_that_a_spreadsheet_has_changed_is_refused(tmp_path: Path) -> None:
    files = [tmp_path / "1.png", tmp_path / "2.png"]
    table = tmp_path / "t.csv"
    table.write_text("path,group\n1.png,1.2E+10\n2.png,1.2E+10\n")
    with pytest.raises(InputError, match=r"t\.csv: line 2: group '1\.2E\+10' is a number that a spreadsheet program"):
        patients_of(str(table), files, None)
    table.write_text("Patients\npath,group\n1.png,P1\n2.png,P2\n")
    with pytest.raises(InputError, match=r"t\.csv: line 1 is not a header \('Patients'\); line 2 has the columns path"):
        patients_of(str(table), files, None)


@pytest.mark.parametrize(
    ("source", "text", "message"),
    [
        ("study", "", "--patients study: params.yaml has no data.group_pattern: name a regular expression whose"),
        (r"(Q\d+)", "", r"--patients: '(Q\d+)' matches no group in the path"),
        (r"(Q\d+)", "", "correct the pattern, or leave the option out if every image is its own group"),
        ("P07", "", "--patients: 'P07' has no group"),
        ("t.csv", "path,patient\nP07_1.png,x\n", "t.csv: has no column 'group': it has path, patient"),
        (
            "t.csv",
            "path,group\nP07_2.png,x\n",
            "add it, with a path relative to the current folder or to the table's",
        ),
        ("t.csv", "path,group\nP07_1.png,\n", "line 2: has no group"),
        ("t.csv", "path,group\nP07_1.png,x\nP07_1.png,y\n", "line 3: a second group for P07_1.png"),
        ("t.csv", "path,group, group\nP07_1.png,x,y\n", "t.csv: has two columns 'group'"),
        ("none.csv", "", "none.csv: cannot be read"),
    ],
)
def test_patients_that_are_not_known_are_refused(tmp_path: Path, source: str, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    name = str(tmp_path / source) if source.endswith(".csv") else source
    with pytest.raises(InputError) as raised:
        patients_of(name, [tmp_path / "P07_1.png"], None)
    assert message in str(raised.value)


@pytest.mark.parametrize("pattern", [None, r"(P\d+)_"])
def test_in_a_folder_that_is_no_study_there_is_no_pattern_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str | None
) -> None:
    """The package's defaults, whatever they are, are no study's."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as raised:
        patients_of("study", [Path("P07_1.png")], pattern)
    assert str(raised.value) == (
        f"--patients study: {tmp_path} is no study: it has no params.yaml whose data.group_pattern could be used: name "
        "a regular expression whose first parentheses match the patient in the path, as in --patients '(p\\d+)_', or "
        "a table with the columns path and group, --patients table.csv"
    )


def test_patients_are_the_rows_of_a_competitions_file() -> None:
    joined = join_patients(decisions(("p1_a.png", 0.9), ("p1_b.png", 0.2)), ["p1.x", "p1.x"], deciding())
    form = open_form("patient=id,label", None, names=["p1.x"], patients=True, classes=CLASSES, positive=None)
    assert form is not None
    assert fill_columns(joined, form.columns).to_numpy().tolist() == [["p1.x", "NV"]]
    assert describe_rows(joined, ["p1.x", "p1.x"], form)[0].startswith(
        "1 patient of 2 files: the mean of what the vote gives"
    )


def test_a_column_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="has a column without a name: write NAME=WHAT"):
        parse_template("id,=label", ["a", "b"], None)


def test_the_proposal_names_every_column_of_the_sample(tmp_path: Path) -> None:
    file = tmp_path / "sample.csv"
    file.write_text("name,label,usage\nx,a,0.5\ny,b,0.5\n")
    with pytest.raises(InputError, match=r"--submission 'name=id,label=label,usage=WHAT', where WHAT is label"):
        infer_columns(read_sample(file), ["x.png", "y.png"], ["a", "b"], "a")


def test_the_score_of_unlike_images_has_six_digits_and_their_number_none() -> None:
    table = pd.DataFrame({"unlike": [1 / 3, None]})
    assert six_digits(table)["unlike"].tolist() == ["0.333333", None]
    assert six_digits(pd.DataFrame({"threshold": [1 / 3, np.nan]}))["threshold"].tolist() == ["0.333333", None]
    assert six_digits(pd.DataFrame({"unlike": [2, 0]}))["unlike"].tolist() == ["2", "0"]


@pytest.mark.parametrize("source", ["", "groups.TSV"])
def test_a_source_of_patients_that_is_none(source: str) -> None:
    with pytest.raises(InputError, match=r"is empty|groups\.TSV"):
        patients_of(source, [Path("x.png")], None)
