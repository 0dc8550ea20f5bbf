"""Each block of commands in README.md and docs/ is run, in a small study, or is listed with why it is not."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs_blocks import PAGES, SHELL, Block, blocks_of, environment_of_a_stranger, run_commands
from tests.docs_runs import BEGIN, NOT_RUN, RUNS, WHOLE_PAGES, Run, reasons_of, runs_of

BLOCKS = [block for page in PAGES for block in blocks_of(page) if block.language in SHELL]


def by_itself(block: Block) -> bool:
    """Whether the test of a whole page runs a block."""
    return block.page in WHOLE_PAGES and block.language == "sh"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_each_block_is_run_or_listed_with_a_reason(block: Block) -> None:
    ways = [by_itself(block)] * by_itself(block) + reasons_of(block) + [run.begin for run in runs_of(block)]
    assert len(ways) == 1, f"expected one entry in tests/docs_runs.py, found {ways}"
    for run in runs_of(block):
        assert [text for text in run.replaced if text not in block.text] == []


def test_no_entry_is_for_a_block_that_is_gone() -> None:
    assert sum(len(runs_of(block)) for block in BLOCKS) == len(BEGIN) + len(RUNS)
    assert sum(len(reasons_of(block)) for block in BLOCKS) == len(NOT_RUN)


class Stranger:
    """A home without anything, and the folder that the commands begin in."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.study = folder / "home/my-study"
        self.work.mkdir()
        self.environment = environment_of_a_stranger(folder / "home") | {"WORK": str(self.work)}

    def run(self, run: Run, state: Path) -> None:
        """Runs a block where the last one of its page ended."""
        (block,) = (one for one in BLOCKS if run in runs_of(one))
        text = block.text
        for old, new in run.replaced.items():
            text = text.replace(old, new)
        run_commands(f"{run.before}\n{text}", f"{block.page}:{block.line}", state, self.environment)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    """After the first run and one experiment, as README.md has them."""
    folder = tmp_path_factory.mktemp("stranger")
    made = Stranger(folder)
    state = folder / "state"
    state.write_text(str(made.work))
    for run in BEGIN:
        made.run(run, state)
    yield made
    shutil.rmtree(folder)


@pytest.mark.docs
@pytest.mark.parametrize("page", list(dict.fromkeys(run.page for run in RUNS)))
def test_the_commands_of_a_page_run(page: str, stranger: Stranger) -> None:
    folder = stranger.work / page.removesuffix(".md")
    shutil.copytree(stranger.study, folder / "study", symlinks=True)
    state = folder / "state"
    state.write_text(str(folder / "study"))
    for run in RUNS:
        if run.page == page:
            stranger.run(run, state)  # which asserts that each command ends well
    assert Path(state.read_text().strip()).is_dir()  # written by the last block when all of it has run
