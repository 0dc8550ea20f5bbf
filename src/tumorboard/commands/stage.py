"""Runs a stage of the installed package in a study elsewhere: python -m tumorboard.commands.stage crop --out data/crop.

Two stages exist only there: `digest`, since the sources lie outside the study, and `params`, which completes a short
params.yaml.
"""

import runpy
import sys
from hashlib import sha256
from pathlib import Path

import yaml

from tumorboard.base.digests import source_files, write_digests
from tumorboard.base.errors import InputError, escape_unprintable
from tumorboard.base.faults import reported_errors
from tumorboard.base.files import replacing
from tumorboard.base.findings import FIX
from tumorboard.base.package_files import PACKAGE, package_file
from tumorboard.base.params import load_params, read_values
from tumorboard.base.schema import read_yaml
from tumorboard.base.short_params import DEFAULTS_OF
from tumorboard.base.study import describe_other_version
from tumorboard.commands.study_pipeline import differences


def main(name: str, words: list[str]) -> None:
    """Runs one stage.

    Args:
        name: name of the stage.
        words: options of the stage.
    """
    if name == "digest":
        write_lists(Path(words[words.index("--out") + 1]))
    elif name == "params":
        write_resolved(Path("params.yaml"), Path(words[words.index("--out") + 1]))
    else:
        stages = package_file("stages")
        if not (stages / f"{name}.py").is_file():
            known = ", ".join(sorted(file.stem for file in stages.glob("[!_]*.py")))
            raise InputError(f"there is no stage '{name}'; there are {known}")
        sys.path.insert(0, str(stages.parent))
        sys.argv = [str(stages / f"{name}.py"), *words]
        runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)


def write_lists(out: Path) -> None:
    """Writes the digests of the installed sources, and prints the stages that another version runs again.

    Raises:
        InputError: the study's dvc.yaml is of another version, so that a later stage would fail.
    """
    if differing := differences(Path()):
        raise InputError(f"dvc.yaml is of another version of tumorboard: {'; '.join(differing)}: run `{FIX}`")
    stages = package_file("stages")
    before = _lists(out)
    write_digests(stages, PACKAGE, out, installed=True)
    files = {"params.yaml": package_file("params.yaml")}
    for file in source_files("tumorboard.base.params", {PACKAGE.name: PACKAGE}):
        files[f"{PACKAGE.name}/{file.relative_to(PACKAGE).as_posix()}"] = file
    lines = [f"{sha256(file.read_bytes()).hexdigest()}  {name}\n" for name, file in sorted(files.items())]
    with replacing(out / "params.sha256") as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    after = _lists(out)
    changed = [stage for stage, text in after.items() if before and before.get(stage) != text]
    version = read_yaml(Path("params.yaml")).get(DEFAULTS_OF)
    if text := describe_other_version(version, changed):
        print(text, file=sys.stderr)


def _lists(folder: Path) -> dict[str, str]:
    """Returns the list of source files of each stage."""
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.sha256"))}


def write_resolved(short: Path, out: Path) -> None:
    """Writes the complete parameters of a study.

    Raises:
        InputError: params.yaml has a wrong key.
    """
    load_params(short)
    text = yaml.safe_dump(read_values(short), sort_keys=False, allow_unicode=True, width=120)
    with replacing(out) as temporary:
        temporary.write_text(f"# Written by `dvc repro` from params.yaml: change that file.\n{text}", encoding="utf-8")


if __name__ == "__main__":
    escape_unprintable()
    with reported_errors(sys.argv[1] if len(sys.argv) > 1 else "stage"):
        if len(sys.argv) < 2:
            raise InputError("name a stage, such as crop")
        main(sys.argv[1], sys.argv[2:])
