"""Connections that never complete a request are closed, and take no place from those that do."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPResponse

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tumorboard.commands import server
from tumorboard.commands.serve import open_port
from tumorboard.commands.server import server_settings
from tumorboard.commands.server_connections import Connection

BEGUN = b"GET / HTTP/1.1\r\nHost: 127"
WHOLE = b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n"
HELD = b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"


async def answer_body(_: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body of the request, when all of it is there."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    content = body or b"nobody"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]})
    await send({"type": "http.response.body", "body": content})


@contextmanager
def running(monkeypatch: pytest.MonkeyPatch, *, seconds: float, most: int = 100) -> Iterator[int]:
    """Yields the port of a server in a thread."""
    monkeypatch.setattr(Connection, "header_seconds", seconds)
    monkeypatch.setattr(server, "MOST_CONNECTIONS", most)
    with open_port(0) as listener:
        served = uvicorn.Server(server_settings(answer_body))
        thread = threading.Thread(target=served.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            served.should_exit = True
            thread.join()


def connected(port: int, content: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=30)
    made.sendall(content)
    return made


def answer_of(client: socket.socket) -> tuple[int, bytes]:
    """Returns the status and the body of the next answer."""
    with HTTPResponse(client) as answer:
        answer.begin()
        return answer.status, answer.read()


def is_closed(client: socket.socket) -> bool:
    """Waits until something arrives; returns whether this is the end of the connection."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def hold(client: socket.socket) -> socket.socket:
    """Sends a request, and waits until it is in work; its body of four bytes is missing."""
    client.sendall(HELD)
    assert client.recv(1000).startswith(b"HTTP/1.1 100 ")
    return client


def is_open(client: socket.socket) -> bool:
    """Returns at once whether neither an answer nor the end has arrived."""
    client.setblocking(False)
    try:
        client.recv(1)
    except BlockingIOError:
        return True
    except ConnectionResetError:
        pass
    return False


@pytest.mark.parametrize("earlier", [b"", WHOLE])
@pytest.mark.parametrize("content", [b"G", BEGUN])
def test_headers_that_do_not_come_close_the_connection(
    monkeypatch: pytest.MonkeyPatch, earlier: bytes, content: bytes
) -> None:
    with running(monkeypatch, seconds=0.2) as port, connected(port, earlier) as client:
        if earlier:
            assert answer_of(client) == (200, b"nobody")
        client.sendall(content)
        assert is_closed(client)


def test_a_connection_that_sends_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(monkeypatch, seconds=0.2) as port, connected(port) as client:
        assert is_closed(client)


def test_headers_that_trickle_close_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes before the limit, all of them after it."""
    with running(monkeypatch, seconds=0.5) as port, connected(port, BEGUN) as client:
        began, sent = time.monotonic(), 0
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 100:
                time.sleep(0.05)
                client.sendall(b"x")
                sent += 1
        assert time.monotonic() - began >= 0.4, "closed before the limit"
        assert sent < 100, "open after ten times the limit"


def test_the_limit_is_for_headers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a body that comes late nor a pause between two requests is cut."""
    with running(monkeypatch, seconds=0.3) as port, connected(port) as client:
        for body in (b"late", b"next"):
            hold(client)
            time.sleep(0.6)
            client.sendall(body)
            assert answer_of(client) == (200, body)
            time.sleep(0.6)


def test_half_open_connections_give_way_to_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(monkeypatch, seconds=60, most=8) as port, ExitStack() as stack:
        idle = stack.enter_context(connected(port, WHOLE))
        assert answer_of(idle) == (200, b"nobody")
        held = hold(stack.enter_context(connected(port)))
        silent = [stack.enter_context(connected(port, BEGUN)) for _ in range(30)]
        last = stack.enter_context(connected(port, WHOLE))
        assert answer_of(last) == (200, b"nobody")
        assert is_closed(silent[0]), "the oldest made room"
        assert [is_open(one) for one in silent[-4:]] == [True] * 4, "no more are closed than must be"
        held.sendall(b"kept")
        assert answer_of(held) == (200, b"kept"), "a request in work is no waiting connection"
        idle.sendall(WHOLE)
        assert answer_of(idle) == (200, b"nobody"), "who sent requests is closed after who never did"


def test_where_all_connections_work_another_request_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(monkeypatch, seconds=60, most=3) as port, ExitStack() as stack:
        held = [hold(stack.enter_context(connected(port))) for _ in range(2)]
        with connected(port, WHOLE) as client:
            assert answer_of(client)[0] == 503
        for one in held:
            one.sendall(b"body")
            assert answer_of(one) == (200, b"body")
