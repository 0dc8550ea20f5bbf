"""Progress: a line per minute without a terminal, a bar with one."""

import io
import sys

import pytest

from tumorboard.base import progress
from tumorboard.base.progress import Progress


def test_without_a_terminal_a_line_is_printed_per_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("predict", 6, "batch") as bar:
        for now in (59.0, 61.0, 100.0, 121.0, 140.0, 600.0):  # noqa: B007  # the clock above reads it
            bar.update()
    assert capsys.readouterr() == ("", "predict  batch 2/6\npredict  batch 4/6\n")


def test_on_a_terminal_a_bar_takes_the_place_of_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "MINUTE", 0.0)
    with Progress("crop", 300, "image") as bar:
        bar.update(128)
    assert "crop:" in terminal.getvalue()
    assert "crop  image" not in terminal.getvalue()


def test_several_units_count_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "MINUTE", 0.0)
    with Progress("crop", 300, "image") as bar:
        bar.update(128)
        bar.update(172)
    assert capsys.readouterr().err == "crop  image 128/300\n"
