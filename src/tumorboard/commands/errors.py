"""Reports a user's mistake as one message on standard error instead of a traceback."""

import functools
from collections.abc import Callable
from typing import ParamSpec

import typer

from tumorboard.base.checkout import check_checkout
from tumorboard.base.faults import reported_errors
from tumorboard.base.interrupts import note_end
from tumorboard.commands.extras import naming_extras

P = ParamSpec("P")


def reports_user_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Decorates a command: an InputError becomes "<command>: <message>" on standard error and exit status 1.

    So does a fault of the machine, such as too little memory. Ctrl-C becomes "<command>: interrupted" and exit status
    130. In a checkout whose code is not the running one, each command but `doctor`, which names it among its findings,
    is refused.

    Args:
        command: a function named as its command, with underscores for hyphens. Its signature stays visible to typer.
    """
    name = command.__name__.replace("_", "-")

    @functools.wraps(command)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> None:
        with reported_errors(name, before=""), naming_extras():
            if name != "doctor":
                check_checkout()
            try:
                command(*args, **kwargs)
            except typer.Exit as end:
                note_end(end.exit_code)
                raise
        note_end(0)

    return reporting
