"""Checks of the machine: the code that runs, torch and its devices, processor, memory, links."""

import os
from pathlib import Path
from uuid import uuid4

import psutil

from tumorboard.base.checkout import check_checkout
from tumorboard.base.cores import core_limit
from tumorboard.base.disk import GIB, existing_folder
from tumorboard.base.dvc_cache import dvc_cache_folders
from tumorboard.base.errors import InputError
from tumorboard.base.findings import Finding
from tumorboard.base.params import load_params

FEW_MEMORY = 2.0  # GiB; the default run takes at most 1.7
BUSY = 1.5  # waiting processes per processor from which a run takes markedly longer


def check_code(project: Path) -> list[Finding]:
    """Checks that the running code is the project's."""
    del project  # check_checkout looks at the current folder
    try:
        check_checkout()
    except InputError as error:
        cure = "make env && . .venv/bin/activate"
        return [Finding("code", "problem", str(error), cure)]
    return [Finding("code", "ok", f"the running code is {Path(__file__).parents[1]}")]


def check_torch(project: Path) -> list[Finding]:
    """Checks that torch can be imported and has the device that `runtime.device` asks for."""
    try:
        import torch  # here, because it is slow to import and may be damaged

        count = torch.cuda.device_count()
        names = [torch.cuda.get_device_name(number) for number in range(count)]
    except (ImportError, OSError, RuntimeError) as error:
        return [Finding("torch", "problem", f"torch cannot be used: {error}", "make env")]
    devices = ", ".join(names) if names else "no CUDA device, so that everything runs on the CPU"
    try:
        wanted = load_params(project / "params.yaml").runtime.device
    except InputError:
        wanted = "auto"
    if wanted == "cuda" and not names:
        cure = "dvc exp run -S runtime.device=auto"
        return [Finding("torch", "problem", f"runtime.device is cuda, but torch {torch.__version__} finds none", cure)]
    return [Finding("torch", "ok", f"torch {torch.__version__}: {devices}")]


def check_processor(project: Path) -> list[Finding]:
    """Checks threads, the load by other programs, and free memory."""
    del project
    threads = len(os.sched_getaffinity(0))
    quota = core_limit()
    load = os.getloadavg()[0]
    findings = []
    if quota is not None and quota < threads:
        message = f"{threads} processors are visible, but the container may use {quota:g} of them"
        findings.append(Finding("processor", "note", message, f"export OMP_NUM_THREADS={max(1, int(quota))}"))
    if load > BUSY * threads:
        message = f"{load:.1f} processes want {threads} processors: a run takes longer, and timings mean little"
        findings.append(Finding("processor", "note", message, "nice dvc repro"))
    free = psutil.virtual_memory().available / GIB
    if free < FEW_MEMORY:
        message = f"{free:.1f} GiB of memory are free, and the default run takes 1.7"
        findings.append(Finding("memory", "note", message, "dvc exp run -S runtime.workers=1"))
    set_by = os.environ.get("OMP_NUM_THREADS")
    torch_threads = f", OMP_NUM_THREADS={set_by}" if set_by else ""
    message = f"{threads} processors, load {load:.1f}{torch_threads}; {free:.1f} GiB of memory free"
    return findings or [Finding("processor", "ok", message)]


def check_links(project: Path) -> list[Finding]:
    """Checks how DVC can bring files of its cache into the project: without links, each file is there twice."""
    if not (project / ".dvc").is_dir():
        return []
    cache = existing_folder(dvc_cache_folders(project.resolve())[0])
    if not os.access(cache, os.W_OK) or not os.access(project, os.W_OK):
        return [Finding("links", "note", f"not tried, since {cache} or {project} cannot be written")]
    possible = [
        kind for kind, make in {"hardlink": os.link, "symlink": os.symlink}.items() if _works(make, cache, project)
    ]
    message = f"between {cache} and the project: {', '.join([*possible, 'copy'])}"
    if "hardlink" in possible:
        return [Finding("links", "ok", message)]
    cure = (
        "dvc config --local cache.type symlink" if possible else f"dvc cache dir --local {project.resolve()}/.dvc/cache"
    )
    return [Finding("links", "note", f"{message}; each file takes its place twice", cure)]


def _works(make: object, cache: Path, project: Path) -> bool:
    """Returns whether a link from the project to a file of the cache can be made; leaves nothing behind."""
    assert callable(make)
    name = f".links.{os.getpid()}.{uuid4().hex[:8]}.tmp"
    target, link = cache / name, project / name
    try:
        target.touch()
        make(target.resolve(), link)
    except OSError:
        return False
    finally:
        link.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    return True
