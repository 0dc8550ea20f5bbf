"""Digests: which files a module runs, and which stages an edit concerns."""

import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from tumorboard.base.digests import check_digests, source_files, write_digests
from tumorboard.base.errors import InputError


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two stages over a library: `one` runs lib/a/x.py and lib/b; `two` runs lib/c.py."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "stages/__init__.py": "",
        "stages/one.py": "from lib.a import x\nimport os, json",
        "stages/two.py": "def main():\n    from lib.c import name",
        "lib/__init__.py": "",
        "lib/a/__init__.py": "",
        "lib/a/x.py": "import lib.b.y as y",
        "lib/a/unused.py": "",
        "lib/a/templates/page.html": "<p>",
        "lib/a/templates/__pycache__/x.pyc": "",
        "lib/a/__pycache__/x.pyc": "",
        "lib/b/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lib.d import T",
        "lib/b/y.py": "from lib.a.x import z",
        "lib/c.py": "name = 1",
        "lib/d.py": "T = int",
        "lib/e.py": "",
    }.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    return {"stages": Path("stages"), "lib": Path("lib")}


def test_a_module_runs_what_it_imports_directly_or_not(packages: dict[str, Path]) -> None:
    assert {file.as_posix() for file in source_files("stages.one", packages)} == {
        "stages/__init__.py",
        "stages/one.py",
        "lib/__init__.py",
        "lib/a/__init__.py",
        "lib/a/x.py",
        "lib/a/templates/page.html",
        "lib/b/__init__.py",
        "lib/b/y.py",
        "lib/d.py",
    }


def test_an_import_within_a_function_counts(packages: dict[str, Path]) -> None:
    files = {file.as_posix() for file in source_files("stages.two", packages)}
    assert files == {"stages/__init__.py", "stages/two.py", "lib/__init__.py", "lib/c.py"}


def test_a_relative_import_is_refused(packages: dict[str, Path]) -> None:
    (packages["lib"] / "c.py").write_text("\nfrom . import d")
    with pytest.raises(ValueError, match=r"lib/c\.py:2: a relative import"):
        source_files("stages.two", packages)


def test_an_edit_changes_the_digests_of_the_stages_that_run_the_file(packages: dict[str, Path]) -> None:
    def written() -> dict[str, str]:
        write_digests(Path("stages"), Path("lib"), Path("digests"))
        return {file.stem: file.read_text() for file in Path("digests").iterdir()}

    before = written()
    assert set(before) == {"one", "two"}
    assert f"{sha256(b'name = 1').hexdigest()}  lib/c.py" in before["two"].splitlines()
    subprocess.run(["sha256sum", "--check", "--quiet", "digests/one.sha256"], check=True)
    (packages["lib"] / "e.py").write_text("edited")
    assert written() == before
    (packages["lib"] / "d.py").write_text("T = str")
    after = written()
    assert after["one"] != before["one"]
    assert after["two"] == before["two"]


def test_a_list_names_the_first_source_that_has_changed_since(packages: dict[str, Path]) -> None:
    write_digests(packages["stages"], packages["lib"], Path("digests"))
    for stage in ("one", "two"):
        check_digests(Path(f"digests/{stage}.sha256"))
    Path("lib/c.py").write_text("name = 2", encoding="utf-8")
    check_digests(Path("digests/one.sha256"))
    with pytest.raises(InputError, match=r"^lib/c\.py: is not the file that digests/two\.sha256 lists"):
        check_digests(Path("digests/two.sha256"))
    Path("lib/c.py").unlink()
    with pytest.raises(InputError, match=r"^lib/c\.py: is not the file"):
        check_digests(Path("digests/two.sha256"))
