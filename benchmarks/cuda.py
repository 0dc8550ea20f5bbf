"""Checks trainings on a GPU: prints one line per check, and exits with 1 if one fails. It takes some minutes.

    python -m benchmarks.cuda                      # on the GPU
    python -m benchmarks.cuda --device cpu --quick # the checks themselves, where there is none

It needs torch, torchvision, timm, pandas, scikit-learn, OpenCV, typer, rich, pydantic, safetensors and xxhash. It needs
neither DVC nor an installed package: PYTHONPATH=src is enough. The images are those of the phantom.

- killed: a training that is killed after its first checkpoint and resumed gives the bytes of the uninterrupted one
- torchrun: one process under torchrun (NCCL on a GPU) gives the bytes of the plain training
- devices: probabilities on the CPU and on the GPU agree within --tolerance, for the weights trained on the GPU
- batch-size: measures how many images one step can have
- twice: two trainings give the same bytes, per network and precision
- options: averages of weights, mixup with cutmix, clipping, accumulation and focal loss train and repeat
- graphs: trainings with CUDA graphs (`runtime.cuda_graphs`) give the bytes of those without, per network and option
"""

import argparse
import contextlib
import io
import json
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import ROOT, argument_parser, machine, stage_environment
from benchmarks.studies import Study, changed, one_process
from stages import balance
from tumorboard.base.params import Params, Recipe, load_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.commands.batch_size import measure_capacity
from tumorboard.models.inference import crop_logits, softmax
from tumorboard.models.model_file import load_model
from tumorboard.training.job import Epoch, Job, read_job
from tumorboard.training.loop import train_model

PLAIN: dict[str, Any] = {"deterministic": True, "precision": "bf16", "early_stopping": 0}
OPTIONS: dict[str, dict[str, Any]] = {
    "ema": {"ema_decay": 0.99},
    "average of the last epochs": {"average_last": 2},
    "mixup and cutmix": {"mixup": 0.2, "cutmix": 1.0},
    "clipping": {"clip_norm": 1.0},
    "accumulation": {"accumulate": 4},
    "focal loss, balanced batches": {"loss": "focal", "sampler": "balanced"},
}


@dataclass(frozen=True)
class Ground:
    """What the checks share."""

    params: Params
    folder: Path
    quick: bool
    tolerance: float  # largest difference of a probability between devices

    def job(self, model: str, out: Path, **changes: Any) -> Job:
        """Returns a job that writes to a folder."""
        base = resolve_recipe(self.params, model).model_dump()
        recipe = Recipe.model_validate(base | PLAIN | {"epochs": 2 if self.quick else 4} | changes)
        out.mkdir(parents=True, exist_ok=True)
        return read_job(
            model,
            fold=0,
            recipe=recipe,
            crop=self.params.crop,
            store=self.folder / "crop/store",
            manifest=self.folder / "split.csv",
            balance=self.folder / "balance",
            weights=out / "weights.safetensors",
            held_out=out / "held_out.safetensors",
            out=out,
        )

    def digest(self, model: str, name: str, **changes: Any) -> str:
        """Trains a model in this process and returns the SHA-256 of its weights."""
        job = self.job(model, self.folder / "out" / name, **changes)
        with contextlib.redirect_stdout(io.StringIO()):
            train_model(job, self.params.runtime, lambda _: None)
        return sha256(job.weights.read_bytes()).hexdigest()

    @property
    def is_cuda(self) -> bool:
        """Whether the trainings run on a GPU."""
        return self.params.runtime.device == "cuda"


Check = Callable[[Ground], Iterator[tuple[str, bool, str]]]  # yields title, success and a remark


def twice(ground: Ground) -> Iterator[tuple[str, bool, str]]:
    """Trains each network twice."""
    models = ["cnn"] if ground.quick else ["cnn", "resnet18", "googlenet", "efficientnet_lite0"]
    for model in models:
        precisions = ["bf16", "off", *(["fp16"] if ground.is_cuda else [])]
        for precision in precisions if model == "cnn" else ["bf16"]:
            changes = {"precision": precision, "pretrained": "none", "epochs": 4 if model == "cnn" else 2}
            first, second = (ground.digest(model, f"twice{number}", **changes) for number in range(2))
            yield f"{model}, {precision}: two runs are equal", first == second, first[:12]


def options(ground: Ground) -> Iterator[tuple[str, bool, str]]:
    """Trains with each option twice; a loss that is not finite raises."""
    for name, changes in OPTIONS.items():
        changes = changes | ({"precision": "fp16"} if ground.is_cuda else {})
        first, second = (ground.digest("cnn", f"option{number}", **changes) for number in range(2))
        yield f"{name}: trains, and two runs are equal", first == second, first[:12]


def train_apart(
    ground: Ground, out: Path, *, launcher: tuple[str, ...] = (), wait: bool = True
) -> subprocess.Popen[str]:
    """Starts the same training in another process, which writes checkpoints all the time."""
    spec = {"folder": str(ground.folder), "out": str(out), "device": ground.params.runtime.device}
    spec |= {"quick": ground.quick, "threads": ground.params.runtime.threads}
    command = [sys.executable, *launcher, "-m", "benchmarks.cuda", "--training", json.dumps(spec)]
    process = subprocess.Popen(
        command, env=stage_environment(), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if wait:
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the training ended with status {process.returncode}:\n{output[-2000:]}")
    return process


def run_training(spec: dict[str, Any]) -> None:
    """The training of `train_apart`, in its own process."""
    folder = Path(spec["folder"])
    ground = Ground(study_params(spec["device"], spec["quick"], spec["threads"]), folder, spec["quick"], 0)
    out = Path(spec["out"])
    runtime = ground.params.runtime.model_copy(update={"checkpoint_seconds": 1e-9})
    train_model(ground.job("cnn", out, epochs=6), runtime, lambda _: None, checkpoints=out / "checkpoints")


def killed(ground: Ground) -> Iterator[tuple[str, bool, str]]:
    """Kills a training at several moments after its first checkpoint and resumes it."""
    whole = ground.folder / "out/whole"
    train_apart(ground, whole)
    expected = sha256((whole / "weights.safetensors").read_bytes()).hexdigest()
    for delay in (0.0, 0.3) if ground.quick else (0.0, 0.2, 0.5, 1.0):
        out = ground.folder / f"out/killed{delay}"
        process = train_apart(ground, out, wait=False)
        while process.poll() is None and not list((out / "checkpoints").glob("*/*.ckpt")):
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (out / "weights.safetensors").exists():
            yield f"killed {delay} s after the first checkpoint", False, "it had ended before: take more epochs"
            continue
        resumed = train_apart(ground, out, wait=False)
        output, _ = resumed.communicate()
        place = next((line.split("resumed from ")[1] for line in output.splitlines() if "resumed from" in line), None)
        same = place is not None and sha256((out / "weights.safetensors").read_bytes()).hexdigest() == expected
        yield f"killed {delay} s after the first checkpoint: equal", same, f"resumed from {place}"


def torchrun(ground: Ground) -> Iterator[tuple[str, bool, str]]:
    """Trains under torchrun with one process."""
    whole, out = ground.folder / "out/whole", ground.folder / "out/torchrun"
    if not (whole / "weights.safetensors").exists():
        train_apart(ground, whole)
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "1")
    train_apart(ground, out, launcher=launcher)
    first, second = (sha256((one / "weights.safetensors").read_bytes()).hexdigest() for one in (whole, out))
    yield "one process under torchrun: equal", first == second, "nccl" if ground.is_cuda else "gloo"


def graphs(ground: Ground) -> Iterator[tuple[str, bool, str]]:
    """Trains with steps that are captured as CUDA graphs and without; each shape comes often enough for a capture."""
    if not ground.is_cuda:
        return
    precisions = [{"precision": precision} for precision in ("bf16", "fp16", "off")]
    models = ("cnn", "resnet18", "googlenet", "efficientnet_lite0")
    settings = [("cnn", changes | {"precision": "fp16"}) for changes in OPTIONS.values()]
    settings += [("cnn", {"precision": "fp16", "optimizer": "sgd"}), ("cnn", {"nonfinite": "skip"})]
    settings += [(model, changes) for model in models for changes in precisions]
    for model, changes in settings:
        digests, speeds, printed = [], [], io.StringIO()
        for cuda_graphs in (False, True):
            runtime = ground.params.runtime.model_copy(update={"cuda_graphs": cuda_graphs})
            out = ground.folder / f"out/graphs{cuda_graphs}"
            job = ground.job(model, out, **{"pretrained": "none", "epochs": 4 if model == "cnn" else 2} | changes)
            epochs: list[Epoch] = []
            with contextlib.redirect_stdout(printed):
                train_model(job, runtime, epochs.append)
            digests.append(sha256(job.weights.read_bytes()).hexdigest())
            speeds.append(epochs[-1].images_per_second)
        failed = [line for line in printed.getvalue().splitlines() if "kernel by kernel" in line]
        remark = failed[0] if failed else f"{speeds[0]:.0f} to {speeds[1]:.0f} images/s"
        title = ", ".join([model, *(f"{key} {value}" for key, value in changes.items())])
        yield f"{title}: equal with CUDA graphs", not failed and digests[0] == digests[1], remark


def devices(ground: Ground) -> Iterator[tuple[str, bool, str]]:
    """Predicts the validation images on both devices."""
    if not ground.is_cuda:
        return
    for model in ("cnn", "resnet18"):
        job = ground.job(model, ground.folder / f"out/{model}")
        with contextlib.redirect_stdout(io.StringIO()):
            train_model(job, ground.params.runtime, lambda _: None)
        crops = np.stack([job.store[one] for one in job.val_rows["id"]])
        both = []
        for device in map(torch.device, ("cpu", "cuda")):
            network, card = load_model(job.weights, device)
            logits = crop_logits(
                network, crops, precision="off", channels_last=card.recipe.channels_last, device=device, tta=()
            )
            both.append(softmax(logits))
        gap = float(np.abs(both[0] - both[1]).max())
        yield f"{model}: probabilities on CPU and GPU", gap <= ground.tolerance, f"largest difference {gap:.1e}"


def capacity(ground: Ground) -> Iterator[tuple[str, bool, str]]:
    """Finds the largest batch."""
    job = ground.job("resnet18", ground.folder / "out/capacity")
    images = measure_capacity(job, ground.params.runtime, None).images
    yield "batch-size answers", images >= 1, f"{images} images"


CHECKS: dict[str, Check] = {
    "killed": killed,
    "torchrun": torchrun,
    "devices": devices,
    "batch-size": capacity,
    "twice": twice,
    "options": options,
    "graphs": graphs,
}


def study_params(device: str, quick: bool, threads: int) -> Params:
    """Returns the parameters of the checks; all trainings have the same number of threads, which decides rounding."""
    params = one_process(load_params(ROOT / "params.yaml"))
    return changed(
        params,
        phantom={"images": 240 if quick else 800, "patients": 24, "side": 96},
        crop={"side": 32 if quick else 64},
        runtime={"device": device, "threads": threads},
    )


def run_check(check: Check, ground: Ground) -> bool:
    """Prints a line per result of a check; an error is a failure with its traceback."""
    passed, start = True, time.perf_counter()
    try:
        for title, success, remark in check(ground):
            seconds = time.perf_counter() - start
            print(f"{'ok' if success else 'FAILED':<7} {title:<62} {remark:<34} {seconds:6.1f} s", flush=True)
            passed &= success
            start = time.perf_counter()
    except Exception:  # the other checks are to run as well
        print(f"FAILED  {check.__doc__}\n{traceback.format_exc()}", flush=True)
        return False
    return passed


def parse_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="(default: cuda)")
    parser.add_argument("--quick", action="store_true", help="smaller images, fewer epochs and networks")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), metavar="CHECK")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of a probability (default: %(default)s)")
    parser.add_argument("--training", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Runs the checks."""
    options = parse_options()
    if options.training:
        run_training(options.training)
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here: --device cpu tries the checks themselves")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        params = study_params(options.device, options.quick, torch.get_num_threads())
        study = Study(params, folder)
        study.split(params)
        balance.main(
            params,
            fold=0,
            store=folder / "crop/store",
            manifest=folder / "split.csv",
            out=folder / "balance",
            metrics=folder / "balance.json",
        )
        ground = Ground(params, folder, options.quick, options.tolerance)
        passed = [run_check(CHECKS[name], ground) for name in options.only]
    name = torch.cuda.get_device_name(0) if options.device == "cuda" else "CPU"
    print(f"{sum(passed)} of {len(passed)} checks passed; {name}, torch {torch.__version__}; {machine()}")
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
