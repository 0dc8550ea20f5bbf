"""Files: atomic writes, strict JSON, deleted leftovers."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tumorboard.base.errors import InputError
from tumorboard.base.files import (
    read_json,
    read_table,
    remove_leftovers,
    replacing,
    side_cache,
    table_bytes,
    write_json,
    write_table,
)


def test_only_matches_that_are_not_kept_are_deleted(tmp_path: Path) -> None:
    for name in ("kept/0.csv", "kept/1.csv", "gone/0.csv", "mixed/0.csv", "mixed/notes.txt", "own.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "kept" / "2.csv").mkdir()
    (tmp_path / "kept" / "2.csv" / "inside").write_text("x")
    remove_leftovers(tmp_path, "*/*.csv", [tmp_path / "kept" / "0.csv"])
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"kept", "kept/0.csv", "mixed", "mixed/notes.txt", "own.csv"}


def test_json_is_strict(tmp_path: Path) -> None:
    write_json({"a": float("nan"), "b": [np.float64(0.5), np.int64(2)], "c": {"d": np.inf}}, tmp_path / "m" / "x.json")
    text = (tmp_path / "m" / "x.json").read_text()
    parsed = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert parsed == {"a": None, "b": [0.5, 2], "c": {"d": None}}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")

    def half_a_write() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        half_a_write()
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "\N{MICROSCOPE}" * 62 + ".csv"])
def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_json_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"half\.json: not JSON"):
        read_json(tmp_path / "half.json")


def test_the_side_cache_belongs_to_the_main_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert side_cache("crops") == tmp_path / ".cache" / "crops"
    monkeypatch.setenv("DVC_ROOT", "/main")
    assert side_cache("crops") == Path("/main/.cache/crops")


def test_numbers_are_written_as_pandas_writes_them():
    bits = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64).view(np.float64)
    ends = [0.0, -0.0, 1e16, 9999999999999998.0, 1e-4, 9.999e-5, 1e22, 5e-324, np.nan, np.inf, -np.inf, 0.1, 2.0]
    numbers = np.concatenate([bits, ends])
    table = pd.DataFrame(
        {
            "number": numbers,
            "single": np.linspace(-1, 1, len(numbers), dtype=np.float32),
            "whole": np.arange(len(numbers)),
            "missing": pd.array([None, 3] * (len(numbers) // 2) + [7] * (len(numbers) % 2), dtype="Int64"),
            "true": np.arange(len(numbers)) % 3 == 0,
            "text": ['a,"b"', "c\r", None] * (len(numbers) // 3) + ["d"] * (len(numbers) % 3),
        }
    )
    assert table_bytes(table).decode() == table.to_csv(index=False, lineterminator="\r\n").replace("\r\n", "\n")


def test_columns_of_numbers_are_read_to_the_last_bit_and_all_others_as_text(tmp_path):
    """Numbers are those of Python's float; a text that looks like one stays a text, an empty cell an empty text."""
    numbers = np.random.default_rng(0).random(3000) ** 20
    table = pd.DataFrame({"id": ["007", ""] * 1500, "p_<a>": numbers, "path": "1e3"})
    write_table(table, tmp_path / "t.csv")
    read = read_table(tmp_path / "t.csv", "p_")
    assert read["p_<a>"].tolist() == numbers.tolist()
    assert read["p_<a>"].dtype == np.float64
    assert read["id"].tolist() == ["007", ""] * 1500
    assert set(read["path"]) == {"1e3"}
    assert [read[name].dtype for name in ("id", "path")] == [object, object]


@pytest.mark.parametrize("cell", ["", "high", "1 2"])
def test_a_cell_that_is_no_number_is_named_by_its_column(tmp_path, cell):
    write_table(pd.DataFrame({"id": ["x", "y"], "p_a": ["0.5", "0.5"], "p_b": ["0.5", cell]}), tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"t\.csv: column p_b: could not convert"):
        read_table(tmp_path / "t.csv", "p_")
