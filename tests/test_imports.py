"""What a stage imports before it begins: a slow package only where it is used in every case."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TORCH = {"torch", "torch._dynamo", "torchvision", "timm"}
SLOW = {
    "sklearn",
    "scipy.stats",
    "scipy.special",
    "scipy.optimize",
    "scipy.sparse",
    "scipy.fft",
    "scipy.ndimage",
    "matplotlib",
    "dvclive",
    "tensorboard",
    "cleanlab",
    "distributed",
    "fastapi",
    "optuna",
}
TABLES = {"pandas", "numpy"}

ABSENT = {
    "digest": TORCH | SLOW | TABLES,
    "recipe": TORCH | SLOW | TABLES,
    "phantom": TORCH | {"pandas"} | SLOW - {"scipy.ndimage", "scipy.special"},
    "fetch": TORCH | SLOW,
    "crop": TORCH | SLOW,
    "split": TORCH | SLOW,
    "balance": TORCH | SLOW,
    "train": TORCH | SLOW | {"scipy"},
    "evaluate": TORCH | SLOW,
    "ensemble": TORCH | SLOW,
    "report": TORCH | SLOW,
}
NEEDS_TORCH = {"train", "evaluate"}

# In this order; each stage is imported after those before it that are not FORKED, which may import no more than it.
ORDER = ("digest", "recipe", "phantom", "train", "fetch", "crop", "ensemble", "split", "balance", "evaluate", "report")
FORKED = ("phantom", "train", "split", "balance", "evaluate", "report")
# Prints the modules of each stage on a line.
PROGRAM = """
import importlib, os, sys
order, forked = [words.split() for words in sys.argv[1:]]
for stage in order:
    if stage not in forked or not (child := os.fork()):
        importlib.import_module(f"stages.{stage}")
        print("IMPORTED", stage, *sys.modules, flush=True)
        if stage in forked:
            os._exit(0)
    else:
        assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """The modules that an interpreter has after the import of each stage, and of stages before it."""
    words = [" ".join(ORDER), " ".join(FORKED)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("IMPORTED ")]
    return {stage: set(modules) for _, stage, *modules in lines}


def imported_by(program: str) -> set[str]:
    """The modules that a fresh interpreter has after a program."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint('IMPORTED', *sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.rpartition("IMPORTED")[2].split())


@pytest.mark.parametrize("stage", ABSENT)
def test_a_stage_imports_nothing_slow_that_it_may_not_need(stage: str, imports: dict[str, set[str]]) -> None:
    modules = imports[stage]
    assert f"stages.{stage}" in modules
    absent = ABSENT[stage] - ({"torch"} if stage in NEEDS_TORCH else set())
    assert modules & absent == set()
    assert ("torch" in modules) == (stage in NEEDS_TORCH)


def test_every_stage_is_listed() -> None:
    assert {file.stem for file in (ROOT / "stages").glob("[!_]*.py")} - {"explain"} == set(ABSENT) == set(ORDER)


def test_a_stage_looks_for_reference_cycles_from_its_first_line_on_and_not_while_it_imports() -> None:
    imported_by("""
import gc, sys
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "stages.nothing"]
import stages
assert not gc.isenabled()
from tumorboard.base.stage import run_stage
sys.argv = ["nothing.py"]
reached = []
def main(params):
    assert gc.isenabled()
    assert gc.get_freeze_count() > 10_000
    reached.append(params)
run_stage(main)
assert reached
""")


def test_a_training_needs_no_compiler_of_torch() -> None:
    program = """
import torch
from tumorboard.base.params import load_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.models.device import set_deterministic
from tumorboard.training.optim import OPTIMIZERS, make_optimizer
recipe = resolve_recipe(load_params("params.yaml"), "cnn")
set_deterministic(True)
for name in OPTIMIZERS:
    backbone, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    optimizer = make_optimizer(backbone, head, recipe.model_copy(update={"optimizer": name}))
    head(backbone(torch.ones(1, 2))).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
"""
    modules = imported_by(program)
    assert "tumorboard.training.optim" in modules
    assert modules & {"torch._dynamo", "torch._inductor", "sympy", "scipy", "torchvision", "timm"} == set()


def test_recipes_of_the_default_panel_are_resolved_without_torch() -> None:
    program = """
from tumorboard.base.params import load_params
from tumorboard.models.recipes import pin_recipes
assert len(pin_recipes(load_params("params.yaml"))) > 1
"""
    assert imported_by(program) & (TORCH | SLOW | {"pandas"}) == set()


def test_a_network_of_torchvision_is_loaded_without_torchs_compiler_and_timm() -> None:
    program = """
from tumorboard.base.params import load_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.models.registry import build_model, outline_model
recipe = resolve_recipe(load_params("params.yaml"), "resnet18")
build_model(recipe, 2, 32, ((0.5,) * 3, (0.5,) * 3))
outline_model(recipe, 2, 32, 512)
"""
    modules = imported_by(program)
    assert "torchvision" in modules
    assert modules & {"torch._dynamo", "timm", "sklearn", "scipy.stats", "matplotlib"} == set()


def test_a_model_file_is_loaded_without_torchs_compiler_and_sympy(tmp_path: Path) -> None:
    """Operations on tensors without memory may import half of torch's compiler, which takes half a second."""
    program = f"""
from tumorboard.base.params import load_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.models.model_file import ModelCard, load_model, save_model
from tumorboard.models.registry import build_model
params = load_params("params.yaml")
half, recipe = (0.5,) * 3, resolve_recipe(params, "cnn")
facts = {{"name": "cnn", "classes": ("a", "b"), "fold": 0, "crop": params.crop, "mean": half, "std": half}}
facts |= {{"recipe": recipe, "manifest": "0", "parameters": 1, "epoch": 1, "score": {{}}, "versions": {{}}, "seed": 0}}
file = {str(tmp_path / "model.safetensors")!r}
save_model(file, build_model(recipe, 2, params.crop.side, (half, half)), ModelCard(**facts))
load_model(file, "cpu")
"""
    assert imported_by(program) & {"torch._dynamo", "sympy", "torchvision", "timm", "sklearn", "pandas"} == set()


def test_what_decodes_new_files_imports_nothing_slow() -> None:
    assert imported_by("import tumorboard.data.new_files") & (TORCH | SLOW) == set()
