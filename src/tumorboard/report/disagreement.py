"""Shows how far the members of a panel agree, and the images that split it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tumorboard.base.tables import classes_of
from tumorboard.evaluation.disagreement import (
    DECIDED,
    PROBABILITY,
    Agreement,
    Splits,
    find_splits,
    pairwise_agreement,
    share_unanimous,
)
from tumorboard.report.results import Part, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KappaTable: TypeAlias = Mapping[str, Mapping[str, float]]  # by two members; nan: undefined, or a member with itself

SHOWN = 12  # images that split the panel, in the figure and on the page
_COLUMNS = 6  # pictures per row


@dataclass(frozen=True)
class Disagreement:
    """How far the members agree on the images of one part of the data."""

    members: Sequence[str]  # names
    agreement: Agreement  # agreement of all pairs of members
    unanimous: float  # share of the images for which all members decide for the same class
    splits: Splits  # the images on which they do not all agree

    @property
    def kappas(self) -> KappaTable:
        """The kappa of each member with each."""
        kappas = {one: dict.fromkeys(self.members, math.nan) for one in self.members}
        for pair in self.agreement.to_dict("records"):
            kappas[pair["first"]][pair["second"]] = kappas[pair["second"]][pair["first"]] = pair["kappa"]
        return kappas

    @property
    def shown(self) -> list[dict[str, object]]:
        """The images that split the panel most: id, label, and each member's class with its probability."""
        return [
            {
                "id": row["id"],
                "label": row["label"],
                "members": [(row[DECIDED + name], row[PROBABILITY + name]) for name in self.members],
            }
            for row in self.splits.head(SHOWN).to_dict("records")
        ]


def find_disagreement(part: Part) -> Disagreement:
    """Returns how far the members agree on a part of the data."""
    return Disagreement(
        list(part.members), pairwise_agreement(part.members), share_unanimous(part.members), find_splits(part.members)
    )


def draw_splits(results: Results, disagreement: Disagreement) -> "Figure":
    """Draws the validation images that split the panel most, below the label and each member's decision."""
    from tumorboard.report.contact_sheet import contact_sheet  # here, because matplotlib is slow to import
    from tumorboard.report.lettering import drawable_names, shorten

    texts = drawable_names(classes_of(results.validation.heading))
    rows = disagreement.splits.head(SHOWN)
    captions = [
        "\n".join(
            [
                f"label {shorten(texts[row['label']], 16)}",
                # The number comes first: behind a name that is read from right to left it would be moved.
                *(
                    f"{row[PROBABILITY + name]:.2f} {shorten(texts[row[DECIDED + name]], 12)} ({shorten(name, 12)})"
                    for name in disagreement.members
                ),
            ]
        )
        for row in rows.to_dict("records")
    ]
    lines = 1 + len(disagreement.members)
    return contact_sheet(results.load_crops(rows["id"].tolist()), captions, _COLUMNS, lines=lines)
