"""The server of `tumorboard serve`: the same answers as `predict`, its limits, and whom it answers."""

import asyncio
import base64
import errno
import io
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.commands.serving import PORT, picture, serving_of, source_of
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.commands import server
from tumorboard.commands.app import app as commands
from tumorboard.commands.panel_source import PanelSource
from tumorboard.commands.serve import check_columns, open_port
from tumorboard.commands.server import FILES, Serving, make_app
from tumorboard.commands.server_answers import ImageAnswer
from tumorboard.commands.uploads import UploadLimits, receive_file
from tumorboard.panel.predict import predict_images
from tumorboard.panel.stacking import Column, Stacking

URL = f"http://127.0.0.1:{PORT}"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
BROKEN = {
    "notes.txt": b"no picture",
    "slides.zip": b"PK\3\4" + bytes(300),
    "drawing.svg": SVG,
    "empty.png": b"",
    "half.png": picture(5)[:4000],
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def source(study: Path, params: Params) -> PanelSource:
    return source_of(study, params)


@pytest.fixture
def serving(source: PanelSource, tmp_path: Path) -> Iterator[Serving]:
    (tmp_path / "uploads").mkdir()
    with serving_of(source, tmp_path / "uploads") as made:
        yield made


def call(serving: Serving, method: str, path: str, **settings: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        async with client_of(serving) as client:
            return await client.request(method, path, **settings)

    return asyncio.run(once())


def client_of(serving: Serving) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(make_app(serving)), base_url=URL, timeout=60)


def post(serving: Serving, content: Any, name: str = "a.png", **settings: Any) -> httpx.Response:
    return call(
        serving, "POST", "/api/images", params={"name": name, **settings.pop("more", {})}, content=content, **settings
    )


def predicted(source: PanelSource, files: list[Path], **changes: Any) -> pd.DataFrame:
    limits = source.limits.model_copy(update=changes)
    return predict_images(
        source.panel,
        files,
        deciding=source.deciding,
        frames=source.frames,
        known=source.known,
        limits=limits,
    )


def test_the_row_is_that_of_predict(serving: Serving, source: PanelSource, study: Path) -> None:
    """To the last digit, the file of the panel's own data too."""
    for seed, known in ((0, "test"), (7, "")):
        file = study / f"{seed}.png"
        file.write_bytes(picture(seed))
        expected = predicted(source, [file]).iloc[0]
        row = post(serving, picture(seed), str(file)).json()["row"]
        for name in ("path", "decided", "probability", "agreeing", "unlike", "known", "problem"):
            assert row[name] == expected[name], name
        assert row["probabilities"] == {name: expected[f"p_{name}"] for name in "bac"}
        assert row["known"] == known
        assert isinstance(row["unlike"], float)
        assert row["threshold"] is None
    assert serving.served.counts.classified == 2


def test_the_csv_is_the_file_of_predict(serving: Serving, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    monkeypatch.setattr("tumorboard.commands.predict.open_source", lambda *_, **__: serving.served.source)
    Path("=1, é.png").write_bytes(picture(3))
    expected = CliRunner().invoke(commands, ["predict", "=1, é.png"]).stdout
    answer = post(serving, picture(3), "=1, é.png").json()
    assert answer["csv_header"] + answer["csv_line"] == expected
    assert '"./=1, é.png",' in answer["csv_line"], "a name that a spreadsheet would compute"
    assert answer["row"]["path"] == "=1, é.png"


def test_members_vote_with_their_temperatures_and_the_vote_weighs_them(serving: Serving, source: PanelSource) -> None:
    answer = post(serving, picture(4)).json()
    crop = np.array(Image.open(io.BytesIO(base64.b64decode(answer["crop"].partition(",")[2]))))
    assert crop.shape == (32, 32, 3)
    for model, temperature in {"linear": 2.0, "cnn": 0.5}.items():
        logits = source.panel.models[model][0].outputs(crop[None]).logits[0].astype(float) / temperature
        shares = np.exp(logits) / np.exp(logits).sum()
        assert list(answer["members"][model].values()) == pytest.approx(shares.tolist(), rel=1e-6)
    pooled = 0.1 * np.array(list(answer["members"]["linear"].values())) + 0.9 * np.array(
        list(answer["members"]["cnn"].values())
    )
    tempered = pooled ** (1 / 1.5) / (pooled ** (1 / 1.5)).sum()
    assert list(answer["row"]["probabilities"].values()) == pytest.approx(tempered.tolist(), rel=1e-6)


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_used_has_the_problem_of_predict(
    serving: Serving, source: PanelSource, study: Path, name: str
) -> None:
    (study / name).write_bytes(BROKEN[name])
    (study / "good.png").write_bytes(picture(1))
    expected = predicted(source, [study / name, study / "good.png"])["problem"].iloc[0]
    done = post(serving, BROKEN[name], name)
    assert done.status_code == 200
    answer = done.json()
    assert answer["row"]["problem"] == expected != ""
    assert answer["row"]["decided"] is None
    assert (answer["members"], answer["crop"]) == ({}, None)
    assert pd.read_csv(io.StringIO(answer["csv_header"] + answer["csv_line"]))["problem"].tolist() == [expected]
    assert serving.served.counts.refused == 1


def test_too_many_pixels_are_refused(source: PanelSource, tmp_path: Path) -> None:
    limited = replace(source, limits=source.limits.model_copy(update={"max_pixels": 2999}))
    with serving_of(limited, tmp_path) as serving:
        assert post(serving, picture(1)).json()["row"]["problem"].startswith("too many pixels: 60 x 50")


@pytest.mark.parametrize("begin", [picture(1), b"PK\3\4"])
def test_a_file_that_is_too_large_has_the_problem_of_predict(
    source: PanelSource, study: Path, tmp_path: Path, begin: bytes
) -> None:
    """Whether the page sends its beginning, or another program all of it."""
    content = begin + bytes(60_000)
    (study / "large.png").write_bytes(content)
    (study / "good.png").write_bytes(picture(1))
    problem = predicted(source, [study / "large.png", study / "good.png"], max_bytes=20_000)["problem"].iloc[0]
    problem = problem.replace("crop.max_bytes", "--max-megabytes")
    assert ("too many bytes" in problem) == (begin[0] != ord("P")), problem
    with serving_of(source, tmp_path, max_bytes=20_000) as serving:
        whole = post(serving, content)
        assert (whole.status_code, whole.json()["row"]["problem"]) == (413, problem)
        head = post(serving, content[:4096], more={"size": len(content)})
        assert (head.status_code, head.json()["row"]["problem"]) == (200, problem)
        untold = post(serving, as_chunks(content))
        expected = problem.replace(str(len(content)), "20001")  # the size is not known, and no more is read
        assert (untold.status_code, untold.json()["row"]["problem"]) == (413, expected)


async def as_chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]


@pytest.mark.parametrize("stated", [None, 10, 10**9, 10**15])
def test_of_a_huge_upload_little_is_read_and_written(tmp_path: Path, stated: int | None) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1000
            yield bytes(1000)

    limits = UploadLimits(max_bytes=20_000, waiting=1, seconds=10)
    asyncio.run(receive_file(endless(), tmp_path / "file", stated, limits))
    assert read <= 22_000
    assert (tmp_path / "file").stat().st_blocks * 512 <= 64_000
    assert (tmp_path / "file").stat().st_size == {None: 20_001, 10: 20_001, 10**9: 10**9, 10**15: 1 << 40}[stated]


def test_an_upload_that_trickles_is_cut_off_and_leaves_its_place(source: PanelSource, tmp_path: Path) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b"\x89"
            await asyncio.sleep(0.05)

    with serving_of(source, tmp_path, seconds=0.2, waiting=0) as serving:
        done = post(serving, trickle())
        assert (done.status_code, done.headers["connection"]) == (408, "close")
        assert done.json()["problem"] == "the file did not arrive in 0.2 s"
        assert post(serving, picture(1)).status_code == 200
    assert not list(tmp_path.iterdir())


def test_of_200_uploads_at_once_none_is_lost_and_few_wait(source: PanelSource, tmp_path: Path) -> None:
    """Each is answered by what it contained; at most five files lie in the folder, one of which is in work."""
    refusals: list[str] = []
    together: list[int] = []
    alone = threading.Lock()

    async def upload(client: httpx.AsyncClient, number: int) -> httpx.Response:
        while True:
            content = b"%d" % number * 5000
            done = await client.post("/api/images", params={"name": f"{number}.png"}, content=content)
            if done.status_code != 503:
                return done
            refusals.append(done.headers["retry-after"])
            await asyncio.sleep(0.1 + number % 20 / 40)

    async def all_of_them(serving: Serving) -> list[httpx.Response]:
        async with client_of(serving) as client:
            return await asyncio.gather(*(upload(client, number) for number in range(200)))

    with serving_of(source, tmp_path, waiting=4) as serving:
        template = serving.served.classify(tmp_path / "missing.png", "")

        def answer(file: Path, name: str) -> ImageAnswer:
            together.append(len(list(tmp_path.iterdir())))
            assert alone.acquire(blocking=False), "two at a time"
            time.sleep(0.002)
            alone.release()
            row = template.row.model_copy(update={"path": name, "problem": file.read_text()})
            return template.model_copy(update={"row": row})

        serving.served.classify = answer  # type: ignore[method-assign]
        done = asyncio.run(all_of_them(serving))
    assert [one.status_code for one in done] == [200] * 200
    for number, one in enumerate(done):
        assert one.json()["row"]["path"] == f"{number}.png"
        assert one.json()["row"]["problem"] == f"{number}" * 5000
    assert len(together) == 200, "a file that was refused was not classified"
    assert set(refusals) == {"1"}
    assert max(together) <= 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": f"localhost:{PORT}"}, 200),
        ({"origin": URL}, 200),
        ({"host": f"localhost:{PORT}", "origin": f"http://localhost:{PORT}"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": f"evil.example:{PORT}"}, 403),
        ({"host": "127.0.0.1"}, 403),
        ({"host": "127.0.0.1:8001"}, 403),
        ({"host": ""}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": f"https://127.0.0.1:{PORT}"}, 403),
        ({"origin": "http://127.0.0.1:8001"}, 403),
        ({"origin": f"http://localhost:{PORT}"}, 403),
    ],
)
def test_other_names_and_other_sites_pages_are_refused(serving: Serving, headers: dict[str, str], status: int) -> None:
    for path in ("/", "/api/panel", "/openapi.json", "/page.js"):
        assert call(serving, "GET", path, headers=headers).status_code == status, path
    assert post(serving, picture(1), headers=headers).status_code == status
    assert serving.served.counts.classified == (status == 200)


def test_each_answer_forbids_what_a_page_could_do_with_it(serving: Serving) -> None:
    for path, settings in (("/", {}), ("/api/panel", {}), ("/nothing", {}), ("/", {"headers": {"host": "evil"}})):
        headers = call(serving, "GET", path, **settings).headers
        assert headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' data:; ")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "set-cookie" not in headers
        assert "access-control-allow-origin" not in headers


def test_the_page_loads_nothing_from_elsewhere(serving: Serving) -> None:
    for path, (_, kind) in FILES.items():
        done = call(serving, "GET", path)
        assert (done.status_code, done.headers["content-type"].partition(";")[0]) == (200, kind)
        assert set(re.findall(r"[a-z]+://[^\s\"']+", done.text)) <= {"http://www.w3.org/2000/svg"}, path
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\bstyle=|\bon[a-z]+=", done.text), path


def test_the_interface_is_described_and_has_no_page_from_elsewhere(serving: Serving) -> None:
    described = json.loads(call(serving, "GET", "/openapi.json").text)
    assert set(described["paths"]) == {"/api/panel", "/api/images", "/api/maps"}
    upload = described["paths"]["/api/images"]["post"]
    assert {"200", "403", "408", "413", "415", "500", "503"} <= set(upload["responses"])
    assert upload["requestBody"]["required"] is True
    assert [call(serving, "GET", path).status_code for path in ("/docs", "/redoc")] == [404, 404]


def test_the_panel_states_what_it_is(serving: Serving) -> None:
    panel = call(serving, "GET", "/api/panel").json()
    assert (panel["models"], panel["classes"]) == (["linear", "cnn"], ["b", "a", "c"])
    assert (panel["vote"], panel["scale"]) == ("weighted", "calibrated probability")
    assert panel["weights"] == {"linear": 0.1, "cnn": 0.9}
    assert (panel["side"], panel["max_bytes"]) == (32, 1_000_000)
    assert panel["notice"] == "For research, not for diagnosis."


@pytest.mark.parametrize(
    ("vote", "scale", "weights"),
    [
        ("hard", "share of the models' votes, no probability", None),
        ("soft", "calibrated probability", None),
        ("single", "calibrated probability", {"linear": 0.0, "cnn": 1.0}),
    ],
)
def test_other_votes_are_named_for_what_they_are(
    source: PanelSource, tmp_path: Path, vote: str, scale: str, weights: dict[str, float] | None
) -> None:
    deciding = replace(source.deciding, vote=vote, fit=replace(source.deciding.fit, single="cnn"))
    with serving_of(replace(source, deciding=deciding), tmp_path) as serving:
        panel = call(serving, "GET", "/api/panel").json()
    assert (panel["scale"], panel["weights"]) == (scale, weights)


def test_heat_maps_come_by_model_and_vote(serving: Serving) -> None:
    def maps(label: str, content: bytes = picture(2)) -> Any:
        return call(serving, "POST", "/api/maps", params={"label": label}, content=content).json()

    answer = maps("a")
    assert (answer["label"], answer["problem"]) == ("a", "")
    assert answer["members"]["linear"] is None
    for url in (answer["vote"], answer["members"]["cnn"]):
        assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (32, 32)
    assert maps("b")["members"]["cnn"] != answer["members"]["cnn"]
    assert maps("d")["problem"] == "there is no class 'd'; expected one of b, a, c"
    assert maps("a", b"no picture")["problem"].startswith("not an image")
    assert not list(serving.folder.iterdir())


@pytest.mark.parametrize("query", [{"name": "a"}, {}])
def test_a_form_is_refused_with_the_cure(serving: Serving, query: dict[str, str]) -> None:
    done = call(serving, "POST", "/api/images", params=query, files={"file": picture(1)})
    assert (done.status_code, done.json()["problem"]) == (
        415,
        "send the file itself as the body: curl --data-binary @FILE",
    )


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (InputError("cnn/0.safetensors: the network's outputs are not finite"), "cnn/0.safetensors: the network's"),
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device"),
        (MemoryError(), "out of memory"),
    ],
)
def test_a_failure_is_one_message_and_the_next_upload_is_answered(
    source: PanelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with serving_of(source, tmp_path, waiting=0) as serving:
        with monkeypatch.context() as context:
            context.setattr(serving.served, "classify", fail)
            done = post(serving, picture(1))
        assert done.status_code == 500
        assert done.json()["problem"].startswith(problem)
        assert post(serving, picture(1)).status_code == 200
    assert not list(tmp_path.iterdir())


def test_a_taken_port_is_named_with_the_option() -> None:
    with open_port(0) as listener:
        port = listener.getsockname()[1]
        assert listener.getsockname()[0] == "127.0.0.1"
        with (
            pytest.raises(InputError, match=rf"port {port} is taken: name another one: --port \d+, or --port 0"),
            open_port(port),
        ):
            pass
        done = CliRunner().invoke(commands, ["serve", "--port", str(port)])
        assert (done.exit_code, done.stderr.startswith(f"serve: port {port} is taken")) == (1, True)


def test_without_its_packages_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tumorboard.commands.serve.find_spec", lambda name: None if name == "uvicorn" else server)
    done = CliRunner().invoke(commands, ["serve", "--port", "0"])
    assert done.exit_code == 1
    assert done.stderr == "serve: the package uvicorn is missing: pip install 'tumorboard[serve]'\n"


def test_a_vote_that_needs_a_table_is_refused(source: PanelSource) -> None:
    column = Column("age", (), 50.0, 10.0)
    stacking = Stacking(columns=(column,), coefficients=((0.0,) * 8,) * 3, intercepts=(0.0,) * 3, penalty=1.0)
    fit = replace(source.deciding.fit, stacking=stacking)
    with pytest.raises(InputError, match="the stacking vote needs age of each image, which the page does not ask for"):
        check_columns(replace(source.deciding, vote="stacking", fit=fit))
    with pytest.raises(InputError, match="the single vote was not fitted in this study"):
        check_columns(replace(source.deciding, vote="single"))
    check_columns(source.deciding)
