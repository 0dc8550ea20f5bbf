"""Computes which source files a module runs, so that DVC reruns a stage only when one of them changes."""

import ast
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from tumorboard.base.errors import InputError, printable
from tumorboard.base.files import replacing
from tumorboard.base.package_files import PACKAGE, package_file


def write_digests(stages: Path, library: Path, out: Path, *, installed: bool = False) -> None:
    """Writes `out`/<stage>.sha256 for each stage script: the SHA-256 of every source file that the stage runs.

    A line is "<digest>  <path>", sorted by path, which `sha256sum --check` reads. Paths start with `stages`
    or `library` as given, or with the folder's name if `installed`, so that all machines write equal lists.

    Args:
        stages: folder of the stage scripts, a package.
        library: folder of the library, a package.
        out: folder of the digests.
        installed: whether the folders lie outside the study.
    """
    packages = {folder.name: folder for folder in (stages, library)}
    for script in sorted(stages.glob("[!_]*.py")):
        files = source_files(f"{stages.name}.{script.stem}", packages)
        names = {_installed_name(file, packages) if installed else file.as_posix(): file for file in files}
        lines = [f"{sha256(file.read_bytes()).hexdigest()}  {name}\n" for name, file in sorted(names.items())]
        with replacing(out / f"{script.stem}.sha256") as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


def check_digests(file: Path) -> None:
    """Raises InputError with the name of the first source file that is missing or differs from its digest in a list.

    DVC records the list and not the sources: a stage that ran newer code would be recorded as made by the old code.

    Args:
        file: `<stage>.sha256`, written by `write_digests`; its paths start from the current folder.
    """
    for line in file.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        source = _locate(name)
        if not source.is_file() or sha256(source.read_bytes()).hexdigest() != digest:
            raise InputError(
                f"{printable(name)}: is not the file that {file} lists, which DVC would record: run `dvc repro`, which "
                "renews the list first"
            )


def _installed_name(file: Path, packages: dict[str, Path]) -> str:
    name, folder = next((name, folder) for name, folder in packages.items() if file.is_relative_to(folder))
    return f"{name}/{file.relative_to(folder).as_posix()}"


def _locate(name: str) -> Path:
    """Returns the file that a line of `write_digests` names; the inverse of `_installed_name`."""
    top, _, rest = name.partition("/")
    if top == PACKAGE.name:
        return PACKAGE / rest
    return package_file("stages") / rest if top == "stages" and not Path("stages").is_dir() else Path(name)


def source_files(module: str, packages: dict[str, Path]) -> set[Path]:
    """Returns the files of a module and of every module of `packages` that it imports, directly or not.

    Imports within functions count. An imported `a.b.c` also runs `a/__init__.py` and `a/b/__init__.py`. Folders without
    Python code (templates) count too, if a module of their package is imported.

    Args:
        module: dotted name, such as "stages.train".
        packages: the folder of each top-level package by name.
    """
    files: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _file_of(name, packages)
        if file is None or file in files:
            continue
        files |= {file, *_data_files(file.parent)}
        waiting += [name.rpartition(".")[0], *_imports(file)]
    return files


def _file_of(module: str, packages: dict[str, Path]) -> Path | None:
    """Returns the file of a module of the packages, or None where there is no such module."""
    top, *rest = module.split(".")
    if top not in packages:
        return None
    base = packages[top].joinpath(*rest)
    candidates = (base / "__init__.py", base.with_suffix(".py") if rest else base / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _imports(file: Path) -> Iterator[str]:
    """Yields the names that a file imports; `from a import b` yields both a and a.b, since b may be a module."""
    for node in ast.walk(ast.parse(file.read_bytes(), filename=str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{file}:{node.lineno}: a relative import; write the module's whole name")
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _data_files(package: Path) -> Iterator[Path]:
    for folder in package.iterdir():
        if folder.is_dir() and not (folder / "__init__.py").exists():
            yield from (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
