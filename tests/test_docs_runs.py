"""Each block of commands in README.md, CONTRIBUTING.md and docs/ is run: in a small study, or in a small clone."""

import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.docs_blocks import PAGES, SHELL, Block, blocks_of, environment_of_a_stranger, run_commands
from tests.docs_clone_runs import CLONE_BEGIN, CLONE_RUNS
from tests.docs_runs import ALL_RUNS, BEGIN, PACKAGE_RUNS, RUNS, WHOLE_PAGES, runs_of
from tests.docs_shell import Run
from tests.pipeline import Project
from tests.warm_python import search_path

BLOCKS = [block for page in PAGES for block in blocks_of(page) if block.language in SHELL]


def by_itself(block: Block) -> bool:
    """Whether the test of a whole page runs a block."""
    return block.page in WHOLE_PAGES and block.language == "sh"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_each_block_is_run_once(block: Block) -> None:
    ways = ["its whole page"] * by_itself(block) + [run.begin for run in runs_of(block)]
    assert len(ways) == 1, f"expected one entry in tests/docs_runs.py or tests/docs_clone_runs.py, found {ways}"
    for run in runs_of(block):
        assert [text for text in run.replaced if text not in block.text] == []


def test_no_entry_is_for_a_block_that_is_gone() -> None:
    assert sum(len(runs_of(block)) for block in BLOCKS) == len(ALL_RUNS)


class Reader:
    """A home without anything, the folder that the commands begin in, and the project that they make there."""

    own_code = False  # whether the commands run the code of the project, as those of its own environment do

    def __init__(self, folder: Path, project: str, repository: Path) -> None:
        """Makes the folders.

        Args:
            folder: for the home and the commands.
            project: the project's folder below `folder`.
            repository: what `git clone …` clones.
        """
        self.work, self.project = folder / "work", folder / project
        self.work.mkdir(parents=True)
        self.environment = environment_of_a_stranger(folder / "home") | {
            "WORK": str(self.work),
            "DATA": str(self.work / "images"),
            "REPOSITORY": str(repository),
            "PACKAGES": sysconfig.get_path("purelib"),
            "PROGRAMS": str(Path(sys.executable).parent),
        }

    def begin(self, runs: Sequence[Run]) -> None:
        """Makes the project."""
        state = self.work / "state"
        state.write_text(str(self.work))
        self.run(runs, state, self.project)

    def follow(self, page: str, runs: Sequence[Run], prefix: str = "") -> Path:
        """Runs the blocks of a page in a copy of the project, in a folder that has the name of the page.

        Returns the folder in which the last block ended, which it notes when all of it has run.
        """
        folder = self.work / (prefix + page.removesuffix(".md"))
        folder.mkdir()
        subprocess.run(["cp", "-a", self.project, folder / "study"], check=True)
        state = folder / "state"
        state.write_text(str(folder / "study"))
        self.run([run for run in runs if run.page == page], state, folder / "study")
        return Path(state.read_text().strip())

    def run(self, runs: Sequence[Run], state: Path, project: Path) -> None:
        """Runs blocks, each where the last one ended; each of their commands must end well."""
        own = {"PYTHONPATH": str(project / "src")} if self.own_code else {}
        texts = []
        for run in runs:
            (block,) = (one for one in BLOCKS if run in runs_of(one))
            text = block.text
            for old, new in run.replaced.items():
                text = text.replace(old, new)
            texts += [run.before, text]
            if not run.goes_on:
                environment = self.environment | own | {"PORT": str(free_port())}
                run_commands("\n".join(texts), f"{block.page}:{block.line}", state, environment)
                texts = []


def free_port() -> int:
    """Returns a port at which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def registry_answers(folder: Path) -> bool:
    """Whether pip gets a package that no test needs."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "1", "--dest", folder, "iniconfig"]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def pages_of(runs: Sequence[Run]) -> list[str]:
    """Returns the pages of blocks in their order."""
    return list(dict.fromkeys(run.page for run in runs))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository with few and small images in its params.yaml."""
    return Project(tmp_path_factory.mktemp("repository")).folder


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Reader]:
    """After the first run and one experiment, as README.md has them."""
    folder = tmp_path_factory.mktemp("stranger")
    made = Reader(folder, "home/my-study", repository)
    made.begin(BEGIN)
    yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def contributor(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Reader]:
    """After a run in a clone of the repository; `python` and `dvc` are forks of tests/warm_python.py."""
    folder = tmp_path_factory.mktemp("contributor")
    made = Reader(folder, "work/tumorboard", repository)
    made.own_code = True
    made.environment["PATH"] = search_path()
    made.begin(CLONE_BEGIN)
    yield made
    shutil.rmtree(folder)


@pytest.mark.docs
@pytest.mark.parametrize("page", pages_of(RUNS))
def test_the_commands_of_a_page_run(page: str, stranger: Reader) -> None:
    assert stranger.follow(page, RUNS).is_dir()


@pytest.mark.docs
@pytest.mark.parametrize("page", pages_of(CLONE_RUNS))
def test_the_commands_of_a_page_run_in_a_clone_of_the_repository(page: str, contributor: Reader) -> None:
    assert contributor.follow(page, CLONE_RUNS).is_dir()


@pytest.mark.docs
@pytest.mark.parametrize("page", pages_of(PACKAGE_RUNS))
def test_the_commands_of_a_page_run_with_packages_of_a_registry(page: str, stranger: Reader, tmp_path: Path) -> None:
    if not registry_answers(tmp_path):
        pytest.skip("no registry of packages can be reached")
    assert stranger.follow(page, PACKAGE_RUNS, "packages-").is_dir()
