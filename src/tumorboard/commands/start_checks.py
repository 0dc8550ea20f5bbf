"""Checks for faults on which DVC fails before any stage runs, with a message that names neither file nor cure."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tumorboard.base.errors import InputError
from tumorboard.base.findings import Finding
from tumorboard.commands.project_checks import check_data, check_git, check_identity, check_params
from tumorboard.commands.stale_locks import check_locks
from tumorboard.commands.torn_files import check_torn_files

Check = Callable[[Path], list[Finding]]  # takes the folder of the project

START_CHECKS: dict[str, Check] = {"params.yaml": check_params, "files of DVC": check_torn_files, "locks": check_locks}


def run_checks(checks: Mapping[str, Check], project: Path) -> list[Finding]:
    """Runs checks one after another; a check that the machine does not allow becomes a finding.

    Args:
        checks: the checks by name.
        project: folder that is checked.
    """
    findings = []
    for name, check in checks.items():
        try:
            findings += check(project)
        except OSError as error:
            cure = f"ls -ld {error.filename or '.'}"
            findings.append(Finding(name, "problem", f"could not be checked: {error}", cure))
    return findings


def check_commit(project: Path) -> None:
    """Raises InputError with the cure where the folder has no commit, from which experiments of DVC start."""
    problems = [finding for finding in check_git(project) if finding.level == "problem"]
    if problems:
        raise InputError("\n".join(map(str, problems)))


def prepare_start(project: Path) -> list[str]:
    """Removes stale locks and restores torn files of DVC, and checks params.yaml and that `data.raw` is there.

    Args:
        project: folder with dvc.yaml.

    Returns:
        What was done, and a warning if experiments cannot be committed.

    Raises:
        InputError: a problem remains that DVC would fail on; the message has the cure.
    """
    findings = run_checks(START_CHECKS | {"data": check_data}, project)
    done = [finding.fix() for finding in findings if finding.fix]
    problems = [finding for finding in findings if finding.level == "problem" and not finding.fix]
    if problems:
        raise InputError("\n".join(map(str, problems)))
    return done + [str(finding) for finding in check_identity(project) if finding.level != "ok"]
