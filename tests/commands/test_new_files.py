"""The README of a new study: its commands leave nothing in the study that git would take."""

import re
from pathlib import Path

from tumorboard.commands.new_files import StudyFacts, study_files


def test_the_readme_of_a_study_writes_tables_outside_of_it() -> None:
    facts = StudyFacts(
        name="cells",
        data=Path("../images"),
        table=None,
        group_pattern=None,
        guess=None,
        unit=None,
        positive=None,
        preset="none",
        models=["cnn"],
    )
    readme = study_files(facts)["README.md"].decode()
    outputs = re.findall(r"--out (\S+)", readme)
    assert outputs == ["../new.csv"]
