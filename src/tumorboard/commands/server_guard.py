"""Keeps other web sites away from the server: limits the requests that are answered and the use of answers."""

from collections.abc import Collection, Iterable

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Nothing is loaded from elsewhere, nothing is stored, no other page frames or embeds an answer. Pictures are in the
# answers, as data: URLs.
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


def loopback_hosts(port: int) -> frozenset[str]:
    """Returns the values of the header Host that name this server.

    >>> sorted(loopback_hosts(8000))
    ['127.0.0.1:8000', 'localhost:8000']
    """
    names = ("127.0.0.1", "localhost")
    return frozenset(f"{name}:{port}" for name in names) | (frozenset(names) if port == 80 else frozenset())


def explain_foreign(headers: Iterable[tuple[bytes, bytes]], hosts: Collection[str]) -> str:
    """Returns why a request is refused; empty if it is not.

    Another site's page can send requests to loopback. Its own name in Host (DNS rebinding) or in Origin gives it away.

    Args:
        headers: headers of the request, with names in lower case.
        hosts: allowed values of Host.
    """
    pairs = [(name, value.decode("latin-1").lower()) for name, value in headers]
    host = [value for name, value in pairs if name == b"host"]
    if len(host) != 1 or host[0] not in hosts:
        return f"this server answers to {' and '.join(sorted(hosts))} alone"
    if any(value != f"http://{host[0]}" for name, value in pairs if name == b"origin"):
        return "this server answers to its own page alone"
    return ""


class Guard:
    """Refuses foreign requests with status 403 before their bodies are read, and adds HEADERS to each answer."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        """Wraps an application.

        Args:
            app: answers the other requests.
            hosts: allowed values of Host.
        """
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":  # there are no web sockets
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if problem := explain_foreign(scope["headers"], self._hosts):
            await JSONResponse({"problem": problem}, 403)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)
