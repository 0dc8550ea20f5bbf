"""A panel for the server: it answers for one file at a time, in one thread."""

from dataclasses import dataclass, replace
from pathlib import Path

from tumorboard.base.errors import InputError
from tumorboard.base.params import Crop
from tumorboard.commands.panel_source import PanelSource
from tumorboard.commands.server_answers import ImageAnswer, MapsAnswer, image_answer, maps_answer
from tumorboard.panel.opinion import Opinion, classify_file, explain_file
from tumorboard.panel.predict import limited


@dataclass
class Counts:
    """The numbers of files so far; the server keeps nothing else about a file."""

    classified: int = 0  # number of classified files
    refused: int = 0  # number of files that cannot be used


class ServedPanel:
    """Answers for files, and counts them."""

    def __init__(self, source: PanelSource, max_bytes: int) -> None:
        """Takes a loaded panel.

        Args:
            source: the panel, and how it decides.
            max_bytes: the largest file in bytes; `crop.max_bytes` of the panel and of the study hold as well.
        """
        self.source, self.counts = source, Counts()
        crop = limited(source.panel.card.crop, source.limits)
        self._limit = "--max-megabytes" if max_bytes < crop.max_bytes else "crop.max_bytes"
        self.crop: Crop = crop.model_copy(update={"max_bytes": min(max_bytes, crop.max_bytes)})

    def classify(self, file: Path, name: str) -> ImageAnswer:
        """Returns the panel's answer for a file.

        Args:
            file: the file with the image.
            name: value of the column `path`.

        Raises:
            InputError: a network's output is not finite.
        """
        opinion = classify_file(
            self.source.panel,
            file,
            name=name,
            deciding=self.source.deciding,
            crop=self.crop,
            frames=self.source.frames,
            known=self.source.known,
        )
        if opinion.crop is None:
            self.counts.refused += 1
        else:
            self.counts.classified += 1
        return image_answer(self._with_limit(opinion), self.source.panel.card.classes)

    def explain(self, file: Path, label: str) -> MapsAnswer:
        """Returns where the models see evidence for a class, or why there are no maps."""
        panel, deciding, frames = self.source.panel, self.source.deciding, self.source.frames
        try:
            maps = explain_file(panel, file, label, deciding=deciding, crop=self.crop, frames=frames)
        except InputError as error:
            return maps_answer(label, list(panel.models), {}, str(error))
        return maps_answer(label, list(panel.models), maps)

    def _with_limit(self, opinion: Opinion) -> Opinion:
        """Names the option instead of the parameter where a file exceeds the server's own limit."""
        problems = [text.replace("(crop.max_bytes)", f"({self._limit})") for text in opinion.decisions["problem"]]
        return replace(opinion, decisions=opinion.decisions.assign(problem=problems))
