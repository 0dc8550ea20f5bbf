"""The dvc.yaml of a study, made from the package's; and a study's dvc.yaml that another version of the package wrote.

The stages' options, dependencies, parameters and outputs are part of dvc.yaml. Where a later version of a stage has
others, the study's dvc.yaml is renewed.
"""

import shutil
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from tumorboard.base.errors import InputError
from tumorboard.base.files import replacing
from tumorboard.base.findings import FIX, KEPT, Finding
from tumorboard.base.package_files import package_file
from tumorboard.base.schema import read_yaml

PIPELINE = "dvc.yaml"
RESOLVED = "resolved.yaml"  # the complete parameters of a study, which its stages read
RUNNER = "python -m tumorboard.commands.stage"
LISTS = {"deps": "depend on", "params": "read the parameter", "outs": "write", "metrics": "write"}  # verb of a message
PICTURES = ("plots/images", "plots/test")  # folders of pictures of the study's images: in DVC's cache, not in git


def pipeline_text(package_pipeline: str) -> str:
    """Returns the dvc.yaml of a study, made from the package's.

    The stages run from the package; `digest` runs each time, since the sources lie outside the study, and the other
    stages depend on its lists as in the package. Parameters come from `resolved.yaml`, which the stage `params` writes.
    PICTURES are in DVC's cache.
    """
    pipeline = yaml.safe_load(package_pipeline)
    stages: dict[str, Any] = {
        "digest": {
            "desc": "list the source files of each stage with their SHA-256; a stage whose files changed runs again",
            "cmd": f"{RUNNER} digest --out digests",
            "always_changed": True,
            "outs": [{"digests": {"persist": True}}],
        },
        "params": {
            "desc": "complete params.yaml by the defaults of the package",
            "cmd": f"{RUNNER} params --out {RESOLVED}",
            "deps": ["params.yaml", "digests/params.sha256"],
            "outs": [{RESOLVED: {"cache": False}}],
        },
    }
    for name, stage in pipeline["stages"].items():
        if name in ("digest", "phantom"):
            continue
        stage["cmd"] = stage["cmd"].replace("python -m stages.", f"{RUNNER} ")
        stage["outs"] = [_in_cache(output) for output in stage["outs"]]
        if "params" in stage:
            stage["params"] = [{RESOLVED: stage["params"]}]
        stages[name] = stage
    pipeline["stages"] = stages
    text: str = yaml.safe_dump(pipeline, sort_keys=False, allow_unicode=True, width=110)
    return f"# The pipeline; `tumorboard new` wrote it, and a study changes params.yaml alone.\n{text}"


def _in_cache(output: Any) -> Any:
    """Returns an output of dvc.yaml; an output in PICTURES without the setting that keeps it out of DVC's cache."""
    return next((folder for folder in PICTURES if isinstance(output, dict) and folder in output), output)


def check_pipeline(project: Path) -> list[Finding]:
    """Checks that a study's dvc.yaml has the stages that the installed package expects."""
    differing = differences(project)
    if not differing:
        return [Finding(PIPELINE, "ok", "its stages are those of this version")]
    message = f"dvc.yaml is of another version of tumorboard: {'; '.join(differing)}"
    stages = _stages_of(read_yaml(project / PIPELINE))
    if added := sorted(set(stages) - set(_expected_stages())):
        cure = f"delete what you added ({', '.join(added)}) from dvc.yaml, run {FIX}, and add it again"
        return [Finding(PIPELINE, "problem", message, cure)]
    return [Finding(PIPELINE, "problem", message, FIX, lambda: _renew(project))]


def differences(project: Path) -> list[str]:
    """Returns how the stages of a study differ from those of the package, a clause per difference.

    A stage must have the same options, and at least the dependencies, parameters and outputs of the package's. Only
    stages that run from the package count: the package's own repository has its stages beside their pipeline.
    """
    try:
        stages = _stages_of(read_yaml(project / PIPELINE))
    except InputError:
        return []  # other checks report what cannot be read
    differing = []
    for name, expected in _expected_stages().items():
        own, wanted = _options(stages.get(name)), _options(expected)
        if name not in stages and any(map(_options, stages.values())):
            differing.append(f"there is no stage {name}")
        elif own and own != wanted:
            lacking = [f"{name} has no {option}" for option in sorted(wanted - own)]
            differing += lacking or [f"{name} has {option}" for option in sorted(own - wanted)]
        elif own:
            for key, verb in LISTS.items():
                lacking = sorted(_names(expected, key) - _names(stages[name], key))
                differing += [f"{name} does not {verb} {each}" for each in lacking]
    return differing


def _expected_stages() -> dict[str, Any]:
    return _stages_of(yaml.safe_load(_text()))


def _text() -> str:
    return pipeline_text(package_file(PIPELINE).read_text(encoding="utf-8"))


def _stages_of(tree: Any) -> dict[str, Any]:
    stages = tree.get("stages") if isinstance(tree, dict) else None
    return stages if isinstance(stages, dict) else {}


def _options(stage: Any) -> set[str]:
    """Returns the options in the command of a stage that runs from the package; empty for any other stage."""
    command = stage.get("cmd") if isinstance(stage, dict) else None
    if not isinstance(command, str) or not command.startswith(RUNNER):
        return set()
    return {word for word in command.split() if word.startswith("--")}


def _names(stage: dict[str, Any], key: str) -> set[str]:
    """Returns the names that a stage lists under one of LISTS: paths, of a parameter its key."""
    entries = stage.get(key)
    names: list[Any] = []
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict):
            names.append(entry)
        elif key == "params":
            names += [name for listed in entry.values() if isinstance(listed, list) for name in listed]
        else:
            names += entry
    return set(map(str, names))


def _renew(project: Path) -> str:
    """Keeps dvc.yaml beside those that were kept before, and writes that of the installed package in its place."""
    folder = project / KEPT
    folder.mkdir(parents=True, exist_ok=True)
    numbered = (f"{PIPELINE}.{number}" if number else PIPELINE for number in count())
    name = next(name for name in numbered if not (folder / name).exists())
    shutil.copyfile(project / PIPELINE, folder / name)
    with replacing(project / PIPELINE) as temporary:
        temporary.write_text(_text(), encoding="utf-8")
    return f"wrote dvc.yaml as this version of tumorboard does; the one before is {KEPT}/{name}"
