"""Model cards of a panel and its members as Markdown, from the files of the run that trained them.

Source:
    Mitchell et al. 2019, "Model Cards for Model Reporting": the headings.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from tumorboard.base.errors import counted, printable
from tumorboard.base.files import read_json
from tumorboard.base.params import Params
from tumorboard.panel.comparison import HEADING
from tumorboard.panel.panel_file import PanelFile
from tumorboard.panel.stacking import Column
from tumorboard.panel.stacking_columns import columns_of_vote
from tumorboard.report.front import score_text

NOT_SCORED = "The test part was not scored (`evaluate.test: false`)."


@dataclass(frozen=True)
class Member:
    """One model of a panel, with its folds."""

    name: str
    cards: Sequence[Mapping[str, Any]]  # one per fold, as JSON
    recipe: Mapping[str, Any]  # recipes/<model>.json

    @property
    def card(self) -> Mapping[str, Any]:
        """The first fold's card; its architecture and recipe hold for all folds."""
        return self.cards[0]

    @property
    def license(self) -> str:
        """What is known of the license of its initial weights, in a sentence."""
        return license_note(self.recipe)


@dataclass(frozen=True)
class Run:
    """The facts of a finished run that the model cards need."""

    params: Params
    content: PanelFile
    members: Sequence[Member]
    crop: Mapping[str, Any]  # metrics/crop.json
    split: Mapping[str, Any]  # metrics/split.json
    audit: Mapping[str, Any]  # metrics/audit.json
    validation: Mapping[str, Any]  # metrics/votes.json
    test: Mapping[str, Any] | None  # metrics/test/votes.json; None where the test part is not scored
    version: str  # version of the package tumorboard
    study: str  # name of the study

    @property
    def units(self) -> str:
        """The name of a group in the plural, such as 'patients'."""
        return f"{self.params.data.unit or 'group'}s"

    @property
    def parts(self) -> dict[str, Mapping[str, Any]]:
        """The scores by the name of the part."""
        return {"validation": self.validation} | ({"test": self.test} if self.test else {})


def read_run(params: Params, content: PanelFile, members: Sequence[Member], *, metrics: Path, version: str) -> Run:
    """Reads the facts that the model cards need.

    Args:
        params: the study's parameters.
        content: content of models/panel.json.
        members: the models in the order of the panel.
        metrics: folder of the stages' metrics.
        version: version of the package tumorboard.

    Raises:
        InputError: a file is missing.
    """
    names = {name: read_json(metrics / f"{name}.json") for name in ("crop", "split", "audit", "votes")}
    test = read_json(metrics / "test/votes.json") if params.evaluate.test else None
    return Run(
        params=params,
        content=content,
        members=members,
        crop=names["crop"],
        split=names["split"],
        audit=names["audit"],
        validation=names["votes"],
        test=test,
        version=version,
        study=plain(params.study or Path.cwd().name),
    )


def render_cards(run: Run) -> dict[str, str]:
    """Returns Markdown by file name: MODEL_CARD.md for the panel and cards/<model>.md for each member."""
    texts = {"MODEL_CARD.md": render("panel_card.md.j2", panel_facts(run))}
    for member in run.members:
        texts[f"cards/{member.name}.md"] = render("member_card.md.j2", member_facts(run, member))
    return texts


def render(template: str, facts: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tumorboard.report"),
        autoescape=False,  # noqa: S701  # the text is Markdown, and `plain` escapes every name
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(facts)


def plain(name: object) -> str:
    """Returns Markdown that shows a name chosen by somebody else as it is.

    >>> plain("grade <2> | _mild_")
    'grade \\\\<2\\\\> \\\\| \\\\_mild\\\\_'
    """
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in printable(str(name)))


def panel_facts(run: Run) -> dict[str, Any]:
    """Returns the values that the template of the panel's card shows."""
    content, params = run.content, run.params
    weights = ", ".join(f"{plain(model)} {weight:.2f}" for model, weight in content.weights.items())
    columns = ", ".join(plain(column.name) for column in columns_of_vote(content.vote, content.stacking))
    stacking = f"a regression on the members' probabilities and on {columns}" if columns else ""
    details = {"weighted": weights, "single": plain(content.single), "stacking": stacking}
    return {
        "study": run.study,
        "version": run.version,
        "models": [{"name": plain(member.name), "license": member.license} for member in run.members],
        "classes": [plain(name) for name in content.classes],
        "vote": f"{content.vote} vote",
        "weights": details.get(content.vote, ""),
        "chosen": bool(content.losses),
        "threshold": _threshold(content),
        "intended_use": plain(content.intended_use),
        "factors": _factors(run),
        "confidence": f"{100 * params.evaluate.confidence:g} %",
        "units": run.units,
        "probabilities": _probabilities(content),
        "counts": _counts(run),
        "data": list(_data(run)),
        "evaluation": _evaluation(run),
        "tables": _tables(run, [member.name for member in run.members], votes=True),
        "caveats": list(_caveats(run)),
    }


def member_facts(run: Run, member: Member) -> dict[str, Any]:
    """Returns the values that the template of a member's card shows."""
    card, recipe = member.card, member.recipe
    return {
        "name": plain(member.name),
        "study": run.study,
        "architecture": plain(recipe["architecture"]),
        "parameters": f"{card['parameters']:,}",
        "side": card["crop"]["side"],
        "training": list(_training(card, recipe)),
        "license": member.license,
        "files": [
            {"fold": one["fold"], "name": f"models/{member.name}/{one['fold']}.safetensors", "epoch": one["epoch"]}
            for one in member.cards
        ],
        "tables": _tables(run, [member.name], votes=False),
    }


def license_note(recipe: Mapping[str, Any]) -> str:
    """Returns what is known of the license of a recipe's initial weights.

    >>> license_note({"architecture": "cnn", "pretrained": "none"})
    'drawn at random, so that no weights of others are in it.'
    """
    architecture, pretrained = str(recipe["architecture"]), str(recipe["pretrained"])
    imagenet = "ImageNet's terms of access allow non-commercial research and education; whoever passes this on checks."
    if pretrained == "none":
        return "drawn at random, so that no weights of others are in it."
    if pretrained == "packaged":
        return f"ImageNet weights of {plain(architecture)} from a Python package, Apache-2.0. {imagenet}"
    if pretrained == "imagenet":
        tag = plain(recipe.get("pretrained_tag", "of unknown name"))
        library = "timm" if architecture.startswith("timm/") else "torchvision"
        own = {
            "timm": "each of its weights has a license of its own, on its page at huggingface.co/timm.",
            "torchvision": "BSD-3-Clause; some of its weights, such as those of SWAG, are CC-BY-NC-4.0.",
        }
        return f"weights {tag} of {library}: {own[library]} {imagenet}"
    digest = recipe.get("pretrained_sha256", "unknown")
    return f"the file {plain(pretrained)} (SHA-256 {digest}): for the author to add, its origin and license."


def _threshold(content: PanelFile) -> str:
    if content.threshold is None or content.positive is None:
        return ""
    return (
        f"{plain(content.positive)} is decided from a probability of {content.threshold:.4f} on, a threshold chosen on "
        "validation images."
    )


def _probabilities(content: PanelFile) -> str:
    if content.vote == "hard":
        return "The hard vote has shares of votes, which are no probabilities."
    return "Probabilities are calibrated on validation images; a calibration slope below 1 means too sure."


def _factors(run: Run) -> str:
    one = run.params.data.unit or "group"
    text = f"Images of one {one} are correlated: parts and intervals go by {one}."
    columns = columns_of_vote(run.content.vote, run.content.stacking)
    used = f" {_inputs(columns)}" if columns else ""
    return (
        f"{text}{used} How the panel does by age, sex, device or site is in the study's report where the data has such "
        f"columns; nothing {'else ' if columns else ''}about them is assumed here."
    )


def _inputs(columns: Sequence[Column]) -> str:
    """Returns which columns of the data's table a vote uses, and how."""
    return (
        f"The vote uses {', '.join(map(column_words, columns))} of each image: its probabilities and decisions depend "
        "on them; the members use the image alone. An empty cell or `unknown` is a missing value: it counts as the "
        "mean, or as none of the texts, and has a coefficient of its own, fitted on the images without the value (0 "
        "where there were none). A text that is not listed counts as none of those listed."
    )


def column_words(column: Column) -> str:
    """Returns a column and its values as Markdown.

    >>> column_words(Column("age", (), 50.0, 10.0)), column_words(Column("sex", ("F", "M"), None, None))
    ('age (a number; mean 50, standard deviation 10 in the fit)', 'sex (a text: F, M)')
    """
    if column.mean is not None:
        values = f"a number; mean {column.mean:.6g}, standard deviation {column.scale:.6g} in the fit"
    else:
        values = f"a text: {', '.join(map(plain, column.values)) or 'no value in the fit'}"
    return f"{plain(column.name)} ({values})"


def _counts(run: Run) -> list[dict[str, Any]]:
    """Returns one row per part of the split."""
    rows = []
    for part in ("train", "test"):
        images = run.split["images"].get(part, {})
        rows.append(
            {
                "part": "training and validation" if part == "train" else part,
                "images": f"{sum(images.values()):,}",
                "groups": f"{run.split['groups'].get(part, 0):,}",
                "classes": [f"{images.get(name, 0):,}" for name in run.content.classes],
            }
        )
    return rows


def _data(run: Run) -> Iterator[str]:
    crop, audit, balance = run.crop, run.audit, run.params.balance.strategy
    aside = crop["quarantined"] + audit["quarantined"]
    yield f"{crop['images']:,} images could be used, {aside:,} files were set aside."
    yield (
        f"Copies: {audit['pairs_bytes'] + audit['pairs_pixels']:,} pairs of equal pictures, {audit['pairs_near']:,} of "
        f"nearly equal ones (policy: {audit['policy']}); {audit['label_conflicts']:,} pictures had two labels."
    )
    yield f"Smaller classes: `balance.strategy` is {balance}."


def _evaluation(run: Run) -> str:
    head, unit = run.validation["votes"][HEADING], run.params.data.unit or "group"
    text = (
        f"Validation: {head['images']:,} images of {counted(head['groups'], unit)}; each was predicted by models, "
        "temperatures, weights and a threshold that were fitted without it."
    )
    if run.test is None:
        return f"{text} {NOT_SCORED}"
    head = run.test["votes"][HEADING]
    copies = "" if run.audit.get("may_leak") else " and no copy of a picture that was found"
    return (
        f"{text} Test: {head['images']:,} images of {counted(head['groups'], unit)}, on which nothing was fitted or "
        f"chosen. No {unit}{copies} is on two sides."
    )


def _tables(run: Run, models: Sequence[str], *, votes: bool) -> str:
    """Returns a table of scores per part."""
    blocks = []
    for part, scores in run.parts.items():
        lines = ["| | accuracy | balanced accuracy | AUC | Brier score | calibration slope |", "|---" * 6 + "|"]
        if votes:
            lines.append(_score_row(f"**{run.content.vote} vote**", scores["votes"][HEADING]))
        lines += [_score_row(plain(name), scores["members"][name]) for name in models]
        note = _decided(run, scores) if votes else ""
        blocks.append("\n".join([f"{part.capitalize()} images:", "", *lines, *(["", note] if note else [])]))
    return "\n\n".join(blocks if run.test is not None else [*blocks, NOT_SCORED]) + "\n"


def _score_row(name: str, scores: Mapping[str, Any]) -> str:
    cells = []
    for score, digits in (("accuracy", None), ("balanced_accuracy", None), ("auc", 3), ("brier", 3)):
        cells.append(score_text(scores, score, digits) if score in scores else "")
    slope = scores.get("calibration_slope")
    return f"| {name} | {' | '.join(cells)} | {'' if slope is None else f'{slope:.2f}'} |"


def _decided(run: Run, scores: Mapping[str, Any]) -> str:
    head = scores["votes"][HEADING]
    if run.content.positive is None or "sensitivity" not in head:
        return ""
    rates = [f"{name} {score_text(head, name)}" for name in ("sensitivity", "specificity")]
    return f"Decisions for {plain(run.content.positive)}: {', '.join(rates)}."


def _caveats(run: Run) -> Iterator[str]:
    if run.params.split.control is not None:
        yield "This run is a control: its labels were shuffled. It is of no use on images."
    count = (run.test or run.validation)["votes"][HEADING]["groups"]
    groups = counted(count, run.params.data.unit or "group")
    yield f"The scores rest on {groups}; the intervals are as wide as so few make them."
    if run.params.data.unit is None:
        yield "Nobody said what a group is: where images of one patient are in two parts, the scores are too high."
    if count := run.audit.get("shortcuts", 0):
        yield f"{count} facts of the files, such as their size, predict the class: part of the scores may be theirs."
    if run.audit.get("may_leak"):
        yield "Copies were found and kept apart by nothing: the scores may be too high."
    if run.test is None:
        yield "The test part is unscored, and the vote was chosen by validation scores: those may be a little too high."
    yield "Another scanner, stain or hospital may change the scores: measure them there before you rely on them."


def _training(card: Mapping[str, Any], recipe: Mapping[str, Any]) -> Iterator[str]:
    keys = ("epochs", "batch_size", "optimizer", "lr", "weight_decay", "schedule", "loss", "label_smoothing", "mixup")
    yield "Recipe: " + ", ".join(f"{key} {recipe[key]}" for key in keys if key in recipe) + "."
    altered = {key: value for key, value in recipe.get("augment", {}).items() if value and key != "interpolation"}
    yield "Alterations in training: " + ", ".join(f"{key} {value}" for key, value in altered.items()) + "."
    views = recipe.get("tta") or []
    yield f"Test-time augmentation: {', '.join(views) if views else 'none'}."
    numbers = [", ".join(f"{number:.4g}" for number in card[key]) for key in ("mean", "std")]
    yield f"Input: red, green, blue from 0 to 1, minus {numbers[0]}, divided by {numbers[1]}; `crop` is in the card."
    yield f"Selected by: {recipe.get('select')} on the validation fold; seed {card['seed']}."
