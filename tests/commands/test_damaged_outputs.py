from pathlib import Path

import pytest

from tests.commands.test_doctor import STAGES, Study
from tumorboard.commands.damaged_outputs import READ_BYTES, check_outputs


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    study = Study(tmp_path / "study")
    monkeypatch.chdir(study.folder)
    study.write("dvc.yaml", STAGES + "  model: {cmd: echo 1 > model, outs: [model]}\n")
    study("dvc", "repro", "--quiet")
    return study


def replace(file: Path, text: str) -> None:
    file.unlink()  # it may be a link into the cache
    file.write_text(text, encoding="utf-8")


def test_what_the_last_run_wrote_is_whole_and_a_missing_file_is_no_fault(trained: Study) -> None:
    (finding,) = check_outputs(trained.folder)
    assert (finding.level, finding.message) == ("ok", "3 outputs as the last run wrote them")
    (trained.folder / "model").unlink()
    (finding,) = check_outputs(trained.folder)
    assert (finding.level, finding.message) == ("ok", "2 outputs as the last run wrote them")
    (trained.folder / "dvc.lock").unlink()
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]


@pytest.mark.parametrize(("name", "text"), [("model", ""), ("model", "2\n"), ("data/crop/x", "xx\n")])
def test_a_cut_or_edited_output_is_named_and_restored_by_the_cure(trained: Study, name: str, text: str) -> None:
    replace(trained.folder / name, text)
    (finding,) = check_outputs(trained.folder)
    assert finding.level == "problem"
    assert finding.message.startswith(name.removesuffix("/x") + ": not what the last run wrote")
    trained(*finding.cure.split())
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]


def test_a_file_more_in_a_folder_counts(trained: Study) -> None:
    (trained.folder / "data/crop/empty").touch()
    (finding,) = check_outputs(trained.folder)
    assert finding.message.startswith("data/crop: not what")


def test_the_size_decides_about_a_large_file(trained: Study) -> None:
    trained.write("dvc.yaml", STAGES + f"  model: {{cmd: head -c {READ_BYTES + 1} /dev/zero > model, outs: [model]}}\n")
    trained("dvc", "repro", "--quiet")
    replace(trained.folder / "model", "x" * (READ_BYTES + 1))
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]
    replace(trained.folder / "model", "x" * READ_BYTES)
    assert [finding.level for finding in check_outputs(trained.folder)] == ["problem"]


def test_a_damaged_copy_in_the_cache_is_named(trained: Study) -> None:
    (copy,) = [
        file
        for file in (trained.folder / ".dvc/cache/files/md5").rglob("*")
        if file.is_file() and file.read_bytes() == b"1\n"
    ]
    copy.chmod(0o644)
    replace(copy, "")
    (finding,) = check_outputs(trained.folder)
    assert finding.message.startswith("DVC's cache has a damaged copy of model: ")
    assert copy.name in finding.message
