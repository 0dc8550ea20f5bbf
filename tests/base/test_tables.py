from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tumorboard.base.errors import InputError
from tumorboard.base.files import write_table
from tumorboard.base.tables import (
    check_manifest,
    check_predictions,
    classes_of,
    copy_id,
    make_predictions,
    manifest_digest,
    probabilities_of,
    read_manifest,
    read_predictions,
)

UGLY = ['a, "b".png', "two\nlines.png", "NA", "001.png", "-dash.png", "ß ü 図.png", "None"]


def manifest(ids: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame({"id": ids, "path": ids, "label": "NA", "group": ids, "split": "train"})
    frame["fold"] = pd.array([None if i == 0 else i for i in range(len(ids))], dtype="Int64")
    return frame.assign(source_id=ids, sha256="0" * 64)


def predictions(ids: list[str], probabilities: list[list[float]]) -> pd.DataFrame:
    rows = manifest(ids).assign(label="no", split="test")
    return make_predictions(rows, np.array(probabilities), ["no", "yes"], "abc")


def test_a_manifest_survives_a_round_trip_with_ugly_names(tmp_path: Path) -> None:
    frame = manifest(UGLY)
    write_table(frame, tmp_path / "manifest.csv")
    back = read_manifest(tmp_path / "manifest.csv")
    assert back["id"].tolist() == UGLY
    assert back["label"].tolist() == ["NA"] * len(UGLY)
    assert back["fold"].isna().tolist() == [True] + [False] * (len(UGLY) - 1)
    assert manifest_digest(back) == manifest_digest(frame)


def test_a_name_that_is_no_utf8_survives_a_round_trip(tmp_path: Path) -> None:
    name = b"bad\xff.png".decode("utf-8", "surrogateescape")
    write_table(manifest([name]), tmp_path / "manifest.csv")
    assert read_manifest(tmp_path / "manifest.csv")["path"].tolist() == [name]
    assert len(manifest_digest(manifest([name]))) == 16


def test_every_control_character_survives_a_round_trip(tmp_path: Path) -> None:
    odd = [chr(code) for code in [*range(33), *range(127, 161), 0x2028, 0x2029]]
    cells = ["\r", "\n", "\r\n", "a\rb", "\ra", "a\r", *(f"a{letter}b{letter}" for letter in odd)]
    write_table(manifest(cells), tmp_path / "manifest.csv")
    assert read_manifest(tmp_path / "manifest.csv")["id"].tolist() == cells
    assert b"\r\n" not in (tmp_path / "manifest.csv").read_bytes().replace(b'"\r\n"', b"")


def test_the_digest_follows_content_not_order() -> None:
    frame = manifest(UGLY)
    assert manifest_digest(frame.iloc[::-1]) == manifest_digest(frame)
    for column, value in (("label", "x"), ("split", "test"), ("fold", 9), ("group", "x")):
        changed = frame.copy()
        changed.loc[3, column] = value
        assert manifest_digest(changed) != manifest_digest(frame), column


def test_the_digest_is_of_the_rows_beyond_the_test_part() -> None:
    """What the test part is changes no model; a row that leaves it or joins it changes the rest."""
    frame = manifest(UGLY).assign(split=["test", "test", *["train"] * 5])
    digest = manifest_digest(frame)
    assert manifest_digest(frame[2:]) == digest, "no test part at all"
    for column, value in (("label", "x"), ("group", "x"), ("sha256", "1"), ("path", "x"), ("id", "x")):
        noise = frame.copy()
        noise.loc[:1, column] = [f"{value}{row}" for row in range(2)]
        assert manifest_digest(noise) == digest, column
    for rows, split in ((0, "train"), (4, "test"), (4, "val")):
        moved = frame.copy()
        moved.loc[rows, "split"] = split
        assert manifest_digest(moved) != digest
    undivided = frame.assign(split="")
    assert manifest_digest(undivided) not in (digest, manifest_digest(undivided[2:]))


def test_predictions_without_rows_survive_a_round_trip(tmp_path: Path) -> None:
    frame = predictions(UGLY[:2], [[0.5, 0.5], [0.25, 0.75]])[:0]
    write_table(frame, tmp_path / "predictions.csv")
    back = read_predictions(tmp_path / "predictions.csv")
    assert (len(back), list(back)) == (0, list(frame))
    assert probabilities_of(back).shape == (0, 2)


def test_a_copys_id_is_no_path() -> None:
    assert copy_id("a/b.png", 2) == "a/b.png//2"
    assert Path(copy_id("a/b.png", 2)).as_posix() != copy_id("a/b.png", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="group"), "columns are"),
        (lambda frame: frame.assign(id="same"), "id 'same' is in more than one row"),
        (lambda frame: frame.assign(label=["a", ""]), "row 3: label is empty"),
        (lambda frame: frame.assign(split="dev"), "split is 'dev', expected one of train, val, test"),
    ],
)
def test_a_wrong_manifest_is_refused(change: Callable[[pd.DataFrame], pd.DataFrame], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_manifest(change(manifest(["a", "b"])), "manifest.csv")


def test_predictions_survive_a_round_trip_exactly(tmp_path: Path) -> None:
    frame = predictions(UGLY[:2], [[1 / 3, 2 / 3], [0.1 + 0.2, 1 - (0.1 + 0.2)]])
    write_table(frame, tmp_path / "predictions.csv")
    back = read_predictions(tmp_path / "predictions.csv")
    pd.testing.assert_frame_equal(back, frame, check_dtype=False)
    assert classes_of(back) == ["no", "yes"]
    assert (probabilities_of(back) == [[1 / 3, 2 / 3], [0.1 + 0.2, 1 - (0.1 + 0.2)]]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="p_yes"), "two or more classes"),
        (lambda frame: frame.assign(label="maybe"), "label 'maybe' has no column p_maybe"),
        (lambda frame: frame.assign(p_no=[0.5, np.nan]), "row 3"),
        (lambda frame: frame.assign(p_no=[0.5, 0.9]), "not probabilities that sum to 1"),
        (lambda frame: frame.assign(p_no=[1.5, 0.5], p_yes=[-0.5, 0.5]), "row 2"),
        (lambda frame: frame.assign(manifest=["abc", "def"]), "rows of several manifests"),
        (lambda frame: frame.assign(id="a"), "id 'a' is in more than one row"),
    ],
)
def test_wrong_predictions_are_refused(change: Callable[[pd.DataFrame], pd.DataFrame], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_predictions(change(predictions(["a", "b"], [[0.5, 0.5], [0.5, 0.5]])), "p.csv")


def test_a_number_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("id,group,split,label,p_a,p_b,manifest\nx,x,test,a,high,0,abc\n")
    with pytest.raises(InputError, match=r"p\.csv: column p_a: .*high"):
        read_predictions(tmp_path / "p.csv")


def test_a_missing_or_empty_table(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match=r"nowhere\.csv: no such table"):
        read_manifest(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match=r"empty\.csv: not a table"):
        read_manifest(tmp_path / "empty.csv")
