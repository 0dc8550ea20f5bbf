"""The file of a panel: nothing is lost on the way through JSON, and a file that does not fit is named."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tumorboard.base.errors import InputError
from tumorboard.evaluation.held_out import assign_parts
from tumorboard.panel.fits import Fitting, fit_panel
from tumorboard.panel.fitted import Fit, apply_vote, calibrate_members
from tumorboard.panel.panel_file import DISCLAIMER, read_panel, write_panel
from tumorboard.panel.votes import VOTES

MODELS = ["zebra", "cnn", "ärger"]  # neither sorted nor ASCII


@pytest.fixture
def members() -> np.ndarray:
    generator = np.random.default_rng(3)
    return generator.dirichlet([0.4, 0.6], size=(3, 50))


@pytest.fixture
def fit(members: np.ndarray) -> Fit:
    """Fitted numbers with all their digits."""
    fitting = Fitting(models=MODELS, classes=["well", "ill"], vote="auto", calibrate=True, positive=1, rule="youden")
    actual = (members.mean(0)[:, 1] + np.random.default_rng(4).normal(size=50) / 3 > 0.5).astype(np.int64)
    return fit_panel(fitting, members, actual, assign_parts([f"p{row // 2}" for row in range(50)]))


def write(path: Path, fit: Fit, positive: str | None = "ill") -> None:
    write_panel(path, fit, classes=["well", "ill"], manifest="0" * 16, positive=positive)


def read(path: Path, models=MODELS, classes=("well", "ill"), manifest="0" * 16):
    return read_panel(path, models, classes=classes, manifest=manifest)


def test_the_fit_is_equal_to_the_last_digit_and_in_the_order_of_the_models(tmp_path, fit, members):
    assert fit.threshold is not None
    write(tmp_path / "models/panel.json", fit)
    panel = read(tmp_path / "models/panel.json")
    assert panel.fit == fit
    assert list(panel.fit.temperatures) == list(panel.fit.weights) == MODELS
    for vote in VOTES:
        before, after = (apply_vote(one, vote, calibrate_members(one, members)) for one in (fit, panel.fit))
        assert (before == after).all()
    assert (panel.positive, panel.vote, panel.intended_use) == ("ill", fit.vote, DISCLAIMER)
    assert list(json.loads((tmp_path / "models/panel.json").read_text())["temperatures"]) == MODELS


def test_a_stacking_with_columns_is_equal_to_the_last_digit_and_an_earlier_file_has_none(tmp_path, members):
    actual = (members.mean(0)[:, 1] + np.random.default_rng(4).normal(size=50) / 3 > 0.5).astype(np.int64)
    cells = np.array([[str(30 + row / 7), ["f", "", "m"][row % 3]] for row in range(50)], dtype=object)
    fitting = Fitting(
        models=MODELS,
        classes=["well", "ill"],
        vote="stacking",
        calibrate=True,
        positive=1,
        rule="youden",
        stacking_columns=["age", "sex"],
    )
    fit = fit_panel(fitting, members, actual, np.arange(50) % 5, cells=cells)
    write(tmp_path / "panel.json", fit)
    panel = read(tmp_path / "panel.json")
    assert panel.fit == fit
    assert [column.name for column in panel.fit.stacking.columns] == ["age", "sex"]
    before, after = (apply_vote(one, "stacking", calibrate_members(one, members), cells) for one in (fit, panel.fit))
    assert (before == after).all()
    content = json.loads((tmp_path / "panel.json").read_text())
    for changes, message in (
        ({"single": "vgg"}, "single is vgg, expected one of its models"),
        ({"stacking": None}, "lacks the numbers of the stacking vote: run `dvc repro ensemble`"),
        (
            {"stacking": content["stacking"] | {"intercepts": [0.0]}},
            "stacking has other numbers of coefficients than",
        ),
        ({"stacking": content["stacking"] | {"coefficients": [[0.0], [1.0]]}}, "stacking has other numbers of coeff"),
        (
            {"stacking": content["stacking"] | {"intercepts": [0.0, float("nan")]}},
            "stacking.intercepts.1: Input",
        ),
    ):
        (tmp_path / "panel.json").write_text(json.dumps(content | changes))
        with pytest.raises(InputError, match=f"json: {message}"):
            read(tmp_path / "panel.json")
    earlier = {name: value for name, value in content.items() if name not in ("single", "stacking")}
    (tmp_path / "panel.json").write_text(json.dumps(earlier | {"vote": "soft"}))
    assert read(tmp_path / "panel.json").fit.votes == ("single", "hard", "soft", "product", "weighted")


def test_equal_fits_give_equal_bytes_and_no_threshold_is_null(tmp_path, fit):
    for name in ("one.json", "two.json"):
        write(tmp_path / name, fit)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    plain = Fit(vote="hard", temperatures={"m": 1.0}, weights={"m": 1.0}, vote_temperatures={})
    write(tmp_path / "plain.json", plain, positive=None)
    assert json.loads((tmp_path / "plain.json").read_text())["threshold"] is None
    assert read(tmp_path / "plain.json", ["m"]).fit == plain
    assert read(tmp_path / "plain.json", ["m"]).unlike is None
    write_panel(
        tmp_path / "plain.json", plain, classes=["well", "ill"], manifest="0" * 16, positive=None, unlike=1.0 + 1e-15
    )
    assert read(tmp_path / "plain.json", ["m"]).unlike == 1.0 + 1e-15


def test_models_may_be_asked_for_in_another_order(tmp_path, fit):
    write(tmp_path / "panel.json", fit)
    assert list(read(tmp_path / "panel.json", MODELS[::-1]).temperatures) == MODELS


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"classes": ("ill", "well")}, "was fitted for other classes than the models have: run `dvc repro ensemble`"),
        ({"manifest": "1" * 16}, "was fitted for other manifest than the models have: run `dvc repro ensemble`"),
        ({"models": ["zebra", "cnn"]}, "was fitted for zebra, cnn, ärger, but the panel has zebra, cnn: run `dvc"),
        ({"models": [*MODELS, "vgg"]}, "was fitted for zebra, cnn, ärger, but the panel has zebra, cnn, ärger, vgg"),
    ],
)
def test_a_file_of_other_models_is_refused(tmp_path, fit, asked, message):
    write(tmp_path / "panel.json", fit)
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path / 'panel.json'))}: {message}"):
        read(tmp_path / "panel.json", **asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vote": "loud"}, "vote is 'loud', expected one of single, hard, soft, product, weighted, stacking"),
        ({"vote": "\x1b[2Kloud"}, r"vote is '\\x1b\[2Kloud', expected one of single"),
        ({"temperatures": {"\x1b[2Kx": 1}}, r"was fitted for '\\x1b\[2Kx', but the panel has"),
        ({"positive": "healthy"}, "positive is healthy, expected one of well, ill"),
        ({"format": 2}, "format: Input should be 1"),
        ({"threshold": "high"}, "threshold: Input should be a valid number"),
        ({"threshold": float("nan")}, "threshold: Input should be "),
        ({"threshold": -1e308}, "threshold: Input should be greater than or equal to 0"),
        ({"temperatures": dict.fromkeys(MODELS, 0)}, "temperatures.zebra: Input should be greater than 0"),
        ({"temperatures": dict.fromkeys(MODELS, float("nan"))}, "temperatures.zebra: Input should be a finite number"),
        ({"vote_temperatures": {"soft": -1}}, "vote_temperatures.soft: Input should be greater than 0"),
        ({"weights": dict.fromkeys(MODELS, -0.1)}, "weights.zebra: Input should be greater than or equal to 0"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"x\x1b[2K\n" + "y" * 500: 1}, r"'x\\x1b\[2K\\ny"),
        ({"weights": None}, "weights: Input should be a valid dictionary"),
    ],
)
def test_a_file_that_was_edited_wrongly_is_one_message(tmp_path, fit, changes, message):
    file = tmp_path / "panel.json"
    write(file, fit)
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(InputError, match=f"^{re.escape(str(file))}: {message}") as raised:
        read(file)
    assert len(str(raised.value)) < 700
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"null", b'{"format": 1}'])
def test_a_damaged_file_is_one_message(tmp_path, content):
    (tmp_path / "panel.json").write_bytes(content)
    with pytest.raises(InputError, match=r"panel\.json: "):
        read(tmp_path / "panel.json")


def test_a_missing_file_names_the_command_that_writes_it(tmp_path):
    with pytest.raises(InputError, match=r"panel\.json: is not there: `dvc repro ensemble` writes it, `dvc pull`"):
        read(tmp_path / "panel.json")
    (tmp_path / "panel.json").mkdir()
    with pytest.raises(InputError, match=r"panel\.json: cannot be read: "):
        read(tmp_path / "panel.json")
