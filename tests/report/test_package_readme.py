"""The README of a package: its vote and its preprocessing are enough to compute by hand what the code does."""

import re

import numpy as np
import pytest

from tests.report.stacked_panel import COEFFICIENTS, STACKING, panel
from tumorboard.base.params import Params
from tumorboard.images.grey import scale_grey
from tumorboard.panel.package import Preprocessing
from tumorboard.panel.panel_file import PanelFile
from tumorboard.panel.stacking import apply_stacking
from tumorboard.panel.votes import hard_vote
from tumorboard.report.package_readme import crop_steps, render_readme, stacking_features, vote_step


def readme(params: Params, content: PanelFile) -> str:
    preprocessing = Preprocessing(crop=params.crop, frames=None, abstain=0.0)
    return render_readme("study", content, [], preprocessing, opset=17, checked="", differences={})


def test_the_features_of_the_stacking_vote_are_stated_in_their_order() -> None:
    assert vote_step(panel("stacking")).startswith(
        "The vote is a multinomial logistic regression, softmax(C x + b) with the 9 features x below. In panel.json "
        "`stacking` has C, `coefficients` [2, 9], one row per class in the order well, ill\\_, and b, `intercepts` [2]."
    )
    assert list(stacking_features(panel("stacking"))) == [
        "2 × 2 features, member after member in the order net, cnn: for each class log(max(p, 1e-06)) of the model's "
        "probabilities p from step 2, less the mean of these 2 logarithms.",
        "age, 2 features: (number - 50) / 8, or 0 where it is missing; then 1 where it is missing, else 0.",
        "sex, 3 features: 1 where the text is F, else 0; 1 where the text is M, else 0; 1 where it is missing, else 0. "
        "Another text has 0 in all of them.",
        "Missing is an empty cell or `unknown`. `stacking.columns` in panel.json has means, standard deviations "
        "(`scale`) and texts (`values`) in full.",
    ]
    assert len(list(stacking_features(panel("stacking", columns=False)))) == 1
    assert list(stacking_features(panel("soft"))) == []


@pytest.mark.parametrize(
    ("age", "sex", "encoded"),
    [("66", "M", [2, 0, 0, 1, 0]), ("", "unknown", [0, 1, 0, 0, 1]), ("unknown", "female", [0, 1, 0, 0, 0])],
)
def test_what_the_readme_says_of_the_stacking_vote_is_what_it_does(age: str, sex: str, encoded: list[int]) -> None:
    """Two members with the probabilities 0.8 and 0, which counts as 0.000001; the text of the features by hand."""
    members = np.array([[[0.8, 0.2]], [[1.0, 0.0]]])
    half = [np.log(0.8 / 0.2) / 2, np.log(1 / 1e-6) / 2]  # of two logarithms, half their difference from either side
    features = [half[0], -half[0], half[1], -half[1], *encoded]
    odds = COEFFICIENTS @ features + [0, -0.125]
    expected = np.exp(odds) / np.exp(odds).sum()
    computed = apply_stacking(STACKING, members, np.array([[age, sex]], dtype=object))
    np.testing.assert_allclose(computed, [expected], rtol=1e-12)


def test_the_number_of_the_hard_vote_is_stated_whatever_the_heading_vote_is() -> None:
    """Two of three members choose the first class, and its mean probability is 0.5: (2 + 0.5) / (3 + 1)."""
    members = np.array([[[0.6, 0.4]], [[0.7, 0.3]], [[0.2, 0.8]]])
    np.testing.assert_allclose(hard_vote(members, np.ones(3)), [[0.625, 0.375]], rtol=1e-12)
    number = "(the number of members that choose it + the mean of the members' probabilities of it) / (members + 1)"
    hard = vote_step(panel("hard"))
    assert hard.startswith(f"The vote's number for a class is {number}; it is no probability.")
    for vote in ("single", "soft", "product", "weighted", "stacking"):
        other = vote_step(panel(vote))
        assert other.endswith(f"another one; the number of the hard vote for a class is {number}, no probability.")
        assert other.count(number) == hard.count(number) == 1


def test_the_command_of_a_panel_with_columns_names_the_table_and_its_columns(params: Params) -> None:
    use, rest = readme(params, panel("stacking")).split("## Preprocessing")
    command = "tumorboard predict --panel THIS.zip path/to/images"
    assert f"{command} --columns TABLE.csv --out new.csv\n```\n\nThe vote uses more than the images." in use
    assert "\n- age (a number; mean 50, standard deviation 8 in the fit)\n- sex (a text: F, M)\n" in use
    steps = r"\n3\. The vote is .*\n   - 2 × 2 features.*\n   - age, .*\n   - sex, .*\n   - Missing .*\n4\. "
    assert re.search(steps, rest)
    for content in (panel("soft"), panel("stacking", columns=False)):
        use, rest = readme(params, content).split("## Preprocessing")
        assert f"{command} --out new.csv\n```\n\nEvery entry" in use
        assert "missing" not in rest


def window(params: Params, value: tuple[float, float] | None) -> str:
    crop = params.crop.model_copy(update={"window": value})
    return list(crop_steps(Preprocessing(crop=crop, frames=None, abstain=0.0)))[1]


def test_grey_of_more_than_8_bits_is_scaled_as_it_is_stated(params: Params) -> None:
    """A PNG or TIFF goes by its brightest pixel: 1023 is white where that is at most 1023, else 4095, and so on."""
    text = window(params, None)
    assert (
        "A PNG, TIFF or .npy file: from 0 to the first of 255, 1023, 4095, 16383, 65535 that no visible pixel of it "
        "exceeds; floats, negative numbers and larger ones are refused. A DICOM file, after its rescaling: by the "
        "header's first VOI LUT or window; without one over the rescaled range of BitsStored, if BitsStored is below "
        "16, no pixel is outside and there is no modality LUT sequence; else, for whole numbers from 0 to 65535, as a "
        "PNG; else from the file's least to its largest number."
    ) in text
    for brightest, white in ((255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4096, 16383), (16384, 65535)):
        assert scale_grey(np.array([[0, brightest]], np.uint16), None)[1][1:3] == (0, white)
    given = window(params, (-1000.0, 400.0))
    assert "a DICOM's rescaled grey of any depth: -1000 becomes black, 400 white, linearly; values outside" in given
    assert "BitsStored" not in given
