"""The page and the charts of `dvc plots`: what two revisions look like beside each other."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import vl_convert
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".dvc" / "plots"
PLOTS = {
    name: chart
    for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    if isinstance(entry, dict)
    for name, chart in entry.items()
}


def draw(template: str, rows: list[dict[str, object]], x: str, y: str) -> str:
    """Returns a chart as SVG, filled in as DVC fills it in."""
    text = (FOLDER / f"{template}.json").read_text(encoding="utf-8")
    text = text.replace('"<DVC_METRIC_DATA>"', json.dumps(rows)).replace("<DVC_METRIC_TITLE>", "a title")
    for anchor, value in {"X_LABEL": x, "Y_LABEL": y, "X": x, "Y": y}.items():
        text = text.replace(f"<DVC_METRIC_{anchor}>", value)
    return str(vl_convert.vegalite_to_svg(json.loads(text), vl_version="5.21"))


def texts_of(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg)


@pytest.mark.parametrize("name", PLOTS)
def test_each_chart_has_a_template_that_is_there(name: str) -> None:
    assert (FOLDER / f"{PLOTS[name]['template']}.json").is_file()


def test_the_page_is_what_its_script_writes() -> None:
    """But for Vega's libraries, which depend on the version of vl-convert-python."""
    spec = importlib.util.spec_from_file_location("make_offline_page", FOLDER / "make_offline_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (FOLDER / "offline.html").read_text(encoding="utf-8")
    head, tail = module.PAGE.split("@BUNDLE@")
    assert page.startswith(head)
    assert page.endswith(tail)
    assert len(page) > 500_000


def test_the_page_breaks_the_row_of_pictures_that_dvc_makes() -> None:
    """DVC's own style keeps all revisions in one row, of which a window of 1,280 pixels shows the first only."""
    page = (FOLDER / "offline.html").read_text(encoding="utf-8")
    assert re.search(r"^div:has\(> div > img\) \{[^}]*flex-wrap: wrap", page, flags=re.MULTILINE)
    assert re.search(r"^div:has\(> img\) \{[^}]*flex: 1 1 480px", page, flags=re.MULTILINE)
    assert "white-space: normal !important" in page
    assert re.search(r"^img \{[^}]*max-width: 100%", page, flags=re.MULTILINE)


def test_revisions_of_different_data_are_said_to_be() -> None:
    rows: list[dict[str, object]] = [
        {"rev": "main", "manifest": "11", "data": "240 images, 11"},
        {"rev": "new", "manifest": "22", "data": "250 images, 22"},
    ]
    drawn = texts_of(draw("same_data", rows, "manifest", "data"))
    sentence = ": different data, so that scores differ for that reason too"
    assert {f"240 images, 11{sentence}", f"250 images, 22{sentence}", "main", "new"} <= set(drawn)
    alike = texts_of(draw("same_data", [rows[0], rows[1] | {"manifest": "11"}], "manifest", "data"))
    assert {"240 images, 11", "250 images, 22"} <= set(alike)


@pytest.mark.parametrize("ends", [("", ""), (0.5, 0.9)])
def test_accuracies_are_drawn_with_and_without_intervals(ends: tuple[object, object]) -> None:
    """Empty ends, as of too few patients, once made the whole chart empty."""
    rows: list[dict[str, object]] = [
        {"rev": "main", "model": model, "accuracy": value, "accuracy_low": ends[0], "accuracy_high": ends[1]}
        for model, value in (("cnn", 0.7), ("linear", 0.8))
    ]
    svg = draw("model_interval", rows, "accuracy", "model")
    assert "NaN" not in svg
    assert len(re.findall(r'aria-roledescription="point"', svg)) == 2
    assert len(re.findall(r'aria-roledescription="rule mark"', svg)) == (0 if ends[0] == "" else 2)


def test_calibration_has_a_line_per_model_and_revision_and_the_diagonal() -> None:
    rows: list[dict[str, object]] = [
        {"rev": rev, "model": model, "probability": p, "observed": p - 0.1}
        for rev in ("main", "new")
        for model in ("cnn", "soft vote")
        for p in (0.6, 0.8)
    ]
    svg = draw("model_calibration", rows, "probability", "observed")
    assert "NaN" not in svg
    assert len(re.findall(r'aria-roledescription="line mark"', svg)) == 1 + 4
    assert {"0.0", "0.5", "1.0", "cnn", "soft vote", "main", "new"} <= set(texts_of(svg))
