"""`tumorboard preset`: the table of a preset, and the values in effect in a study."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tumorboard.base.presets import PRESETS, explain_preset
from tumorboard.commands.preset import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line per row, in a folder with the committed params.yaml."""
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")


def printed(*arguments: str) -> list[str]:
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    return [" ".join(line.split()) for line in shown.output.splitlines()]


@pytest.mark.parametrize("name", PRESETS)
def test_each_key_of_a_preset_is_printed_with_value_and_reason(name: str) -> None:
    Path("params.yaml").unlink()  # a preset is explained outside of a study as well
    heading, purpose, panel, columns, *lines = printed(name)
    assert heading == f"preset: {name}"
    assert PRESETS[name].pictures in purpose
    assert PRESETS[name].evidence in purpose
    models = "cnn, resnet18" if name == "cells" else "resnet18, efficientnet_lite0"
    assert panel.startswith(f"A new study begins with {models}: ")
    assert columns == "key value reason"
    assert [line.split(" ")[0] for line in lines] == [row.key for row in explain_preset(name)]
    assert all(line.endswith(row.reason) for line, row in zip(lines, explain_preset(name), strict=True))


def test_values_are_printed_as_params_yaml_has_them() -> None:
    lines = {line.split(" ")[0]: line for line in printed("histology")}
    assert lines["crop.border"].startswith("crop.border false ")
    assert lines["train.augment.zoom"].startswith("train.augment.zoom [0.9, 1.1] ")
    assert lines["train.augment.fill"].startswith("train.augment.fill reflect ")
    assert lines["train.tta"].startswith("train.tta [hflip, vflip, quarter_turns] ")


def test_without_a_name_the_study_s_values_are_printed_and_explicit_ones_are_marked() -> None:
    text = Path("params.yaml").read_text(encoding="utf-8").replace("preset: cells ", "preset: xray ")
    Path("params.yaml").write_text(text.replace("    hflip: ", "    hflip: 0.25 ", 1), encoding="utf-8")
    lines = printed()
    assert [line.split(" ")[0] for line in lines[: len(PRESETS)]] == list(PRESETS)
    assert "preset: xray, as params.yaml has it" in lines
    assert "train.augment.hflip 0.25 set in params.yaml" in lines
    assert [line for line in lines if line.startswith("balance.augment.hflip 0.0 ")]
    assert len([line for line in lines if line.endswith("set in params.yaml")]) == 1


@pytest.mark.parametrize(
    ("arguments", "preset", "message"),
    [
        (["fundis"], "cells", "preset: there is no preset 'fundis'; did you mean fundus?"),
        ([], "cell", "params.yaml: preset: there is no preset 'cell'; did you mean cells?"),
    ],
)
def test_an_unknown_preset_is_one_message(arguments: list[str], preset: str, message: str) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("preset: cells ", f"preset: {preset} "), encoding="utf-8")
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 1
    assert message in shown.output
    assert "Traceback" not in shown.output
