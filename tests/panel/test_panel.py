from pathlib import Path

import pytest

from tests.panel.models import save_panel, save_untrained
from tumorboard.base.errors import InputError
from tumorboard.panel.trained_model import load_panel


@pytest.fixture
def files(tmp_path: Path, params) -> list[Path]:
    return save_panel(tmp_path, params)


def test_models_are_grouped_by_name_in_the_order_of_the_files(files):
    panel = load_panel([files[2], files[1], files[0]], "cpu")
    assert {name: [model.file for model in folds] for name, folds in panel.models.items()} == {
        "cnn": [files[2]],
        "linear": [files[1], files[0]],
    }
    assert [model.card.fold for model in panel.models["linear"]] == [1, 0]
    assert panel.card.name == "cnn"
    assert not panel.models["cnn"][0].network.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": ("a", "b", "c")},
            r" and .*linear/0.safetensors do not belong to one panel: their classes are \('a', ",
        ),
        (
            {"manifest": "1" * 16},
            " and .*linear/0.safetensors do not belong to one panel: their manifest is 1{16} and 0{16}$",
        ),
        ({"fold": 0, "name": "linear"}, ": fold 0 of model 'linear' is already in the panel$"),
    ],
)
def test_models_that_do_not_belong_together_are_refused(files, tmp_path, params, changes, message):
    stranger = save_untrained(tmp_path, params, "other", 0, 5, changes)
    with pytest.raises(InputError, match=f"^{stranger}{message}"):
        load_panel([*files, stranger], "cpu")


def test_models_for_other_crops_are_refused(files, tmp_path, params):
    other = params.model_copy(update={"crop": params.crop.model_copy(update={"border": not params.crop.border})})
    stranger = save_untrained(tmp_path, other, "other", 0, 5)
    with pytest.raises(InputError, match=r"do not belong to one panel: crop\.border is False and True$"):
        load_panel([*files, stranger], "cpu")


def test_statistics_of_the_training_images_are_read_where_they_are_wanted(files, tmp_path):
    assert all(model.unlike is None for folds in load_panel(files, "cpu").models.values() for model in folds)
    missing = tmp_path / "unlike/linear/0.safetensors"
    with pytest.raises(InputError, match=rf"^{missing}: is not there: `dvc repro` writes it"):
        load_panel(files, "cpu", unlike=tmp_path / "unlike")


def test_a_panel_without_models_is_refused():
    with pytest.raises(InputError, match="at least one model file"):
        load_panel([], "cpu")
