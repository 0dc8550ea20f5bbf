"""How fast a training epoch is beside others of the same model, images, batch, augmentation and optimizer.

    python -m benchmarks.train ../shared/data/brain_mri --side 64 --images 640 --rounds 5

Each way has a process of its own, which waits while the others run. Each round times an epoch of every one, in an
order drawn by lot; ratios are taken within a round. DATA holds a folder a class, or Training/<class>. Ways:

trainer    this project's: packed crops, augmentation, steps
resident   the trainer's own step, on one batch that lies in memory and is never altered: no input pipeline at all
plain      a loop over ImageFolder and PIL by a DataLoader with a process a core, mixed precision, channels_last
student    the same in float32 and torch's own layout: the way of most scripts
lightning  Lightning's Trainer, bf16-mixed, on the same DataLoader; where Lightning can be imported
"""

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks import machine
from tumorboard import images as pictures
from tumorboard.data.store import CropStore, write_store
from tumorboard.models.inference import autocast, choose_device
from tumorboard.models.registry import Classifier, build_model
from tumorboard.params import Augment, Params, Recipe, load_params, resolve_recipe
from tumorboard.training.checkpoint import Checkpoints
from tumorboard.training.distributed import Group, keep_freed_memory
from tumorboard.training.loop import mean_std_of, prepare
from tumorboard.training.optim import set_lr
from tumorboard.training.state import Job, Run, State
from tumorboard.training.steps import backward, plan_step, set_modes, train_epoch, update

Epoch = Callable[[], object]


def main(
    data: Path,
    model: str = "resnet18",
    side: int = 64,
    images: int = 640,
    batch: int = 32,
    rounds: int = 5,
    workers: Annotated[int, typer.Option(help="Processes of the DataLoader; 0: none.")] = 2,
    precision: str = "bf16",
    ways: Annotated[str, typer.Option(help="Of those above, with commas between.")] = "",
    deterministic: bool = True,
) -> None:
    """Print images a second of each way and the ratios."""
    params = load_params("params.yaml")
    changes = {"batch_size": batch, "precision": precision, "deterministic": deterministic}
    recipe = resolve_recipe(params, model).model_copy(update=changes)
    training = data / "Training" if (data / "Training").is_dir() else data
    known = [name for name in EPOCHS if name != "lightning" or find_spec("lightning")]
    chosen = ways.split(",") if ways else known
    spawn = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        job = prepare_job(training, images, side, recipe, params, Path(folder))
        pipes = {}
        for name in chosen:
            pipes[name], theirs = spawn.Pipe()
            arguments = (theirs, name, training, job, workers, choose_device(params.runtime))
            spawn.Process(target=work, args=arguments).start()
        seconds: dict[str, list[float]] = {name: [] for name in chosen}
        for turn in range(rounds + 1):
            for name in random.sample(chosen, len(chosen)):
                pipes[name].send(True)
                taken = pipes[name].recv()
                if turn:  # the first round warms up
                    seconds[name].append(taken)
        for pipe in pipes.values():
            pipe.send(False)
    print(
        machine(), f"torch {torch.__version__}", *([torch.cuda.get_device_name()] if torch.cuda.is_available() else [])
    )
    print(f"{model}, {side} pixels, batch {batch}, {precision}, {images} images")
    for name, of in seconds.items():
        print(f"  {name}: {images / np.median(of):.1f} images/s")
    for name, of in seconds.items():
        if name != "trainer" and "trainer" in seconds:
            ratios = [other / own for own, other in zip(seconds["trainer"], of, strict=True)]
            print(f"  trainer is as fast as {name} times {summary(ratios)}")


def summary(values: list[float]) -> str:
    """Median and range."""
    return f"{np.median(values):.3f} ({min(values):.3f} to {max(values):.3f}, n = {len(values)})"


def work(pipe: Connection, name: str, training: Path, job: Job, workers: int, device: str) -> None:
    """Time an epoch of one way whenever asked to."""
    epoch = EPOCHS[name](job, data_loader(training, job, workers, device), torch.device(device))
    while pipe.recv():
        start = time.perf_counter()
        epoch()
        if device == "cuda":
            torch.cuda.synchronize()
        pipe.send(time.perf_counter() - start)


def prepare_job(training: Path, count: int, side: int, recipe: Recipe, params: Params, folder: Path) -> Job:
    """The images, spread over all files, cropped and packed; their ids are their paths."""
    files = sorted(path for path in training.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    files = [files[place] for place in np.linspace(0, len(files) - 1, count).astype(int)]
    crop = params.crop.model_copy(update={"side": side, "border": False})
    cropped = [pictures.crop_image(pictures.decode_for_crop(f.read_bytes(), crop, None)[0], crop) for f in files]
    ids = [path.as_posix() for path in files]
    write_store(folder, ids, cropped, 8)
    labels = [path.relative_to(training).parts[0] for path in files]
    rows = pd.DataFrame({"id": ids, "group": ids, "split": "train", "label": labels})
    classes = tuple(sorted(set(rows["label"])))
    return Job(recipe.architecture, 0, recipe, rows, rows, CropStore(folder), classes, crop, "", Path(), Path())


def data_loader(training: Path, job: Job, workers: int, device: str) -> DataLoader[Any]:
    """The same files by ImageFolder, cropped and altered in PIL."""
    whole = ImageFolder(str(training), as_torchvision(job.recipe.augment, job.store.size))
    place_of = {path: place for place, (path, _) in enumerate(whole.samples)}
    chosen = Subset(whole, [place_of[path] for path in job.rows["id"]])
    return DataLoader(
        chosen,
        batch_size=job.recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device == "cuda",
    )


def as_torchvision(augment: Augment, side: int) -> v2.Compose:
    """A crop and the recipe's alterations, as most scripts write them; float32[3, side, side] of 0 to 255."""
    steps: list[Any] = [v2.Resize(side), v2.CenterCrop(side)]
    steps += [v2.RandomHorizontalFlip(augment.hflip), v2.RandomVerticalFlip(augment.vflip)]
    shift, bilinear = (augment.shift,) * 2, v2.InterpolationMode.BILINEAR
    steps += [v2.RandomAffine(augment.rotate, shift, augment.zoom, interpolation=bilinear)]
    steps += [v2.ColorJitter(augment.brightness, augment.contrast, augment.saturation)]
    return v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32)])


def trainer(job: Job, _: DataLoader[Any], device: torch.device) -> Epoch:
    """An epoch of this project's loop."""
    run, state = prepared(job, device)
    return lambda: train_epoch(run, state, 0, Checkpoints(run.group, None, "", 0.0))


def resident(job: Job, _: DataLoader[Any], device: torch.device) -> Epoch:
    """As many of its steps on one batch."""
    run, state = prepared(job, device)
    set_modes(state.model, job.recipe, 0)
    rows = np.arange(job.recipe.batch_size)
    plan = plan_step(run, np.stack([rows, np.zeros_like(rows)], axis=1))
    batch = next(run.loader.load(plan.loaded))

    def epoch() -> None:
        for _ in range(-(-len(job.rows) // job.recipe.batch_size)):
            set_lr(state.optimizer, job.recipe.lr)
            backward(run, state, state.model, plan, iter([batch]))
            update(job.recipe, state)

    return epoch


def prepared(job: Job, device: torch.device) -> tuple[Run, State]:
    """A run in this process, as `launch` would begin it."""
    if device.type == "cpu":
        keep_freed_memory()
    return prepare(Group(0, 1, device), job, mean_std_of(job))


def plain(job: Job, loader: DataLoader[Any], device: torch.device) -> Epoch:
    """A hand-written loop with all that it knows."""
    return loop(job, loader, device, job.recipe.precision, torch.channels_last)


def student(job: Job, loader: DataLoader[Any], device: torch.device) -> Epoch:
    """A hand-written loop without."""
    return loop(job, loader, device, "off", torch.contiguous_format)


def network(job: Job) -> Classifier:
    """The trainer's network."""
    return build_model(job.recipe, len(job.classes), job.store.size, mean_std_of(job))


def loop(job: Job, loader: DataLoader[Any], device: torch.device, precision: str, layout: torch.memory_format) -> Epoch:
    """Steps of the usual order."""
    model = network(job).to(device).to(memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), job.recipe.lr, weight_decay=job.recipe.weight_decay)

    def epoch() -> None:
        for batch, labels in moved(loader, device):
            optimizer.zero_grad()
            with autocast(precision, device):
                loss = functional.cross_entropy(model(batch.to(memory_format=layout)), labels)
            loss.backward()
            optimizer.step()
            loss.item()  # for the bar

    return epoch


def moved(loader: DataLoader[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches on the device."""
    for batch, labels in loader:
        yield batch.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def lightning(job: Job, loader: DataLoader[Any], device: torch.device) -> Epoch:
    """An epoch of one long fit by Lightning, without its loggers, checkpoints and progress bar."""
    import lightning as framework

    class Module(framework.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network(job).to(memory_format=torch.channels_last)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            alone, labels = batch
            return functional.cross_entropy(self.network(alone.to(memory_format=torch.channels_last)), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), job.recipe.lr, weight_decay=job.recipe.weight_decay)

    begin, ended = threading.Semaphore(0), threading.Semaphore(0)

    class Gate(framework.Callback):  # type: ignore[misc]
        def on_train_epoch_start(self, *_: object) -> None:
            begin.acquire()

        def on_train_epoch_end(self, *_: object) -> None:
            ended.release()

    fit = framework.Trainer(
        max_epochs=-1,
        precision={"bf16": "bf16-mixed", "fp16": "16-mixed", "off": "32-true"}[job.recipe.precision],
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        callbacks=[Gate()],
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    ).fit
    threading.Thread(target=fit, args=(Module(), loader), daemon=True).start()

    def epoch() -> None:
        begin.release()
        ended.acquire()

    return epoch


EPOCHS: dict[str, Callable[[Job, DataLoader[Any], torch.device], Epoch]] = {
    "trainer": trainer,
    "resident": resident,
    "plain": plain,
    "student": student,
    "lightning": lightning,
}


if __name__ == "__main__":
    cv2.setNumThreads(1)
    typer.run(main)
