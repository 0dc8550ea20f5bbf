"""Writes a checkpoint file, which appears only when it is complete, and reads it, only if its digest matches."""

import os
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import torch

from tumorboard.base.files import replacing

Tree: TypeAlias = dict[str, Any]  # nested dicts and lists of tensors and plain values
_DIGEST_BYTES = 32


def write_checkpoint(path: Path, key: str, tree: Tree) -> None:
    """Writes a checkpoint: the bytes of torch.save, followed by their SHA-256.

    The file is renamed to its name when all of it is on the disk.

    Args:
        path: where the file is written.
        key: key of the job that the file belongs to (`job_key`).
        tree: the content.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        hashed = HashedFile(file)
        try:
            torch.save({"key": key, "tree": tree}, cast(BinaryIO, hashed))
        except RuntimeError as error:
            raise hashed.error or error from None
        file.write(hashed.digest())
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class HashedFile:
    """A file for torch.save that computes the SHA-256 of what is written to it.

    torch.save writes from the first byte to the last and never seeks.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, sha256()
        self.error: OSError | None = None  # error of the last failed write, which torch turns into a RuntimeError

    def write(self, part: bytes) -> int:
        """Writes some bytes; returns their number."""
        self._hash.update(part)
        try:
            return self._file.write(part)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Flushes the file."""
        self._file.flush()

    def digest(self) -> bytes:
        """Returns the SHA-256 of all bytes written so far."""
        return self._hash.digest()


class UnusableError(Exception):
    """A file is no whole checkpoint of the job; the text has the reason."""


def read_checkpoint(path: Path, key: str) -> Tree:
    """Reads what write_checkpoint wrote, onto the CPU, without running code from the file.

    Args:
        path: the file.
        key: key of the job that the file must belong to.

    Raises:
        UnusableError: the file is damaged, no checkpoint, or another job's.
        OSError: the file cannot be read.
    """
    content = memoryview(path.read_bytes())
    payload, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if sha256(payload).digest() != digest:
        raise UnusableError("is damaged: its content does not match its digest")
    try:
        loaded = torch.load(BytesIO(payload), map_location="cpu", weights_only=True)
        owner, tree = loaded["key"], loaded["tree"]
    except Exception as error:  # torch raises many kinds: the digest matches, but the content is no checkpoint
        reason = str(error).partition("\n")[0]
        raise UnusableError(f"is no checkpoint: {type(error).__name__}: {reason}") from None
    if owner != key:
        raise UnusableError(f"belongs to another job ({owner})")
    return dict(tree)
