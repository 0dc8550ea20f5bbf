"""Opens the panel that a command uses: the study's own, named model files, or a package of `tumorboard export`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from tumorboard.base.errors import InputError
from tumorboard.base.params import Crop, Frames, Params
from tumorboard.base.tables import read_manifest
from tumorboard.commands.locked_outputs import explain_other_run
from tumorboard.commands.paths import MODELS, PANEL, SPLIT, UNLIKE
from tumorboard.data.new_files import Decoders
from tumorboard.panel.deciding import Deciding, unfitted
from tumorboard.panel.onnx_model import load_onnx
from tumorboard.panel.package import LoadPacked, load_package
from tumorboard.panel.panel import Panel
from tumorboard.panel.panel_file import PanelFile, read_panel
from tumorboard.panel.predict import Decisions, predict_images
from tumorboard.panel.votes import VOTES

OTHERWISE = ", or name what it exported: --panel FILE; or model files: --model FILE (repeatable)"


@dataclass(frozen=True)
class PanelSource:
    """A loaded panel with the settings that prediction needs."""

    panel: Panel
    deciding: Deciding  # vote, temperatures, weights, threshold
    known: Mapping[str, str]  # split of each file of the panel's own data, by the file's SHA-256
    limits: Crop  # its max_bytes and max_pixels hold beside the models' limits
    frames: Frames  # which frame of an image with several is used

    def predict(self, files: Sequence[Path], decoders: Decoders) -> Decisions:
        """Returns the table of `predict_images`; raises its InputError."""
        return predict_images(
            self.panel,
            files,
            deciding=self.deciding,
            frames=self.frames,
            known=self.known,
            decoders=decoders,
            limits=self.limits,
        )


def open_source(
    params: Params, *, models: Sequence[Path] = (), package: Path | None = None, vote: str | None = None
) -> PanelSource:
    """Loads a panel from the place that the user names.

    Args:
        params: parameters of the study in the current folder; elsewhere the package's.
        models: model files to use instead of the study's panel; nothing was fitted for them.
        package: a file of `tumorboard export` to use instead.
        vote: a name in VOTES; None: the vote that heads the report, or the soft one for `models`.

    Raises:
        InputError: there is no panel, a file of it is missing, damaged or does not belong to the others, or the vote
            has another name.
    """
    if vote is not None and vote not in VOTES:
        raise InputError(f"--vote is '{vote}', expected one of {', '.join(VOTES)}")
    if models and package:
        raise InputError("--model and --panel: name one of them, since each is a whole panel")
    if package:
        return _open_package(params, package, vote)
    if models:
        return _open_models(params, models, vote)
    return _open_study(params, vote)


def _open_package(params: Params, package: Path, vote: str | None) -> PanelSource:
    packed = load_package(package, _loader(params))
    crop = packed.preprocessing.crop
    deciding = _deciding(packed.content, vote, packed.preprocessing.abstain)
    return PanelSource(packed.panel, deciding, packed.known, limits=crop, frames=packed.preprocessing.frames)


def _loader(params: Params) -> LoadPacked:
    """Returns the function that loads a package's models: by torch where it is installed, else by onnxruntime."""
    if find_spec("torch") is None:
        return load_onnx
    from tumorboard.panel.trained_model import load_packed

    return partial(load_packed, device=_device(params))


def _device(params: Params) -> str:
    """Returns the device of the models, and sets the number of threads as in the run."""
    from tumorboard.models.device import choose_device, use_threads

    use_threads(params.runtime)
    return choose_device(params.runtime)


def _open_models(params: Params, models: Sequence[Path], vote: str | None) -> PanelSource:
    from tumorboard.panel.trained_model import load_panel

    panel = load_panel(models, _device(params))
    fit = unfitted(list(panel.models))
    deciding = Deciding(fit=fit, vote=vote or fit.vote, positive=None, abstain=params.evaluate.abstain)
    return PanelSource(panel, deciding, known={}, limits=params.crop, frames=params.data.frames)


def _open_study(params: Params, vote: str | None) -> PanelSource:
    from tumorboard.panel.trained_model import load_panel

    check_study()
    files, device = study_models(params), _device(params)
    with naming_the_cure():
        panel = load_panel(files, device, unlike=UNLIKE)
        content = read_panel(PANEL, list(panel.models), classes=panel.card.classes, manifest=panel.card.manifest)
    deciding = _deciding(content, vote, params.evaluate.abstain)
    return PanelSource(panel, deciding, known=known_digests(), limits=params.crop, frames=params.data.frames)


@contextmanager
def naming_the_cure() -> Iterator[None]:
    """Adds to an error about the study's own files how they become whole, where its message does not say so."""
    try:
        yield
    except InputError as error:
        if "`dvc " in str(error):
            raise
        raise InputError(f"{error}; if it is damaged, `dvc repro` restores it") from None


def _deciding(content: PanelFile, vote: str | None, abstain: float) -> Deciding:
    """Returns how a panel with fitted numbers decides."""
    return Deciding(
        fit=content.fit,
        vote=vote or content.vote,
        positive=content.positive,
        abstain=abstain,
        unlike=content.unlike,
    )


def check_study(otherwise: str = OTHERWISE) -> None:
    """Raises InputError in a folder that is no study: the package's own params.yaml names models without files.

    Args:
        otherwise: the end of the message, which names what else the command takes.
    """
    if not Path("params.yaml").is_file():
        raise InputError(
            f"{Path.cwd()} is no study: it has no params.yaml, and thus no panel. Change into the folder of a trained "
            f"study (`tumorboard new` makes one){otherwise}"
        )


def study_models(params: Params) -> list[Path]:
    """Returns the model files of the study's panel, each listed model by each listed fold.

    Raises:
        InputError: a model file is missing.
    """
    files = _members_files(MODELS, params)
    if missing := [file for file in files if not file.is_file()]:
        raise InputError(
            f"{missing[0]} is not there: `dvc repro` trains it, `dvc pull` fetches it; or name --model FILE"
        )
    return files


def study_inputs(params: Params) -> list[Path]:
    """Returns the files of the study from which its panel is loaded; some may be missing."""
    return [PANEL, SPLIT, *_members_files(MODELS, params), *_members_files(UNLIKE, params)]


def doubts_of_study(inputs: Sequence[Path]) -> list[str]:
    """Returns a warning per reason to doubt the study's own panel, each with its cure.

    Args:
        inputs: as from `study_inputs`; none where another panel is used.
    """
    if not inputs:
        return []
    doubts = []
    if other := explain_other_run(Path(), inputs):
        doubts.append(f"warning: the panel is not the one of this commit: {other}")
    if not SPLIT.is_file():
        doubts.append(
            f"warning: {SPLIT} is not there, so that no file is marked as known: `dvc checkout`, or `dvc repro`"
        )
    return doubts


def _members_files(folder: Path, params: Params) -> list[Path]:
    return [folder / name / f"{fold}.safetensors" for name in params.models for fold in params.folds]


def known_digests() -> dict[str, str]:
    """Returns the split ('train' or 'test') of each file of the study's data by SHA-256; empty before a first run."""
    if not SPLIT.is_file():
        return {}
    manifest = read_manifest(SPLIT)
    return dict(zip(manifest["sha256"], manifest["split"], strict=True))
