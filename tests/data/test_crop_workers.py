"""crop_images: several processes and a cluster give the same bytes; workers that see other folders are an error."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.data.cropping import build, hashes, picture, save
from tumorboard.base.errors import InputError
from tumorboard.base.params import Crop
from tumorboard.data import crop as crop_module
from tumorboard.data.crop import CropJob, _cut_chunks


def test_workers_get_absolute_paths_and_at_least_32_files_each(
    tmp_path: Path, crop: Crop, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[CropJob] = []
    opened: list[int] = []

    @contextmanager
    def record(workers: int, _: str | None) -> Iterator[Any]:
        def map_here(task: Any, items: Sequence[Any]) -> Iterator[Any]:
            jobs.extend([task.keywords["job"]] if "job" in task.keywords else [])
            return map(task, items)

        opened.append(workers)
        yield map_here

    monkeypatch.setattr(crop_module, "open_workers", record)
    monkeypatch.chdir(tmp_path)
    for number in range(33):
        save(tmp_path / f"raw/{'ab'[number % 2]}/{number}.png", picture(number, 24, 24))
        if number >= 31:
            build(Path("raw"), Path("out"), crop, Path("cache"), workers=8)
    assert opened == [1, 2]
    assert {(job.raw, job.out, job.cache.parent) for job in jobs} == {
        (tmp_path / "raw", tmp_path / "out", tmp_path / "cache")
    }


def test_several_processes_give_the_same_bytes(tmp_path: Path, crop: Crop) -> None:
    for number in range(70):
        save(tmp_path / f"raw/{'ab'[number % 2]}/{number}.png", picture(number, 24, 24))
    (tmp_path / "raw/a/broken.png").write_bytes(b"no picture")
    one = build(tmp_path / "raw", tmp_path / "one", crop, tmp_path / "cache 1", 1, 1)
    two = build(tmp_path / "raw", tmp_path / "two", crop, tmp_path / "cache 2", 2, 1)
    assert one == two
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


@pytest.mark.parametrize(
    ("files", "size", "workers", "expected"),
    [
        (10, 5, 1, [8, 2]),
        (400, 5, 2, [50, 43, 38, 33, 29, 25, 22, 20, 17, 15, 13, 11, 10, 9, 8, 8, 8, 8, 8, 8, 8, 8, 1]),
        (300, 5, 1, [75, 56, 42, 31, 24, 18, 13, 10, 8, 8, 8, 7]),
        (1200, 5, 1, [128] * 6 + [108, 81, 60, 45, 34, 26, 19, 14, 11, 8, 8, 8, 8, 2]),
        (7, 2_000_000, 1, [2, 2, 2, 1]),
        (3, 9_000_000, 1, [1, 1, 1]),
        (3, 0, 1, [3]),
    ],
)
def test_chunks_are_smaller_for_large_files_and_towards_the_end(
    tmp_path: Path, files: int, size: int, workers: int, expected: list[int]
) -> None:
    paths = [f"{number:04d}" for number in range(files)]
    for path in paths:
        with (tmp_path / path).open("wb") as file:
            file.truncate(size)
    (tmp_path / paths[-1]).unlink()  # a file that has vanished does not count
    chunks = _cut_chunks(paths, tmp_path, workers)
    assert [len(chunk) for chunk in chunks] == expected
    assert [path for chunk in chunks for path in chunk] == paths


def elsewhere(**folders: Path) -> Callable[..., Any]:
    """A stand-in for open_workers whose worker sees other folders under the names that it is given."""

    def map_elsewhere(task: Any, items: Sequence[Any]) -> Iterator[Any]:
        arguments = dict(task.keywords)
        if "marker" in folders and "marker" in arguments:
            arguments["marker"] = folders["marker"]
        elif "job" in arguments:
            arguments["job"] = replace(arguments["job"], **folders)
        return map(partial(task.func, **arguments), items)

    @contextmanager
    def opened(workers: int, scheduler: str | None) -> Iterator[Any]:
        assert (workers, scheduler) == (1, "tcp://there:1")
        yield map_elsewhere

    return opened


def test_a_worker_that_sees_other_folders_is_an_error(
    tmp_path: Path, raw: Path, crop: Crop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounted").mkdir()
    for folders, message in [
        ({"raw": tmp_path / "nowhere"}, "does not see the raw folder"),
        ({"marker": tmp_path / "nowhere"}, "does not see the crop cache"),
        ({"cache": tmp_path / "another version"}, "has other versions of tumorboard"),
        # An empty mount point must not have every file quarantined.
        ({"raw": tmp_path / "mounted"}, r"é 0.png: can be read here, but not by the worker that tried \(No such file"),
    ]:
        monkeypatch.setattr(crop_module, "open_workers", elsewhere(**folders))
        with pytest.raises(InputError, match=message):
            build(raw, tmp_path / "out", crop, tmp_path / "cache", 1, 99, "tcp://there:1")
        assert not (tmp_path / "out").exists()
        assert not list((tmp_path / "cache").rglob(".run-*"))


def test_a_cluster_that_loses_a_worker_gives_the_same_bytes(tmp_path: Path, crop: Crop, cluster: Any) -> None:
    for number in range(700):
        save(tmp_path / f"raw/{'ab'[number % 2]}/{number}.png", picture(number, 24, 24))
    (tmp_path / "raw/a/broken.png").write_bytes(b"no picture")
    here = build(tmp_path / "raw", tmp_path / "here", crop, tmp_path / "cache 1", 1, 1)
    killed: list[bool] = []

    def kill_one() -> None:
        while len(list((tmp_path / "cache 2").rglob("*.pack"))) < 2:
            time.sleep(0.005)
        victim = next(iter(cluster.scheduler_info["workers"].values()))
        os.kill(cluster.workers[victim["id"]].pid, signal.SIGKILL)
        killed.append(not (tmp_path / "there").exists())

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    there = build(tmp_path / "raw", tmp_path / "there", crop, tmp_path / "cache 2", 1, 1, cluster.scheduler_address)
    killer.join()
    assert killed == [True]
    assert here == there
    assert hashes(tmp_path / "here") == hashes(tmp_path / "there")
