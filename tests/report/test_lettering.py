"""Names of any script in pictures: drawn by a font that has them, or replaced by a text that the page explains."""

import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib import font_manager, ft2font

from tests.report.finished_run import inputs_of, panel_params, run_ensemble, write_finished_run
from tumorboard.base.params import Params
from tumorboard.report import lettering
from tumorboard.report.conclusions import draw_conclusions
from tumorboard.report.explained import draw_explained
from tumorboard.report.figures import draw_figures, draw_test_figures, plot_tables, replaced_names
from tumorboard.report.lettering import clusters, drawable_names, font_families, shorten, text_width
from tumorboard.report.page import render_page
from tumorboard.report.plots import to_png
from tumorboard.report.results import read_results

NAMES = ["胶质瘤", "ورم دبقي", "ग्लियोमा", "γλίωμα", "🧠🫁", "e\u0301 x\u030c", "$x^2$ \\frac{1}%", "нейро 100_%"]
RARE = "\U0002a700\U0002a701"  # Chinese letters that few fonts have
PRIVATE = "\ue123\ue124"  # letters of no script, which no font of letters has


@pytest.fixture(autouse=True)
def forgotten_fonts() -> Iterator[None]:
    caches = [lettering._families, lettering._other_families, lettering._files, lettering._letters_of]
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


def test_a_name_that_no_font_draws_gets_a_number_that_is_no_other_name() -> None:
    assert drawable_names(["a", PRIVATE, "class 2", "b\x00", "\udcff"]) == {
        "a": "a",
        PRIVATE: "class 2*",
        "class 2": "class 2",
        "b\x00": "class 4",
        "\udcff": "class 5",
    }
    assert drawable_names(["e\u0301"]) == {"e\u0301": "\u00e9"}


def test_a_font_that_has_the_letters_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family of the machine is taken where it has letters that the default lacks, that with the most first."""
    charmaps = {"/all": {0x2A700: 1, 0x2A701: 2}, "/one": {0x2A700: 1}}
    charmaps["/bitmap"] = {0x2A700: 1, 0x2A701: 2, 0x2A702: 3}
    entry = SimpleNamespace
    fonts = [entry(name=path[1:], fname=path, style="normal", weight=400) for path in charmaps]
    default = next(font for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans")
    get_font = font_manager.get_font

    def load(path: str) -> object:
        if path not in charmaps:
            return get_font(path)
        return SimpleNamespace(get_charmap=lambda: charmaps[path], scalable=path != "/bitmap")

    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*fonts, default])
    monkeypatch.setattr(font_manager, "get_font", load)
    assert font_families([RARE, "a"]) == ["DejaVu Sans", "all"]
    assert drawable_names([RARE, "\U0002a702"]) == {RARE: RARE, "\U0002a702": "class 2"}


def test_without_shaping_arabic_is_replaced_and_greek_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ft2font, "__libraqm_version__", raising=False)
    assert list(drawable_names(["γλίωμα", "ورم", "שלום"]).values()) == ["γλίωμα", "class 2", "class 3"]


def test_wide_letters_count_twice_and_marks_stay_with_their_letter() -> None:
    assert text_width("胶质瘤 a") == 8
    assert clusters("ax\u030ce") == ["a", "x\u030c", "e"]
    assert shorten("胶质瘤胶质瘤", 7) == "胶…瘤"
    assert shorten("x\u030c" * 12, 5) == "x\u030cx\u030c…x\u030cx\u030c"
    assert all(text_width(shorten(name * 9, 14)) <= 14 for name in NAMES)


def test_names_lose_their_middle_and_stay_drawable() -> None:
    assert shorten("normal", 6) == "normal"
    assert shorten("normal", 5) == "no…al"
    assert shorten("pigmented keratosis", 9) == "pigm…osis"
    assert shorten(" two\nlines\tand \udcff", 40) == "two lines and ?"


def test_each_figure_of_a_run_with_names_of_many_scripts_is_drawn_without_missing_letters(
    params: Params, tmp_path: Path
) -> None:
    panel = panel_params(params)
    write_finished_run(tmp_path, panel, [*NAMES, PRIVATE], groups=54, skill=0.4)
    run_ensemble(tmp_path, panel)
    results = read_results(panel, **inputs_of(tmp_path))
    conclusions = draw_conclusions(results)
    tables = plot_tables(results, conclusions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures, test_pictures = (
            {name: to_png(figure) for name, figure in figures.items()}
            for figures in (draw_figures(results, conclusions, tables), draw_test_figures(results))
        )
    replaced = replaced_names(results)
    assert replaced["class 9"] == PRIVATE
    assert not {"γλίωμα", "нейро 100_%", NAMES[6]} & set(replaced.values())
    page = render_page(results, conclusions, pictures, test_pictures, explained=draw_explained(results))
    assert f"class 9 = {PRIVATE}" in page
    assert all(unicodedata.normalize("NFC", name) in unicodedata.normalize("NFC", page) for name in NAMES[:6])
