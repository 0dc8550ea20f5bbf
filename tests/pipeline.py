"""A copy of the project with small params, in which tests run DVC."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.warm_python import warm_python
from tumorboard.base.schema import read_yaml

ROOT = Path(__file__).resolve().parents[1]
SMALL: dict[str, dict[str, Any]] = {
    "phantom": {"images": 160, "patients": 24, "side": 96},
    "crop": {"side": 32, "shards": 4},
    "train": {"epochs": 2, "batch_size": 16, "warmup_epochs": 0},
    "evaluate": {"bootstrap": 50},
    "runtime": {"device": "cpu", "processes": 1, "workers": 1},
}
RECIPES = ("linear", "cnn", "cnn3", "resnet18")


class Project:
    """A copy of the checkout, as git would clone it, with its own DVC cache and settings.

    Args:
        folder: for the copy and what DVC and git write beside it.
        warm: whether `python` and `dvc` are forks of tests/warm_python.py, or what users run.
    """

    def __init__(self, folder: Path, *, warm: bool = True) -> None:
        self.folder = folder / "project"
        self.use(warm=warm)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file() and not name.startswith(("metrics/", "plots/", "dvc.lock")):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        self.write_params(SMALL, ["linear", "cnn"])
        self("git", "init", "--quiet")
        self("git", "config", "user.name", "tests")
        self("git", "config", "user.email", "tests@localhost")
        self.commit("begin")

    def use(self, *, warm: bool) -> None:
        """Sets what `python` and `dvc` are."""
        folder = self.folder.parent
        # What a developer sets for the tests is not for the copy, where each stage would compile all sources anew.
        left_out = ("DVC_", "GIT_", "PYTHONDONTWRITEBYTECODE")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        server = warm_python() if warm else None
        self._path = [str(Path(sys.executable).parent), os.environ["PATH"]]
        self.environment = kept | {
            "HOME": str(folder / "home"),
            "PATH": os.pathsep.join([*([str(server.programs)] if server else []), *self._path]),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(folder / "global"),
            "DVC_SYSTEM_CONFIG_DIR": str(folder / "system"),
        }
        (folder / "home").mkdir(parents=True, exist_ok=True)

    @property
    def ordinary(self) -> dict[str, str]:
        """The environment with `python` and `dvc` as users run them, for what a signal ends."""
        return self.environment | {"PATH": os.pathsep.join(self._path)}

    @classmethod
    def copy_of(cls, original: Path, folder: Path) -> "Project":
        """Returns a copy of the project in another folder in its present state, DVC's cache included."""
        project = object.__new__(cls)
        project.folder = folder / "project"
        project.use(warm=True)
        subprocess.run(["cp", "-a", original / "project", project.folder], check=True)
        return project

    def __call__(self, *command: str, fails: bool = False) -> str:
        """Runs a command in the copy and returns its output; it must succeed, or fail if `fails`."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert (done.returncode != 0) == fails, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def write_params(self, changes: dict[str, dict[str, Any]], models: list[str]) -> None:
        """Sets `models`, and keys of sections that params.yaml has."""
        file = self.folder / "params.yaml"
        tree = read_yaml(file) | {"models": models}
        for section, values in changes.items():
            assert values.keys() <= tree[section].keys(), f"params.yaml has no {values.keys() - tree[section].keys()}"
            tree[section] |= values
        file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")

    def drop_recipes(self) -> None:
        """Leaves only RECIPES in params.yaml, since DVC reads the whole file several times per stage."""
        file = self.folder / "params.yaml"
        tree = read_yaml(file)
        tree["recipes"] = {name: tree["recipes"][name] for name in RECIPES}
        file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")

    def commit(self, message: str) -> None:
        self("git", "add", "-A")
        self("git", "commit", "--quiet", "-m", message)

    def undo(self) -> None:
        """Goes back to the last commit and its outputs."""
        self("git", "reset", "--hard", "--quiet")
        self("dvc", "checkout")

    def metrics(self, name: str) -> dict[str, Any]:
        text = (self.folder / "metrics" / name).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=lambda word: pytest.fail(f"{name}: {word} is not JSON"))


def ran(log: str) -> set[str]:
    """Returns the stages that a run executed: neither skipped nor taken from the run cache."""
    return set(re.findall(r"Running stage '([^']+)'", log))
