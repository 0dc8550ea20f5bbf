"""New images to a panel's decisions: the road of a run, with training left out."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from tumorboard import images
from tumorboard.data import sources
from tumorboard.data.executor import open_run
from tumorboard.errors import ImageError, InputError, printable
from tumorboard.evaluation.vote import VOTES
from tumorboard.models.inference import crop_logits, softmax
from tumorboard.models.registry import Classifier
from tumorboard.models.weights import ModelCard, load_model
from tumorboard.params import Crop, Frames
from tumorboard.tables import classes_of, make_predictions, probabilities_of, read_predictions

CHUNK = 32  # images decoded, and judged, at a time
NEW = "new"  # the split of rows that no run has seen

Shares = NDArray[np.float64]


class Member(NamedTuple):
    """One trained network of a panel, with what its file says of it."""

    file: Path
    network: Classifier
    card: ModelCard


@dataclass(frozen=True)
class Panel:
    """Networks by model, one a fold, that were trained on one split of one data set, for one kind of crop."""

    members: Mapping[str, Sequence[Member]]

    @property
    def card(self) -> ModelCard:
        """The first member's card; classes, crop and manifest are those of all."""
        return next(iter(self.members.values()))[0].card


def load_panel(files: Iterable[Path], device: str) -> Panel:
    """Load the members of a panel, in the order of their files; raises InputError where two do not belong together."""
    members: dict[str, list[Member]] = {}
    first: Member | None = None
    for file in files:
        member = Member(file, *load_model(file, device))
        first = first or member
        for what in ("classes", "manifest", "crop"):
            theirs, ours = (getattr(one.card, what) for one in (first, member))
            if theirs != ours:
                raise InputError(f"{file} and {first.file} are no panel: {_differences(what, ours, theirs)}")
        if any(member.card.fold == other.card.fold for other in members.get(member.card.name, ())):
            raise InputError(f"{file}: fold {member.card.fold} of model '{member.card.name}' is there already")
        members.setdefault(member.card.name, []).append(member)
    if not members:
        raise InputError("a panel needs at least one model file")
    return Panel(members)


def _differences(what: str, ours: Any, theirs: Any) -> str:
    if isinstance(ours, Crop):
        keys = [key for key in Crop.model_fields if getattr(ours, key) != getattr(theirs, key)]
        return ", ".join(f"crop.{key} is {getattr(ours, key)} and {getattr(theirs, key)}" for key in keys)
    return f"their {what} {'are' if what == 'classes' else 'is'} {ours} and {theirs}"


def check_writable(out: Path) -> None:
    """Raise InputError where a table could not be written to `out`: better before the images are judged than after."""
    if out.is_dir():
        raise InputError(f"{out}: is a folder: name a file, such as {out / 'new.csv'}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None


def list_new(paths: Sequence[Path]) -> list[Path]:
    """The files that are to be judged: those given, and all below the folders given; raises InputError."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += [path / name for name in sources.list_files(path)]
        elif path.exists() or path.is_symlink():
            found.append(path)
        else:
            raise InputError(f"{path}: there is no such file or folder")
    if not found:
        raise InputError(f"no files in {', '.join(map(str, paths))}")
    return list(dict.fromkeys(found))


def judge_images(
    panel: Panel,
    files: Sequence[Path],
    frames: Frames,
    vote: str,
    joined: Path | None,
    known: Mapping[str, str],
    workers: int,
) -> pd.DataFrame:
    """The decision of a panel on each file, a row a file in their order.

    Columns: path; decided, the class; probability, the vote's for it; agreeing, how many of the models decide so, as in
    '3 of 4'; p_<class> for each class; known, what `known` says of this SHA-256 (the part of the panel's own data that
    the very file is in); problem, why a file was not judged, else empty. A model's probabilities are the mean over its
    folds. A vote that is fitted on validation finds those rows in the folder `joined`, as `ensemble` wrote them. Files
    are decoded by `workers` processes. Raises InputError, also where no file can be judged.
    """
    validation = _validation_rows(panel, joined) if vote == "weighted" else {}
    crops = _crop_files(files, panel.card.crop, frames, workers)
    rows: list[dict[str, str]] = []
    probabilities: dict[str, list[Shares]] = {model: [] for model in panel.members}
    for chunk in _chunks(tqdm(crops, desc="judge", total=len(files), unit="image", disable=None)):
        rows += [{"path": str(new.file), "known": known.get(new.sha256, ""), "problem": new.problem} for new in chunk]
        usable = [new.crop for new in chunk if new.crop is not None]
        if usable:
            for model, folds in panel.members.items():
                probabilities[model].append(_probabilities(folds, np.stack(usable)))
    table = pd.DataFrame(rows, dtype=object)
    judged = table["problem"] == ""
    if not judged.any():
        raise InputError(
            f"none of {len(files)} files can be judged; the first: {rows[0]['path']}: {rows[0]['problem']}"
        )
    members = {
        model: _predictions(table["path"][judged], np.concatenate(parts), panel.card)
        for model, parts in probabilities.items()
    }
    return _tell(table, judged, members, _vote(members, validation, vote))


class _New(NamedTuple):
    """A file as it was read: its SHA-256, and its crop or why there is none."""

    file: Path
    sha256: str
    crop: images.Pixels | None
    problem: str


def _crop_files(files: Sequence[Path], crop: Crop, frames: Frames, workers: int) -> Iterator[_New]:
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    with open_run(min(workers, len(chunks)), None) as run:
        for chunk in run(partial(_crop_chunk, crop=crop, frames=frames), chunks):
            yield from chunk


def _crop_chunk(files: Sequence[Path], crop: Crop, frames: Frames) -> list[_New]:
    return [_crop_file(file, crop, frames) for file in files]


def _crop_file(file: Path, crop: Crop, frames: Frames) -> _New:
    if not file.is_file():
        return _New(file, "", None, "unreadable: not a regular file" if file.exists() else "broken or outward link")
    digest = ""
    try:
        content = file.read_bytes()
        digest = sha256(content).hexdigest()
        return _New(file, digest, images.crop_image(images.decode_for_crop(content, crop, frames)[0], crop), "")
    except ImageError as error:
        return _New(file, digest, None, str(error))
    except OSError as error:
        return _New(file, digest, None, f"unreadable: {error.strerror}")


def _chunks(new: Iterable[_New]) -> Iterator[list[_New]]:
    chunk: list[_New] = []
    for one in new:
        chunk.append(one)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _probabilities(folds: Sequence[Member], crops: images.Pixels) -> Shares:
    """The mean over a model's folds of class probabilities, float64[N, K]."""
    found = []
    for file, network, card in folds:
        device = network.mean.device
        # fp16 is of CUDA alone; float32 is what it approximates.
        precision = "off" if card.recipe.precision == "fp16" and device.type == "cpu" else card.recipe.precision
        logits = crop_logits(network, crops, precision, card.recipe.channels_last, device)
        if not np.isfinite(logits).all():
            raise InputError(f"{file}: gives outputs that are not finite: are its weights damaged?")
        found.append(softmax(logits))
    return np.asarray(np.mean(found, axis=0))


def _predictions(paths: pd.Series, probabilities: Shares, card: ModelCard) -> pd.DataFrame:
    rows = pd.DataFrame({"id": paths, "group": paths, "split": NEW, "label": ""}, dtype=object)
    return make_predictions(rows, probabilities, card.classes, card.manifest)


def _validation_rows(panel: Panel, joined: Path | None) -> dict[str, pd.DataFrame]:
    """The validation rows of each model, which the weights of a vote are fitted on; of the panel's own manifest."""
    if joined is None:
        raise InputError("the weighted vote needs a run's validation rows: choose hard, soft or product")
    tables = {}
    for model in panel.members:
        table = read_predictions(joined / f"{model}.csv")
        if table["manifest"].iloc[0] != panel.card.manifest or tuple(classes_of(table)) != panel.card.classes:
            raise InputError(
                f"{joined / model}.csv: judges manifest {table['manifest'].iloc[0]}, but the models were trained on "
                f"{panel.card.manifest}: bring both up to date (dvc repro), or choose another vote"
            )
        tables[model] = table[table["split"] == "val"]
    return tables


def _vote(members: Mapping[str, pd.DataFrame], validation: Mapping[str, pd.DataFrame], vote: str) -> pd.DataFrame:
    whole = {
        model: pd.concat([validation[model], table], ignore_index=True) if validation else table
        for model, table in members.items()
    }
    decided = VOTES[vote](whole)
    return decided[decided["split"] == NEW].reset_index(drop=True)


def _tell(
    table: pd.DataFrame, judged: pd.Series, members: Mapping[str, pd.DataFrame], decided: pd.DataFrame
) -> pd.DataFrame:
    names = np.array(classes_of(decided), dtype=object)
    shares = probabilities_of(decided)
    choice = shares.argmax(1)
    agreeing = sum((probabilities_of(member).argmax(1) == choice).astype(int) for member in members.values())
    told = pd.DataFrame({"decided": names[choice], "probability": shares.max(1)}, index=table.index[judged])
    told["agreeing"] = [f"{count} of {len(members)}" for count in agreeing]
    for column, name in enumerate(names):
        told[f"p_{name}"] = shares[:, column]
    whole = table.join(told)
    return whole[["path", "decided", "probability", "agreeing", *(f"p_{name}" for name in names), "known", "problem"]]


def summarise(table: pd.DataFrame, panel: Panel, vote: str) -> list[str]:
    """What a reader should know of the table of `judge_images`, as lines of text."""
    judged = table[table["problem"] == ""]
    counts = judged["decided"].value_counts().to_dict()
    lines = [
        f"{len(judged)} of {len(table)} files judged by {len(panel.members)} models, {vote} vote: "
        + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    ]
    if (table["known"] != "").any():
        lines.append(f"{int((table['known'] != '').sum())} of them were in the panel's own data (column known)")
    bad = table[table["problem"] != ""]
    lines += [f"not judged: {printable(path)}: {why}" for path, why in bad[["path", "problem"]].head(10).to_numpy()]
    return [*lines, panel.card.intended_use]
