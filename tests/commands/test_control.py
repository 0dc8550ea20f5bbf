"""The null control: what it concludes from the scores, and its experiments through the real DVC with a stub stage."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.warm_python import search_path
from tumorboard.base.errors import InputError
from tumorboard.commands.control import Outcome, conclude, read_metrics, read_outcome, run_control
from tumorboard.commands.paths import METRICS, TEST_METRICS

ROOT = Path(__file__).resolve().parents[2]

# Writes the metrics of a panel that is at chance, except for controls 3 and 4, whose AUC lies above it.
STUB = """
import json, pathlib, yaml
seed = yaml.safe_load(open("params.yaml"))["split"]["control"]
assert seed != 9, "one class has no group left"
low = .7 if seed in (3, 4) else .4
for folder, name in (("metrics", "auc"), ("metrics/test", "test_auc")):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    scores = {name: low + .1, name + "_low": low, name + "_high": low + .2}
    pathlib.Path(folder, "ensemble.json").write_text(json.dumps(scores))
"""
DVC = {
    "stages": {
        "ensemble": {
            "cmd": "python stub.py",
            "deps": ["stub.py"],
            "params": ["split.control"],
            "metrics": [{METRICS.as_posix(): {"cache": False}}],
            "outs": [{TEST_METRICS.as_posix(): {"cache": False}}],
        }
    }
}


def outcomes(part: str, intervals: list[tuple[float, float] | None]) -> list[Outcome]:
    return [
        Outcome(seed, part, 0.5, *(ends or (None, None)), "" if ends else "too few patients for an interval (7)")
        for seed, ends in enumerate(intervals)
    ]


AT_CHANCE, ABOVE, BELOW = (0.4, 0.6), (0.55, 0.7), (0.3, 0.45)


@pytest.mark.parametrize(
    ("intervals", "begins", "contains", "suspicious"),
    [
        ([AT_CHANCE] * 3, "test: the AUC's interval holds 0.5 in 3 of 3", "at chance", False),
        ([(0.5, 0.6), (0.4, 0.5)], "test: the AUC's interval holds 0.5 in 2 of 2", "at chance", False),
        ([ABOVE], "test: the AUC's interval holds 0.5 in 0 of 1", "can be chance, since 5%", False),
        # Binomial with 5 %: 2 of 2 by .0025; 4 of 20 by .016, 5 of 20 by .0026.
        ([ABOVE, BELOW], "test: the AUC's interval holds 0.5 in 0 of 2", "NOT AT CHANCE", True),
        ([ABOVE] * 4 + [AT_CHANCE] * 16, "test: the AUC's interval holds 0.5 in 16 of 20", "can be chance", False),
        ([ABOVE] * 5 + [AT_CHANCE] * 15, "test: the AUC's interval holds 0.5 in 15 of 20", "NOT AT CHANCE", True),
        ([None, AT_CHANCE], "test: the AUC's interval holds 0.5 in 1 of 1", "at chance", False),
        ([None, None], "test: no AUC with an interval (too few patients", "nothing is concluded", False),
    ],
)
def test_conclusions(intervals: list[tuple[float, float] | None], begins: str, contains: str, suspicious: bool) -> None:
    # The other part's scores have no say.
    text, verdict = conclude(outcomes("test", intervals) + outcomes("validation", [ABOVE] * 9), "test", 0.95)
    assert text.startswith(begins)
    assert contains in text
    assert verdict == suspicious


def test_scores_that_are_not_there_are_no_outcome_above_or_below() -> None:
    assert read_outcome(1, "test", {}).reason == "it is not scored"
    without = read_outcome(1, "validation", {"auc": 0.6, "auc_low": None, "auc_method": "too few patients (4)"})
    assert (without.holds, without.auc, without.reason) == (None, 0.6, "too few patients (4)")
    assert read_outcome(1, "validation", {"test_auc": 0.9, "test_auc_low": 0.8, "test_auc_high": 1.0}).auc is None


def test_the_metrics_are_those_of_the_ensemble_stage() -> None:
    command = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["ensemble"]["cmd"].split()
    assert command[command.index("--metrics") + 1] == METRICS.as_posix()
    assert command[command.index("--test-metrics") + 1] == TEST_METRICS.as_posix()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("\n  raw: data/phantom ", "\n  raw: images ")
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    (folder / "dvc.yaml").write_text(yaml.safe_dump(DVC), encoding="utf-8")
    (folder / "stub.py").write_text(STUB, encoding="utf-8")
    (folder / "images").mkdir()
    (folder / "images/a.txt").write_text("a", encoding="utf-8")
    for command in (
        "git init --quiet",
        "git config user.name tests",
        "git config user.email tests@localhost",
        "dvc init --quiet",
        "dvc config core.analytics false",
        "git add -A",
        "git commit --quiet -m begin",
    ):
        run(folder, *command.split())
    return folder


def run(folder: Path, *command: str, status: int = 0) -> tuple[str, str]:
    """Runs a command with an own home; returns its standard output and standard error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
    places = {f"DVC_{kind}_CONFIG_DIR": str(folder.parent / kind) for kind in ("GLOBAL", "SYSTEM")}
    environment |= places | {"HOME": str(folder.parent), "DVC_SITE_CACHE_DIR": str(folder.parent / "site")}
    environment["PATH"] = search_path()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_a_short_params_yaml_gets_the_key_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of `tumorboard new`, which DVC refuses to give a value for without `++`."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr("tumorboard.commands.control._dvc", lambda *words, **_: calls.append(words) or 0)
    assert run_control(5) == "control-5"
    assert calls[-1] == ("exp", "run", "--temp", "--name", "control-5", "-S", "++split.control=5")


def test_controls_are_experiments_and_leave_the_folder_as_it_is(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    stdout, _ = run(project, "tumorboard", "control", "--seed", "1", "--runs", "2", "--json")
    result = json.loads(stdout)
    assert [(row["seed"], row["part"], row["auc"], row["holds"]) for row in result["controls"]] == [
        (1, "validation", 0.5, True),
        (1, "test", 0.5, True),
        (2, "validation", 0.5, True),
        (2, "test", 0.5, True),
    ]
    assert set(run(project, "dvc", "exp", "list", "--name-only")[0].split()) == {"control-1", "control-2"}
    assert (project / "params.yaml").read_bytes() == before
    assert not (project / "metrics").exists()
    assert run(project, "git", "status", "--short")[0] == ""


def test_scores_above_chance_end_with_status_1_and_a_repeated_control_replaces_the_earlier_one(project: Path) -> None:
    stdout, _ = run(project, "tumorboard", "control", "--seed", "2", "--runs", "3", status=1)
    assert "test: the AUC's interval holds 0.5 in 1 of 3: NOT AT CHANCE" in stdout
    assert stdout.count("NO ") == 4


def test_a_failed_control_is_one_message(project: Path) -> None:
    _, stderr = run(project, "tumorboard", "control", "--seed", "9", status=1)
    assert stderr.splitlines()[-1].startswith("control: the control with seed 9 failed, see above")


def test_images_that_git_does_not_know_are_refused_before_anything_runs(project: Path) -> None:
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(text.replace("\n  raw: images ", "\n  raw: nowhere "), encoding="utf-8")
    try:
        _, missing = run(project, "tumorboard", "control", status=1)
        (project / "nowhere").mkdir()
        _, stderr = run(project, "tumorboard", "control", status=1)
        (project / "nowhere").rmdir()
    finally:
        (project / "params.yaml").write_text(text, encoding="utf-8")
    assert missing.startswith("control: data: data.raw: there is no 'nowhere'")
    assert stderr.startswith("control: 'nowhere' is not known to git")
    assert "dvc add nowhere" in stderr


def test_metrics_that_no_experiment_wrote_are_an_input_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(InputError, match=r"metrics/none\.json cannot be read"):
        read_metrics(Path("metrics/none.json"), "HEAD")
