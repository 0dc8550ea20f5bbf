"""Every hyper-parameter, read once at the door: params.yaml becomes frozen models, and what does not fit is named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, Field, create_model, model_validator

from tumorboard.errors import InputError
from tumorboard.sections import Section, nearest, parse, read_yaml

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # as torch takes them


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the lower end {pair[0]} exceeds the upper end {pair[1]}")
    return pair


def _widening(window: tuple[float, float]) -> tuple[float, float]:
    if window[0] >= window[1]:
        raise ValueError(f"the lower end {window[0]} must be below the upper end {window[1]}")
    return window


Range = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
Byte = Annotated[int, Field(ge=0, le=255)]
Frames = Literal["first", "middle"] | None


# Keys that DVC 3's run cache leaves out, at any depth, when it compares parameters (dvc/stage/cache.py): a stage whose
# parameter of such a name has changed would be answered from the cache with what another value had made.
DVC_OVERLOOKS = {"size", "nfiles"}


class Phantom(Section):
    images: Annotated[int, Field(ge=40)]
    patients: Annotated[int, Field(ge=10)]
    side: Annotated[int, Field(ge=96, le=1024)]


class Data(Section):
    raw: str
    table: str | None
    group_pattern: str | None
    frames: Frames
    max_quarantined: Several


class Crop(Section):
    side: Annotated[int, Field(ge=16, le=2048)]
    border: bool
    border_threshold: Annotated[int, Field(ge=0, le=255)]
    border_tolerance: Share
    max_pixels: Count
    min_side: Count
    max_aspect: Annotated[float, Field(ge=1)]
    background: tuple[Byte, Byte, Byte]
    window: Annotated[tuple[float, float], AfterValidator(_widening)] | None
    scaled_decoding: Annotated[float, Field(ge=1)] | None
    shards: Annotated[int, Field(ge=1, le=128)]


class Split(Section):
    test: Annotated[float, Field(gt=0, lt=1)]
    folds: Annotated[int, Field(ge=2)]
    fold_seed: Seed | None
    tolerance: Share


class Audit(Section):
    """What counts as a copy, and what is done about it.

    policy: copies become one group; or stop the run; or are only reported. label_conflicts: what becomes of a picture
    under two labels. near, candidates: correlation and cosine; near null looks for equal pixels only. shortcut: the
    share of the way from guessing to perfect at which facts that show no disease are a warning.
    """

    policy: Literal["regroup", "refuse", "report"]
    label_conflicts: Literal["quarantine", "keep", "refuse"]
    near: Annotated[float, Field(gt=0, le=1)] | None
    candidates: Annotated[float, Field(gt=0, lt=1)]
    mirror: bool
    shortcut: Share


class Augment(Section):
    """Ranges that the random alterations of an image are drawn from; zeros (ones for zoom and crop) leave it as it is.

    hflip, vflip, blur: probabilities. rotate: degrees to either side. zoom: factors. crop: smallest side of a random
    crop as a share of the image, resized back. shift: share of the side. brightness, contrast, saturation: largest
    relative change. blur_sigma, in pixels. noise: standard deviation in grey values. fill: what lies beyond the edge.
    interpolation: between pixels, where rotation, zoom, crop or shift move them.
    """

    hflip: Share
    vflip: Share
    rotate: Annotated[float, Field(ge=0, le=180)]
    zoom: Range
    crop: Annotated[float, Field(gt=0, le=1)]
    shift: Share
    brightness: Share
    contrast: Share
    saturation: Share
    blur: Share
    blur_sigma: Range
    noise: Annotated[float, Field(ge=0, le=255)]
    fill: Literal["reflect", "border", "black"]
    interpolation: Literal["bilinear", "bicubic"]


class Balance(Section):
    strategy: Literal["none", "augment", "weights", "sampler", "focal"]
    target: Count | None
    multiply: Count
    augment: Augment


class Train(Section):
    """The shared part of a recipe: all that decides how a model is trained, but for its architecture and seed."""

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
    optimizer: Literal["sgd", "adam", "adamw"]
    lr: Positive
    backbone_lr_scale: NotNegative
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    freeze_epochs: Several
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NotNegative
    clip_norm: NotNegative
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
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
    tensorboard: bool
    augment: Augment


class Recipe(Train):
    """One model's resolved recipe: `train` with the model's own entries over it."""

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
        if self.loss == "focal" and self.label_smoothing > 0:
            raise ValueError(f"label_smoothing is {self.label_smoothing:g}, but the focal loss has none: set it to 0")
        if self.sampler == "balanced" and self.class_weights == "balanced":
            raise ValueError("sampler and class_weights are both balanced, which evens the classes out twice: set one")
        return self


Overrides = create_model(  # type: ignore[call-overload]
    "Overrides",
    __base__=Section,
    __doc__="A model's own entries; a key that is null or left out inherits.",
    **{name: (Union[field.rebuild_annotation(), None], None) for name, field in Recipe.model_fields.items()},
)


class LrFind(Section):
    first: Positive
    last: Positive
    steps: Annotated[int, Field(ge=10)]
    smoothing: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _rises(self) -> "LrFind":
        if self.first >= self.last:
            raise ValueError(f"first {self.first} is not below last {self.last}")
        return self


class Evaluate(Section):
    bootstrap: Several
    confidence: Annotated[float, Field(gt=0, lt=1)]


class Ensemble(Section):
    vote: Literal["hard", "soft", "product", "weighted"]


class Runtime(Section):
    device: Literal["auto", "cpu", "cuda"]
    processes: Literal["auto"] | Count
    workers: Literal["auto"] | Count
    scheduler: Annotated[str, Field(pattern=r"^(tcp|tls)://\S+:\d+$")] | None
    timeout: Positive
    checkpoint_seconds: NotNegative
    checkpoint_days: Positive


class Params(Section):
    """The whole of params.yaml."""

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
    inherit: dict[str, None]
    recipes: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_.-]*$")], Overrides]  # type: ignore[valid-type]
    evaluate: Evaluate
    ensemble: Ensemble
    lr_find: LrFind
    runtime: Runtime

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        for name, listed in (("models", self.models), ("folds", self.folds)):
            if len(set(listed)) < len(listed):
                raise ValueError(f"{name} lists an entry twice: {list(listed)}")
        for fold in self.folds:
            if fold >= self.split.folds:
                raise ValueError(f"folds lists {fold}, but split.folds makes 0 to {self.split.folds - 1}")
        name = self.data.raw.removeprefix("medmnist:")
        if name not in (self.data.raw, *self.medmnist):
            raise ValueError(f"data.raw is '{self.data.raw}': the list medmnist must have {name}, to be downloaded")
        if hidden := DVC_OVERLOOKS & self.recipes.keys():
            raise ValueError(
                f"recipes has a model named '{min(hidden)}': DVC overlooks changes below that key, rename it"
            )
        for model in self.models:
            if model not in self.recipes:
                near = nearest(model, self.recipes)
                raise ValueError(f"models lists '{model}', which has no entry under recipes{near}")
        return self


def load_params(path: Path | str) -> Params:
    """Read and check params.yaml; raises InputError that names the file, each wrong key and what would be right."""
    return parse(Params, read_yaml(Path(path)), str(path))


# What each balance.strategy sets in every recipe, over these neutral values; 'augment' makes copies instead.
STRATEGIES: dict[str, dict[str, str]] = {
    "none": {},
    "augment": {},
    "weights": {"class_weights": "balanced"},
    "sampler": {"sampler": "balanced"},
    "focal": {"loss": "focal", "class_weights": "balanced"},
}
_NEUTRAL = {"class_weights": "none", "sampler": "shuffle", "loss": "cross_entropy"}


def resolve_recipe(params: Params, model: str) -> Recipe:
    """The recipe of a model: `train`, under what `balance.strategy` sets, under the model's entries that are not null.

    A given `focal_alpha` stands for the weights that strategy 'focal' would set. Raises InputError, where the strategy
    sets something other than the model's own entry, or than `train` has, unless that is the neutral value.
    """
    if model not in params.recipes:
        raise InputError(f"model '{model}' has no entry under recipes{nearest(model, params.recipes)}")
    entries: dict[str, Any] = dict(params.recipes[model])
    own = {key: value for key, value in entries.items() if value is not None}
    if "architecture" not in own:
        raise InputError(f"recipes.{model}.architecture is missing: name one, such as resnet18")
    recipe = {"seed": params.seed} | dict(params.train) | own
    return parse(Recipe, recipe | _balancing(params, model, own, recipe), f"recipes.{model}")


def _balancing(params: Params, model: str, own: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, str]:
    strategy = params.balance.strategy
    entries = dict(STRATEGIES[strategy])
    if strategy == "focal" and recipe["focal_alpha"] is not None:
        del entries["class_weights"]
    for key, value in entries.items():
        where = f"recipes.{model}.{key}" if key in own else f"train.{key}"
        if recipe[key] != value and (key in own or recipe[key] != _NEUTRAL[key]):
            raise InputError(
                f"balance.strategy {strategy} sets {key} to {value}, but {where} is {recipe[key]!r}: "
                f"choose another strategy, or {'null' if key in own else _NEUTRAL[key]} there"
            )
    return entries
