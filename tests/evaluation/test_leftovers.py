from tumorboard.evaluation.leftovers import remove_leftovers


def test_only_unlisted_matches_go(tmp_path):
    for name in ("kept/0.csv", "kept/1.csv", "gone/0.csv", "mixed/0.csv", "mixed/notes.txt", "own.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "kept" / "2.csv").mkdir()
    (tmp_path / "kept" / "2.csv" / "inside").write_text("x")
    remove_leftovers(tmp_path, "*/*.csv", [tmp_path / "kept" / "0.csv"])
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"kept", "kept/0.csv", "mixed", "mixed/notes.txt", "own.csv"}
