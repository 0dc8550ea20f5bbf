"""The ledger of looks at the test part: what counts, what counts once, and what a damaged file still tells."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tumorboard.base.tables import Manifest
from tumorboard.panel.ledger import count_models, digest_of_test_part, read_looks, record_look


def manifest(**changes: object) -> Manifest:
    ids = ["a", "b", "c", "d"]
    rows = pd.DataFrame({"id": ids, "path": ids, "label": ["x", "y"] * 2, "group": ids})
    rows["split"] = ["train", "test", "train", "test"]
    rows["fold"] = pd.array([0, None, 1, None], dtype="Int64")
    rows = rows.assign(source_id=ids, sha256=[f"{number}" for number in range(4)])
    for place, value in changes.items():
        column, row = place.split("_")
        rows.loc[ids.index(row), column] = value
    return rows


@pytest.fixture
def weights(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for file in files:
        file.write_bytes(file.name.encode())
    return files


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / ".cache/test-looks.jsonl"


def test_each_set_of_weights_counts_once_per_test_part(ledger: Path, weights: list[Path]) -> None:
    assert (read_looks(ledger), count_models(ledger, manifest())) == ([], 0)
    for fold, file in enumerate(weights):
        for _ in range(2):
            record_look(ledger, manifest(), "cnn", fold, file)
        assert count_models(ledger, manifest()) == fold + 1
    assert len(ledger.read_text().splitlines()) == 3
    copy = weights[0].with_name("copy.safetensors")
    copy.write_bytes(weights[0].read_bytes())
    record_look(ledger, manifest(), "another name", 7, copy)
    assert count_models(ledger, manifest()) == 3, "the same weights"
    weights[0].write_bytes(b"trained again")
    record_look(ledger, manifest(), "cnn", 0, weights[0])
    assert count_models(ledger, manifest()) == 4
    other = manifest(sha256_b="new file")
    assert count_models(ledger, other) == 0
    record_look(ledger, other, "cnn", 0, weights[0])
    assert (count_models(ledger, other), count_models(ledger, manifest())) == (1, 4)
    first = read_looks(ledger)[0]
    assert (first.model, first.fold, first.test) == ("cnn", 0, digest_of_test_part(manifest()))


def test_the_test_part_is_its_images_and_labels() -> None:
    digest = digest_of_test_part(manifest())
    assert len(digest) == 16
    assert digest_of_test_part(manifest()[::-1]) == digest
    for changes in ({"label_a": "y"}, {"sha256_c": "9"}, {"fold_a": 4}, {"group_b": "z"}, {"path_b": "elsewhere"}):
        assert digest_of_test_part(manifest(**changes)) == digest, changes
    for changes in ({"label_b": "x"}, {"sha256_d": "9"}, {"split_b": "train"}, {"split_a": "test"}, {"id_b": "e"}):
        assert digest_of_test_part(manifest(**changes)) != digest, changes
    assert digest_of_test_part(manifest(id_b=b"\xff".decode("utf-8", "surrogateescape"))) != digest


def test_a_line_that_was_cut_is_left_out_and_takes_no_other_with_it(ledger: Path, weights: list[Path]) -> None:
    for fold, file in enumerate(weights[:2]):
        record_look(ledger, manifest(), "cnn", fold, file)
    ledger.write_bytes(ledger.read_bytes()[:-30])
    assert count_models(ledger, manifest()) == 1
    record_look(ledger, manifest(), "cnn", 2, weights[2])
    assert [look.fold for look in read_looks(ledger)] == [0, 2]
    record_look(ledger, manifest(), "cnn", 1, weights[1])
    assert [look.fold for look in read_looks(ledger)] == [0, 2, 1]


@pytest.mark.parametrize("line", [b"[1, 2]", b"3", b"{}", b'{"test": "t"}', b"\0\0\0", b"\xff\xfe", b"", b"null"])
def test_a_line_that_is_no_look_is_left_out(ledger: Path, weights: list[Path], line: bytes) -> None:
    record_look(ledger, manifest(), "cnn", 0, weights[0])
    ledger.write_bytes(line + b"\n" + ledger.read_bytes() + line + b"\n")
    record_look(ledger, manifest(), "cnn", 1, weights[1])
    assert [look.fold for look in read_looks(ledger)] == [0, 1]


WRITER = """
import sys
from pathlib import Path
from tests.panel.test_ledger import manifest
from tumorboard.panel.ledger import record_look
folder = Path(sys.argv[1])
for number in range(16):
    file = folder / f"{sys.argv[2]}-{number}.safetensors"
    file.write_bytes(f"{number // 2 if number % 2 else sys.argv[2] + str(number)}".encode())
    record_look(folder / "looks.jsonl", manifest(), "a model with a long name " * 20, number, file)
"""


def test_two_processes_write_whole_lines(tmp_path: Path) -> None:
    """Half of each process's weights are the other's as well, so that both may write them: they count once."""
    root = Path(__file__).resolve().parents[2]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], cwd=root, stderr=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.wait(120) == 0, writer.communicate()[1]
    lines = (tmp_path / "looks.jsonl").read_text().splitlines()
    assert all(json.loads(line)["fold"] in range(16) for line in lines)
    assert count_models(tmp_path / "looks.jsonl", manifest()) == 8 + 2 * 8
