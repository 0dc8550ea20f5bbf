"""The simulated panels: probabilities of each image, as right as the members are skilled, leaning where asked."""

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.automatic_vote import LEANING, MEMBERS, SKILLS, Panel, draw_panel

TO_THE_FIRST: NDArray[np.float64] = np.zeros((MEMBERS, 1, 2))
TO_THE_FIRST[:, :, 0] = 3.0


def drawn(kind: str) -> Panel:
    return draw_panel(kind, TO_THE_FIRST, patients=200, images=10, rng=np.random.default_rng(0))


@pytest.mark.parametrize("kind", SKILLS)
def test_members_give_probabilities_for_each_image_of_each_patient(kind: str) -> None:
    panel = drawn(kind)
    assert panel.members.shape == (MEMBERS, 2000, 2)
    np.testing.assert_allclose(panel.members.sum(2), 1, rtol=1e-12)
    assert np.bincount(panel.patients).tolist() == [10] * 200


@pytest.mark.parametrize("kind", [kind for kind in SKILLS if kind != LEANING])
def test_a_member_is_as_often_right_as_it_is_skilled(kind: str) -> None:
    panel = drawn(kind)
    accuracy = dict(zip(SKILLS[kind], (panel.members.argmax(2) == panel.actual).mean(1), strict=True))
    assert accuracy.get(0.0, 0.5) == pytest.approx(0.5, abs=0.03)
    assert list(accuracy.values()) == sorted(accuracy.values(), reverse=kind.startswith("one good"))
    assert accuracy[max(SKILLS[kind])] > 0.75


def test_members_lean_to_a_class_where_that_is_the_kind_alone() -> None:
    share = {kind: (drawn(kind).members.argmax(2) == 0).mean() for kind in SKILLS}
    assert share.pop(LEANING) > 0.75
    assert list(share.values()) == pytest.approx([0.5] * len(share), abs=0.03)
