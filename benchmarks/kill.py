"""Kills trainings at random moments and compares what they come to with the uninterrupted run: KILLS SEED [FOLDER].

The training is the stage itself, `python -m stages.train`: a small network on the embedded data set, on the CPU, in one
process, with a checkpoint after each step that finds the last one written. SIGKILL comes at a random moment after the
process began to write its first checkpoint, so that it hits steps, validations and half-written checkpoints alike. A
training that ends is judged by `python -m stages.evaluate`; its weights, history and Predictions are compared by
SHA-256, and the next one begins, until KILLS kills are done and the last training has ended. Exit status 1 where a
digest differs.
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

ROOT = Path(__file__).resolve().parents[1]
MODEL, FOLD = "cnn", "0"
RESULTS = ("weights", "history", "Predictions")
TRAIN = ("data/crop/store", "data/split/manifest.csv", "data/balance/0", "recipes/cnn.json")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def stage(name: str, *arguments: str, log: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a stage in the current folder."""
    output = log.open("ab") if log else subprocess.DEVNULL
    command = [sys.executable, "-m", f"stages.{name}", *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT)


def run(name: str, *arguments: str) -> None:
    """Run a stage in the current folder to its end."""
    if status := stage(name, *arguments).wait():
        sys.exit(f"stages.{name} ended with status {status}")


def prepare() -> None:
    """Params and data for a small training, in the current folder."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["phantom"] |= {"images": 400, "patients": 40, "side": 96}
    tree["crop"]["side"] = 32
    tree["train"] |= {"epochs": 5, "head": "mlp"}
    tree["runtime"] |= {"device": "cpu", "processes": 1, "checkpoint_seconds": 1e-9}
    Path("params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    run("phantom", "data/phantom")
    run("crop", "data/crop", "metrics/crop.json")
    run("split", "data/crop", "data/split", "metrics/split.json", "metrics/audit.json")
    run("balance", FOLD, "data/crop/store", "data/split/manifest.csv", "data/balance/0", "metrics/balance.json")
    run("recipe", "recipes")


def train(out: str) -> subprocess.Popen[bytes]:
    """Start the training, or go on with it, as DVC does: what an earlier run left of its outs is deleted."""
    shutil.rmtree(out, ignore_errors=True)
    Path(f"{out}.safetensors").unlink(missing_ok=True)
    arguments = (MODEL, FOLD, *TRAIN, f"{out}.safetensors", out, f"{out}.json")
    return stage("train", *arguments, log=Path(f"{out}.log"))


def digests(out: str) -> dict[str, str]:
    """Judge the trained model; the SHA-256 of its weights, history and Predictions."""
    files = f"{out}.safetensors", f"{out}/history.csv", f"{out}.csv"
    run("evaluate", MODEL, FOLD, *TRAIN[:2], files[0], files[2], f"{out}.scores.json")
    return {name: sha256(Path(file).read_bytes()).hexdigest() for name, file in zip(RESULTS, files, strict=True)}


def begun(process: subprocess.Popen[bytes], seen: set[Path]) -> bool:
    """Wait until the process writes a checkpoint; False where it ends without."""
    while process.poll() is None:
        if set(Path(".cache/checkpoints").glob("*/.*.tmp")) - seen:
            return True
        time.sleep(0.001)
    return False


def hit(out: str) -> str:
    """What the kill came upon."""
    if Path(f"{out}.safetensors").exists():
        return "finished weights"
    return "half a checkpoint" if list(Path(".cache/checkpoints").glob("*/.*.tmp")) else "a step or validation"


def last_line(out: str, word: str) -> str:
    """What follows the word in the last line of the log that has it."""
    lines = [line for line in Path(f"{out}.log").read_text(encoding="utf-8").splitlines() if word in line]
    return lines[-1].split(word)[-1].strip() if lines else "the start"


def main(kills: int, seed: int) -> bool:
    """Print the table; whether every training that ended equals the uninterrupted one."""
    draw = random.Random(seed)  # noqa: S311 - moments to kill at
    prepare()
    start = time.perf_counter()
    train("uninterrupted").wait()
    seconds = json.loads(Path("uninterrupted.json").read_text(encoding="utf-8"))["seconds"]
    expected = digests("uninterrupted")
    print(f"uninterrupted: {seconds:.1f} s of training, {time.perf_counter() - start:.1f} s in all")
    print(f"{'kill':>4}  {'training':>8}  {'after s':>7}  {'came upon':>20}  had gone on from")
    equal, done, training = [], 0, 0
    while done < kills or len(equal) < training:
        training += len(equal) == training
        out = f"training{training}"
        process = train(out)
        if done < kills and begun(process, set(Path(".cache/checkpoints").glob("*/.*.tmp"))):
            moment = draw.uniform(0, seconds / 3)
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            done += 1
            print(
                f"{done:4d}  {training:8d}  {moment:7.2f}  {hit(out):>20}  {last_line(out, 'resumed from')}", flush=True
            )
            Path(f"{out}.log").unlink()
        elif process.returncode == 0:
            found = digests(out)
            same = [name for name in RESULTS if found[name] == expected[name]]
            equal.append(len(same) == len(RESULTS))
            went = last_line(out, "resumed from")
            print(f"      {training:8d}  ended, from {went}; equal: {', '.join(same) or 'nothing'}", flush=True)
        else:
            sys.exit(f"the training failed:\n{Path(f'{out}.log').read_text(encoding='utf-8')}")
    for name in RESULTS:
        print(f"{name:>12}  sha256 {expected[name]}")
    print(f"{done} kills, {len(equal)} trainings, {sum(equal)} of them equal to the uninterrupted one")
    return all(equal)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[3] if len(sys.argv) > 3 else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        sys.exit(not main(int(sys.argv[1]), int(sys.argv[2])))
