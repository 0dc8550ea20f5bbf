"""The command `tumorboard predict`: the panel's vote on new images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tumorboard.base.errors import InputError, counted, printable
from tumorboard.base.files import replacing, safe_cell, table_bytes
from tumorboard.base.params import find_params, load_params
from tumorboard.commands.by_patient import join_patients, patients_of
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.panel_source import PanelSource, check_study, doubts_of_study, open_source, study_inputs
from tumorboard.commands.submission import NAMES, Form, check_probabilities, fill_columns, open_form, six_digits
from tumorboard.commands.target_file import check_target
from tumorboard.data.new_files import list_new_files, open_decoders
from tumorboard.data.workers import worker_count
from tumorboard.panel.deciding import Deciding
from tumorboard.panel.predict import Decisions, summarize_decisions
from tumorboard.panel.stacking_columns import columns_of_vote, read_cells, unusual_cells
from tumorboard.panel.votes import VOTES

app = typer.Typer(add_completion=False)


Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, and folders of them.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="CSV", help="File for the table; default: standard output.")
]
Models = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Model file instead of the project's panel; may be given several times."),
]
PanelFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Package of `tumorboard export` to use instead; it needs no study.")
]
Vote = Annotated[
    str | None,
    typer.Option(help=f"One of {', '.join(VOTES)}; default: the vote that heads the report; with --model: soft."),
]
Explain = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder for a picture per file: where the models see the evidence.")
]
Columns = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV",
        help="Table with path (relative to the current folder or the table's) and the columns of the stacking vote.",
    ),
]
Submission = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMNS",
        help="A competition's columns: id, file, path, label, probability, classes, a class; or NAME=one of them.",
    ),
]
Like = Annotated[
    Path | None,
    typer.Option(metavar="CSV", help="The competition's sample file: its columns and rows, in its order."),
]
Patients = Annotated[
    str | None,
    typer.Option(
        metavar="study|RE|CSV",
        help="One row per patient: by data.group_pattern, by a pattern, or by a table with path and group.",
    ),
]
SchedulerAddress = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask cluster whose workers decode the files, tcp://host:port; default: runtime.scheduler.",
    ),
]


@app.command("predict", epilog="Example: tumorboard predict path/to/new_images --out new.csv")
@reports_user_errors
def predict(
    images: Images,
    out: Out = None,
    model: Models = None,
    panel: PanelFile = None,
    vote: Vote = None,
    explain: Explain = None,
    columns: Columns = None,
    submission: Submission = None,
    like: Like = None,
    patients: Patients = None,
    scheduler: SchedulerAddress = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out if it exists.")] = False,
) -> None:
    """Classifies new images by the panel's vote: one row per file. For research, not for diagnosis.

    Columns: path; decided (the class); probability (the vote's, of that class);
    agreeing (how many models choose that class); p_<class> for each class;
    threshold (probability of the positive class from which it is decided); unlike
    (1 and above: unlike the training images, do not trust its class); known
    (the split of the panel's own data that has this very file); problem (why the
    file was not classified). In UTF-8. A path that begins with = + - @ is
    written as ./=..., such a class in `decided` as '=..., so that no
    spreadsheet computes it.

    --patients averages the calibrated probabilities of a patient's images.
    --submission 'id,label' has two columns, the name without extension and the
    class; names are written as they are.

    Exit status 1: a file was not classified.
    """
    if not (model or panel):
        check_study()
    params = load_params(find_params())
    files = list_new_files(images)
    given = [like, columns, panel, *(model or []), Path(patients) if patients else None]
    own = [] if model or panel else study_inputs(params)
    check_outputs(out, explain, inputs=[find_params(), *own, *files, *filter(None, given)], force=force)
    workers, address = worker_count(params.runtime.workers), scheduler or params.runtime.scheduler
    with open_decoders(len(files), workers, address) as decoders:
        source = open_source(params, models=model or [], package=panel, vote=vote)
        if columns:
            source = replace(source, deciding=with_columns(source.deciding, columns, files))
        groups = patients_of(patients, files, params.data.group_pattern) if patients is not None else None
        form = form_of(source, submission, like, files=files, groups=groups)
        if explain:
            check_explained(source)
        table = source.predict(files, decoders)
    rows = table if groups is None else join_patients(table, groups, source.deciding)
    _write(shown_bytes(rows, groups, form), out)
    notes = [*describe_rows(rows, groups, form), *describe_columns(source.deciding, files), *doubts_of_study(own)]
    for line in [*notes, *summarize_decisions(table, source.panel, source.deciding)]:
        typer.echo(line, err=True)
    if explain:
        draw_explanations(source, table, explain, in_order=form is None and groups is None)
    raise typer.Exit(int((table["problem"] != "").any()))


def check_outputs(out: Path | None, explain: Path | None, *, inputs: Sequence[Path], force: bool) -> None:
    """Raises InputError where table or pictures cannot be written, or would replace a file.

    With `force` the table may replace one that the command does not read.
    """
    if out:
        check_target(out, force, "--out", inputs=inputs)
    if explain:
        check_new_folder(explain)


def form_of(
    source: PanelSource,
    submission: str | None,
    like: Path | None,
    *,
    files: Sequence[Path],
    groups: Sequence[str] | None,
) -> Form | None:
    """Returns a competition's columns and rows; None where none are asked for.

    Args:
        source: the panel; its classes are used.
        submission: value of the option --submission, the template of `open_form`.
        like: the competition's sample file.
        files: the files to predict.
        groups: patient of each file; None: a row is a file.

    Raises:
        InputError: as in `open_form`, or the vote has no probabilities where a column asks for them.
    """
    form = open_form(
        submission,
        like,
        names=list(dict.fromkeys(groups or map(str, files))),
        patients=groups is not None,
        classes=source.panel.card.classes,
        positive=source.deciding.positive,
    )
    if form is not None:
        check_probabilities(form.columns, source.deciding.vote)
    return form


def check_explained(source: PanelSource) -> None:
    """Raises InputError where `draw_explanations` would find no model with a map."""
    from tumorboard.commands.explained_files import check_explainable  # matplotlib is slow to import

    check_explainable(source)


def shown_bytes(rows: Decisions, groups: Sequence[str] | None, form: Form | None) -> bytes:
    """Returns the table that the user gets, in UTF-8.

    Args:
        rows: one row per file, or per patient where there are groups.
        groups: patient of each file.
        form: a competition's columns and rows; None: the command's own.
    """
    if form is not None:
        return table_bytes(fill_columns(rows, form.columns, form.sample))
    return table_bytes(for_spreadsheet(six_digits(rows), "./" if groups is None else "'"))


def draw_explanations(source: PanelSource, table: Decisions, folder: Path, *, in_order: bool) -> None:
    """Writes a picture per classified file, and prints how they are numbered.

    Args:
        source: the panel.
        table: the table that `predict_images` returned.
        folder: folder to write to.
        in_order: whether the printed table has the same rows in the same order.
    """
    from tumorboard.commands.explained_files import write_explanations  # matplotlib is slow to import

    write_explanations(source, table, folder=folder)
    order = "the rows of the table" if in_order else "the files, in the order of their names"
    typer.echo(f"{folder}: a picture per classified file, numbered as {order}", err=True)


def _write(content: bytes, out: Path | None) -> None:
    """Writes to a file, atomically, or to standard output."""
    if out:
        with replacing(out) as temporary:
            temporary.write_bytes(content)
    else:
        typer.echo(content, nl=False)  # bytes, since the terminal's encoding need not have all characters


def describe_rows(rows: Decisions, groups: Sequence[str] | None, form: Form | None) -> list[str]:
    """Returns lines on the meaning of a row, and on incomplete rows of a competition's file."""
    lines = []
    if groups is not None:
        patients = counted(len(rows), "patient")
        lines.append(f"{patients} of {len(groups)} files: the mean of what the vote gives to each patient's files")
    if form is not None:
        contents = ["patient" if groups and column.content in NAMES else column.content for column in form.columns]
        headers = [column.header for column in form.columns]
        lines.append("columns: " + ", ".join(map("{} ({})".format, headers, contents)))
        if lost := int(rows["probability"].isna().sum()):
            lines.append(f"rows with empty cells, since nothing was classified: {lost}; fill them in before you submit")
        undecided = int((rows["decided"].eq("") & rows["probability"].notna()).sum())
        if undecided and any(column.content == "label" for column in form.columns):
            lines.append(f"rows that are undecided (evaluate.abstain) and have no label: {undecided}")
    return lines


def describe_columns(deciding: Deciding, files: Sequence[Path]) -> list[str]:
    """Returns a line per column of --columns in which images have values unlike those that the vote was fitted on."""
    if deciding.cells is None:
        return []
    columns = columns_of_vote(deciding.vote, deciding.fit.stacking)
    return [f"--columns: {sentence}" for sentence in unusual_cells(columns, deciding.cells, files)]


def check_new_folder(folder: Path) -> None:
    """Raises InputError unless a folder is empty, or new and can be made."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--explain {printable(str(folder))}: is not an empty folder: name a new one")
    if folder.exists():
        return
    try:
        folder.mkdir(parents=True)
        folder.rmdir()
    except OSError as error:
        raise InputError(f"--explain {printable(str(folder))}: cannot be made: {error.strerror}") from None


def with_columns(deciding: Deciding, table: Path, files: Sequence[Path]) -> Deciding:
    """Adds the columns that a table has for the images to be predicted.

    Raises:
        InputError: the vote uses no columns, or the table does not have what it needs.
    """
    if not deciding.columns or deciding.fit.stacking is None:
        raise InputError(f"--columns: the {deciding.vote} vote uses no columns of a table: leave the option out")
    return replace(deciding, cells=read_cells(table, deciding.fit.stacking.columns, files))


def for_spreadsheet(decisions: Decisions, mark: str = "./") -> Decisions:
    """Returns the table with names that no spreadsheet takes for a formula.

    Args:
        decisions: the table that `predict_images` returned.
        mark: prefix of a path that a spreadsheet would compute: =1.png becomes ./=1.png, which is the same file. A
            class such as +1 becomes '+1.
    """
    return decisions.assign(
        path=[safe_cell(path, mark) for path in decisions["path"]],
        decided=[safe_cell(name) if isinstance(name, str) else name for name in decisions["decided"]],
    )
