"""The pipeline by DVC, in a copy of the project with small params; each test builds on the ones before it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

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
                body, count = re.subn(rf"^(  {key}:)(?: +(?!#)\S+)?", rf"\g<1> {value}", body, count=1, flags=re.M)
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
    # The fold has few patients: each score has an interval, or says why there is none.
    for score in ("loss", "accuracy", "auc", "sensitivity"):
        ends = headline[f"{score}_low"], headline[f"{score}_high"]
        assert (f"{score}_method" in headline) if ends == (None, None) else ends[0] <= headline[score] <= ends[1]
    assert (project.folder / "report/index.html").stat().st_size > 10_000
    assert "up to date" in project("dvc", "repro")
    assert "up to date" in project("dvc", "status")
    assert project("git", "status", "--short") == ""


def test_scores_of_test_images_are_in_files_that_dvc_does_not_show(project: Project) -> None:
    """Whoever chooses by `dvc metrics`, `dvc exp show` and `dvc plots` sees validation scores."""
    scores = project.metrics("test/ensemble.json")
    assert all(name.startswith("test_") for name in scores)
    assert scores["test_images"] + project.metrics("ensemble.json")["images"] < SMALL["phantom"]["images"]
    shown = project("dvc", "metrics", "show", "--json")
    assert "metrics/ensemble.json" in shown
    assert "metrics/test" not in shown
    assert "test_accuracy" not in shown + project("dvc", "exp", "show", "--json")
    looks = (project.folder / ".cache/test-looks.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(look)["model"] for look in looks) == ["cnn", "linear"]


def test_a_test_part_may_stay_unscored_until_the_choices_are_made(project: Project) -> None:
    validation = (project.folder / "metrics/votes.json").read_bytes()
    log = project("dvc", "exp", "run", "-S", "evaluate.test=false")
    assert ran(log) == {"evaluate@linear-0", "evaluate@cnn-0", "ensemble", "report"}
    assert project.metrics("test/ensemble.json") == project.metrics("test/votes.json") == {}
    assert (project.folder / "metrics/votes.json").read_bytes() == validation
    assert len((project.folder / ".cache/test-looks.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    project("git", "reset", "--hard", "--quiet")
    project("dvc", "checkout")


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
        assert re.search(rf'"(title|text)":\s*"{re.escape(title)}"', page), f"no chart {title}"
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
    for folder in ("members", "test/members", "held_out", "unlike"):
        assert not list((project.folder / "predictions" / folder / "linear").glob("*"))
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
    with (source / "labels.csv").open("a", encoding="utf-8") as table:
        table.write("blast/P99_001.jpg,blast,P99,north\n")
    assert re.search(r"\b1 decoded", project("dvc", "repro", "split"))


# What describes all images, those of the test part among them.
DESCRIPTIONS = {
    *("metrics/crop.json", "metrics/split.json", "metrics/audit.json"),
    *("plots/images/data.png", "plots/images/duplicates.png"),
}


def owing_nothing_to_the_test_part(project: Project) -> dict[str, bytes]:
    """Returns the files of models, predictions, scores and charts, but for those of test images and for timings."""
    files = {}
    for folder in ("data/balance", "recipes", "models", "training", "predictions", "metrics", "plots"):
        for path in sorted((project.folder / folder).rglob("*")):
            name = path.relative_to(project.folder).as_posix()
            described = name in DESCRIPTIONS
            timed = "/dvclive" in name or path.name == "timings.json"
            if path.is_file() and not path.name.startswith(".") and not (described or timed or "/test" in name):
                files[name] = path.read_bytes()
    return files


@pytest.mark.slow
def test_noise_in_the_place_of_the_test_part_changes_nothing_that_choices_are_made_by(project: Project) -> None:
    """Other images and other labels: models, validation predictions, the panel and every validation score stay."""
    source = project.folder / "given"
    shutil.copytree(project.folder / "data/phantom", source)
    table = pd.read_csv(source / "labels.csv", dtype=str)
    patients = table["group"].drop_duplicates().tolist()
    test = table["group"].isin(patients[::5])
    table.assign(split=np.where(test, "test", "train")).to_csv(source / "labels.csv", index=False)
    project("git", "checkout", "--quiet", "params.yaml")
    # The phantom repeats pictures; a copy of a test image would leave the training part, and come back.
    project.write_params({"data": {"raw": "given"}, "audit": {"policy": "report"}}, ["linear", "cnn"])
    project("dvc", "repro")
    before, scores = owing_nothing_to_the_test_part(project), project.metrics("test/ensemble.json")
    assert {"models/panel.json", "models/cnn/0.safetensors", "metrics/votes.json", "plots/scores.csv"} <= set(before)
    assert {"predictions/held_out/cnn/0.safetensors", "predictions/votes/heading.csv"} <= set(before)
    random = np.random.default_rng(0)
    for path in table["path"][test]:
        Image.fromarray(random.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(source / path, quality=95)
    table.loc[test, "label"] = random.permutation(table["label"][test])
    table.assign(split=np.where(test, "test", "train")).to_csv(source / "labels.csv", index=False)
    project("dvc", "repro")
    after = owing_nothing_to_the_test_part(project)
    assert [name for name in {*before, *after} if before.get(name) != after.get(name)] == []
    assert project.metrics("test/ensemble.json") != scores


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
