import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
import statsmodels.formula.api as smf
from statsmodels.stats.multitest import multipletests

from tumorboard.base.errors import InputError
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation.comparisons import across_seeds, compare_pair, compare_panel, holm
from tumorboard.evaluation.intervals import intervals
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


def seed_pair(generator, kind, patients=12):
    """Two models of equal skill on the same images: the same patients are hard for both, each has errors of its own.

    - by difficulty: each model finds other patients hard.
    - by class: each model leans toward one class in a patient, which one is drawn by model and patient.
    - in single images: they agree in all but the first five images of each patient, where one of them errs; which one
      is drawn by patient.
    """
    images = generator.integers(8, 25, patients)
    patient = np.repeat(np.arange(patients), images)
    number = np.concatenate([np.arange(count) for count in images])
    sign = np.where(generator.random(len(patient)) < 0.4, 1, -1)
    rows = pd.DataFrame({"id": np.arange(len(patient)).astype(str), "group": patient.astype(str), "split": "test"})
    rows["label"] = np.where(sign > 0, "ill", "well")
    shared = sign * (1.4 + generator.normal(0, 0.6, patients)[patient] + generator.normal(0, 0.9, len(patient)))
    errs = generator.random(patients) < 0.5  # the second model, in single images
    tables = []
    for second in (False, True):
        own = generator.normal(0, 1, patients)[patient], generator.normal(0, 1, len(patient))
        odds = {
            "by difficulty": shared + sign * (0.5 * own[0] + 0.7 * own[1]),
            "by class": shared + 0.8 * own[0] + 0.3 * own[1],
            "in single images": np.where((number < 5) & (errs[patient] == second), -sign * np.abs(shared), shared),
        }[kind]
        ill = 1 / (1 + np.exp(-2 * odds))
        tables.append(make_predictions(rows, np.stack([ill, 1 - ill], 1), ["ill", "well"], "digest"))
    return tables


def mcnemar(first, second):
    """The p of McNemar's exact test, which takes images for independent."""
    right = [(table["p_ill"] > 0.5) == (table["label"] == "ill") for table in (first, second)]
    ahead, differing = int((right[0] & ~right[1]).sum()), int((right[0] ^ right[1]).sum())
    return scipy.stats.binomtest(ahead, differing).pvalue if differing else 1.0


def outcomes_of(tables):
    """Whether two tables differ in accuracy, in any other score with and without correction, and by McNemar's test."""
    result = compare_pair(dict(zip("AB", tables, strict=True)), **SETTINGS)
    others = result.exploratory
    assert result.primary["score"].tolist() == ["accuracy"]
    assert others["score"].tolist() == ["balanced_accuracy", "recall_ill", "recall_well", "brier", "auc"]
    return {
        "primary": result.primary["verdict"][0] != NOISE,
        "exploratory": (others["verdict"] != NOISE).any(),
        "uncorrected": (others["p"] < 0.05).any(),
        "by image": mcnemar(*tables) < 0.05,
    }


def test_two_runs_that_differ_in_the_seed_alone_are_within_noise_in_19_of_20():
    """In accuracy, and in all other scores together; so they are not by image, nor without a correction."""
    kinds, pairs = ("by difficulty", "by class", "in single images"), 100
    generator = np.random.default_rng(1)
    alarms = pd.DataFrame(
        {kind: pd.DataFrame([outcomes_of(seed_pair(generator, kind)) for _ in range(pairs)]).mean() for kind in kinds}
    )
    limit = 0.05 + 2 * np.sqrt(0.05 * 0.95 / pairs)
    assert (alarms.loc[["primary", "exploratory"]] <= limit).all(axis=None), alarms
    assert alarms.loc["uncorrected"].mean() > limit, "the scores need no correction, so that this test proves nothing"
    assert alarms.loc["by image", "in single images"] > 2 * limit, "patients have no effect on single images"


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


def test_the_interval_of_one_model_under_two_names_is_that_of_the_model():
    """With patients of unequal size; loss and Brier score of one model have a bootstrap besides."""
    table = panel({"one": 1.0}, n=200, groups=20)["one"]
    table = table[table.index % 7 > 0].reset_index(drop=True)
    expected = intervals(table, bootstrap=0)
    rows = across_seeds({"one": table, "two": table})
    assert rows["score"].tolist() == ["accuracy", "balanced_accuracy", "recall_a", "recall_b", "brier", "auc"]
    assert (rows["sd"] == 0).all()
    for row in rows.to_dict("records"):
        ends = [expected[f"{row['score']}{end}"] for end in ("", "_low", "_high")]
        assert [row["mean"], row["low"], row["high"]] == pytest.approx(ends, rel=1e-9), row["score"]
        assert row["method"] == expected[f"{row['score']}_method"]


def clustered_error(values, groups):
    """The standard error of a mean by statsmodels; of equally large groups that of CR2."""
    fit = smf.ols("value ~ 1", pd.DataFrame({"value": values})).fit(
        cov_type="cluster", cov_kwds={"groups": pd.factorize(groups)[0], "df_correction": True}
    )
    return fit.bse.iloc[0]


def test_the_variances_between_patients_and_between_seeds_are_pooled():
    """By hand, of 20 patients with ten images each: t of Welch's degrees of freedom on the scale of the logit."""
    tables = panel({"a": 0.7, "b": 1.0, "c": 1.2}, n=200, groups=20)
    rows = across_seeds(tables, confidence=0.9).set_index("score")
    groups = tables["a"]["group"]
    ill = [(table["p_b"] - (table["label"] == "b")) ** 2 for table in tables.values()]  # half of the Brier score
    right = [((t["p_b"] > 0.5) == (t["label"] == "b")).astype(float) for t in tables.values()]

    def parts(values):
        within, between = clustered_error(np.mean(values, 0), groups) ** 2, np.var(np.mean(values, 1), ddof=1) / 3
        degrees = (within + between) ** 2 / (within**2 / 19 + between**2 / 2)
        return np.mean(values), np.sqrt(within + between), scipy.stats.t.ppf(0.95, degrees)

    mean, error, t = parts(ill)
    half = t * error / (mean * (1 - mean))
    ends = [2 * scipy.special.expit(scipy.special.logit(mean) + side * half) for side in (-1, 1)]
    assert rows.loc["brier", ["low", "high"]].tolist() == pytest.approx(ends)

    mean, error, t = parts(right)
    images = mean * (1 - mean) / error**2 * 200 / 199 * (scipy.stats.t.ppf(0.95, 199) / t) ** 2
    assert images < 200
    hits, misses = mean * images, (1 - mean) * images
    ends = scipy.stats.beta.ppf(0.05, hits, misses + 1), scipy.stats.beta.ppf(0.95, hits + 1, misses)
    assert rows.loc["accuracy", ["low", "high"]].tolist() == pytest.approx(list(ends))


def test_models_without_a_mistake_have_a_one_sided_interval_by_patient():
    table = panel({"one": 1.0}, n=60, groups=15)["one"]
    ill = np.where(table["label"] == "b", 0.9, 0.1)
    table = table.assign(p_a=1 - ill, p_b=ill)
    rows = across_seeds({"one": table, "two": table}, unit="patient").set_index("score")
    assert rows.loc["accuracy", ["low", "high"]].tolist() == pytest.approx([0.05 ** (1 / 15), 1])
    assert rows.loc["accuracy", "method"] == "one-sided, by patient"


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


@pytest.mark.parametrize(("of_class", "interval"), [(1, False), (9, False), (10, True)])
def test_too_few_patients_of_a_class_have_no_interval(of_class, interval):
    """As in `intervals`, fewer than ten; scores of the other class, which is in 14 patients or more, have one."""
    tables = panel({"seed0": 1.0, "seed1": 1.0})
    rare = [f"g{k:03}" for k in range(of_class)]
    tables = {name: t.assign(label=np.where(t["group"].isin(rare), "a", "b")) for name, t in tables.items()}
    table = across_seeds(tables, unit="patient").set_index("score")
    of_both = table.loc[["balanced_accuracy", "recall_a", "auc"]]
    assert (of_both[["low", "high"]].notna() == interval).all(axis=None)
    assert (of_both["method"] == f"too few patients for an interval ({of_class})").all() != interval
    assert table.loc[["accuracy", "recall_b", "brier"], ["low", "high"]].notna().all(axis=None)
    assert table[["mean", "sd"]].notna().all(axis=None)


def test_a_class_without_images_has_no_value():
    tables = {name: t.assign(label="a") for name, t in panel({"seed0": 1.0, "seed1": 1.0}).items()}
    table = across_seeds(tables).set_index("score")
    undefined = table.loc[["balanced_accuracy", "recall_b", "auc"]]
    assert undefined[["mean", "low", "high"]].isna().all(axis=None)
    assert undefined["method"].tolist() == ["undefined"] * 3
    assert table.loc["accuracy", "mean"] == table.loc["recall_a", "mean"]
