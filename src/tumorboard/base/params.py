"""The parameters of a study: params.yaml as frozen, typed and checked sections, without defaults in code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args

from pydantic import AfterValidator, Field, create_model, model_validator

from tumorboard.base.data_params import DVC_IGNORED_KEYS
from tumorboard.base.data_params import Data as Data
from tumorboard.base.data_params import Frames as Frames
from tumorboard.base.errors import InputError
from tumorboard.base.evaluate_params import AtCost as AtCost
from tumorboard.base.evaluate_params import AtSensitivity as AtSensitivity
from tumorboard.base.evaluate_params import AtSpecificity as AtSpecificity
from tumorboard.base.evaluate_params import Cost as Cost
from tumorboard.base.evaluate_params import Ensemble as Ensemble
from tumorboard.base.evaluate_params import Evaluate as Evaluate
from tumorboard.base.evaluate_params import Threshold as Threshold
from tumorboard.base.generate_params import Generate as Generate
from tumorboard.base.package_files import package_file
from tumorboard.base.presets import check_preset, fill_empty
from tumorboard.base.run_params import Count, NotNegative, Positive, Seed, Several, Share
from tumorboard.base.run_params import LrFind as LrFind
from tumorboard.base.run_params import Runtime as Runtime
from tumorboard.base.schema import Section, nearest, parse, read_yaml
from tumorboard.base.search_params import Search as Search
from tumorboard.base.short_params import read_short


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the lower end {pair[0]} exceeds the upper end {pair[1]}")
    return pair


def _widening(window: tuple[float, float]) -> tuple[float, float]:
    if window[0] >= window[1]:
        raise ValueError(f"the lower end {window[0]} must be below the upper end {window[1]}")
    return window


Range = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
View = Literal["hflip", "vflip", "quarter_turns", "shift"]
Byte = Annotated[int, Field(ge=0, le=255)]
# A model's name is that of its folder: not '.' or '..', and short enough for a file system, with an ending.
ModelName = Annotated[str, Field(pattern=r"^\.*[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=200)]


class Phantom(Section):
    images: Annotated[int, Field(ge=40)]
    patients: Annotated[int, Field(ge=10)]
    side: Annotated[int, Field(ge=96, le=1024)]


NEVER_AUTOMATIC = frozenset({"single", "hard"})  # votes that `ensemble.vote: auto` does not take (votes.AUTOMATIC)
SET = "set"  # the value of crop.window by which all files share one range


class Crop(Section):
    side: Annotated[int, Field(ge=16, le=2048)]
    border: bool
    border_threshold: Annotated[int, Field(ge=0, le=255)]
    border_tolerance: Share
    max_bytes: Count
    max_pixels: Count
    min_side: Count
    max_aspect: Annotated[float, Field(ge=1)]
    background: tuple[Byte, Byte, Byte]
    window: Annotated[tuple[float, float], AfterValidator(_widening)] | Literal["set"] | None
    scaled_decoding: Annotated[float, Field(ge=1)] | None
    shards: Annotated[int, Field(ge=1, le=128)]

    @property
    def fixed_window(self) -> tuple[float, float] | None:
        """The window, if it is given as two numbers."""
        return None if isinstance(self.window, str) else self.window


class Split(Section):
    test: Annotated[float, Field(gt=0, lt=1)]
    folds: Annotated[int, Field(ge=2)]
    fold_seed: Seed | None
    leave_out: str | None  # column of the data's table
    control: Seed | None  # seed by which labels are shuffled over groups; None: they are not shuffled
    tolerance: Share


class Audit(Section):
    """How copies of a picture are found, and how they are treated."""

    policy: Literal["regroup", "refuse", "report"]  # copies become one group | stop the run | are only listed
    label_conflicts: Literal["quarantine", "keep", "refuse"]  # treatment of a picture with two labels
    near: Annotated[float, Field(gt=0, le=1)] | None  # lowest correlation of copies; None: equal pixels only
    candidates: Annotated[float, Field(gt=0, lt=1)]  # lowest cosine at which the correlation is computed
    mirror: bool  # mirrored copies too
    overlap: (
        Annotated[float, Field(ge=0.3, lt=1)] | None
    )  # smallest share of a field that both pictures show; None: overlaps are not searched
    shortcut: Share  # lowest skill, from guessing (0) to perfect (1), at which a fact of the files causes a warning


class Augment(Section):
    """Ranges of the random changes of an image; zero (one for zoom and crop) leaves it unchanged."""

    hflip: Share  # probability of a mirror image
    vflip: Share  # probability of an image upside down
    rotate: Annotated[float, Field(ge=0, le=180)]  # degrees to either side
    zoom: Range  # lowest and highest factor
    crop: Annotated[float, Field(gt=0, le=1)]  # smallest side of a random crop as a share of the image, resized back
    shift: Share  # largest shift as a share of the side
    brightness: Share  # largest relative change
    contrast: Share  # largest relative change
    saturation: Share  # largest relative change
    blur: Share  # probability of a blur
    blur_sigma: Range  # lowest and highest standard deviation in pixels
    noise: Annotated[float, Field(ge=0, le=255)]  # standard deviation in grey values
    fill: Literal["reflect", "border", "black"]  # content of the area beyond the edge
    interpolation: Literal["bilinear", "bicubic"]  # where rotation, zoom, crop or shift move pixels


class Balance(Section):
    strategy: Literal["none", "augment", "generate", "weights", "sampler", "focal"]
    target: Count | None
    multiply: Count
    augment: Augment
    generate: Generate


class Train(Section):
    """The part of a recipe that all models share: everything but architecture and seed."""

    pretrained: str
    head: Literal["linear", "mlp"]
    head_input: Literal["features", "classifier"]
    head_widths: tuple[Count, ...]
    head_batch_norm: bool | tuple[bool, ...]
    head_dropout: Share | tuple[Share, ...]
    head_activation: Literal["relu", "leaky_relu"]
    normalize: Literal["auto", "imagenet", "dataset"]
    epochs: Count
    batch_size: Count
    sampler: Literal["shuffle", "balanced"]
    accumulate: Count
    progressive: Annotated[float, Field(gt=0, le=1)]
    optimizer: Literal["sgd", "adam", "adamw"]
    lr: Positive
    backbone_lr_scale: NotNegative
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    freeze_epochs: Several
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NotNegative
    clip_norm: NotNegative
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    average_last: Several
    schedule: Literal["constant", "step", "cosine", "plateau", "onecycle"]
    warmup_epochs: NotNegative
    step_epochs: Count
    step_factor: Annotated[float, Field(gt=0, lt=1)]
    plateau_patience: Several
    loss: Literal["cross_entropy", "focal"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    class_weights: Literal["none", "balanced"] | tuple[Positive, ...]
    focal_gamma: NotNegative
    focal_alpha: tuple[Positive, ...] | None
    mixup: NotNegative
    cutmix: NotNegative
    mix_probability: Share
    precision: Literal["bf16", "fp16", "off"]
    channels_last: bool
    deterministic: bool
    sync_batchnorm: bool
    nonfinite: Literal["stop", "skip"]
    nonfinite_budget: Several
    select: Literal["loss", "accuracy", "balanced_accuracy", "f1", "auc"]
    keep: Literal["best", "last"]
    early_stopping: Several
    tta: tuple[View, ...]
    tensorboard: bool
    augment: Augment


class Recipe(Train):
    """The resolved recipe of one model: `train` overridden by the model's own entries."""

    architecture: str
    seed: Seed

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        for key in ("head_batch_norm", "head_dropout"):
            given = getattr(self, key)
            if isinstance(given, tuple) and len(given) != len(self.head_widths):
                raise ValueError(f"{key} has {len(given)} entries for {len(self.head_widths)} head_widths")
        if self.freeze_epochs >= self.epochs and self.freeze_epochs > 0:
            raise ValueError(f"freeze_epochs {self.freeze_epochs} leaves the backbone none of {self.epochs} epochs")
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} is longer than all of {self.epochs} epochs")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate {self.accumulate} exceeds batch_size {self.batch_size}")
        if self.average_last > self.epochs:
            raise ValueError(f"average_last {self.average_last} is more than all of {self.epochs} epochs")
        if self.average_last and self.ema_decay:
            raise ValueError("average_last and ema_decay both average the weights: set one of them to 0")
        if self.average_last and self.early_stopping:
            raise ValueError(
                f"early_stopping {self.early_stopping} may end a training before the last epochs, which average_last "
                f"{self.average_last} averages: set one of them to 0"
            )
        if self.loss == "focal" and self.label_smoothing > 0:
            raise ValueError(f"label_smoothing is {self.label_smoothing:g}, but the focal loss has none: set it to 0")
        if self.sampler == "balanced" and self.class_weights == "balanced":
            raise ValueError("sampler and class_weights are both balanced, which evens the classes out twice: set one")
        return self


def _optional(section: type[Section], name: str, **nested: Any) -> Any:
    """Returns a section with the same keys, each of which may be null or left out; `nested` replaces types by key."""
    fields = {key: nested.get(key, field.rebuild_annotation()) for key, field in section.model_fields.items()}
    return create_model(name, __base__=Section, **{key: (Union[kind, None], None) for key, kind in fields.items()})  # type: ignore[call-overload]


Overrides = _optional(Recipe, "Overrides", augment=_optional(Augment, "AugmentOverrides"))


def _check_architectures(recipes: Mapping[str, Any]) -> None:
    """Raises ValueError for a recipe without an architecture, such as one under a misspelled name.

    Args:
        recipes: the entries by name, completed by those of the package.
    """
    complete = [name for name, entry in recipes.items() if entry.architecture is not None]
    for name, entry in recipes.items():
        if entry.architecture is not None:
            continue
        if "architecture" in entry.model_fields_set:
            raise ValueError(f"recipes.{name}.architecture is empty: name one, such as resnet18")
        near = nearest(name, complete)
        raise ValueError(
            f"recipes.{name}: there is no such recipe, and an own one needs an architecture"
            f"{near if near.endswith('?') else ', such as resnet18'}"
        )


class Params(Section):
    """All of params.yaml, with the preset's values for the keys that are empty there."""

    study: str | None
    preset: Annotated[str, AfterValidator(check_preset)]
    seed: Seed
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    folds: Annotated[tuple[Several, ...], Field(min_length=1)]
    medmnist: tuple[str, ...]
    phantom: Phantom
    data: Data
    crop: Crop
    audit: Audit
    split: Split
    balance: Balance
    train: Train
    recipes: dict[ModelName, Overrides]  # type: ignore[valid-type]
    evaluate: Evaluate
    ensemble: Ensemble
    lr_find: LrFind
    search: Search
    runtime: Runtime

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        for name, listed in (("models", self.models), ("folds", self.folds)):
            if len(set(listed)) < len(listed):
                raise ValueError(f"{name} lists an entry twice: {list(listed)}")
        for fold in self.folds:
            if self.split.leave_out is None and fold >= self.split.folds:  # else the values of the column decide
                raise ValueError(f"folds lists {fold}, but split.folds makes 0 to {self.split.folds - 1}")
        name = self.data.raw.removeprefix("medmnist:")
        if name not in (self.data.raw, *self.medmnist):
            raise ValueError(f"data.raw is '{self.data.raw}': the list medmnist must have {name}, to be downloaded")
        if hidden := DVC_IGNORED_KEYS & self.recipes.keys():
            raise ValueError(
                f"recipes has a model named '{min(hidden)}': DVC ignores changes below a key of that name, rename it"
            )
        votes = get_args(Ensemble.model_fields["vote"].annotation)
        if shared := {"vote", "heading", *votes} & self.recipes.keys():
            raise ValueError(f"recipes has a model named '{min(shared)}', which is the name of a vote: rename it")
        for name in self.evaluate.primary or ():
            if name not in (comparable := ["vote", *self.models, *(vote for vote in votes if vote != "auto")]):
                raise ValueError(
                    f"evaluate.primary names '{name}', which is no member or vote; there are {', '.join(comparable)}"
                )
        _check_primary(self.evaluate.primary, self.ensemble.vote, votes)
        _check_architectures(self.recipes)
        for model in self.models:
            if model not in self.recipes:
                near = nearest(model, self.recipes)
                raise ValueError(f"models lists '{model}', which has no entry under recipes{near}")
        return self


def _check_primary(primary: tuple[str, str] | None, heading: str, votes: tuple[str, ...]) -> None:
    """Raises ValueError where the vote that heads the report would, or might, be compared with itself."""
    if primary is None or "vote" not in primary:
        return
    other = primary[primary[0] == "vote"]
    possible = set(votes) - NEVER_AUTOMATIC if heading == "auto" else {heading}
    if other in possible:
        is_itself = "may be itself" if heading == "auto" else "is"
        raise ValueError(
            f"evaluate.primary compares the vote that heads the report with '{other}', which it {is_itself} "
            f"(ensemble.vote: {heading}): name a member or another vote"
        )


def load_params(path: Path | str) -> Params:
    """Reads params.yaml, completes it by the package's defaults and its preset, and checks it.

    Raises:
        InputError: there is no such file, or keys are wrong: one line per key names what is expected.
    """
    if Path(path) == Path("params.yaml") and not Path(path).exists():
        raise InputError(
            f"{Path.cwd()} is no study: it has no params.yaml. Change into the folder of a study; `tumorboard new` "
            "makes one"
        )
    return parse(Params, read_values(path), str(path))


def read_values(path: Path | str) -> dict[str, Any]:
    """Returns the plain values of params.yaml, completed by the package's defaults and by the preset, unchecked.

    Raises:
        InputError: there is no such file, or it lacks sections and the line `tumorboard:`.
    """
    return fill_empty(read_short(read_yaml(Path(path)), str(path)))


def package_params(preset: str) -> Params:
    """Returns the package's own parameters under another preset; raises InputError if there is no such preset."""
    file = package_file("params.yaml")
    return parse(Params, fill_empty(read_yaml(file) | {"preset": preset}), str(file))


def find_params() -> Path:
    """Returns params.yaml in the current folder, else that of the installed project."""
    own = Path("params.yaml")
    return own if own.is_file() else package_file("params.yaml")
