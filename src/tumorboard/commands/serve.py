"""The command `tumorboard serve`: the panel as a page in the browser of this machine."""

import errno
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from tumorboard.base.errors import InputError
from tumorboard.base.params import find_params, load_params
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.panel_source import doubts_of_study, open_source, study_inputs
from tumorboard.commands.server_guard import loopback_hosts
from tumorboard.commands.uploads import Queue, UploadLimits
from tumorboard.panel.deciding import Deciding
from tumorboard.panel.panel_file import DISCLAIMER
from tumorboard.panel.votes import VOTES

LOOPBACK = "127.0.0.1"
WAITING = 8  # uploads that wait while another one is classified
UPLOAD_SECONDS = 60.0  # limit for the arrival of a file
OTHER_PORT = 8765  # port that a message proposes
BACKLOG = 256  # connections that the system holds until they are accepted
MEGABYTE = 1_000_000
INSTALL = "pip install 'tumorboard[serve]'"

app = typer.Typer(add_completion=False)


@app.command("serve", epilog="Example: tumorboard serve --panel panel.zip")
@reports_user_errors
def serve(
    panel: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Package of `tumorboard export` instead of the study's panel."),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Model file instead of the study's panel; may be given several times."),
    ] = None,
    vote: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(VOTES)}; default: the vote that heads the report; with --model: soft."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page's address; 0: any free one.")] = 8000,
    max_megabytes: Annotated[
        int, typer.Option(min=1, help="Size of a file that is taken; crop.max_bytes holds beside it.")
    ] = 100,
) -> None:
    """Shows a page that classifies dropped images by the panel's vote. For research, not for diagnosis.

    The page has the crop that the panel sees, each member's vote, heat maps, and a
    table to sort and download: that of `tumorboard predict`. Programs use its JSON
    interface, described at /openapi.json.

    Only programs on this machine reach it, and nothing leaves this machine. Images
    are kept in a temporary folder until they are answered. Ctrl-C ends the server.
    """
    check_installed()
    with open_port(port) as listener, tempfile.TemporaryDirectory(prefix="tumorboard-") as folder:
        from tumorboard.commands.served_panel import ServedPanel  # here, because `tumorboard --help` does not need it
        from tumorboard.commands.server import Serving, make_app, run_app

        params = load_params(find_params())
        source = open_source(params, models=model or [], package=panel, vote=vote)
        for doubt in doubts_of_study([] if model or panel else study_inputs(params)):
            typer.echo(doubt, err=True)
        check_columns(source.deciding)
        address = f"{LOOPBACK}:{listener.getsockname()[1]}"
        served = ServedPanel(source, max_megabytes * MEGABYTE)
        limits = UploadLimits(max_bytes=served.crop.max_bytes, waiting=WAITING, seconds=UPLOAD_SECONDS)
        title = panel.name if panel else model[0].name if model else Path.cwd().name
        with Queue(WAITING) as queue:
            serving = Serving(
                served=served,
                queue=queue,
                folder=Path(folder),
                limits=limits,
                hosts=loopback_hosts(listener.getsockname()[1]),
                title=title,
            )
            typer.echo(f"The panel is at http://{address}/ on this machine alone; Ctrl-C ends it.\n{DISCLAIMER}")
            run_app(make_app(serving), listener)
    counts = served.counts
    typer.echo(f"images classified: {counts.classified}; files that could not be used: {counts.refused}")


def check_installed() -> None:
    """Raises InputError without the packages of the server."""
    for name in ("fastapi", "uvicorn"):
        if find_spec(name) is None:
            raise InputError(f"the package {name} is missing: {INSTALL}")


def check_columns(deciding: Deciding) -> None:
    """Raises InputError where the vote lacks numbers, or needs more about an image than its file."""
    if deciding.columns:
        raise InputError(
            f"the {deciding.vote} vote needs {', '.join(deciding.columns)} of each image, which the page does not ask "
            "for: choose another vote, such as --vote soft, or use `tumorboard predict --columns CSV`"
        )
    deciding.check_vote()


@contextmanager
def open_port(port: int) -> Iterator[socket.socket]:
    """Yields a socket that listens on loopback, from before the panel is loaded, so that a mistake is reported at once.

    Raises:
        InputError: the port is taken or reserved.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen(BACKLOG)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            state = "taken" if error.errno == errno.EADDRINUSE else "reserved for the system"
            raise InputError(
                f"port {port} is {state}: name another one: --port {OTHER_PORT}, or --port 0 for any free one"
            ) from None
        yield listener
