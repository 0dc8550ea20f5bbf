import json
import shutil

import pandas as pd
import pytest

from tests.report.finished_run import CLASSES, panel_params, run_report, run_stages, write_finished_run
from tumorboard.base.errors import InputError


def test_tables_pictures_and_page_are_written(run):
    assert {path.name for path in (run / "plots").glob("*.csv")} == {
        "agreement.csv",
        "confusion.csv",
        "curves.csv",
        "data.csv",
        "precision_recall.csv",
        "reliability.csv",
        "roc.csv",
        "scores.csv",
        "splits.csv",
        "suspects.csv",
    }
    of_part = {"confusion", "confusion_normalised", "precision_recall", "reliability", "roc", "scores"}
    validation = {path.stem for path in (run / "plots" / "images").iterdir()}
    assert validation == of_part | {"curves", "data", "duplicates", "splits", "suspects"}
    assert {path.stem for path in (run / "plots" / "test").iterdir()} == of_part | {"mistakes"}
    assert (run / "report" / "index.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    roc = pd.read_csv(run / "plots" / "roc.csv", keep_default_na=False)
    assert set(roc["class"]) == set(CLASSES)


def test_the_scores_are_printed(run):
    lines = (run / "printed.txt").read_text().splitlines()
    headline = json.loads((run / "metrics" / "ensemble.json").read_text())
    assert lines[0] == "54 validation images of 18 patients:"
    assert lines[-2].startswith(f"  soft vote      accuracy {100 * headline['accuracy']:.1f} % (")
    assert lines[-1] == "Choose by these. The soft vote heads the report, which has the test scores."


def test_what_dvc_plots_shows_no_test_image(run):
    """The counts of the confusion are those of the 54 validation images, not of the 36 test images."""
    confusion = pd.read_csv(run / "plots" / "confusion.csv")
    assert set(confusion.groupby("model")["count"].sum()) == {54}


def test_an_unscored_test_part_has_no_pictures(tmp_path, params):
    panel = panel_params(params, evaluate={"test": False})
    write_finished_run(tmp_path, panel, ["a", "b"], groups=18)
    printed = run_stages(tmp_path, panel)
    assert printed.startswith("36 validation images of 12 patients:")
    assert list((tmp_path / "plots" / "test").iterdir()) == []


def test_a_second_run_writes_the_same_bytes(run, panel, tmp_path):
    root = shutil.copytree(run, tmp_path / "run")
    files = [path for path in root.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    run_stages(root, panel)
    assert {path: path.read_bytes() for path in files} == before


def test_a_name_that_is_not_utf8_leaves_a_page_that_is(tmp_path, panel):
    write_finished_run(tmp_path, panel, ["a", "b"], groups=18)
    (tmp_path / "crop" / "quarantined.csv").write_bytes(b"path,reason,detail\nbad\xff.jpg,truncated,\n")
    run_stages(tmp_path, panel)
    assert "bad\\udcff.jpg" in (tmp_path / "report" / "index.html").read_text("utf-8")


def test_files_of_models_and_folds_no_longer_listed_are_deleted(tmp_path, panel):
    write_finished_run(tmp_path, panel, ["a", "b"], groups=18)
    own = tmp_path / "training" / "mine.safetensors"
    own.write_bytes(b"a user's file")
    for name in ("linear/1", "cnn/0", "cnn/1"):  # of the stage train; no stage reads them
        (tmp_path / "metrics/train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "metrics/train" / f"{name}.json").write_text("{}", encoding="utf-8")
    run_stages(tmp_path, panel.model_copy(update={"models": ("cnn",), "folds": (1,)}))
    members = [f"predictions/{name}" for name in ("members", "test/members", "held_out", "unlike")]
    for folder in ("training", *members, "metrics/evaluate", "metrics/train"):
        assert not (tmp_path / folder / "linear").exists()
        assert {path.stem for path in (tmp_path / folder / "cnn").iterdir()} == {"1"}
    assert own.exists()
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert "<dt>models</dt><dd>cnn</dd>" in page
    assert "linear" not in page[page.index("<h2>Test images") : page.index("<h2>Training")]


def test_a_missing_file_of_a_member_is_named(tmp_path, panel):
    write_finished_run(tmp_path, panel, ["a", "b"], groups=18)
    (tmp_path / "predictions" / "members" / "cnn" / "1.csv").unlink()
    with pytest.raises(InputError, match=r"cnn/1\.csv"):
        run_stages(tmp_path, panel)


def test_nothing_is_written_where_a_file_is_missing(tmp_path, panel):
    write_finished_run(tmp_path, panel, ["a", "b"], groups=18)
    with pytest.raises(InputError, match=r"votes/heading\.csv"):
        run_report(tmp_path, panel)
    assert not (tmp_path / "plots").exists()
    assert not (tmp_path / "report").exists()
