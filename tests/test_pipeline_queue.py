"""DVC's queue of experiments, in a copy of a project that has run."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.pipeline import Project


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.copy_of(finished, tmp_path_factory.mktemp("queue"))


def test_a_queue_of_experiments(project: Project) -> None:
    project("dvc", "exp", "run", "--queue", "-S", "ensemble.vote=hard,product", "ensemble")
    project("dvc", "queue", "start", "--jobs", "1")
    project("dvc", "queue", "logs", "--follow", next(iter(queue(project))))
    for _ in range(120):
        states = queue(project)
        if set(states.values()) <= {"Success", "Failed"}:
            break
        subprocess.run(["sleep", "1"], check=True)
    assert list(queue(project).values()) == ["Success", "Success"]
    table = json.loads(project("dvc", "exp", "show", "--json"))
    assert "product" in json.dumps(table)


def queue(project: Project) -> dict[str, str]:
    lines = project("dvc", "queue", "status").splitlines()[1:]
    rows = [line.split() for line in lines if re.match(r"^[0-9a-f]{7}", line)]
    return {row[0]: next(word for word in row if word in ("Queued", "Running", "Success", "Failed")) for row in rows}
