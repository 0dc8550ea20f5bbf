"""Facts of a study that is not made."""

from pathlib import Path

from tumorboard.commands.new_files import StudyFacts

FACTS = StudyFacts(
    name="cells",
    data=Path("../images"),
    table=None,
    group_pattern=None,
    guess=None,
    unit=None,
    positive=None,
    preset="general",
)
