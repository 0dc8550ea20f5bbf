"""The check of a folder: its account has every file, names what a run would refuse, and leaves nothing on disk."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from PIL import Image

from tumorboard.base.data_params import Columns
from tumorboard.base.params import Params, load_params
from tumorboard.data import workers
from tumorboard.data.check import check_folder, params_for

ROOT = Path(__file__).parents[2]
FREE = [np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8) for seed in range(60)]


def save(path: Path, number: int, form: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(FREE[number]).save(path, form)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Eight pictures per class, each of another patient."""
    for number in range(8):
        save(tmp_path / f"raw/blast/P{number}_x.png", number)
        save(tmp_path / f"raw/normal/P{number + 8}_x.png", number + 8)
    return tmp_path / "raw"


def test_files_that_stop_dvc_before_the_first_stage_are_a_warning(raw: Path, tmp_path: Path, params: Params) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "elsewhere")
    (raw / "blast/P9_elsewhere").symlink_to(tmp_path / "elsewhere")  # DVC reads what an outward link leads to
    (few,) = check_folder(raw, params_for(params, raw, r"(P\d+)_")).warnings
    assert few.startswith("the validation set of fold 0 has 3 images")
    os.mkfifo(raw / "blast/P9_pipe.png")
    (raw / os.fsdecode(b"blast/P9_\xe9.png")).write_bytes((raw / "blast/P0_x.png").read_bytes())
    (raw / ".hidden").symlink_to(raw / ".hidden")
    (raw / ".git").mkdir()
    (raw / ".git/passed").symlink_to(raw / "nothing")
    account = check_folder(raw, params_for(params, raw, r"(P\d+)_"))
    assert account.refused is None
    warning, few = account.warnings
    assert "cannot read .hidden (a broken link); blast/P9_pipe.png (not a regular file); " in warning
    assert "'blast/P9_\\udce9.png' (its name is not UTF-8). Remove" in warning
    for number in range(4):
        (raw / f"normal/P{number}_").symlink_to(raw / "nothing")
    assert (
        check_folder(raw, params_for(params, raw, r"(P\d+)_"))
        .warnings[0]
        .endswith("; and 2 more. Remove or repair them first")
    )


def test_a_table_outside_the_folder_replaces_the_labels(raw: Path, tmp_path: Path, params: Params) -> None:
    lines = [f"blast/P{n}_x.png;001;{n // 2}" for n in range(8)] + [f"normal/P{n + 8}_x.png;1;n{n}" for n in range(7)]
    (tmp_path / "mine.csv").write_text("path;label;group\r\n" + "\r\n".join(lines))
    account = check_folder(raw, params_for(with_folds(params, 3), raw, None), tmp_path / "mine.csv")
    assert account.classes == {"001": 8, "1": 7}
    assert account.groups == 4 + 7
    assert account.grouped
    assert not check_folder(raw, params_for(params, raw, None)).grouped
    assert account.ignored == [{"path": "normal/P15_x.png", "reason": "not in the table"}]
    assert account.refused is None


def with_folds(params: Params, folds: int) -> Params:
    return params.model_copy(update={"split": params.split.model_copy(update={"folds": folds})})


def test_a_pattern_and_table_of_params_count_for_their_own_folder_only(
    raw: Path, params: Params, tmp_path: Path
) -> None:
    data = params.data.model_copy(update={"raw": str(raw), "table": "t.csv", "group_pattern": "(P)"})
    mine = params.model_copy(update={"data": data})
    assert params_for(mine, raw / "../raw", None).data == data.model_copy(update={"raw": str(raw / "../raw")})
    assert params_for(mine, raw, "(Q)").data == data.model_copy(update={"group_pattern": "(Q)"})
    other = params_for(mine, tmp_path, None).data
    assert (other.raw, other.table, other.group_pattern) == (str(tmp_path), None, None)
    described = data.model_copy(update={"columns": Columns(path="x"), "prefix": "a/", "layout": "folders"})
    other = params_for(params.model_copy(update={"data": described}), tmp_path, None).data
    assert (other.columns, other.prefix, other.layout) == (None, None, "auto")
    assert other.max_quarantined == data.max_quarantined


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("too many", "2 of 18 files cannot be used, but data.max_quarantined"),
        ("lost class", "class 'third' has no usable image"),
        ("few groups", "fewer than the 6"),
    ],
)
def test_a_refused_folder_still_has_its_account(raw: Path, params: Params, change: str, words: str) -> None:
    for name in ("blast/bad.png", "third/bad.png" if change == "lost class" else "blast/bad2.png"):
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).write_bytes(b"bad")
    limit = 1 if change == "too many" else 2
    changed = params.model_copy(update={"data": params.data.model_copy(update={"max_quarantined": limit})})
    account = check_folder(raw, params_for(changed, raw, "(blast|P)" if change == "few groups" else None))
    assert account.refused is not None
    assert words in account.refused["message"]
    assert len(account.quarantined) == 2
    assert len(account.accepted) == 16
    assert account.classes == {"blast": 8, "normal": 8} | ({"third": 0} if change == "lost class" else {})


def test_label_conflicts_count_against_the_limit(raw: Path, params: Params) -> None:
    for number in range(4):
        save(raw / f"blast/copy{number}.png", 0)
    save(raw / "normal/copy.png", 0)
    (raw / "blast/empty.png").touch()
    for limit in (6, 7):
        changed = params.model_copy(update={"data": params.data.model_copy(update={"max_quarantined": limit})})
        account = check_folder(raw, params_for(changed, raw, None))
        assert len(account.quarantined) == 7
        assert ("7 of 22 files cannot be used" in str(account.refused)) is (limit == 6)


def test_where_the_split_is_refused_the_audit_is_still_reported(tmp_path: Path, params: Params) -> None:
    raw = tmp_path / "raw"
    for number in range(8):
        save(raw / f"Training/blast/P{number}_x.png", number)
        save(raw / f"Training/normal/P{8 + number % 2}_x{number}.png", number + 8)
    save(raw / "Training/normal/P9_again.png", 7)
    save(raw / "Testing/blast/P20_x.png", 0)
    account = check_folder(raw, params_for(params, raw, r"(P\d+)_"))
    assert account.refused is not None
    assert "class 'normal' has 2 groups" in account.refused["message"]
    assert [entry["path"] for entry in account.quarantined] == [
        "Training/blast/P7_x.png",
        "Training/normal/P9_again.png",
    ]
    assert account.classes == {"blast": 8, "normal": 8}
    assert account.left_out == [{"path": "Training/blast/P0_x.png", "reason": "picture in the given test set"}]
    assert (account.warnings, account.shortcuts) == ([], [])


def test_a_shortcut_is_listed_with_its_scores(tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of one class are narrower."""
    monkeypatch.setattr("tumorboard.data.shortcuts.PERMUTATIONS", 19)  # the least p is 0.05
    raw = tmp_path / "raw"
    for number in range(20):
        save(raw / f"Training/normal/P{number}_x.png", number)
        narrow = raw / f"Training/blast/P{number + 20}_x.png"
        narrow.parent.mkdir(exist_ok=True)
        Image.fromarray(FREE[number + 20][:, :45]).save(narrow)
    save(raw / "Testing/normal/P40_x.png", 40)
    account = check_folder(raw, params_for(params, raw, r"(P\d+)_"))
    (width,) = (fact for fact in account.shortcuts if fact["facts"] == "width")
    assert (width["skill"], width["accuracy"], width["majority"]) == (1, 1, 0.5)
    assert 0 < width["p"] <= 0.05
    assert "height" not in {fact["facts"] for fact in account.shortcuts}


def test_images_that_a_given_test_set_takes_from_training_are_listed(tmp_path: Path, params: Params) -> None:
    raw = tmp_path / "raw"
    for number in range(8):
        save(raw / f"Training/blast/P{number}_x.png", number)
        save(raw / f"Training/normal/P{number + 8}_x.png", number + 8)
    save(raw / "Testing/blast/P20_x.png", 0, "BMP")
    save(raw / "Testing/blast/P1_y.png", 20)
    Image.new("L", (40, 40), 9).save(raw / "Training/normal/P30_x.png")
    account = check_folder(raw, params_for(params, raw, r"(P\d+)_"))
    assert account.refused is None
    assert account.left_out == [
        {"path": "Training/blast/P0_x.png", "reason": "picture in the given test set"},
        {"path": "Training/blast/P1_x.png", "reason": "patient in the given test set"},
    ]
    assert account.warnings == [
        "too faint to be compared, so that near duplicates among them go unseen: 1, the first "
        "'Training/normal/P30_x.png'",
        "the given test set has no image of 'normal': test scores that need one (recall, means over the classes) are "
        "undefined",
        ANY,  # the validation set has few images
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("blast/P0_x.png,0,0,5,5\nblast/bad.png,0,0,900,5\n", None),
        ("blast/P0_x.png,0,0,5,5\nblast/P0_x.png,48,0,5,5\n", "boxes.csv: line 3: the box from (48, 0) to (53, 5) is"),
    ],
)
def test_boxes_are_checked_as_the_stage_explain_does(raw: Path, params: Params, rows: str, message: str | None) -> None:
    """A box of a file that is quarantined is none; a table of another folder than that of params is not looked for."""
    (raw / "blast/bad.png").write_bytes(b"bad")
    (raw / "boxes.csv").write_text("path,x,y,width,height\n" + rows)
    data = params.data.model_copy(update={"raw": str(raw), "boxes": "boxes.csv", "max_quarantined": 1})
    account = check_folder(raw, params.model_copy(update={"data": data}))
    assert (account.refused is None) == (message is None), account.refused
    assert message is None or message in str(account.refused)
    assert account.classes == {"blast": 8, "normal": 8}
    mine = params.model_copy(update={"data": data})
    assert params_for(mine, raw / "../raw", None).data.boxes == "boxes.csv"
    assert params_for(mine, raw / "blast", None).data.boxes is None


def test_a_cluster_gives_the_same_account_and_its_files_lie_where_its_workers_see_them(
    raw: Path, tmp_path: Path, params: Params, cluster: Any
) -> None:
    (raw / "blast/bad.png").write_bytes(b"bad")
    here = params_for(params, raw, None)
    there = here.model_copy(
        update={"runtime": here.runtime.model_copy(update={"scheduler": cluster.scheduler_address})}
    )
    account = check_folder(raw, there, place=tmp_path / "seen/check")
    assert account == check_folder(raw, here)
    assert [entry["path"] for entry in account.quarantined] == ["blast/bad.png"]
    assert list((tmp_path / "seen").iterdir()) == []


def test_where_no_scheduler_answers_a_run_would_be_refused(
    raw: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 1)
    runtime = params.runtime.model_copy(update={"scheduler": "tcp://127.0.0.1:9"})
    account = check_folder(raw, params_for(params.model_copy(update={"runtime": runtime}), raw, None))
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in str(account.refused)


def test_a_folder_without_a_usable_image_is_refused(tmp_path: Path, params: Params) -> None:
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"bad")
    account = check_folder(tmp_path, params_for(params, tmp_path, None))
    assert account.classes == {"a": 0, "b": 0}
    assert account.accepted == []
    assert account.refused is not None


def test_the_real_images_pass_with_their_known_copies(shared: Path) -> None:
    params, raw = load_params(ROOT / "params.yaml"), shared / "brain_mri_small" / "Testing"
    alone = params.model_copy(update={"runtime": params.runtime.model_copy(update={"workers": 1})})
    account = check_folder(raw, params_for(alone, raw, None))
    assert account.refused is None
    # A picture under both glioma and meningioma is quarantined.
    assert account.classes == {"glioma_tumor": 19, "meningioma_tumor": 19, "no_tumor": 20, "pituitary_tumor": 20}
    assert [len(paths) for paths in account.label_conflicts] == [2]
    assert sorted(entry["path"] for entry in account.quarantined) == account.label_conflicts[0]
    digests: dict[str, list[str]] = {}
    for path in account.accepted:
        digests.setdefault(sha256((raw / path).read_bytes()).hexdigest(), []).append(path)
    sets = [entry["paths"] for entry in account.duplicates if entry["kind"] == "bytes"]
    assert sets == [paths for paths in digests.values() if len(paths) > 1]
    assert sets


def test_a_given_validation_part_of_a_handful_and_a_shared_placeholder_are_told(tmp_path: Path, params: Params) -> None:
    raw = tmp_path / "raw"
    lines = ["path,label,split,group"]
    for number in range(24):
        save(raw / f"{number}.png", number)
        part = "val" if number < 2 else "test" if number < 8 else "train"
        lines.append(f"{number}.png,{'ab'[number % 2]},{part},{'unknown' if number > 19 else f'P{number}'}")
    (raw / "labels.csv").write_text("\n".join(lines))
    account = check_folder(raw, params_for(params, raw, None))
    placeholder, validation = account.warnings
    assert placeholder.startswith("4 of 24 images have the patient 'unknown'")
    assert "of fold 0 has 2 images" in validation
    assert "write train instead of val" in validation


def test_folders_that_look_like_parts_are_refused_with_the_lines_to_write(tmp_path: Path, params: Params) -> None:
    raw = tmp_path / "ham"
    rows = ["lesion_id,image_id,dx"]
    for number in range(12):
        save(raw / f"images_part_{1 + number // 6}/ISIC_{number}.png", number)
        rows.append(f"HAM_{number},ISIC_{number},{('nv', 'mel')[number % 2]}")
    (raw / "metadata.csv").write_text("\n".join(rows))
    account = check_folder(raw, params_for(params, raw, None))
    assert account.refused is not None
    assert "    path: image_id\n    label: dx\n" in account.refused["message"]
    columns = Columns(path="image_id", label="dx")
    data = params.data.model_copy(
        update={"raw": str(raw), "table": "metadata.csv", "columns": columns, "prefix": "*/", "extension": ".png"}
    )
    told = check_folder(raw, params_for(params.model_copy(update={"data": data}), raw, "(.+)"))
    assert told.classes == {"mel": 6, "nv": 6}


@pytest.mark.parametrize("kind", ["circle", "long"])
def test_a_folder_that_cannot_be_opened_is_refused(tmp_path: Path, params: Params, kind: str) -> None:
    (tmp_path / "circle").symlink_to("circle")
    raw = tmp_path / ("circle" if kind == "circle" else "x" * 300)
    account = check_folder(raw, params_for(params, raw, None))
    assert account.refused is not None
    assert "cannot be opened: " in account.refused["message"]
