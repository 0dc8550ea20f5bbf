"""The project's own params.yaml, and changed copies of it."""

from pathlib import Path

from tumorboard.base.params import Params, load_params

REAL = (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8")


def load(tmp_path: Path, text: str) -> Params:
    """Writes a params.yaml and reads it."""
    file = tmp_path / "params.yaml"
    file.write_text(text, encoding="utf-8")
    return load_params(file)
