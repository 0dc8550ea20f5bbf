"""Reports a user's mistake as one message on standard error instead of a traceback."""

import functools
import signal
from collections.abc import Callable
from typing import ParamSpec

import typer

from tumorboard.base.checkout import check_checkout
from tumorboard.base.errors import InputError

P = ParamSpec("P")

INTERRUPTED = 128 + signal.SIGINT  # exit status, as of a shell


def reports_user_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Decorates a command: an InputError becomes "<command>: <message>" on standard error and exit status 1.

    Ctrl-C becomes "<command>: interrupted" and exit status 130. In a checkout whose code is not the running one, each
    command but `doctor`, which names it among its findings, is refused.

    Args:
        command: a function named as its command, with underscores for hyphens. Its signature stays visible to typer.
    """
    name = command.__name__.replace("_", "-")

    @functools.wraps(command)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            if name != "doctor":
                check_checkout()
            command(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo(f"\n{name}: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except InputError as error:
            typer.echo(f"{name}: {error}", err=True)
            raise typer.Exit(1) from None

    return reporting
