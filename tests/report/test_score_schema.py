import json
import re
from pathlib import Path

import pytest

from tests.report.finished_run import make_results, panel_params
from tumorboard.evaluation.summary import DECISIONS
from tumorboard.report.score_schema import ENDINGS, SCORES, TEST_PREFIX, schema, score_of_key

DOC = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
# Keys that are no scores, each of which the document explains.
OTHERS = {"vote", "members", "votes", "uncalibrated", "folds", "heading", "by_group", "reason", "validation"}
OTHERS |= {"parameters", "epoch", "decisions", *DECISIONS}


def rows_of(heading):
    """Returns the cells of the first table below a line of the document."""
    text = DOC.read_text(encoding="utf-8")
    lines = text[text.index(heading) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def keys_of(tree):
    for key, value in tree.items():
        yield key
        if isinstance(value, dict):
            yield from keys_of(value)


@pytest.fixture(scope="module")
def files(tmp_path_factory, params, run):
    """The metrics of a run that detects a class, and of one on two folds with three classes."""
    root = tmp_path_factory.mktemp("metrics")
    make_results(root, panel_params(params, data={"positive": "b"}))
    names = ("ensemble.json", "votes.json", "test/ensemble.json", "test/votes.json")
    return {
        folder / "metrics" / name: json.loads((folder / "metrics" / name).read_text())
        for folder in (root, run)
        for name in names
    }


def test_the_document_has_each_score_as_the_schema_has_it():
    def text(value):
        return f"{value:g}"

    expected = []
    for name, score in SCORES.items():
        span = f"from {text(score.lowest)}" if score.lowest is not None else "any"
        if score.highest is not None:
            span = f"{text(score.lowest)} to {text(score.highest)}"
        expected.append([f"`{name}`", score.meaning, score.unit, span, score.better, score.interval or "none"])
    assert rows_of("## The scores") == expected
    assert rows_of("| ending |") == [[f"`<score>{ending}`", text] for ending, text in ENDINGS.items()]


def test_each_key_that_is_written_is_documented(files):
    models = {"linear", "cnn"}
    votes = {"single", "hard", "soft", "product", "weighted", "stacking"}
    document = DOC.read_text(encoding="utf-8")
    for file, tree in files.items():
        for key in keys_of(tree):
            name = key.removeprefix(TEST_PREFIX)
            if score_of_key(key) is None:
                assert name in OTHERS | models | votes, f"{file}: {key}"
    for name in OTHERS:
        assert f"`{name}`" in document, name


def test_each_score_of_the_schema_is_written_somewhere(files):
    written = {score_of_key(key) for tree in files.values() for key in keys_of(tree)}
    assert written - {None} == set(SCORES)
    endings = {ending for tree in files.values() for key in keys_of(tree) for ending in ENDINGS if key.endswith(ending)}
    assert endings == set(ENDINGS)


def test_scores_with_an_interval_have_both_ends_and_others_none(files):
    """With 24 or more patients; the ends of a score lie in its range."""
    tree = next(tree for file, tree in files.items() if file.name == "votes.json")
    scores = tree["votes"]["heading"]
    for name, score in SCORES.items():
        if name in scores:
            assert (f"{name}_low" in scores) == (score.interval is not None), name
    for name, value in scores.items():
        score = SCORES.get(score_of_key(name) or "")
        if isinstance(value, float) and score is not None:
            assert score.lowest is None or value >= score.lowest
            assert score.highest is None or value <= score.highest


@pytest.mark.parametrize("name", ["test/ensemble.json"])
def test_test_scores_have_their_prefix(files, name):
    for file, tree in files.items():
        if file.as_posix().endswith(name):
            assert all(key.startswith(TEST_PREFIX) for key in tree)


def test_the_schema_is_written_beside_the_metrics(run):
    written = json.loads((run / "metrics" / "schema.json").read_text())
    assert written == json.loads(json.dumps(schema()))
    assert written["scores"]["loss"] == {
        "meaning": "cross-entropy of the label",
        "unit": "nats",
        "lowest": 0,
        "highest": None,
        "better": "lower",
        "interval": "t and bootstrap",
    }


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("accuracy", "accuracy"),
        ("test_auc_high", "auc"),
        ("brier_method", "brier"),
        ("f1_sd", "f1"),
        ("test_images", "images"),
        ("vote", None),
        ("test_", None),
        ("low", None),
    ],
)
def test_a_key_is_about_its_score(key, name):
    assert score_of_key(key) == name


def test_the_document_names_no_score_that_does_not_exist():
    mentioned = set(re.findall(r"^\| `(\w+)` \|", DOC.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert mentioned == set(SCORES)
