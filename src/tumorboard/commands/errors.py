"""How a command reports a user's mistake: one message on standard error instead of a traceback."""

import functools
from collections.abc import Callable
from typing import ParamSpec

import typer

from tumorboard.base.errors import InputError

P = ParamSpec("P")


def reports_user_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Decorates a command: an InputError becomes "<command>: <message>" on standard error and exit status 1.

    Args:
        command: a function named as its command, with underscores for hyphens. Its signature stays visible to typer.
    """
    name = command.__name__.replace("_", "-")

    @functools.wraps(command)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except InputError as error:
            typer.echo(f"{name}: {error}", err=True)
            raise typer.Exit(1) from None

    return reporting
