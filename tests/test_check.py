"""The account of a folder: what is in it, what a run would refuse, and that nothing is written."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import rich.console
from PIL import Image
from typer.testing import CliRunner

from tumorboard.account import print_account
from tumorboard.check import Account, check_folder, params_for
from tumorboard.cli import app
from tumorboard.params import Params, load_params

ROOT = Path(__file__).parents[1]
FREE = [np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8) for seed in range(60)]


def save(path: Path, number: int, form: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(FREE[number]).save(path, form)


def state(folder: Path) -> dict[str, tuple[str, float]]:
    """Digest and time of change of all that is in a folder."""
    return {
        path.relative_to(folder).as_posix(): (
            sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.lstat().st_mtime_ns,
        )
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Eight pictures a class, each of a patient of its own."""
    for number in range(8):
        save(tmp_path / f"raw/blast/P{number}_x.png", number)
        save(tmp_path / f"raw/normal/P{number + 8}_x.png", number + 8)
    return tmp_path / "raw"


@pytest.fixture
def ugly(raw: Path) -> Path:
    """The same with each kind of trouble once."""
    jpeg = BytesIO()
    Image.fromarray(FREE[20]).save(jpeg, "JPEG")
    (raw / "blast/copy.png").write_bytes((raw / "blast/P0_x.png").read_bytes())
    save(raw / "blast/resaved, here.bmp", 1, "BMP")
    save(raw / "normal/-twin\n.TIF", 2, "TIFF")
    (raw / "blast/empty.png").touch()
    (raw / "blast/cut.jpg").write_bytes(jpeg.getvalue()[:-300])
    (raw / "normal/notes.txt").write_text("these are notes")
    (raw / "normal/gone.png").symlink_to(raw / "nothing")
    (raw / "normal/Thumbs.db").write_bytes(b"x")
    (raw / "README").write_text("hello")
    return raw


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status and the object that the command prints, and nothing else, in the current folder."""
    done = CliRunner().invoke(app, ["check", *arguments, "--json"])
    return done.exit_code, json.loads(done.stdout)


def test_the_object_of_an_ugly_folder(ugly: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    before = state(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "from tumorboard.cli import app; app()", "check", ugly, "--json"],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert state(tmp_path) == before
    found = json.loads(done.stdout)
    details = {entry["path"]: entry.pop("detail") for entry in found["quarantined"]}
    assert all(details.values())
    assert found == {
        "classes": {"blast": 9, "normal": 8},
        "accepted": sorted(
            [f"blast/P{n}_x.png" for n in range(8) if n != 2]
            + [f"normal/P{n + 8}_x.png" for n in range(8)]
            + ["blast/copy.png", "blast/resaved, here.bmp"]
        ),
        "quarantined": [
            {"path": "blast/cut.jpg", "reason": "truncated"},
            {"path": "blast/empty.png", "reason": "empty"},
            {"path": "normal/gone.png", "reason": "broken or outward link"},
            {"path": "normal/notes.txt", "reason": "not an image"},
            {"path": "blast/P2_x.png", "reason": "label conflict"},
            {"path": "normal/-twin\n.TIF", "reason": "label conflict"},
        ],
        "ignored": [
            {"path": "README", "reason": "outside the class folders"},
            {"path": "normal/Thumbs.db", "reason": "system file"},
        ],
        "left_out": [],
        "duplicates": [
            {"kind": "bytes", "paths": ["blast/P0_x.png", "blast/copy.png"]},
            {"kind": "pixels", "paths": ["blast/P1_x.png", "blast/resaved, here.bmp"]},
            {"kind": "pixels", "paths": ["blast/P2_x.png", "normal/-twin\n.TIF"]},
        ],
        "label_conflicts": [["blast/P2_x.png", "normal/-twin\n.TIF"]],
        "shortcuts": [],
        "warnings": [ANY],
        "groups": 17,
        "refused": None,
    }
    assert "cannot read normal/gone.png (a link to nothing)" in found["warnings"][0]


def test_what_stops_dvc_before_the_first_stage_is_told(raw: Path, tmp_path: Path, params: Params) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "elsewhere")
    (raw / "blast/P9_elsewhere").symlink_to(tmp_path / "elsewhere")  # DVC reads what an outward link leads to
    assert check_folder(raw, params_for(params, raw, r"(P\d+)_")).warnings == []
    os.mkfifo(raw / "blast/P9_pipe.png")
    (raw / os.fsdecode(b"blast/P9_\xe9.png")).write_bytes((raw / "blast/P0_x.png").read_bytes())
    (raw / ".hidden").symlink_to(raw / ".hidden")
    (raw / ".git").mkdir()
    (raw / ".git/passed").symlink_to(raw / "nothing")
    account = check_folder(raw, params_for(params, raw, r"(P\d+)_"))
    assert account.refused is None
    (said,) = account.warnings
    assert "cannot read .hidden (a link to nothing); blast/P9_pipe.png (no regular file); " in said
    assert "'blast/P9_\\udce9.png' (its name is no UTF-8). Remove" in said
    for number in range(4):
        (raw / f"normal/P{number}_").symlink_to(raw / "nothing")
    assert (
        check_folder(raw, params_for(params, raw, r"(P\d+)_"))
        .warnings[0]
        .endswith("; and 2 more. Remove or mend it first")
    )


def test_a_full_temporary_folder_is_named(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tumorboard.check._fill", full)
    done = CliRunner().invoke(app, ["check", str(raw), "--json"])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "No space left on device" in done.stderr
    assert tempfile.gettempdir() in done.stderr


def test_ended_by_a_signal_it_leaves_nothing_behind(raw: Path, tmp_path: Path) -> None:
    os.mkfifo(raw / "labels.csv")  # whose reader waits
    folder = tmp_path / "temporary"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", "from tumorboard.cli import app; app()", "check", raw, "--labels", raw / "labels.csv"],
        env=os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT / "src")},
    )
    deadline = time.monotonic() + 60
    while not list(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(folder.iterdir())
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not list(folder.iterdir())


def test_a_table_elsewhere_and_its_groups(raw: Path, tmp_path: Path, params: Params) -> None:
    lines = [f"blast/P{n}_x.png;001;{n // 2}" for n in range(8)] + [f"normal/P{n + 8}_x.png;1;n{n}" for n in range(7)]
    (tmp_path / "mine.csv").write_text("path;label;group\r\n" + "\r\n".join(lines))
    account = check_folder(raw, params_for(with_folds(params, 3), raw, None), tmp_path / "mine.csv")
    assert account.classes == {"001": 8, "1": 7}
    assert account.groups == 4 + 7
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
    assert other.max_quarantined == data.max_quarantined


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("too many", "2 of 18 files cannot be used, but data.max_quarantined"),
        ("lost class", "class 'third' has no image that can be used"),
        ("few groups", "fewer than the 6"),
    ],
)
def test_what_a_run_would_refuse_still_has_its_account(raw: Path, params: Params, change: str, words: str) -> None:
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


def test_what_a_given_test_part_takes_from_training_is_told(tmp_path: Path, params: Params) -> None:
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
        {"path": "Training/blast/P0_x.png", "reason": "picture in the given test part"},
        {"path": "Training/blast/P1_x.png", "reason": "patient in the given test part"},
    ]
    assert account.warnings == [
        "too faint to be compared, so that near duplicates among them go unseen: 1, the first "
        "'Training/normal/P30_x.png'",
        "the given test part has no image of 'normal': how well that is recognised stays unknown",
    ]
    console = rich.console.Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    print_account(account, raw, Path("params.yaml"), console)
    text = console.export_text()
    assert "Left out of training: 2\n  patient in the given test part: 1\n    Training/blast/P1_x.png\n" in text
    assert "Mind: the given test part has no image of 'normal'" in text


def test_a_folder_without_any_image_that_can_be_used(tmp_path: Path, params: Params) -> None:
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"bad")
    account = check_folder(tmp_path, params_for(params, tmp_path, None))
    assert account.classes == {"a": 0, "b": 0}
    assert account.accepted == []
    assert account.refused is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none"], "there is no 'none'"),
        (["raw", "--group-pattern", "("], "no regular expression"),
        (["raw", "--labels", "none.csv"], "none.csv"),
    ],
)
def test_a_mistake_is_a_refusal_with_status_2(
    raw: Path, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(raw.parent)
    status, found = run(*arguments)
    assert status == 2
    assert words in found["refused"]["message"]
    assert found["accepted"] == []
    assert list(found) == list(Account.__dataclass_fields__)


def test_params_of_the_current_folder_count(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw.parent)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (raw.parent / "params.yaml").write_text(text.replace("min_side: 16", "min_side: 41"))
    status, found = run("raw")
    assert status == 2
    assert {entry["reason"] for entry in found["quarantined"]} == {"too small"}
    (raw.parent / "params.yaml").write_text(text.replace("min_side: 16", "min_sides: 41"))
    status, found = run("raw")
    assert (status, "did you mean min_side" in found["refused"]["message"]) == (2, True)


def test_the_readable_account(ugly: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ugly.parent)
    shown = CliRunner().invoke(app, ["check", "raw"])
    assert shown.exit_code == 0, shown.output
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    for line in (
        "blast 9 52.9%",
        "2 classes 17",
        "17 groups: each image is its own: no patients are known (--group-pattern, or a column group)",
        "Quarantined: 6",
        "broken or outward link: 1",
        "Copies: the same pixels in other bytes: 2 sets, 4 files",
        r"blast/P2_x.png = 'normal/-twin\n.TIF'",
        "Label conflicts: one picture under several labels: 1 set, 2 files",
    ):
        assert line in lines
    assert lines[-1] == "A run would accept this; mind the above."


def test_the_readable_refusal_and_what_is_shown_of_many() -> None:
    account = Account(
        classes={"[b]": 9, "x": 0},
        groups=3,
        quarantined=[{"path": f"a/{n}.png", "reason": "empty", "detail": "no [bytes]"} for n in range(8)],
        ignored=[{"path": "c", "reason": "hidden", "detail": "\x1b[31mred\nline"}],
        duplicates=[{"kind": "near", "paths": ["a", "b\udcff"]}],
        label_conflicts=[[f"{n}" for n in range(9)]],
        shortcuts=[
            {"facts": "width", "skill": 0.5, "accuracy": 0.68491, "majority": 0.3}
            | {"test_skill": 0.333, "test_accuracy": 0.5, "test_majority": 0.25},
            {"facts": "border", "skill": 0.6, "accuracy": 0.7, "majority": 0.3}
            | {"test_skill": None, "test_accuracy": None, "test_majority": None},
        ],
        refused={"message": "class 'x' [is] lost"},
    )
    console = rich.console.Console(width=60, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    print_account(account, Path("raw"), Path("params.yaml"), console)
    text = console.export_text()
    for part in (
        "[b]",
        "a/4.png: no [bytes]\n",
        "... and 3 more",
        "a = 'b\\udcff'",
        "c: '\\x1b[31mred\\nline'\n",
        "    0 = 1 = 2 = 3 = 4 … and 4 more\n",
        "border: skill 0.60, accuracy 70.0% (commonest class: 30.0%)\n",
    ):
        assert part in text
    assert "a/5.png" not in text
    line = "width: skill 0.50, accuracy 68.5% (commonest class: 30.0%); skill 0.33, accuracy 50.0% on the test part"
    assert line in " ".join(text.split())
    assert text.rstrip().endswith("A run would refuse this: class 'x' [is] lost")


def test_help_is_quick_because_nothing_is_imported_for_it() -> None:
    program = (
        "import sys, tumorboard.cli\n"
        "print([name for name in ('numpy', 'pandas', 'torch', 'cv2', 'PIL', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT / "src", capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_real_images_pass_with_their_known_copies(shared: Path) -> None:
    params, raw = load_params(ROOT / "params.yaml"), shared / "brain_mri_small" / "Testing"
    alone = params.model_copy(update={"runtime": params.runtime.model_copy(update={"workers": 1})})
    account = check_folder(raw, params_for(alone, raw, None))
    assert account.refused is None
    # A picture that is there as a glioma and as a meningioma is neither.
    assert account.classes == {"glioma_tumor": 19, "meningioma_tumor": 19, "no_tumor": 20, "pituitary_tumor": 20}
    assert [len(paths) for paths in account.label_conflicts] == [2]
    assert sorted(entry["path"] for entry in account.quarantined) == account.label_conflicts[0]
    digests: dict[str, list[str]] = {}
    for path in account.accepted:
        digests.setdefault(sha256((raw / path).read_bytes()).hexdigest(), []).append(path)
    found = [entry["paths"] for entry in account.duplicates if entry["kind"] == "bytes"]
    assert found == [paths for paths in digests.values() if len(paths) > 1]
    assert found
