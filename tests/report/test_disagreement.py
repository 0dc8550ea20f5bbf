"""How the report shows that members disagree: kappas of each pair, and a picture per image that splits the panel."""

import dataclasses
import math

import pytest
from sklearn.metrics import cohen_kappa_score

from tests.report.finished_run import make_results, panel_params
from tumorboard.base.tables import probabilities_of
from tumorboard.report.disagreement import SHOWN, draw_splits, find_disagreement


@pytest.fixture(scope="module")
def results(tmp_path_factory, params):
    return make_results(tmp_path_factory.mktemp("run"), panel_params(params, models=("linear", "cnn", "resnet18")))


def test_kappas_are_those_of_each_pair_in_both_orders(results):
    one = find_disagreement(results.validation)
    decisions = {name: probabilities_of(table).argmax(1) for name, table in results.validation.members.items()}
    assert list(one.kappas) == list(one.members) == ["linear", "cnn", "resnet18"]
    for first, row in one.kappas.items():
        assert list(row) == list(one.members)
        for second, kappa in row.items():
            if first == second:
                assert math.isnan(kappa)
            else:
                assert kappa == pytest.approx(cohen_kappa_score(decisions[first], decisions[second]))


def test_pictures_have_the_label_and_each_members_class_and_probability(results):
    one = find_disagreement(results.validation)
    assert len(one.splits) > SHOWN == len(one.shown)
    figure = draw_splits(results, one)
    captions = [text.get_text() for text in figure.texts]
    assert len(captions) == SHOWN
    for caption, row in zip(captions, one.shown, strict=True):
        expected = [f"{p:.2f} {name} ({member})" for (name, p), member in zip(row["members"], one.members, strict=True)]
        assert caption.splitlines() == [f"label {row['label']}", *expected]
        for member, (name, probability) in zip(one.members, row["members"], strict=True):
            table = results.validation.members[member].set_index("id")
            assert table.loc[row["id"], f"p_{name}"] == probability


def test_one_member_does_not_disagree(results):
    alone = dataclasses.replace(results.validation, members={"cnn": results.validation.members["cnn"]})
    one = find_disagreement(alone)
    assert (one.unanimous, len(one.agreement), one.shown) == (1.0, 0, [])
