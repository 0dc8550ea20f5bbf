"""The pipeline by DVC, in a copy of the project with small params; each test builds on the ones before it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "phantom": {"images": 160, "patients": 24, "side": 96},
    "crop": {"side": 32, "shards": 4},
    "train": {"epochs": 2, "batch_size": 16, "warmup_epochs": 0},
    "evaluate": {"bootstrap": 50},
    "runtime": {"device": "cpu", "processes": 1, "workers": 1},
}


class Project:
    """A copy of the checkout, as git would clone it, with its own DVC cache and settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file() and not name.startswith(("metrics/", "plots/", "dvc.lock")):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
        self.environment = kept | {
            "HOME": str(folder / "home"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(folder / "global"),
            "DVC_SYSTEM_CONFIG_DIR": str(folder / "system"),
        }
        (folder / "home").mkdir()
        self.write_params(SMALL, ["linear", "cnn"])
        self("git", "init", "--quiet")
        self("git", "config", "user.name", "tests")
        self("git", "config", "user.email", "tests@localhost")
        self.commit("begin")

    def __call__(self, *command: str, fails: bool = False) -> str:
        """Runs a command in the copy and returns its output; it must succeed, or fail if `fails`."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert (done.returncode != 0) == fails, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def write_params(self, changes: dict[str, dict[str, object]], models: list[str]) -> None:
        file = self.folder / "params.yaml"
        text = re.sub(r"^models: .*", f"models: [{', '.join(models)}]", file.read_text(encoding="utf-8"), flags=re.M)
        for section, values in changes.items():
            head, body = text.split(f"\n{section}:", 1)
            for key, value in values.items():
                body, count = re.subn(rf"^(  {key}: )\S+", rf"\g<1>{value}", body, count=1, flags=re.M)
                assert count == 1, f"params.yaml has no {section}.{key}"
            text = f"{head}\n{section}:{body}"
        file.write_text(text, encoding="utf-8")

    def commit(self, message: str) -> None:
        self("git", "add", "-A")
        self("git", "commit", "--quiet", "-m", message)

    def metrics(self, name: str) -> dict[str, object]:
        text = (self.folder / "metrics" / name).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=lambda word: pytest.fail(f"{name}: {word} is not JSON"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("pipeline"))
    project("dvc", "repro")
    project.commit("the first run")
    return project


def ran(log: str) -> set[str]:
    """Returns the stages that a run executed: neither skipped nor taken from the run cache."""
    return set(re.findall(r"Running stage '([^']+)'", log))


def test_a_run_leaves_scores_plots_a_report_and_nothing_to_do(project: Project) -> None:
    headline = project.metrics("ensemble.json")
    assert 0 <= headline["accuracy"] <= 1
    assert headline["accuracy_low"] <= headline["accuracy"] <= headline["accuracy_high"]
    assert (project.folder / "report/index.html").stat().st_size > 10_000
    assert "up to date" in project("dvc", "repro")
    assert "up to date" in project("dvc", "status")
    assert project("git", "status", "--short") == ""


def test_a_change_of_runtime_reruns_nothing(project: Project) -> None:
    log = project("dvc", "exp", "run", "-S", "runtime.workers=2", "-S", "runtime.device=auto")
    assert ran(log) == set()
    project("git", "reset", "--hard", "--quiet")


def test_a_shared_parameter_retrains_only_the_models_that_use_it(project: Project) -> None:
    log = project("dvc", "exp", "run", "--name", "slower", "-S", "train.lr=0.01")
    assert {stage for stage in ran(log) if stage.startswith("train@")} == {"train@cnn-0"}
    assert "metrics/train/cnn/0.json" in project("dvc", "metrics", "diff")
    assert "train.lr" in project("dvc", "params", "diff")


def test_plots_of_two_runs_show_their_charts_without_internet(project: Project) -> None:
    log = project("dvc", "plots", "diff", "HEAD", "--out", "page")
    assert "failed to load" not in log
    page = (project.folder / "page/index.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)\s*=\s*"https?:', page) == []
    charts = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    titles = [next(iter(chart)) for chart in charts if isinstance(chart, dict)]
    for title in titles:
        assert f'"title": "{title}"' in page.replace('"title":"', '"title": "'), f"no chart {title}"
    assert page.count("vegaEmbed(") >= len(titles)
    assert '"rev": "HEAD"' in page.replace('"rev":"', '"rev": "')
    shutil.rmtree(project.folder / "page")


def test_a_run_is_undone_by_git_and_dvc_checkout(project: Project) -> None:
    project("git", "reset", "--hard", "--quiet")
    project("dvc", "checkout")
    assert "up to date" in project("dvc", "status")


def test_an_earlier_value_takes_the_models_from_the_cache(project: Project) -> None:
    project("dvc", "exp", "apply", "slower")
    log = project("dvc", "repro")
    assert not any(stage.startswith("train@") for stage in ran(log)), log
    project("git", "reset", "--hard", "--quiet")
    project("dvc", "checkout")


def test_an_added_model_runs_only_that_model_and_what_depends_on_it(project: Project) -> None:
    log = project("dvc", "exp", "run", "-S", "models=[linear,cnn,resnet18]", "-S", "++recipes.resnet18.epochs=1")
    assert ran(log) == {"recipe", "train@resnet18-0", "evaluate@resnet18-0", "ensemble", "report"}
    log = project("dvc", "exp", "run", "-S", "models=[cnn,resnet18]")
    assert ran(log) == {"recipe", "ensemble", "report"}
    assert not (project.folder / "predictions/members/linear/0.csv").exists()
    project("git", "reset", "--hard", "--quiet")
    project("dvc", "checkout")


def test_another_side_of_the_crops_is_cropped_again_and_not_taken_from_the_cache(project: Project) -> None:
    project.write_params({"crop": {"side": 24}}, ["linear", "cnn"])
    assert {"crop", "split", "balance@0"} <= ran(project("dvc", "repro", "balance"))
    project("git", "reset", "--hard", "--quiet")
    project("dvc", "checkout")


def test_weights_under_dvc_stay_out_of_git_and_are_a_dependency_of_the_recipes(project: Project) -> None:
    file = project.folder / "weights/start.safetensors"
    file.write_bytes(b"weights")
    project("dvc", "add", "weights/start.safetensors")
    assert project("git", "status", "--short").split() == ["A", "weights/start.safetensors.dvc"]
    assert "weights/start.safetensors.dvc" in project("dvc", "dag", "recipe")
    project("git", "reset", "--hard", "--quiet")
    file.unlink()


def test_a_queue_of_experiments(project: Project) -> None:
    project("dvc", "exp", "run", "--queue", "-S", "ensemble.vote=hard,product")
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


def test_an_added_image_costs_one_decode(project: Project) -> None:
    source = project.folder / "mine"
    shutil.copytree(project.folder / "data/phantom", source)
    project.write_params({"data": {"raw": "mine"}}, ["linear"])
    project("dvc", "repro", "split")
    first = next((source / "blast").glob("*.jpg"))
    (source / "blast" / "P99_001.jpg").write_bytes(first.read_bytes() + b"\0")
    assert re.search(r"\b1 decoded", project("dvc", "repro", "split"))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("train", "loss", "crossentropy", "train.loss: is 'crossentropy'"),
        ("data", "raw", "nowhere", "nowhere"),
    ],
)
def test_a_users_error_is_one_message_and_a_failed_run(
    project: Project, section: str, key: str, value: str, message: str
) -> None:
    project("git", "checkout", "--quiet", "params.yaml")
    project.write_params({section: {key: value}}, ["linear", "cnn"])
    log = project("dvc", "repro", fails=True)
    assert message in log
    assert "Traceback" not in log
