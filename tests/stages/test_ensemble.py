"""The stage ensemble: its files hold what the library returns, test rows change none of the others, leftovers go."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from stages import ensemble
from tests.panel.statistics import made_up_statistics
from tests.panel.tables import panel_outputs, rows_of
from tumorboard.base.errors import InputError
from tumorboard.base.files import write_table
from tumorboard.base.tables import make_predictions, read_predictions
from tumorboard.evaluation.held_out import write_held_out
from tumorboard.evaluation.summary import judging_of
from tumorboard.panel.comparison import HEADING, UNCALIBRATED, headline, judge_panel
from tumorboard.panel.fits import fitting_of
from tumorboard.panel.panel_file import read_panel
from tumorboard.panel.unlike import save_unlike
from tumorboard.panel.votes import VOTES

FOLDS = {0: [f"v{number}" for number in range(10, 20)], 2: [f"v{number}" for number in range(20, 26)]}
MODELS = ("linear", "cnn")


def with_evaluate(params, **changes):
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update=changes)})


@pytest.fixture(scope="module")
def settings(params):
    """Two models and two folds, where the product vote heads the report."""
    changed = params.model_copy(
        update={
            "models": MODELS,
            "folds": (0, 2),
            "ensemble": params.ensemble.model_copy(update={"vote": "product"}),
            "data": params.data.model_copy(update={"positive": "b"}),
        }
    )
    return with_evaluate(changed, bootstrap=20)


@pytest.fixture(scope="module")
def outputs():
    return panel_outputs(1, FOLDS, MODELS, tests=12)


def write(folder, outputs):
    generator = np.random.default_rng(5)
    ids = sorted(
        {
            id_
            for folds in outputs.values()
            for one in folds.values()
            for id_ in (*one.validation["id"], *one.test["id"])
        }
    )
    write_table(
        pd.DataFrame({"id": ids, "sex": ["f", "m"] * (len(ids) // 2) + ["f"] * (len(ids) % 2)}),
        folder / "attributes.csv",
    )
    for model, folds in outputs.items():
        for fold, one in folds.items():
            write_table(one.validation, folder / f"members/{model}/{fold}.csv")
            write_table(one.test, folder / f"test/members/{model}/{fold}.csv")
            write_held_out(one.held_out, folder / f"held_out/{model}/{fold}.safetensors")
            statistics = made_up_statistics(3, held_out=generator.normal(size=len(one.validation)), per_group=2)
            save_unlike(statistics, folder / f"unlike/{model}/{fold}.safetensors")
            unlike = one.test[["id"]].assign(
                unlike=np.random.default_rng([fold, len(model)]).normal(size=len(one.test))
            )
            write_table(unlike, folder / f"test/unlike/{model}/{fold}.csv")


def run(folder, settings, outputs=None):
    if outputs is not None:
        write(folder, outputs)
    ensemble.main(
        settings,
        members=folder / "members",
        test_members=folder / "test/members",
        held_out=folder / "held_out",
        unlike=folder / "unlike",
        test_unlike=folder / "test/unlike",
        attributes=folder / "attributes.csv",
        panel=folder / "models/panel.json",
        joined=folder / "joined",
        votes=folder / "votes",
        test_joined=folder / "test/joined",
        test_votes=folder / "test/votes",
        metrics=folder / "metrics/ensemble.json",
        comparison=folder / "metrics/votes.json",
        test_metrics=folder / "metrics/test/ensemble.json",
        test_comparison=folder / "metrics/test/votes.json",
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, settings, outputs):
    """The folder after a run, which no test changes."""
    folder = tmp_path_factory.mktemp("finished")
    run(folder, settings, outputs)
    return folder


@pytest.fixture(scope="module")
def expected(settings, outputs):
    return judge_panel(outputs, fitting_of(settings, ["a", "b"]), judging_of(settings))


def read(file):
    return json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_files_hold_what_the_library_returns(finished, expected):
    for place, part in (("", expected.validation), ("test/", expected.test)):
        for kind, tables in (("joined", part.members), ("votes", part.votes)):
            folder = finished / f"{place}{kind}"
            assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.csv" for name in tables)
            for name, table in tables.items():
                written = read_predictions(folder / f"{name}.csv")
                pd.testing.assert_frame_equal(written, table, check_dtype=False, check_exact=True)
    assert set(expected.test.votes) == {*VOTES, HEADING, UNCALIBRATED} - {"stacking"}, "of 16 images"
    panel = read_panel(finished / "models/panel.json", MODELS, classes=("a", "b"), manifest="digest")
    assert panel.fit == expected.fit
    assert (panel.positive, panel.vote) == ("b", "product")
    for file, tree in (("votes.json", expected.validation_scores), ("test/votes.json", expected.test_scores)):
        written = read(finished / "metrics" / file)
        assert [key for key in written if not key.startswith("unlike")] == list(tree)
        assert written["votes"]["soft"]["accuracy"] == tree["votes"]["soft"]["accuracy"]
        assert written["members"]["cnn"]["images"] == tree["members"]["cnn"]["images"]
        assert written["folds"]["members"]["cnn"]["loss_mean"] == tree["folds"]["members"]["cnn"]["loss_mean"]
    assert read(finished / "metrics/votes.json")["members"]["cnn"]["images"] == 16
    assert read(finished / "metrics/test/votes.json")["members"]["cnn"]["images"] == 12


def test_the_metrics_are_those_of_the_vote_that_heads_the_report_and_test_scores_are_called_so(finished, expected):
    written = read(finished / "metrics/ensemble.json")
    flat = headline(expected.validation_scores, expected.fit)
    assert list(written) == list(flat)
    assert written["vote"] == "product"
    assert written["loss"] == flat["loss"]
    assert written["loss"] != pytest.approx(expected.validation_scores["votes"]["soft"]["loss"])
    assert not any("test" in name for name in written)
    test_written = read(finished / "metrics/test/ensemble.json")
    test_flat = headline(expected.test_scores, expected.fit)
    names = [f"test_{name}" for name in test_flat]
    assert list(test_written)[: len(names)] == names
    assert test_written["test_accuracy"] == test_flat["accuracy"] != written["accuracy"]


def test_test_images_are_unlike_by_the_mean_of_all_model_files_and_the_panels_limit(finished):
    tables = [pd.read_csv(finished / f"test/unlike/{model}/{fold}.csv") for model in MODELS for fold in FOLDS]
    scores = np.mean([table["unlike"] for table in tables], axis=0)
    limit = read(finished / "models/panel.json")["unlike"]
    for file, prefix in (("test/votes.json", ""), ("test/ensemble.json", "test_")):
        written = read(finished / "metrics" / file)
        assert written[f"{prefix}unlike"] == (scores >= limit).mean()
        assert [key for key in written if "unlike" in key][:3] == [
            f"{prefix}unlike{end}" for end in ("", "_low", "_high")
        ]
    assert not any("unlike" in key for key in read(finished / "metrics/ensemble.json"))


@pytest.mark.parametrize("share", [0, 1])
def test_share_follows_the_tables(tmp_path, settings, outputs, share):
    write(tmp_path, outputs)
    for file in (tmp_path / "test/unlike").rglob("*.csv"):
        write_table(pd.read_csv(file).assign(unlike=100.0 * (share - 0.5)), file)
    run(tmp_path, settings)
    assert read(tmp_path / "metrics/test/votes.json")["unlike"] == share


def test_unlike_scores_of_other_images_are_refused(tmp_path, settings, outputs):
    write(tmp_path, outputs)
    file = tmp_path / "test/unlike/cnn/2.csv"
    write_table(pd.read_csv(file)[1:], file)
    with pytest.raises(InputError, match=r"test/unlike/cnn/2.csv: has 11 images that are not the 12 test images"):
        run(tmp_path, settings)
    assert not (tmp_path / "metrics").exists()


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_noise_in_the_test_part_changes_no_file_but_those_of_the_test_part(tmp_path, finished, settings, outputs):
    generator = np.random.default_rng(0)
    rows = rows_of([f"t{number}" for number in range(20)], "test", generator.choice(["a", "b"], 20))
    noise = {
        model: {
            fold: one._replace(test=make_predictions(rows, generator.dirichlet([1, 1], 20), ["a", "b"], "digest"))
            for fold, one in folds.items()
        }
        for model, folds in outputs.items()
    }
    run(tmp_path, settings, noise)
    one, two = contents(finished), contents(tmp_path)
    assert sorted(one) == sorted(two)
    of_test = {name for name in one if name.startswith(("test/", "metrics/test/"))}
    assert {name for name in one if one[name] != two[name]} - {"attributes.csv"} == of_test
    assert {"models/panel.json", "metrics/votes.json", "votes/heading.csv"} <= set(one) - of_test


def test_a_test_part_that_is_not_scored_leaves_empty_tables_and_empty_objects(tmp_path, finished, settings, outputs):
    empty = {m: {f: one._replace(test=one.test[:0]) for f, one in folds.items()} for m, folds in outputs.items()}
    run(tmp_path, with_evaluate(settings, test=False), empty)
    assert read(tmp_path / "metrics/test/ensemble.json") == {}
    assert read(tmp_path / "metrics/test/votes.json") == {}
    for file in (*(tmp_path / "test/joined").iterdir(), *(tmp_path / "test/votes").iterdir()):
        table = read_predictions(file)
        assert (len(table), list(table)) == (0, list(outputs["cnn"][0].test))
    unscored, scored = contents(tmp_path), contents(finished)
    del unscored["attributes.csv"], scored["attributes.csv"]
    assert sorted(unscored) == sorted(scored)
    assert {name.split("/")[-2] for name in scored if scored[name] != unscored[name]} == {
        *("linear", "cnn", "joined", "votes", "test"),
    }
    assert all("test" in name for name in scored if scored[name] != unscored[name])


def test_files_of_models_and_folds_no_longer_listed_are_deleted(tmp_path, settings, outputs):
    folders = {"members": "csv", "test/members": "csv", "held_out": "safetensors", "unlike": "safetensors"}
    folders |= {"test/unlike": "csv"}
    for folder, kind in folders.items():
        for name in (f"linear/1.{kind}", f"retired/0.{kind}"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text("old")
    run(tmp_path, settings, outputs)
    for folder, kind in folders.items():
        remaining = sorted(str(path.relative_to(tmp_path / folder)) for path in (tmp_path / folder).rglob("*.*"))
        assert remaining == [f"{model}/{fold}.{kind}" for model in ("cnn", "linear") for fold in (0, 2)]
        assert not (tmp_path / folder / "retired").exists()


def test_what_a_run_reads_is_listed(settings, tmp_path):
    options = {name: tmp_path / name for name in ensemble.INPUT_FOLDERS}
    files = ensemble._inputs(settings, options)
    assert len(files) == 5 * 2 * 2
    assert tmp_path / "test_members/cnn/2.csv" in files
    assert tmp_path / "unlike/linear/0.safetensors" in files


def test_a_positive_class_that_is_none_and_a_missing_file_are_one_message_and_write_nothing(
    tmp_path, settings, outputs
):
    write(tmp_path, outputs)
    before = contents(tmp_path)
    wrong = settings.model_copy(update={"data": settings.data.model_copy(update={"positive": "ill"})})
    with pytest.raises(InputError, match=r"data\.positive is 'ill', expected one of two classes; there are a, b"):
        run(tmp_path, wrong)
    assert contents(tmp_path) == before
    (tmp_path / "held_out/cnn/2.safetensors").unlink()
    with pytest.raises(InputError, match=r"held_out/cnn/2\.safetensors: is not there: `dvc repro` writes it"):
        run(tmp_path, settings)
    shutil.copy(tmp_path / "held_out/cnn/0.safetensors", tmp_path / "held_out/cnn/2.safetensors")
    with pytest.raises(InputError, match=r"held_out/cnn/2\.safetensors: has parts of 10 images, expected 6"):
        run(tmp_path, settings)
    assert not (tmp_path / "models").exists()
