import json
import re
from pathlib import Path

import pytest

from tumorboard.evaluation.places import CENTER, PlaceScores, judge_places
from tumorboard.report.score_schema import ENDINGS, SCORES, TEST_PREFIX, schema, score_of_key

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "metrics.md"
COMMITTED = sorted(file for file in ROOT.glob("metrics/**/*.json") if file.name != "schema.json")


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


def places_of(tree, place=()):
    """Yields the keys that lead to each value; an empty dict is a value."""
    if not isinstance(tree, dict) or not tree:
        yield place
        return
    for key, value in tree.items():
        yield from places_of(value, (*place, key))


def fits(pattern, names):
    """Whether names are those of a pattern, in which <name> stands for any."""
    return len(pattern) == len(names) and all(
        own.startswith("<") or own == name for own, name in zip(pattern, names, strict=True)
    )


def undescribed(path, tree):
    """Returns the places of a metrics file of which the schema says nothing, as a foreign program would read it."""
    described = schema()["files"]
    matching = [name for name in described if fits(name.split("/"), path.split("/"))]
    if len(matching) != 1:
        return [f"{path}: described as {matching}"]
    (file,) = (described[name] for name in matching)
    keys, scores = ([place.split(".") if place else [] for place in file[kind]] for kind in ("keys", "scores"))
    return [
        f"{path}: {'.'.join(place)}"
        for place in places_of(tree)
        if place
        and not any(fits(key, place) for key in keys)
        and not (score_of_key(place[-1]) and any(fits(score, place[:-1]) for score in scores))
    ]


def judged_places():
    """Scores of maps by boxes, as `metrics/places.json` has them where the data have boxes."""
    made = [PlaceScores(k % 3 > 0, 0.1 + 0.02 * k) for k in range(24)]
    maps = judge_places(
        {CENTER: [PlaceScores(k % 2 > 0, 0.2) for k in range(24)], "cnn": made, "vote": made},
        [f"p{k // 2}" for k in range(24)],
        confidence=0.95,
        seed=0,
        flips=99,
        unit=None,
    )
    return {"images": 24, "groups": 12, "boxes": 30, "outside": 1, "maps": maps}


@pytest.fixture(scope="module")
def files(tmp_path_factory, judged_folder, run):
    """Metrics by file: committed, of a run that detects a class, of one on two folds with three classes, of boxes."""
    detecting = judged_folder(changes={"data": {"positive": "b"}})
    written = [
        file
        for folder in (detecting, run)
        for file in sorted(folder.glob("metrics/**/*.json"))
        if file.relative_to(folder / "metrics").parts[-1] in ("ensemble.json", "votes.json")
    ]
    return {file: json.loads(file.read_text(encoding="utf-8")) for file in [*COMMITTED, *written]} | {
        tmp_path_factory.mktemp("boxes") / "metrics" / "places.json": judged_places()
    }


def path_of(file):
    """Returns the path of a file below its folder metrics."""
    return file.as_posix().rpartition("/metrics/")[2]


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


def test_every_value_of_every_file_is_described(files):
    assert len(COMMITTED) >= 19, "the files of a whole run"
    assert [place for file, tree in files.items() for place in undescribed(path_of(file), tree)] == []


@pytest.mark.parametrize(
    ("path", "tree", "places"),
    [
        ("places.json", {"boxes": 3, "maps": {"cnn": {"pointing": 1.0, "new": 2}}}, ["places.json: maps.cnn.new"]),
        ("audit.json", {"sets": 1, "shortcuts": 0, "shortcut": 0}, []),
        ("audit.json", {"shortcutting": 1}, ["audit.json: shortcutting"]),
        ("votes.json", {"folds": {"votes": {"soft": {"new": 1}}}}, ["votes.json: folds.votes.soft.new"]),
        ("split.json", {"accuracy": 0.5}, ["split.json: accuracy"]),
        (
            "train/cnn/0.json",
            {"train": {"loss": 1.0, "accuracy": 0.5}, "val": {"loss": 1.0}},
            ["train/cnn/0.json: val.loss"],
        ),
        ("other.json", {}, ["other.json: described as []"]),
    ],
)
def test_what_is_not_described_is_found(path, tree, places):
    assert undescribed(path, tree) == places


def test_each_description_is_of_a_file_and_a_key_that_are_written(files):
    """Left out values are those of `split.leave_out`, which the committed run does not use."""
    described = schema()["files"]
    for name, file in described.items():
        trees = [tree for path, tree in files.items() if fits(name.split("/"), path_of(path).split("/"))]
        assert trees, name
        places = [place for tree in trees for place in places_of(tree)]
        for key in file["keys"]:
            if name.startswith("test/places") or key.startswith("left_out_values"):
                continue
            pattern = key.split(".")
            assert any(fits(pattern, place) for place in places), f"{name}: {key}"


def test_the_document_has_each_file_and_key_as_the_schema_has_it():
    described = schema()["files"]
    assert rows_of("## The files") == [[f"`metrics/{name}`", file["what"]] for name, file in described.items()]
    assert rows_of("## The keys that are no scores") == [
        [f"`{name}`", f"`{place}`", key["meaning"], key["unit"]]
        for name, file in described.items()
        for place, key in file["keys"].items()
    ]


def test_the_committed_schema_is_that_of_this_code():
    """A file that the stage report writes: `dvc repro` brings it up to date."""
    assert json.loads((ROOT / "metrics" / "schema.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(schema())
    )


def test_each_score_of_the_schema_is_written_somewhere(files):
    written = {score_of_key(key) for tree in files.values() for key in keys_of(tree)}
    assert written - {None} == set(SCORES)
    endings = {ending for tree in files.values() for key in keys_of(tree) for ending in ENDINGS if key.endswith(ending)}
    assert endings == set(ENDINGS)


def test_scores_with_an_interval_have_both_ends_and_others_none(files):
    """With 24 or more patients; the ends of a score lie in its range."""
    tree = next(tree for file, tree in files.items() if file not in COMMITTED and file.name == "votes.json")
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
        ("shortcut_all_of_them", "shortcut"),
        ("pointing_gain_p", "pointing_gain"),
        ("vote", None),
        ("shortcuts", None),
        ("test_", None),
        ("low", None),
    ],
)
def test_a_key_is_about_its_score(key, name):
    assert score_of_key(key) == name


def test_the_document_names_no_score_that_does_not_exist():
    mentioned = set(re.findall(r"^\| `(\w+)` \|", DOC.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert mentioned == set(SCORES)
