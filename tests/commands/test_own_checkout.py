"""What a worker's own checkout is made from, and what is refused; test_cluster.py has a training in one."""

import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo

from tumorboard.base.errors import InputError
from tumorboard.commands.own_checkout import Source, own_checkout, publish_study

PIPELINE = """
stages:
  prepare:
    cmd: echo 1 > rows && echo 3 > score.json
    outs: [rows]
    metrics: [score.json: {cache: false}]
  train:
    cmd: echo 2 > model
    deps: [rows, train.py]
    outs: [model]
"""


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True).stdout


def commit(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "a state")
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study in a folder of a git repository, with no commit, remote or output yet."""
    for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = tmp_path / "repository/studies/one"
    folder.mkdir(parents=True)
    git(tmp_path / "repository", "init", "--quiet")
    git(tmp_path, "init", "--quiet", "--bare", "server")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "train.py").write_text("")
    (folder / "score.json").write_text("{}")
    monkeypatch.chdir(folder)
    Repo.init(subdir=True).close()
    return folder


def test_what_keeps_a_worker_from_fetching_the_study_is_named_one_after_another(study: Path, tmp_path: Path) -> None:
    def refusal() -> str:
        with pytest.raises(InputError) as caught:
            publish_study(["train"])
        assert "start the workers where they see this folder" in str(caught.value)
        return str(caught.value)

    assert "no git repository with a commit" in refusal()
    commit(study)
    (study / "train.py").write_text("# new")
    (study / "score.json").write_text('{"score": 1}')  # an output, as a run leaves it
    assert refusal().startswith("train.py has changes that no commit has")
    git(study, "checkout", "--quiet", "train.py")
    assert "no git remote 'origin': `git remote add origin URL`" in refusal()
    git(study, "remote", "add", "origin", str(tmp_path / "server"))
    assert "is not on the git remote 'origin': `git push`" in refusal()
    git(study, "push", "--quiet", "origin", "HEAD")
    assert "`dvc remote add --default storage URL`" in refusal()


def test_only_the_inputs_of_the_trainings_are_pushed(study: Path, tmp_path: Path) -> None:
    git(study, "remote", "add", "origin", str(tmp_path / "server"))
    with (study / ".dvc/config").open("a") as config:
        config.write(f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {tmp_path / 'remote'}\n")
    last = commit(study)
    git(study, "push", "--quiet", "origin", "HEAD")
    with Repo() as repo:
        repo.reproduce()
    source = publish_study(["train"])
    assert (source.url, source.commit, source.prefix) == (str(tmp_path / "server"), last, "studies/one/")
    assert source.lock == (study / "dvc.lock").read_text()
    pushed = [file.read_text() for file in (tmp_path / "remote").rglob("*") if file.is_file()]
    assert pushed == ["1\n"]

    (tmp_path / "remote").rename(tmp_path / "elsewhere")
    (tmp_path / "remote").write_text("a file where the remote's folder was")
    with pytest.raises(InputError, match="the inputs of the trainings cannot be pushed to the DVC remote: "):
        publish_study(["train"])


def test_each_process_of_a_machine_has_a_checkout_and_the_next_one_takes_it_over(tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.mkdir()
    git(server, "init", "--quiet")
    (server / "one/.dvc").mkdir(parents=True)
    (server / "one/params.yaml").write_text("lr: 1")
    (server / "one/dvc.lock").write_text("committed")
    first = Source(str(server), commit(server), "one/", "sent", "one")
    (server / "one/params.yaml").write_text("lr: 2")
    second = Source(str(server), commit(server), "one/", "sent", "one")
    base = tmp_path / "base"

    with own_checkout(first, base) as folder:
        assert folder == base / "0/one"
        assert (folder / "params.yaml").read_text() == "lr: 1"
        assert (folder / "dvc.lock").read_text() == "sent"
        assert f"dir = {base / 'cache'}" in (folder / ".dvc/config.local").read_text()
        (folder / "checkpoint").write_text("epoch 3")
        with own_checkout(second, base) as other:
            assert other == base / "1/one"
            assert (other / "params.yaml").read_text() == "lr: 2"
    assert base.stat().st_mode & 0o777 == 0o700
    with own_checkout(second, base) as folder:
        assert (folder / "params.yaml").read_text() == "lr: 2"
        assert (folder / "checkpoint").read_text() == "epoch 3"

    missing = Source(str(server), "0" * 40, "one/", "sent", "one")
    with pytest.raises(InputError, match=r"commit 0000000 of .*server cannot be fetched"), own_checkout(missing, base):
        pass
