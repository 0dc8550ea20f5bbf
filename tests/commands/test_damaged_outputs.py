import shutil
from pathlib import Path

import pytest
import yaml

from tests.commands.test_doctor import STAGES, Study
from tumorboard.commands.damaged_outputs import check_outputs
from tumorboard.commands.locked_outputs import READ_BYTES, explain_other_run


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
    assert finding.level == "ok"
    assert finding.message == "3 outputs compared with dvc.lock: size, and content of small files"
    (trained.folder / "model").unlink()
    (finding,) = check_outputs(trained.folder)
    assert finding.level == "ok"
    message = "2 outputs compared with dvc.lock: size, and content of small files; 1 more is not here"
    assert finding.message == message
    (trained.folder / "dvc.lock").unlink()
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]


@pytest.mark.parametrize(("name", "text"), [("model", ""), ("model", "2\n"), ("data/crop/x", "xx\n")])
def test_a_cut_or_edited_output_is_named_and_restored_by_the_cure(trained: Study, name: str, text: str) -> None:
    replace(trained.folder / name, text)
    (finding,) = check_outputs(trained.folder)
    assert finding.level == "problem"
    assert finding.message.startswith(name.removesuffix("/x") + ": not as in dvc.lock: ")
    trained(*finding.cure.split())
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]


def test_a_file_more_in_a_folder_counts(trained: Study) -> None:
    (trained.folder / "data/crop/empty").touch()
    (finding,) = check_outputs(trained.folder)
    assert finding.message.startswith("data/crop: not as in dvc.lock")


@pytest.mark.parametrize("name", ["data/crop/x", "data/crop/a-b/z", "data/crop/é"])
def test_of_a_small_folder_the_content_and_the_names_count(trained: Study, name: str) -> None:
    more = "&& cd data/crop && mkdir a a-b && echo y > a/y && echo z > a-b/z && echo e > é"
    trained.write("dvc.yaml", STAGES.replace("cp -r data/phantom data/crop", f"cp -r data/phantom data/crop {more}"))
    trained("dvc", "repro", "--quiet")
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]
    replace(trained.folder / name, "w\n")
    (finding,) = check_outputs(trained.folder)
    assert finding.message.startswith("data/crop: not as in dvc.lock")
    trained("dvc", "checkout", "--force")
    (trained.folder / name).rename(trained.folder / "data/crop/other")
    assert [finding.level for finding in check_outputs(trained.folder)] == ["problem"]


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


def test_outputs_of_another_commit_are_brought_back_without_a_run(trained: Study) -> None:
    trained("git", "add", "--all")
    trained("git", "commit", "--quiet", "-m", "1")
    trained.write("dvc.yaml", STAGES + "  model: {cmd: echo 22 > model, outs: [model]}\n")
    trained("dvc", "repro", "--quiet")
    trained("git", "checkout", "--quiet", "dvc.yaml", "dvc.lock")
    (finding,) = check_outputs(trained.folder)
    assert finding.cure == "dvc checkout --force"
    trained(*finding.cure.split())
    assert (trained.folder / "model").read_text() == "1\n"
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]


def test_outputs_of_a_colleagues_commit_are_pulled(trained: Study) -> None:
    replace(trained.folder / "model", "another commit's\n")
    shutil.rmtree(trained.folder / ".dvc/cache")
    assert [finding.cure for finding in check_outputs(trained.folder)] == ["dvc repro"]
    trained("dvc", "remote", "add", "--default", "storage", "/archive")
    (finding,) = check_outputs(trained.folder)
    assert finding.cure.startswith("dvc pull --force")


def test_whole_outputs_without_a_copy_in_the_cache_are_put_back_without_a_run(trained: Study) -> None:
    trained.write("dvc.yaml", STAGES + "  model: {cmd: echo 1 > model, outs: [model, {score: {cache: false}}]}\n")
    trained.write("score", "1\n")
    trained("dvc", "commit", "--force", "--quiet")
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]
    shutil.rmtree(trained.folder / ".dvc/cache")
    (finding,) = check_outputs(trained.folder)
    assert finding.message.startswith("DVC's cache has no copy of data/phantom, data/crop, model: ")
    assert finding.cure == "dvc commit"
    trained("dvc", "commit")
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]
    assert "Running" not in trained("dvc", "repro")


def test_an_edited_file_of_metrics_that_git_has_is_written_again(trained: Study) -> None:
    trained("dvc", "remote", "add", "--default", "storage", "/archive")
    trained.write("dvc.yaml", STAGES + "  score: {cmd: echo 1 > score, metrics: [{score: {cache: false}}]}\n")
    trained("dvc", "repro", "--quiet")
    trained("git", "add", "--all")
    trained("git", "commit", "--quiet", "-m", "1")
    replace(trained.folder / "score", "1\r\n")
    (finding,) = check_outputs(trained.folder)
    assert finding.cure == "dvc repro"
    trained("dvc", "repro", "--quiet")
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]


def test_the_entry_of_a_renamed_stage_does_not_count(trained: Study) -> None:
    trained.write("dvc.yaml", STAGES + "  renamed: {cmd: echo 22 > model, outs: [model]}\n")
    trained("dvc", "repro", "--quiet")
    assert "  model:" in (trained.folder / "dvc.lock").read_text()
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]


def test_links_into_a_cache_that_is_gone_are_named(trained: Study) -> None:
    trained("dvc", "config", "cache.type", "symlink")
    trained("dvc", "checkout", "--quiet", "--relink")
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]
    shutil.rmtree(trained.folder / ".dvc/cache")
    (finding,) = check_outputs(trained.folder)
    assert finding.level == "problem"
    assert "data/crop" in finding.message


def test_nothing_is_compared_while_a_command_of_dvc_works(trained: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(trained.folder / "model", "half")
    monkeypatch.setattr("tumorboard.commands.damaged_outputs.works_now", lambda _: True)
    assert [finding.level for finding in check_outputs(trained.folder)] == ["note"]


def test_a_commands_files_of_another_commit_are_named_with_the_cure(trained: Study) -> None:
    files = [Path("model"), Path("data/crop"), Path("nothing")]
    assert explain_other_run(trained.folder, files) == ""
    trained.commit()
    trained.write("dvc.yaml", STAGES + "  model: {cmd: echo 2 > model, outs: [model]}\n")
    trained("dvc", "repro", "--quiet")
    assert explain_other_run(trained.folder, files) == ""
    trained("git", "stash", "--quiet")
    told = "model: not as in dvc.lock, but of another commit or an unfinished run: dvc checkout --force"
    assert explain_other_run(trained.folder, files) == told
    assert explain_other_run(trained.folder, files[1:]) == ""
    trained("dvc", "checkout", "--force")
    assert explain_other_run(trained.folder, files) == ""
    (trained.folder / "model").unlink()
    assert explain_other_run(trained.folder, files) == ""
    (trained.folder / "dvc.lock").unlink()
    assert explain_other_run(trained.folder, files) == ""


def test_a_model_that_was_trained_after_its_scores_is_named(trained: Study) -> None:
    """As `dvc repro train@cnn-0` leaves it."""
    stages = """stages:
  train: {matrix: {model: [cnn]}, cmd: echo 1 > model, outs: [model]}
  evaluate: {matrix: {model: [cnn]}, cmd: cp model scores, deps: [model], outs: [scores]}
"""
    trained.write("dvc.yaml", stages)
    trained("dvc", "repro", "--quiet")
    assert explain_other_run(trained.folder, [Path("model")]) == ""
    trained.write("dvc.yaml", stages.replace("echo 1", "echo 2"))
    trained("dvc", "repro", "--quiet", "train@cnn")
    told = "model: trained after the scores were computed: dvc repro"
    assert explain_other_run(trained.folder, [Path("scores"), Path("model")]) == told
    trained("dvc", "repro", "--quiet")
    assert explain_other_run(trained.folder, [Path("model")]) == ""


def test_a_panel_that_is_older_than_its_members_predictions_is_named(trained: Study) -> None:
    """As a frozen stage leaves it; an evaluation of a model that is no member any more does not count."""
    stages = """stages:
  evaluate:
    matrix: {model: [cnn, resnet]}
    cmd: mkdir -p members && echo 1${item.model} > members/${item.model}
    outs: ["members/${item.model}"]
  ensemble: {cmd: cat members/* > panel, deps: [members], outs: [panel]}
"""
    trained.write("dvc.yaml", stages)
    trained("dvc", "repro", "--quiet")
    assert explain_other_run(trained.folder, [Path("panel")]) == ""
    trained.write("dvc.yaml", stages.replace("echo 1", "echo 2"))
    trained("dvc", "repro", "--quiet", "evaluate@cnn")
    told = "panel: made before the members' predictions, which stage ensemble reads: "
    assert explain_other_run(trained.folder, [Path("members/cnn")]) == ""
    assert explain_other_run(trained.folder, [Path("panel")]) == told + "dvc repro"
    trained("dvc", "freeze", "ensemble")
    assert explain_other_run(trained.folder, [Path("panel")]) == told + "dvc unfreeze ensemble; dvc repro"
    trained("dvc", "unfreeze", "ensemble")
    trained("dvc", "repro", "--quiet")
    assert explain_other_run(trained.folder, [Path("panel")]) == ""
    (trained.folder / "members/resnet").unlink()
    trained.write("dvc.yaml", stages.replace("echo 1", "echo 2").replace("[cnn, resnet]", "[cnn]"))
    trained("dvc", "repro", "--quiet")
    assert "evaluate@resnet" in (trained.folder / "dvc.lock").read_text()
    assert explain_other_run(trained.folder, [Path("panel")]) == ""


def test_the_entry_of_a_stage_that_is_gone_makes_no_panel_older(trained: Study) -> None:
    stages = """stages:
  evaluate: {matrix: {model: [cnn]}, cmd: mkdir members && echo 1 > members/cnn, outs: [members/cnn]}
  ensemble: {cmd: cat members/* > panel, deps: [members], outs: [panel]}
"""
    trained.write("dvc.yaml", stages)
    trained("dvc", "repro", "--quiet")
    lock = yaml.safe_load((trained.folder / "dvc.lock").read_text())
    older = {**lock["stages"]["ensemble"], "deps": [{"path": "members", "size": 1, "nfiles": 1}]}
    for stages_of in ({"earlier": older, **lock["stages"]}, {**lock["stages"], "later": older}):
        (trained.folder / "dvc.lock").write_text(yaml.safe_dump({**lock, "stages": stages_of}))
        assert explain_other_run(trained.folder, [Path("panel")]) == ""


@pytest.mark.parametrize("stages", ["[a]", "text", "3", "{1: {outs: [{path: model}]}, b: [c], d: {outs: x}}"])
def test_odd_contents_of_dvc_lock_are_left_to_others(trained: Study, stages: str) -> None:
    (trained.folder / "dvc.lock").write_text(f"schema: '2.0'\nstages: {stages}\n")
    assert explain_other_run(trained.folder, [Path("model")]) == ""


def test_an_entry_without_a_digest_is_not_looked_for_in_the_cache(trained: Study) -> None:
    (trained.folder / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  model:\n    cmd: x\n    outs:\n    - {path: model, size: 2}\n"
    )
    assert [finding.level for finding in check_outputs(trained.folder)] == ["ok"]
