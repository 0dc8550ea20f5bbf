"""The file of a package: a zip with a manifest that has the size and the SHA-256 of every entry. Reading runs no code.

Entries are stored as they are, without compression, in a fixed order and with a fixed date: equal contents give equal
bytes, and no entry can be larger than the file. A package's manifest alone lists its entries; no name in the zip
becomes a path.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from tumorboard.base.errors import InputError, clip, printable
from tumorboard.base.files import replacing

FORMAT = 1  # version of the package's format; a reader refuses a higher one
KIND = "tumorboard panel"
MANIFEST = "manifest.json"
MAX_MANIFEST = 10_000_000  # bytes; a panel of 10,000 model files has less
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold
_CURE_IN_A_STUDY = re.compile("run `dvc repro[^`]*`")  # no cure for whoever has the package alone
_CHUNK = 1 << 20  # bytes that are read at a time

Name = Annotated[str, Field(min_length=1, max_length=300)]


class Entry(BaseModel):
    """The manifest's record of an entry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class PackedModel(BaseModel):
    """The entries of one model file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Name  # safetensors, as the training wrote it
    card: Name  # JSON
    unlike: Name  # safetensors: statistics of its training images
    onnx: Name | None  # the same network for onnxruntime


class Manifest(BaseModel):
    """The manifest of a package."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["tumorboard panel"]
    format: Annotated[StrictInt, Field(ge=1)]
    version: str  # version of tumorboard that wrote the package
    models: Annotated[tuple[PackedModel, ...], Field(min_length=1)]  # each model's entries, in the order of the panel
    entries: dict[Name, Entry]


def write_package(
    path: Path, entries: Mapping[str, bytes | Path], *, models: Sequence[PackedModel], version: str
) -> str:
    """Writes a package, atomically; equal contents give equal bytes.

    Args:
        path: the package.
        entries: content by name, as bytes or as the file that has it.
        models: the names of each model's entries.
        version: the version of tumorboard.

    Returns:
        The SHA-256 of the package, hexadecimal.
    """
    described = {name: _describe(content) for name, content in sorted(entries.items())}
    manifest = Manifest(
        kind="tumorboard panel", format=FORMAT, version=version, models=tuple(models), entries=described
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n"
    with replacing(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
            file.writestr(_header(MANIFEST, len(text.encode())), text.encode())
            for name, entry in described.items():
                with file.open(_header(name, entry.bytes), "w") as target, _opened(entries[name]) as source:
                    while part := source.read(_CHUNK):
                        target.write(part)
        with temporary.open("rb") as written:
            return hashlib.file_digest(written, "sha256").hexdigest()


def _header(name: str, size: int) -> zipfile.ZipInfo:
    header = zipfile.ZipInfo(name, _DATE)
    header.create_system, header.external_attr, header.file_size = 3, 0o644 << 16, size
    return header


@contextmanager
def _opened(content: bytes | Path) -> Iterator[IO[bytes]]:
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
        yield source


def _describe(content: bytes | Path) -> Entry:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    with _opened(content) as source:
        return Entry(sha256=hashlib.file_digest(source, "sha256").hexdigest(), bytes=size)  # type: ignore[arg-type]


class Package:
    """An open package. An entry is compared with the manifest while it is read, so that no altered one is used.

    Args:
        path: the package, named in messages.
        file: the open zip, which has the entries that the manifest lists.
        manifest: the package's manifest.
    """

    def __init__(self, path: Path, file: zipfile.ZipFile, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._file = file
        self._unread = set(manifest.entries)

    def where(self, name: str) -> str:
        """Returns the beginning of a message on an entry."""
        return f"{self.path}: {printable(clip(name))}"

    def parts(self, name: str) -> Iterator[bytes]:
        """Yields the content of an entry in parts; use it only after the last part.

        Raises:
            InputError: the entry cannot be read or, after the last part, was altered.
        """
        entry = self.manifest.entries.get(name)
        if entry is None:
            raise InputError(f"{self.where(name)}: the manifest names this entry, but does not list it")
        digest = hashlib.sha256()
        try:
            with self._file.open(name) as source:
                while part := source.read(_CHUNK):
                    digest.update(part)
                    yield part
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError, ValueError) as error:
            raise InputError(f"{self.where(name)}: is damaged: {error}: get the package again") from None
        if digest.hexdigest() != entry.sha256:
            raise _altered(self, name)
        self._unread.discard(name)

    def read(self, name: str) -> bytes:
        """Returns the content of an entry."""
        return b"".join(self.parts(name))

    @contextmanager
    def extracted(self, name: str, folder: Path) -> Iterator[Path]:
        """Yields a file in a folder with the content of an entry; an InputError on the file names the entry."""
        file = folder / "entry"  # not the entry's name, which is untrusted
        file.unlink(missing_ok=True)
        with file.open("wb") as target:
            target.writelines(self.parts(name))
        try:
            yield file
        except InputError as error:
            raise InputError(str(error).replace(str(file), self.where(name))) from None

    def check_unread(self) -> None:
        """Reads the entries that were not read, except networks: those for torch or for onnxruntime remain unread.

        Raises:
            InputError: an entry was altered.
        """
        networks = {name for packed in self.manifest.models for name in (packed.weights, packed.onnx)}
        for name in sorted(self._unread - networks):
            for _ in self.parts(name):
                pass


@contextmanager
def open_package(path: Path) -> Iterator[Package]:
    """Opens a package; at the end, `Package.check_unread` is called.

    Raises:
        InputError: the file is missing, no package, damaged or written by a newer version; or an entry is missing,
            altered or not in the manifest. It names the entry.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no regular file: name a package that `tumorboard export` wrote")
    try:
        with zipfile.ZipFile(path) as file:
            package = Package(path, file, _read_manifest(path, file))
            _check_entries(package, file)
            yield package
            package.check_unread()
    except InputError as error:
        raise InputError(_CURE_IN_A_STUDY.sub("get the package again", str(error))) from None
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file: name a package that `tumorboard export` wrote") from None
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path}: is no whole zip file ({error}): get the package again; a model file is named by --model"
        ) from None


def _read_manifest(path: Path, file: zipfile.ZipFile) -> Manifest:
    foreign = "is no package of `tumorboard export`"
    try:
        header = file.getinfo(MANIFEST)
    except KeyError:
        raise InputError(f"{path}: {foreign}: it has no {MANIFEST}") from None
    if header.file_size > MAX_MANIFEST or header.compress_type != zipfile.ZIP_STORED:
        raise InputError(f"{path}: {MANIFEST}: is compressed or too large, {foreign}")
    try:
        tree = json.loads(file.read(MANIFEST))
    except (ValueError, RecursionError, zipfile.BadZipFile, RuntimeError) as error:
        raise InputError(f"{path}: {MANIFEST}: is damaged: {clip(str(error), 200)}") from None
    if not isinstance(tree, dict) or tree.get("kind") != KIND:
        raise InputError(f"{path}: {MANIFEST}: {foreign}")
    if isinstance(tree.get("format"), int) and tree["format"] > FORMAT:
        raise InputError(
            f"{path}: has format {tree['format']}, of tumorboard {clip(ascii(tree.get('version')), 40)}; this version "
            f"reads format {FORMAT}: upgrade tumorboard"
        )
    try:
        return Manifest.model_validate(tree)
    except ValidationError as error:
        fault = error.errors()[0]
        field = printable(clip(".".join(map(str, fault["loc"]))))
        raise InputError(f"{path}: {MANIFEST}: {field}: {printable(clip(fault['msg'], 300))}") from None


def _check_entries(package: Package, file: zipfile.ZipFile) -> None:
    """Raises InputError, which names the entry, unless the zip lists what the manifest lists and nothing else."""
    listed = package.manifest.entries
    found: set[str] = set()
    for header in file.infolist():
        where = package.where(header.filename)
        if header.filename in found:
            raise InputError(f"{where}: is in the zip twice: get the package again")
        if header.filename not in listed and header.filename != MANIFEST:
            raise InputError(f"{where}: was added, the manifest does not list it: get the package again")
        if header.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{where}: is compressed: pass a package on as `tumorboard export` wrote it")
        found.add(header.filename)
    if missing := [name for name in listed if name not in found]:
        raise InputError(f"{package.where(missing[0])}: is missing from the package: get it again")
    for name, entry in listed.items():
        if file.getinfo(name).file_size != entry.bytes:
            raise _altered(package, name)
    # Entries of a zip can share bytes; to read them all would then take far more time than the file suggests.
    if sum(entry.bytes for entry in listed.values()) > package.path.stat().st_size:
        raise InputError(f"{package.path}: its entries have more bytes than the file: get the package again")


def _altered(package: Package, name: str) -> InputError:
    return InputError(
        f"{package.where(name)}: was altered, its size or SHA-256 is not that of the manifest: get the package again"
    )
