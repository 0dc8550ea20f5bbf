"""Names what a file is that holds no weights in the form of its name, and what to do about it; runs no code in it."""

import pickletools
import re
import zipfile
from pathlib import Path

_HEAD_BYTES = 512  # first bytes of a file, enough to recognize what it is
_LENGTH_BYTES = 8  # bytes of a .safetensors file's first number, the length of its header in JSON
_AGAIN = "download or copy it again"
_LEGACY_PICKLES = 5  # a magic number, a version, the system, the object, the keys of its tensors
_OF_TORCH = "is a file of torch.save: rename it so that its name ends with .pth"
ENDS_EARLY = f"ends too early, or is damaged: {_AGAIN}"
# First bytes of files without weights, what they are, and the cure.
_OTHERS = (
    (rb"version https://git-lfs", "a pointer of Git LFS in place of the file", "fetch the file itself: git lfs pull"),
    (rb"\s*<(?i:!doctype|html|\?xml|head|body)", "a web page", "download the file again, perhaps signed in"),
    (rb"\s*[{\[]\s*[\"{\[\]}]", "a text in JSON", "download the file with the weights"),
    (rb"\0{512}", "zeros, as an interrupted download or copy leaves them", _AGAIN),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it", "convert its tensors to a state dict of PyTorch"),
    (rb"\x1f\x8b", "compressed by gzip", "unpack it"),
    (rb".{257}ustar", "a tar archive", "unpack it"),
    (rb"\x08.\x12.?[A-Za-z]", "perhaps an ONNX model", "save the weights of the PyTorch model"),
)


def explain_weights_file(path: Path, *, safetensors: bool) -> str:
    """Returns what an unreadable file of weights is, and the cure; '' if it is not recognized.

    Args:
        path: an existing file that could not be read.
        safetensors: whether it was read as a .safetensors file; else as a file of torch.save.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return f"is empty: {_AGAIN}"
    if _begins_as_safetensors(head):
        if not safetensors:
            return "is a .safetensors file: rename it so that its name ends with .safetensors"
        return ENDS_EARLY if _is_cut_safetensors(path) else ""
    for pattern, name, cure in _OTHERS:
        if re.match(pattern, head, re.DOTALL):
            return f"is {name}: {cure}"
    if head.startswith(b"PK\x03\x04"):
        return _explain_zip(path, safetensors)
    if head.startswith(b"\x80") and head[1:2] < b"\x06":  # a pickle and the version of its protocol
        if safetensors:
            return _OF_TORCH
        return ENDS_EARLY if _is_cut_within_pickles(path) else ""
    return ""


def _begins_as_safetensors(head: bytes) -> bool:
    """Returns whether a file begins with the length of a header and then with JSON, as .safetensors files do."""
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    return 0 < length < 1 << 32 and head[_LENGTH_BYTES : _LENGTH_BYTES + 2] in (b'{"', b"{}")


def _is_cut_safetensors(path: Path) -> bool:
    """Returns whether a .safetensors file ends before its header or the tensors that the header lists."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = file.read(length)
    ends = [int(end) for end in re.findall(rb'"data_offsets"\s*:\s*\[\s*\d+\s*,\s*(\d+)', header)]
    return len(header) < length or path.stat().st_size < _LENGTH_BYTES + length + max(ends, default=0)


def _is_cut_within_pickles(path: Path) -> bool:
    """Returns whether a file ends within one of the pickles that files of torch.save before 1.6 begin with."""
    with path.open("rb") as file:
        for _ in range(_LEGACY_PICKLES):
            start = file.tell()
            if not file.read(1):
                return False
            file.seek(start)
            try:
                for _operation in pickletools.genops(file):  # parses the operations and runs none
                    pass
            except Exception:  # many kinds, for bytes that are no pickle
                return True
    return False


def _explain_zip(path: Path, safetensors: bool) -> str:
    """Returns what a file with the first bytes of a ZIP archive is, which files of torch.save have since 1.6."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError):
        return ENDS_EARLY
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return (
            "is a TorchScript archive, a program with weights: load it with torch.jit.load, if you trust it, and "
            "save its tensors with torch.save(model.state_dict(), ...)"
        )
    if "data.pkl" not in names:
        return "is a ZIP archive without weights of torch.save: unpack it"
    return _OF_TORCH if safetensors else ""
