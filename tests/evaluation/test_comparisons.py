import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.multitest import multipletests

from tumorboard.base.errors import InputError
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation.comparisons import across_seeds, compare_panel, holm
from tumorboard.evaluation.metrics import scores
from tumorboard.evaluation.paired import FIRST, NOISE, SHARES, compare
from tumorboard.evaluation.paired import SECOND as SECOND_AHEAD

SETTINGS = {"confidence": 0.95, "seed": 0}


def panel(skills, n=240, groups=24, seed=0):
    """Random predictions of models by name, each with its skill."""
    generator = np.random.default_rng(seed)
    actual = generator.integers(2, size=n)
    group = np.arange(n) % groups
    rows = pd.DataFrame({"id": [f"i{k:04}" for k in range(n)], "group": [f"g{k:03}" for k in group], "split": "test"})
    rows["label"] = np.array(["a", "b"], dtype=object)[actual]
    tables = {}
    for name, skill in skills.items():
        odds = generator.normal(0, 1, n) + generator.normal(0, 0.3, groups)[group] + skill * (2 * actual - 1)
        p = 1 / (1 + np.exp(-odds))
        tables[name] = make_predictions(rows, np.stack([1 - p, p], 1), ["a", "b"], "digest")
    return tables


def compared(tables, rows):
    """The p-values of an exploratory table's rows, compared one by one."""
    return [
        compare(tables[row["first_name"]], tables[row["second_name"]]).set_index("score").loc[row["score"], "p"]
        for row in rows.to_dict("records")
    ]


SKILLS = {"cnn": 1.0, "resnet": 0.3, "vit": 1.0, "soft": 1.6, "hard": 1.5}


def test_holm_is_that_of_statsmodels():
    p = np.random.default_rng(0).random(12) ** 3
    assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([0.01, float("nan"), 0.02]) == pytest.approx([0.02, float("nan"), 0.02], nan_ok=True)
    assert holm([]) == []


def test_the_primary_comparison_is_one_row_and_the_heading_against_the_best_member():
    tables = panel(SKILLS)
    primary, _ = compare_panel(tables, primary=None, heading="soft", best_member="vit", **SETTINGS)
    expected = compare(tables["soft"], tables["vit"], **SETTINGS).iloc[0]
    assert len(primary) == 1
    assert primary.iloc[0].to_dict() == {"first_name": "soft", "second_name": "vit", **expected.to_dict()}


def test_the_exploratory_table_has_all_else_and_corrects_for_all_of_it():
    tables = panel(SKILLS)
    _, table = compare_panel(
        tables, primary=None, heading="soft", best_member="vit", without_probabilities=("hard",), **SETTINGS
    )
    assert [*zip(table["first_name"], table["second_name"], table["score"], strict=True)] == [
        ("soft", "vit", "balanced_accuracy"),
        ("soft", "vit", "brier"),
        ("soft", "vit", "auc"),
        ("soft", "cnn", "accuracy"),
        ("soft", "resnet", "accuracy"),
        ("soft", "hard", "accuracy"),
    ]
    assert table["p_holm"].tolist() == pytest.approx(multipletests(table["p"], method="holm")[1])
    assert table["verdict"].iloc[4] == FIRST
    assert ((table["p_holm"] >= 0.05) == (table["verdict"] == NOISE)).all()


def test_a_finding_that_does_not_survive_holm_is_within_noise():
    """One score of the primary pair has p below 0.05 and more than that after the correction."""
    for seed in range(40):
        tables = panel({"cnn": 1.0, "resnet": 0.9, "vit": 0.75, "soft": 1.0}, seed=seed)
        _, table = compare_panel(tables, primary=None, heading="soft", best_member="cnn", **SETTINGS)
        between = (table["p"] < 0.05) & (table["p_holm"] >= 0.05)
        assert (table["verdict"][between] == NOISE).all()
        if between.any():
            return
    pytest.fail("no such case among 40")


def test_a_given_primary_comparison_leaves_the_heading_against_the_best_to_the_others():
    tables = panel(SKILLS)
    result = compare_panel(tables, primary=("resnet", "cnn"), heading="soft", best_member="vit", **SETTINGS)
    assert result.primary[["first_name", "second_name", "verdict"]].to_numpy().tolist() == [
        ["resnet", "cnn", SECOND_AHEAD]
    ]
    others = result.exploratory[result.exploratory["score"] == "accuracy"]
    assert others["second_name"].tolist() == ["cnn", "resnet", "vit", "hard"]
    reversed_pair = compare_panel(tables, primary=("vit", "soft"), heading="soft", best_member="vit", **SETTINGS)
    others = reversed_pair.exploratory[reversed_pair.exploratory["score"] == "accuracy"]
    assert others["second_name"].tolist() == ["cnn", "resnet", "hard"]


def test_shares_of_votes_have_no_brier_and_no_auc():
    tables = panel(SKILLS)
    _, table = compare_panel(
        tables, primary=("hard", "cnn"), heading="soft", best_member="cnn", without_probabilities=("hard",), **SETTINGS
    )
    refused = table[table["score"].isin(["brier", "auc"])]
    assert refused[["first_name", "second_name", "verdict"]].to_numpy().tolist() == [["hard", "cnn", SHARES]] * 2
    assert refused[["first", "second", "difference", "low", "high", "p_holm"]].isna().to_numpy().all()
    others = table.drop(refused.index)
    assert others["p_holm"].tolist() == pytest.approx(multipletests(compared(tables, others), method="holm")[1])


def test_sensitivity_and_specificity_are_among_the_scores_of_the_primary_pair():
    tables = panel(SKILLS)
    _, table = compare_panel(tables, primary=None, heading="soft", best_member="vit", positive="b", **SETTINGS)
    assert {"sensitivity", "specificity"} < set(table["score"])


def test_too_few_groups_are_said_in_both_tables():
    tables = panel(SKILLS, n=50, groups=5)
    primary, table = compare_panel(tables, primary=None, heading="soft", best_member="vit", unit="patient", **SETTINGS)
    assert {*primary["verdict"], *table["verdict"]} == {"too few patients (5)"}
    assert table["p_holm"].isna().all()


@pytest.mark.parametrize(
    ("primary", "heading", "message"),
    [
        (
            ("cnn", "net"),
            "soft",
            "evaluate.primary: 'net' is no member or vote; there are cnn, resnet, vit, soft, hard",
        ),
        (("cnn", "cnn"), "soft", "evaluate.primary compares 'cnn' with itself: name two members or votes"),
        (None, "vit", "evaluate.primary compares 'vit' with itself: name two members or votes"),
    ],
)
def test_wrong_names_are_refused(primary, heading, message):
    with pytest.raises(InputError) as caught:
        compare_panel(panel(SKILLS), primary=primary, heading=heading, best_member="vit", **SETTINGS)
    assert str(caught.value) == message


def test_mean_and_sd_are_those_of_the_models():
    tables = panel({f"seed{k}": 1.0 for k in range(4)})
    table = across_seeds(tables).set_index("score")
    for score in ("accuracy", "balanced_accuracy", "recall_a", "brier", "auc"):
        values = [scores(predictions)[score] for predictions in tables.values()]
        assert table.loc[score, ["models", "mean", "sd"]].tolist() == pytest.approx(
            [4, np.mean(values), np.std(values, ddof=1)]
        )
    assert (table["low"] < table["mean"]).all()
    assert (table["mean"] < table["high"]).all()


def test_the_interval_of_equal_models_is_the_clustered_one_of_statsmodels():
    table = panel({"one": 1.0}, n=200, groups=20)["one"]
    row = across_seeds({"one": table, "two": table}).set_index("score").loc["accuracy"]
    right = ((table["p_b"] > 0.5) == (table["label"] == "b")).astype(float)
    codes = pd.factorize(table["group"])[0]
    fit = smf.ols("right ~ 1", pd.DataFrame({"right": right})).fit(
        cov_type="cluster", cov_kwds={"groups": codes, "df_correction": True}, use_t=True
    )
    error = fit.bse.iloc[0]
    assert row["sd"] == 0
    assert row["high"] - row["mean"] == pytest.approx(2.093 * error, rel=1e-3)  # t of 19 degrees of freedom


def test_the_spread_over_seeds_widens_the_interval():
    alike = panel({f"seed{k}": 1.0 for k in range(3)}, n=2000, groups=200)
    apart = panel({f"seed{k}": skill for k, skill in enumerate((0.4, 1.0, 1.6))}, n=2000, groups=200)
    widths = [(t["high"] - t["low"]).to_numpy() for t in (across_seeds(alike), across_seeds(apart))]
    assert (widths[1] > 3 * widths[0]).all()


def test_one_model_or_other_images_are_refused():
    tables = panel({"seed0": 1.0, "seed1": 1.0})
    with pytest.raises(InputError, match="1 model: a spread over seeds needs two or more"):
        across_seeds({"seed0": tables["seed0"]})
    with pytest.raises(InputError, match="seed0 and seed1 were made of different data"):
        across_seeds({"seed0": tables["seed0"], "seed1": tables["seed1"][1:]})


def test_a_class_in_one_group_only_has_no_interval():
    tables = panel({"seed0": 1.0, "seed1": 1.0})
    tables = {name: t.assign(label=np.where(t["group"] == "g000", "a", "b")) for name, t in tables.items()}
    table = across_seeds(tables).set_index("score")
    assert table.loc[["balanced_accuracy", "recall_a", "auc"], ["low", "high"]].isna().to_numpy().all()
    assert table.loc[["accuracy", "recall_b"], ["low", "high"]].notna().to_numpy().all()
