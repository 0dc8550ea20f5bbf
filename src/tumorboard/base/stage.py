"""Runs a stage: reads params.yaml, passes the options of the command line, turns user errors into one message."""

import argparse
import inspect
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from tumorboard.base.checkout import check_checkout
from tumorboard.base.collector import resume_collector
from tumorboard.base.digests import check_digests
from tumorboard.base.errors import InputError, escape_unprintable
from tumorboard.base.faults import reported_errors
from tumorboard.base.inputs import check_unchanged, params_file, source_lists, take_snapshot
from tumorboard.base.interrupts import note_end
from tumorboard.base.params import Params, load_params

# The types of a stage's options: what it reads, and what it writes.
Input = Annotated[Path, "input"]
Output = Annotated[Path, "output"]


def run_stage(
    main: Callable[..., None], further_inputs: Callable[[Params, Mapping[str, Any]], list[Path]] = lambda *_: []
) -> None:
    """Calls `main(params, **options)` with params.yaml and the options of the command line.

    If an input or a parameter of the stage changes while it runs, its outputs are deleted and the stage fails: DVC
    would record them beside the new input. A stage whose source files are not those that DVC records does not start.
    The user's errors and the machine's faults, such as a full disk, end it with one message on standard error and
    status 1, Ctrl-C with one line and status 130.

    Args:
        main: takes Params, then keyword-only parameters of type Input, Output, int or str; each is a required option.
        further_inputs: returns, from Params and options, the paths that the stage reads without an Input.
    """
    name = Path(sys.argv[0]).stem
    options = parse_options(main, name, sys.argv[1:])
    escape_unprintable()
    with reported_errors(name):
        check_checkout()
        lists = source_lists(name)
        for file in lists:
            check_digests(file)
        params = load_params(params_file(name))
        paths = [*lists, *further_inputs(params, options), *(options[key] for key in _options_of(main, "input"))]
        before = take_snapshot(name, paths)
        resume_collector()
        main(params, **options)
        try:
            check_unchanged(before, take_snapshot(name, paths))
        except InputError:
            _delete([options[key] for key in _options_of(main, "output")])
            raise
    note_end(0)


def parse_options(main: Callable[..., None], name: str, words: Sequence[str]) -> dict[str, Any]:
    """Parses a command line by the keyword-only parameters of a function: `fold: int` is the option `--fold N`.

    Args:
        main: the function; its docstring is the help text.
        name: the stage's name, for the usage line.
        words: the command line without the program.

    Returns:
        The values by parameter name, each of its parameter's type.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}",
        description=inspect.getdoc(main),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for parameter in inspect.signature(main).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            annotation = parameter.annotation
            kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
            flag = "--" + parameter.name.replace("_", "-")
            parser.add_argument(flag, type=kind, required=True, metavar=kind.__name__.upper())
    return vars(parser.parse_args(words))


def _options_of(main: Callable[..., None], role: str) -> list[str]:
    """Returns the names of the parameters whose annotation has the role "input" or "output"."""
    parameters = inspect.signature(main).parameters.values()
    return [parameter.name for parameter in parameters if role in getattr(parameter.annotation, "__metadata__", ())]


def _delete(outputs: list[Path]) -> None:
    for path in outputs:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
