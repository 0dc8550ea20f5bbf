"""The command `tumorboard doctor`: looks at machine and project, and names the command that cures what is wrong."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from dvc.exceptions import CyclicGraphError
from dvc.repo import Repo
from dvc.stage import PipelineStage

from tumorboard.base.disk import check_disk
from tumorboard.base.errors import counted, printable
from tumorboard.base.findings import Finding
from tumorboard.commands.damaged_outputs import check_outputs
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.machine_checks import check_code, check_links, check_processor, check_torch
from tumorboard.commands.project_checks import (
    check_data,
    check_git,
    check_identity,
    check_leftovers,
    check_project_path,
    check_remote,
    check_uncommitted,
)
from tumorboard.commands.stale_locks import check_queue
from tumorboard.commands.start_checks import START_CHECKS, Check, run_checks
from tumorboard.commands.study_pipeline import check_pipeline

MACHINE_CHECKS: dict[str, Check] = {
    "code": check_code,
    "torch": check_torch,
    "processor": check_processor,
    "disk": check_disk,
    "links": check_links,
}
PROJECT_CHECKS: dict[str, Check] = {
    "git": check_git,
    "git identity": check_identity,
    "path": check_project_path,
    **START_CHECKS,
    "dvc.yaml": check_pipeline,
    "queue": check_queue,
    "data": check_data,
    "uncommitted": check_uncommitted,
    "remote": check_remote,
    "leftovers": check_leftovers,
    "outputs": check_outputs,
}
MARKS = {"ok": "ok      ", "note": "note    ", "problem": "PROBLEM "}

app = typer.Typer(add_completion=False)


@app.command("doctor", epilog="Example: tumorboard doctor --fix")
@reports_user_errors
def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="Do what is harmless: remove stale locks, restore torn files, renew dvc.yaml.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Looks at this machine and project, and names the one command that cures each problem.

    Nothing is changed without --fix, and no file of yours with it: a torn file, and the
    dvc.yaml of another version, are moved to .dvc/tmp/torn.

    Exit status 1: a problem remains.
    """
    project = Path()
    is_study = (project / "dvc.yaml").is_file()
    checks = MACHINE_CHECKS | (PROJECT_CHECKS if is_study else {"study": note_no_study})
    findings = run_checks(checks, project)
    fixed = [finding.fix() for finding in findings if finding.fix] if fix else []
    if fixed:
        findings = run_checks(checks, project)
    if is_study:
        findings += check_dvc_loads(project, findings)
    if as_json:
        typer.echo(json.dumps({"findings": [to_json(finding) for finding in findings], "fixed": fixed}))
    else:
        print_findings(findings, fixed)
    raise typer.Exit(int(any(finding.level == "problem" for finding in findings)))


def note_no_study(project: Path) -> list[Finding]:
    """Notes that a folder has no pipeline to check, which is no problem of the machine."""
    message = f"{printable(str(project.resolve()))} is no study: it has no dvc.yaml, so only the machine was checked"
    cure = "change into the folder of a study, or make one: tumorboard new DIR --data FOLDER"
    return [Finding("study", "note", message, cure)]


def check_dvc_loads(project: Path, findings: list[Finding]) -> list[Finding]:
    """Checks that DVC can load dvc.yaml and all it names; DVC's own message counts only if nothing else explains it."""
    try:
        with Repo(str(project)) as repo:
            stages = repo.index.stages
            frozen = [stage.addressing for stage in stages if isinstance(stage, PipelineStage) and stage.frozen]
            repo.index.check_graph()
    except Exception as error:  # many kinds, AssertionError among them, for values that DVC does not expect
        explained = {"params.yaml", "files of DVC", "git"}
        if any(finding.level == "problem" and finding.check in explained for finding in findings):
            return []
        if isinstance(error, CyclicGraphError):
            message = f"DVC cannot order the stages: data.raw may not be, or hold, what the pipeline writes: {error}"
            return [Finding("dvc", "problem", message, "name another folder as data.raw in params.yaml")]
        message = f"DVC cannot load the project: {str(error) or type(error).__name__}"
        return [Finding("dvc", "problem", message, "dvc status")]
    return [note_frozen(frozen)] if frozen else [Finding("dvc", "ok", f"DVC loads {len(stages)} stages")]


def note_frozen(names: list[str]) -> Finding:
    """Notes the stages that are frozen in dvc.yaml; DVC refuses to unfreeze those of a matrix."""
    shown = ", ".join(map(printable, names))
    message = f"frozen in dvc.yaml: {shown}: `dvc repro` leaves what these wrote as it is, also where it is out of date"
    matrix = any("@" in name for name in names)
    cure = "delete `frozen: true` in dvc.yaml" if matrix else f"dvc unfreeze {' '.join(names)} && dvc repro"
    return Finding("dvc", "note", message, cure)


def to_json(finding: Finding) -> dict[str, Any]:
    """Returns a finding as plain values; `fixable`: whether --fix mends it."""
    plain = {field.name: getattr(finding, field.name) for field in dataclasses.fields(finding) if field.name != "fix"}
    return plain | {"fixable": finding.fix is not None}


def print_findings(findings: list[Finding], fixed: list[str]) -> None:
    """Prints one line per finding, with its cure below, and what --fix did."""
    for done in fixed:
        typer.echo(f"fixed   {done}")
    for finding in findings:
        typer.echo(f"{MARKS[finding.level]}{finding}")
    problems = sum(finding.level == "problem" for finding in findings)
    fixable = sum(finding.fix is not None for finding in findings)
    hint = f"; `tumorboard doctor --fix` mends {fixable} of them" if fixable else ""
    typer.echo(f"\n{counted(problems, 'problem') if problems else 'no problems'}{hint}")
