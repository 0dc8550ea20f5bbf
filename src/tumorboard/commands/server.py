"""The server of `tumorboard serve`: a page and a JSON interface to one panel."""

import signal
import socket
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from tumorboard.base.errors import InputError
from tumorboard.base.faults import explain_fault
from tumorboard.commands.served_panel import ServedPanel
from tumorboard.commands.server_answers import (
    LONGEST_NAME,
    ImageAnswer,
    MapsAnswer,
    PanelAnswer,
    ProblemAnswer,
    panel_answer,
)
from tumorboard.commands.server_connections import Connection
from tumorboard.commands.server_guard import Guard
from tumorboard.commands.uploads import Queue, UploadLimits, drop_file, receive_file
from tumorboard.panel.panel_file import DISCLAIMER

MOST_CONNECTIONS = 512  # connections open at the same time, at most
IDLE_SECONDS = 60  # time after which an unused connection is closed; a shorter one would cut busy clients
END_SECONDS = 2  # time that answers in progress may take at the end
RETRY_SECONDS = "1"  # time after which a refused upload should be tried again
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/details.js": ("details.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

Size = Annotated[int | None, Query(ge=0, description="Of the file in bytes, where the body is only its beginning.")]
Label = Annotated[str, Query(max_length=LONGEST_NAME, description="The class.")]
Name = Annotated[
    str,
    Query(
        min_length=1, max_length=LONGEST_NAME, pattern=r"^[^\x00]+$", description="Of the file, for the column `path`."
    ),
]

# The body of an upload is the file itself. FastAPI's UploadFile would read all of it before any limit applies.
_BODY = {"requestBody": {"required": True, "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}}
NO_FORM = "send the file itself as the body: curl --data-binary @FILE"
_PROBLEMS = {
    403: "The request names another server, or comes from another site's page.",
    408: "The file did not arrive in time.",
    415: "The body is a form instead of the file.",
    500: "The panel or the machine failed.",
    422: "A parameter is missing or wrong.",
    503: "As many files wait as may wait; the header Retry-After states the seconds until another try.",
}


def _responses(answer: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Returns the description of all answers to an upload."""
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": ProblemAnswer, "description": text} for status, text in _PROBLEMS.items()
    }
    return problems | {
        413: {"model": answer, "description": "The body is too large. The answer is as usual, with the problem."}
    }


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The objects and settings of the server."""

    served: ServedPanel
    queue: Queue
    folder: Path  # folder that has each upload until it is answered
    limits: UploadLimits
    hosts: Collection[str]  # allowed values of the header Host
    title: str  # title of the page: the study or the file that the panel is from


def make_app(serving: Serving) -> ASGIApp:
    """Returns the application, with the page at `/` and its JSON interface described at `/openapi.json`.

    Files that cannot be used are no failures: their answers have status 200 and a problem, as `tumorboard predict`
    has a row for each of them.
    """
    app = FastAPI(title="tumorboard serve", description=DISCLAIMER, docs_url=None, redoc_url=None)  # both load scripts
    _add_page(app)

    @app.get("/api/panel")
    def describe() -> PanelAnswer:
        """The panel, its classes and its vote, and the limits of uploads."""
        return panel_answer(serving.served.source, title=serving.title, crop=serving.served.crop)

    @app.post("/api/images", response_model=ImageAnswer, openapi_extra=_BODY, responses=_responses(ImageAnswer))
    async def classify(request: Request, name: Name, size: Size = None) -> Response:
        """What the panel says of one image file, which is the body."""
        return await _answer(serving, request, size, partial(serving.served.classify, name=name))

    @app.post("/api/maps", response_model=MapsAnswer, openapi_extra=_BODY, responses=_responses(MapsAnswer))
    async def explain(request: Request, label: Label, size: Size = None) -> Response:
        """Where in one image file, which is the body, the models see evidence for a class."""
        return await _answer(serving, request, size, partial(serving.served.explain, label=label))

    @app.exception_handler(HTTPException)
    async def refuse(_: Request, error: HTTPException) -> Response:
        return _problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def explain_parameters(request: Request, error: RequestValidationError) -> Response:
        if _is_form(request):  # the usual mistake of a client that sends no name either
            return _problem(415, NO_FORM)
        return _problem(422, "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()))

    return Guard(app, serving.hosts)


def _add_page(app: FastAPI) -> None:
    """Serves FILES, which are read once."""
    folder = resources.files("tumorboard.commands") / "serve_page"
    for path, (name, kind) in FILES.items():
        sender = _sender((folder / name).read_bytes(), kind)
        app.add_api_route(path, sender, methods=["GET", "HEAD"], include_in_schema=False)


def _sender(content: bytes, kind: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=kind)


async def _answer(
    serving: Serving, request: Request, size: int | None, task: Callable[[Path], ImageAnswer | MapsAnswer]
) -> Response:
    """Receives a file, waits for its turn and returns the answer of a task; the file is deleted by then."""
    if _is_form(request):
        return _problem(415, NO_FORM)
    length = request.headers.get("content-length")
    body = int(length) if length else None
    file = serving.folder / uuid.uuid4().hex
    try:
        if not serving.queue.has_place():
            await drop_file(request.stream(), serving.limits)
            return _problem(
                503, f"{serving.limits.waiting} files wait already: try again", {"retry-after": RETRY_SECONDS}
            )
        with serving.queue.place():
            await receive_file(request.stream(), file, body if size is None else size, serving.limits)
            # The length of a body in chunks is known by now; the page sends the beginning of a large file and its size.
            length_of_body = file.stat().st_size if body is None and size is None else body or 0
            answer = await serving.queue.run(partial(task, file))
    except TimeoutError:
        return _problem(408, f"the file did not arrive in {serving.limits.seconds:g} s", {"connection": "close"})
    except ClientDisconnect:
        return _problem(400, "the client is gone")
    except InputError as error:
        return _problem(500, str(error))
    except Exception as error:
        if fault := explain_fault(error):
            return _problem(500, fault)
        raise
    finally:
        file.unlink(missing_ok=True)
    return JSONResponse(answer.model_dump(), 413 if length_of_body > serving.limits.max_bytes else 200)


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("multipart/")


def _problem(status: int, problem: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"problem": problem}, status, headers)


class _Server(uvicorn.Server):
    """A server that takes Ctrl-C as its usual end; uvicorn's own raises the signal again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        earlier = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)


def server_settings(app: ASGIApp) -> uvicorn.Config:
    """Returns the settings for serving an application; only errors of this program are logged."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=END_SECONDS,
    )


def run_app(app: ASGIApp, listener: socket.socket) -> None:
    """Serves an application until Ctrl-C or SIGTERM; in the main thread only.

    Args:
        app: the application that `make_app` returned.
        listener: a socket that listens already.
    """
    _Server(server_settings(app)).run(sockets=[listener])
