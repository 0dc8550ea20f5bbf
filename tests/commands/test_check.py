"""The command `check`: its JSON, its text, its exit status, and that it writes nothing where it was called."""

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

from tumorboard.commands import check as module
from tumorboard.commands.app import app
from tumorboard.commands.check import print_account
from tumorboard.data.check import Account

ROOT = Path(__file__).parents[2]
NOISE = [np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8) for seed in range(21)]


def save(path: Path, number: int, form: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(NOISE[number]).save(path, form)


def state(folder: Path) -> dict[str, tuple[str, float]]:
    """The digest and the modification time of everything in a folder."""
    return {
        path.relative_to(folder).as_posix(): (
            sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.lstat().st_mtime_ns,
        )
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Eight pictures per class, each of a patient of its own."""
    for number in range(8):
        save(tmp_path / f"raw/blast/P{number}_x.png", number)
        save(tmp_path / f"raw/normal/P{number + 8}_x.png", number + 8)
    return tmp_path / "raw"


@pytest.fixture
def ugly(raw: Path) -> Path:
    """The same with each kind of trouble once."""
    jpeg = BytesIO()
    Image.fromarray(NOISE[20]).save(jpeg, "JPEG")
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


def check(*arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit status of the command in the current folder, and the object that it prints, alone."""
    done = CliRunner().invoke(app, ["check", *arguments, "--json"])
    return done.exit_code, json.loads(done.stdout)


def printed(account: Account, width: int) -> str:
    console = rich.console.Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    print_account(account, Path("raw"), Path("params.yaml"), console)
    return console.export_text()


def test_the_object_of_an_ugly_folder(ugly: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    before = state(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tumorboard.commands.app", "check", ugly, "--json"],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert state(tmp_path) == before
    account = json.loads(done.stdout)
    details = {entry["path"]: entry.pop("detail") for entry in account["quarantined"]}
    assert all(details.values())
    assert account == {
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
        "warnings": [ANY, ANY],
        "groups": 17,
        "grouped": False,
        "refused": None,
    }
    assert "cannot read normal/gone.png" in account["warnings"][0]
    assert account["warnings"][1].startswith("the validation set of fold 0 has ")


def test_a_full_temporary_folder_is_named(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "check_folder", full)
    done = CliRunner().invoke(app, ["check", str(raw), "--json"])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("check: ")
    assert "No space left on device" in done.stderr
    assert tempfile.gettempdir() in done.stderr


def test_sigterm_leaves_no_temporary_file_behind(raw: Path, tmp_path: Path) -> None:
    os.mkfifo(raw / "labels.csv")  # whose reader waits
    folder = tmp_path / "temporary"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "tumorboard.commands.app", "check", raw, "--labels", raw / "labels.csv"],
        env=os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT / "src")},
    )
    deadline = time.monotonic() + 60
    while not list(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(folder.iterdir())
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none"], "there is no 'none'"),
        (["raw", "--group-pattern", "("], "--group-pattern: '(' is not a regular expression"),
        (["raw", "--group-pattern", ""], "--group-pattern: '' has no group"),
        (["raw", "--labels", "none.csv"], "none.csv"),
    ],
)
def test_a_users_mistake_is_a_refusal_with_status_2(
    raw: Path, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(raw.parent)
    status, account = check(*arguments)
    assert status == 2
    assert words in account["refused"]["message"]
    assert account["accepted"] == []
    assert list(account) == list(Account.__dataclass_fields__)


def test_the_limits_are_those_of_params_in_the_current_folder(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw.parent)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (raw.parent / "params.yaml").write_text(text.replace("min_side: 16", "min_side: 41"))
    status, account = check("raw")
    assert status == 2
    assert {entry["reason"] for entry in account["quarantined"]} == {"too small"}
    (raw.parent / "params.yaml").write_text(text.replace("min_side: 16", "min_sides: 41"))
    status, account = check("raw")
    assert (status, "did you mean min_side" in account["refused"]["message"]) == (2, True)


def test_a_table_and_a_pattern_are_options(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw.parent)
    _, account = check("raw", "--group-pattern", r"P(\d)")  # patients 0 to 7 of blast, 8, 9 and 1 of normal
    assert account["groups"] == 10
    (raw.parent / "mine.csv").write_text("path,label\n" + "".join(f"blast/P{n}_x.png,{n % 2}\n" for n in range(8)))
    _, account = check("raw", "--labels", "mine.csv")
    assert account["classes"] == {"0": 4, "1": 4}


def test_the_text_of_an_accepted_folder(ugly: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ugly.parent)
    shown = CliRunner().invoke(app, ["check", "raw"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("raw, by the package's limits\n")
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    for line in (
        "blast 9 52.9%",
        "2 classes 17",
        "17 groups: one per image: no patients are known (--group-pattern, or a column group)",
        "Quarantined: 6",
        "broken or outward link: 1",
        "Copies that were found: the same pixels in other bytes: 2 sets, 4 files",
        r"blast/P2_x.png = 'normal/-twin\n.TIF'",
        "Label conflicts: one picture under several labels: 1 set, 2 files",
    ):
        assert line in lines
    assert lines[-1] == "A run would accept this; see the warnings."


def test_the_text_of_a_refusal_and_the_first_few_of_many() -> None:
    account = Account(
        classes={"[b]": 9, "x": 0},
        groups=3,
        quarantined=[{"path": f"a/{n}.png", "reason": "empty", "detail": "no [bytes]"} for n in range(8)],
        ignored=[{"path": "c", "reason": "hidden", "detail": "\x1b[31mred\nline"}],
        duplicates=[{"kind": "near", "paths": ["a", "b\udcff"]}],
        label_conflicts=[[f"{n}" for n in range(9)]],
        shortcuts=[
            {"facts": "width", "skill": 0.5, "accuracy": 0.68491, "majority": 0.3, "p": 0.012},
            {"facts": "border", "skill": 0.6, "accuracy": 0.2, "majority": 0.3, "p": 0.05},
        ],
        refused={"message": "class 'x' [is] lost"},
    )
    text = printed(account, 60)
    for part in (
        "[b]",
        "3 groups: the images of a group stay on one side\n",
        "a/4.png: no [bytes]\n",
        "... and 3 more",
        "a = 'b\\udcff'",
        "c: '\\x1b[31mred\\nline'\n",
        "    0 = 1 = 2 = 3 = 4 … and 4 more\n",
        "border: skill 0.60 (p = 0.05, labels permuted over groups)\n",
    ):
        assert part in text
    assert "a/5.png" not in text
    assert "width: skill 0.50 (p = 0.01, labels permuted over groups)" in " ".join(text.split())
    assert text.rstrip().endswith("A run would refuse this: class 'x' [is] lost")


@pytest.mark.parametrize(
    ("grouped", "text"),
    [
        (False, "2 groups: one per image: no patients are known (--group-pattern, or a column group)"),
        (True, "2 groups: each has one image"),
    ],
)
def test_groups_of_one_image_are_told_apart_from_unknown_ones(grouped: bool, text: str) -> None:
    assert f"\n{text}\n" in printed(Account(classes={"a": 1, "b": 1}, groups=2, grouped=grouped), 200)


def test_one_patient_is_one_group() -> None:
    assert "\n1 group: the images" in printed(Account(classes={"a": 1, "b": 1}, groups=1, grouped=True), 200)


def test_the_text_of_warnings_and_of_images_left_out() -> None:
    account = Account(
        classes={"a": 1, "b": 1},
        groups=2,
        left_out=[
            {"path": "b/2.png", "reason": "patient in the given test set"},
            {"path": "a/1.png", "reason": "picture in the given test set"},
        ],
        warnings=["the given test set has no image of 'b\udcff'"],
    )
    text = printed(account, 200)
    assert (
        "Left out of training: 2\n  patient in the given test set: 1\n    b/2.png\n"
        "  picture in the given test set: 1\n    a/1.png\n"
    ) in text
    assert "Warning: the given test set has no image of 'b\\udcff'\n" in text
    assert text.rstrip().endswith("A run would accept this; see the warnings.")
    assert printed(Account(), 200).rstrip().endswith("A run would accept this.")
    assert "Left out of training" not in printed(Account(classes={"a": 1}), 200)


def test_a_folder_that_a_queued_experiment_would_lack_is_told(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / ".dvc").mkdir()
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")
    for command in (("init", "--quiet"), ("commit", "--quiet", "--allow-empty", "-m", "begin")):
        subprocess.run([*git, *command], check=True)
    warnings = json.loads(CliRunner().invoke(app, ["check", raw.name, "--json"]).stdout)["warnings"]
    assert any("'raw' is not known to git" in warning and "`dvc add raw && git" in warning for warning in warnings)
    warnings = json.loads(CliRunner().invoke(app, ["check", str(raw), "--json"]).stdout)["warnings"]
    assert not any("git" in warning for warning in warnings)


def test_names_that_look_like_patients_are_a_warning_until_a_pattern_is_given(tmp_path: Path) -> None:
    for number in range(16):
        save(tmp_path / f"raw/{'ab'[number % 2]}/OAS1_{number // 2:04}_MR1_{number}.png", number)
    (warning,) = [text for text in warnings_of(tmp_path / "raw") if "the names look like" in text]
    assert "8 groups (a/OAS1_0000_MR1_0.png is of OAS1_0000)" in warning
    pattern = warning.split("group_pattern: ")[1]
    assert not [text for text in warnings_of(tmp_path / "raw", "--group-pattern", pattern) if "the names look" in text]
    (warning,) = [
        text for text in warnings_of(tmp_path / "raw", "--group-pattern", r"_(\d+)\.") if "names look" in text
    ]
    assert "but each image is a group of its own, so that images of one patient may be on two sides" in warning


def test_names_that_tell_the_class_are_no_patients(tmp_path: Path) -> None:
    for number in range(16):
        save(tmp_path / f"raw/{'ab'[number % 2]}/class{number % 2}_{number}.png", number)
    assert not [text for text in warnings_of(tmp_path / "raw") if "the names look like" in text]


def warnings_of(raw: Path, *options: str) -> list[str]:
    """The warnings of `check --json`."""
    return json.loads(CliRunner().invoke(app, ["check", str(raw), "--json", *options]).stdout)["warnings"]
