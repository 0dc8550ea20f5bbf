"""The page of `tumorboard serve` in a browser: see, sort, save, by mouse, by keyboard and on a telephone."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import uvicorn

from tests.commands.serving import picture, serving_of, source_of
from tumorboard.base.params import Params
from tumorboard.commands.serve import open_port
from tumorboard.commands.server import make_app, server_settings

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs the browser chromium (apt-get install chromium)", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
DROP = """([name, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name));
  document.dispatchEvent(new DragEvent("dragover", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Iterator[str]:
    """The address of a server in a thread, with a study's panel."""
    source = source_of(tmp_path_factory.mktemp("study"), params)
    uploads = tmp_path_factory.mktemp("uploads")
    with open_port(0) as listener:
        port = listener.getsockname()[1]
        with serving_of(source, uploads, port=port, max_bytes=50_000) as serving:
            server = uvicorn.Server(server_settings(make_app(serving)))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            yield f"http://127.0.0.1:{port}/"
            server.should_exit = True
            thread.join()
    assert not list(uploads.iterdir())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two pictures, one of the panel's own data, and a file that is none."""
    files = {"b.png": picture(1), "own.png": picture(0), "=1.txt": b"no picture"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in files]


@contextmanager
def opened(browser: Any, site: str, **settings: Any) -> Iterator[tuple[Any, list[str]]]:
    """Opens the page, and collects what is written to its console."""
    context = browser.new_context(accept_downloads=True, **({"viewport": DESKTOP} | settings))
    page = context.new_page()
    page.set_default_timeout(60_000)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    # The browser gives file choosers to the test while somebody listens; `expect_file_chooser` alone begins to listen
    # at the same time as the key is pressed, and came too late in one of six tries on a busy machine.
    page.on("filechooser", lambda _: None)
    page.goto(site)
    page.wait_for_selector("#panel:not(:empty)")
    yield page, messages
    context.close()


@pytest.fixture
def page(site: str, browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The open page; each message in its console fails the test."""
    with opened(browser, site, **getattr(request, "param", {})) as (page, messages):
        yield page
    assert messages == []


def add(page: Any, files: list[Path]) -> None:
    page.set_input_files("#files", [str(file) for file in files])
    page.wait_for_selector("#progress[hidden]", state="attached")


def names(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#table > tbody > tr:not(.detail) .open").all_inner_texts()]


def test_a_dropped_image_shows_what_the_panel_says(page: Any) -> None:
    page.evaluate(DROP, ["<b>cell</b>.png", list(picture(0))])
    page.wait_for_selector(".answer")  # a single image opens itself
    detail = page.locator("tr.detail")
    assert page.locator(".open").inner_text().strip() == "<b>cell</b>.png", "a name is a text"
    assert detail.locator(".notice").inner_text() == "For research, not for diagnosis."
    assert detail.locator("figure img").evaluate("image => image.naturalWidth") == 32
    text = detail.inner_text()
    assert "Calibrated probability, by the weighted vote. " in text
    assert "of 2 models vote for this class." in text
    assert "This very file is in the panel's own data (test)." in text
    assert "unlike the training images (" in text
    rows = detail.locator(".members tbody tr")
    assert [rows.nth(place).locator("td").first.inner_text() for place in range(3)] == [
        "linear",
        "cnn",
        "weighted vote",
    ]
    assert [rows.nth(place).locator("td").nth(1).inner_text() for place in range(2)] == ["10\u00a0%", "90\u00a0%"]
    assert rows.nth(2).locator(".chance").count() == 3
    widths = rows.nth(2).locator(".chance b").evaluate_all("bars => bars.map((bar) => parseFloat(bar.style.width))")
    assert sum(widths) == pytest.approx(100, abs=0.1)
    detail.locator("button", has_text="Show heat maps").click()
    page.wait_for_selector(".maps img")
    assert detail.locator(".maps figcaption").all_inner_texts() == ["the vote", "cnn"]
    assert "Without a map: linear." in detail.inner_text()
    first = detail.locator(".maps img").first.get_attribute("src")
    other = "b" if detail.locator(".evidence select").input_value() == "a" else "a"
    detail.locator(".evidence select").select_option(other)
    page.wait_for_selector(f'.maps img[alt$="for {other}"]')
    assert detail.locator(".maps img").first.get_attribute("src") != first


def test_the_table_is_sorted_and_saved(page: Any, images: list[Path], tmp_path: Path) -> None:
    add(page, images)
    assert names(page) == ["b.png", "own.png", "=1.txt"]
    assert page.locator("#state").inner_text() == "2 of 3 images classified, 1 cannot be used"
    assert page.locator("td.problem").inner_text().startswith("not an image: expected one of JPEG")
    assert page.locator(".open:disabled").count() == 1
    page.click("th button:text-is('file')")
    assert names(page) == ["=1.txt", "b.png", "own.png"]
    page.click("th button:text-is('file')")
    assert names(page) == ["own.png", "b.png", "=1.txt"]
    assert page.locator("th[aria-sort=descending]").inner_text() == "file"
    page.click("th button:text-is('p_b')")
    ascending = names(page)
    page.click("th button:text-is('p_b')")
    assert names(page) == [*reversed(ascending[:2]), "=1.txt"], "what has no number is last both ways"
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "saved.csv")
    table = pd.read_csv(tmp_path / "saved.csv")
    assert download.value.suggested_filename == "predictions.csv"
    assert list(table)[:4] == ["path", "decided", "probability", "agreeing"]
    assert table["path"].tolist() == [*names(page)[:2], "./=1.txt"]
    assert table["p_b"].dropna().is_monotonic_decreasing
    assert table["problem"].notna().tolist() == [False, False, True]
    assert table.set_index("path")["known"].to_dict()["own.png"] == "test"
    page.click("#clear")
    assert page.locator("#results").is_hidden()


def test_files_that_cannot_be_used_are_named_and_no_error_of_the_page(page: Any, tmp_path: Path) -> None:
    broken = {"large.png": picture(1) + bytes(60_000), "archive.zip": b"PK\3\4" + bytes(99), "empty.png": b""}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    add(page, [tmp_path / name for name in broken])
    problems = dict(zip(broken, page.locator("td.problem").all_inner_texts(), strict=True))
    size = len(broken["large.png"])
    assert problems["large.png"] == f"too many bytes: {size} bytes, expected at most 50000 (--max-megabytes)"
    assert problems["archive.zip"].startswith("not an image: a ZIP archive")
    assert problems["empty.png"].startswith("empty")


def test_all_of_it_works_by_keyboard(page: Any, images: list[Path]) -> None:
    def focused() -> Any:
        return page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")

    page.keyboard.press("Tab")
    assert focused() == "files"
    outline = page.locator("label.button").evaluate("label => getComputedStyle(label).outlineStyle")
    assert outline == "solid", "the focus of the unseen input shows at its label"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([str(file) for file in images])
    page.wait_for_selector("#progress[hidden]", state="attached")
    assert page.locator("#live[role=status]").inner_text() == "2 of 3 images classified, 1 cannot be used."
    page.locator("#files").focus()
    reached = []
    while not reached or reached[-1] != "own.png":
        page.keyboard.press("Tab")
        reached.append(focused())
        assert len(reached) < 30
    assert {"download", "clear", "file", "decided", "probability", "p_a", "unlike", "known", "b.png"} <= set(reached)
    page.keyboard.press("Enter")
    assert page.locator(".open[aria-expanded=true]").inner_text().strip() == "own.png"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Class whose evidence")
    page.keyboard.press("Tab")
    assert focused() == "Show heat maps"
    page.keyboard.press("Enter")
    page.wait_for_selector(".maps img")


@pytest.mark.parametrize("page", [{"viewport": PHONE, "color_scheme": "dark", "has_touch": True}], indirect=True)
def test_a_telephone_shows_all_of_it_without_scrolling_sideways(page: Any, images: list[Path]) -> None:
    add(page, images)
    page.locator(".open", has_text="own.png").tap()
    page.locator("button", has_text="Show heat maps").tap()
    page.wait_for_selector(".maps img")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.select_option("#sort", "file up")
    assert names(page) == ["=1.txt", "b.png", "own.png"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(21, 24, 27)", "the dark colors"
    assert page.locator("header .notice").is_visible()


def test_what_is_refused_for_now_is_sent_again_and_what_got_no_answer_waits_for_a_click(
    browser: Any, site: str, images: list[Path]
) -> None:
    sent: list[str] = []

    def fail_first(route: Any) -> None:
        sent.append(route.request.url)
        if len(sent) == 1:
            route.fulfill(status=503, json={"problem": "8 files wait already"}, headers={"Retry-After": "0"})
        elif len(sent) == 2:
            route.abort()
        else:
            route.fallback()

    with opened(browser, site) as (page, messages):
        page.route("**/api/images*", fail_first)
        add(page, images)
        assert page.locator("#state").inner_text().endswith(", 1 without an answer")
        assert page.locator("td.problem", has_text="No answer: has the server ended").count() == 1
        page.click("#retry")
        page.wait_for_selector("#retry[hidden]", state="attached")
        page.wait_for_selector("#progress[hidden]", state="attached")
        assert page.locator("#state").inner_text() == "2 of 3 images classified, 1 cannot be used"
    assert len(sent) == 5
    assert all("503" in message or "ERR_FAILED" in message for message in messages), messages
