"""Kills trainings at random moments and compares their results with those of an uninterrupted training.

The training is the stage itself, `python -m stages.train`: a small network on the synthetic data set, on the CPU, in
one process. It writes a checkpoint after each step, unless the one before is still being written. SIGKILL is sent at a
random moment after the process began to write its first checkpoint, and so hits steps, validations and half-written
checkpoints. Then the training is started again. When one has ended, `python -m stages.evaluate` writes its Predictions;
the SHA-256 of weights, history and Predictions is compared, and the next training begins. The exit status is 1 if a
digest differs.

Example:
    python -m benchmarks.kill --kills 30 --seed 1
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import yaml

from benchmarks import ROOT, argument_parser, stage_environment
from tumorboard.base.schema import read_yaml

MODEL, FOLD = "cnn", "0"
STORE, MANIFEST, BALANCE, RECIPE = "data/crop/store", "data/split/manifest.csv", "data/balance/0", "recipes/cnn.json"
CHECKPOINTS = Path(".cache/checkpoints")
RESULTS = ("weights", "history", "Predictions")
# The delay of a kill is drawn from 0 to this share of the seconds of the uninterrupted training.
LONGEST_DELAY = 1 / 3


def start_stage(name: str, *options: str, log: Path) -> subprocess.Popen[bytes]:
    """Starts a stage in the current folder and appends its output to the log."""
    command = [sys.executable, "-m", f"stages.{name}", *options]
    environment = stage_environment() | {"OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def run_stage(name: str, *options: str) -> None:
    """Runs a stage in the current folder to its end; exits with its output if it fails."""
    log = Path(f"{name}.log")
    if status := start_stage(name, *options, log=log).wait():
        sys.exit(f"stages.{name} ended with status {status}:\n{log.read_text(encoding='utf-8')}")


def prepare_data() -> None:
    """Writes params.yaml and the data of a small training to the current folder."""
    tree = read_yaml(ROOT / "params.yaml")
    tree["models"] = [MODEL]
    tree["phantom"] |= {"images": 400, "patients": 40, "side": 96}
    tree["crop"]["side"] = 32
    tree["train"] |= {"epochs": 5, "head": "mlp"}
    tree["runtime"] |= {"device": "cpu", "processes": 1, "checkpoint_seconds": 1e-9}
    Path("params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    run_stage("phantom", "--out", "data/phantom")
    run_stage("crop", "--out", "data/crop", "--metrics", "metrics/crop.json")
    run_stage(
        "split",
        *("--crop", "data/crop", "--out", "data/split"),
        *("--metrics", "metrics/split.json", "--audit-metrics", "metrics/audit.json"),
    )
    run_stage(
        "balance",
        *("--fold", FOLD, "--store", STORE, "--manifest", MANIFEST),
        *("--out", BALANCE, "--metrics", "metrics/balance.json"),
    )
    run_stage("recipe", "--out", "recipes")


def start_training(name: str) -> subprocess.Popen[bytes]:
    """Starts or resumes a training after its outputs are deleted, as DVC deletes them."""
    shutil.rmtree(name, ignore_errors=True)
    Path(f"{name}.safetensors").unlink(missing_ok=True)
    return start_stage(
        "train",
        *("--model", MODEL, "--fold", FOLD, "--store", STORE, "--manifest", MANIFEST),
        *("--balance", BALANCE, "--recipe", RECIPE, "--weights", f"{name}.safetensors"),
        *("--out", name, "--metrics", f"{name}.json"),
        log=Path(f"{name}.log"),
    )


def temporary_checkpoints() -> set[Path]:
    """Returns the files of checkpoints that are being written, or whose writing was interrupted."""
    return set(CHECKPOINTS.glob("*/.*.tmp"))


def train_until_killed(name: str, delay: float | None) -> int:
    """Starts or resumes a training and returns its exit status.

    Args:
        name: the training's name.
        delay: seconds after which it is killed, from when it begins to write a checkpoint; None: it is not killed.
    """
    earlier = temporary_checkpoints()
    process = start_training(name)
    while delay is not None and process.poll() is None:
        if temporary_checkpoints() - earlier:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    return process.wait()


def result_digests(name: str) -> dict[str, str]:
    """Evaluates a trained model and returns the SHA-256 of its weights, history and Predictions."""
    files = f"{name}.safetensors", f"{name}/history.csv", f"{name}.csv"
    run_stage(
        "evaluate",
        *("--model", MODEL, "--fold", FOLD, "--store", STORE, "--manifest", MANIFEST),
        *("--weights", files[0], "--out", files[2], "--metrics", f"{name}.scores.json"),
    )
    return {result: sha256(Path(file).read_bytes()).hexdigest() for result, file in zip(RESULTS, files, strict=True)}


def interrupted_work(name: str) -> str:
    """Says what a killed training was doing, by the files that it left."""
    if Path(f"{name}.safetensors").exists():
        return "end, weights written"
    return "checkpoint writing" if temporary_checkpoints() else "step or validation"


def resumed_from(name: str) -> str:
    """Returns the epoch and step from which a training resumed last, by its log."""
    lines = Path(f"{name}.log").read_text(encoding="utf-8").splitlines()
    resumed = [line.split("resumed from")[-1].strip() for line in lines if "resumed from" in line]
    return resumed[-1] if resumed else "the start"


def kill_and_compare(kills: int, seed: int) -> bool:
    """Prints one line per kill and per ended training, in the current folder.

    Args:
        kills: number of kills; the training that the last one hits is resumed to its end.
        seed: seed of the delays.

    Returns:
        Whether the results of every training are those of the uninterrupted one.
    """
    generator = random.Random(seed)  # noqa: S311 - not for cryptography
    prepare_data()
    start = time.perf_counter()
    if train_until_killed("uninterrupted", None):
        sys.exit(f"the training failed:\n{Path('uninterrupted.log').read_text(encoding='utf-8')}")
    seconds = json.loads(Path("uninterrupted/timings.json").read_text(encoding="utf-8"))["seconds"]
    expected = result_digests("uninterrupted")
    print(f"uninterrupted: {seconds:.1f} s of training, {time.perf_counter() - start:.1f} s with start and evaluation")
    print(f"{'kill':>4}  {'training':>8}  {'delay s':>7}  {'killed during':>20}  had resumed from")
    are_equal: list[bool] = []  # whether each ended training equals the uninterrupted one
    done = 0  # number of kills
    number = 1  # counts the trainings
    while done < kills or len(are_equal) < number:
        name = f"training{number}"
        delay = generator.uniform(0, seconds * LONGEST_DELAY) if done < kills else None
        status = train_until_killed(name, delay)
        origin = resumed_from(name)
        if status == -signal.SIGKILL and delay is not None:
            done += 1
            print(f"{done:4d}  {number:8d}  {delay:7.2f}  {interrupted_work(name):>20}  {origin}", flush=True)
            Path(f"{name}.log").unlink()
        elif status == 0:
            digests = result_digests(name)
            same = [result for result in RESULTS if digests[result] == expected[result]]
            are_equal.append(len(same) == len(RESULTS))
            print(f"      {number:8d}  ended, resumed from {origin}; equal: {', '.join(same) or 'none'}", flush=True)
            number += done < kills
        else:
            sys.exit(f"the training failed:\n{Path(f'{name}.log').read_text(encoding='utf-8')}")
    for result in RESULTS:
        print(f"{result:>12}  sha256 {expected[result]}")
    print(f"{done} kills, {len(are_equal)} trainings, {sum(are_equal)} of them equal to the uninterrupted one")
    return all(are_equal)


def main() -> None:
    """Reads the options, kills and exits."""
    parser = argument_parser(__doc__)
    parser.add_argument("--kills", type=int, default=30, help="number of kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="empty folder to work in and keep (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        are_equal = kill_and_compare(options.kills, options.seed)
        os.chdir(ROOT)  # the temporary folder is about to be deleted
    sys.exit(0 if are_equal else 1)


if __name__ == "__main__":
    main()
