"""Cores by control group, running processes, and the waiting of threads."""

import os
import sys
from pathlib import Path

import pytest

from tumorboard.base import cores
from tumorboard.base.cores import available_cores, core_limit, let_threads_sleep, running_processes


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n"}, None),
        ({"cpu.max": "0 0\n"}, None),
        ({"cpu.max": "\xff"}, None),
        ({}, None),
    ],
)
def test_the_limit_of_the_control_group(tmp_path: Path, files: dict[str, str], limit: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="latin-1")
    assert core_limit(tmp_path) == limit


@pytest.mark.parametrize(("limit", "available"), [("20000 100000", 1), ("150000 100000", 2), ("900000 100000", 4)])
def test_cores_are_those_of_the_affinity_or_of_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, available: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5, 9})
    (tmp_path / "cpu.max").write_text(limit)
    assert available_cores(tmp_path) == available


def test_running_processes_are_the_others(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  1 2 3\nprocs_running 4\nprocs_blocked 0\n")
    assert running_processes(tmp_path / "stat") == 3
    assert running_processes(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("others", "settings", "expected"),
    [
        (0, {}, None),
        (1, {}, "1000"),
        (1, {"OMP_NUM_THREADS": "3"}, None),
        (2, {"OMP_NUM_THREADS": "3"}, "1000"),
        (9, {"OMP_NUM_THREADS": "1"}, None),
        (9, {"GOMP_SPINCOUNT": "7"}, "7"),
        (9, {"OMP_WAIT_POLICY": "ACTIVE"}, None),
        (1, {"OMP_NUM_THREADS": "2,1"}, "1000"),
    ],
)
def test_threads_sleep_soon_where_more_processes_than_cores_want_to_run(
    monkeypatch: pytest.MonkeyPatch, others: int, settings: dict[str, str], expected: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cores, "available_cores", lambda: 4)
    monkeypatch.setattr(cores, "running_processes", lambda: others)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    let_threads_sleep()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


def test_a_process_that_has_torch_already_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(cores, "running_processes", lambda: 99)
    monkeypatch.setitem(sys.modules, "torch", None)
    let_threads_sleep()
    assert "GOMP_SPINCOUNT" not in os.environ
