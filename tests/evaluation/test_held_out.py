"""Which rows are left out together, which epoch they have, and the file that keeps it."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.special import softmax

from tumorboard.base.errors import InputError
from tumorboard.evaluation.held_out import PARTS, HeldOut, assign_parts, read_held_out, start_held_out, write_held_out


def example(rows: int = 6, classes: int = 2, parts: int = 3) -> HeldOut:
    generator = np.random.default_rng(0)
    return HeldOut(
        parts=np.arange(rows) % parts,
        logits=generator.normal(size=(parts + 1, rows, classes)).astype(np.float32),
        epochs=np.arange(1, parts + 2),
        scores=generator.random(parts + 1),
    )


def test_groups_stay_together_and_parts_have_about_equally_many_rows() -> None:
    generator = np.random.default_rng(1)
    groups = [f"p{number}" for number in range(40) for _ in range(generator.integers(1, 9))]
    generator.shuffle(groups)
    parts = assign_parts(groups)
    assert sorted(set(parts)) == list(range(PARTS))
    for group in set(groups):
        assert len({part for part, name in zip(parts, groups, strict=True) if name == group}) == 1
    sizes = np.bincount(parts)
    assert np.ptp(sizes) <= 2


def test_the_parts_follow_from_the_names_of_the_groups_whatever_the_order_of_the_rows() -> None:
    groups = [f"p{number % 13}" for number in range(50)]
    parts = dict(zip(groups, assign_parts(groups).tolist(), strict=True))
    order = np.random.default_rng(2).permutation(50)
    assert assign_parts([groups[row] for row in order]).tolist() == [parts[groups[row]] for row in order]
    renamed = [f"q{name}" for name in groups]
    assert assign_parts(renamed).tolist() != assign_parts(groups).tolist(), "equal sizes: the name's key decides"


def test_a_giant_group_has_a_part_of_its_own() -> None:
    groups = ["giant"] * 100 + [f"p{number}" for number in range(20)]
    parts = assign_parts(groups)
    assert set(parts[:100]) & set(parts[100:]) == set()
    assert np.bincount(parts)[list(set(parts[100:]))].tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize(("groups", "count"), [(["p"], 1), (["p", "p"], 1), (["p", "q", "q"], 2), (list("pqrs"), 4)])
def test_there_are_no_more_parts_than_groups(groups: list[str], count: int) -> None:
    assert sorted(set(assign_parts(groups))) == list(range(count))
    assert len(start_held_out(groups, 2).logits) == count + 1


def test_no_rows_have_no_part() -> None:
    assert assign_parts([]).tolist() == []
    assert start_held_out([], 3).logits.shape == (2, 0, 3)


def test_the_first_state_has_no_epoch() -> None:
    start = start_held_out(["p", "q", "r"], 4)
    assert start.logits.shape == (4, 3, 4)
    assert start.logits.dtype == np.float32
    assert start.epochs.tolist() == [0] * 4
    assert np.isnan(start.scores).all()


def test_an_epoch_takes_the_places_where_it_is_better_and_changes_no_other() -> None:
    before = example()
    copy = HeldOut(**{name: value.copy() for name, value in vars(before).items()})
    new = np.full((6, 2), 7, np.float32)
    after = before.choose(new, 9, [True, False, False, True], [0.1, 0.2, 0.3, 0.4])
    assert after.epochs.tolist() == [9, 2, 3, 9]
    assert after.scores.tolist() == [0.1, *before.scores[1:3], 0.4]
    assert (after.logits[[0, 3]] == 7).all()
    assert (after.logits[1:3] == before.logits[1:3]).all()
    assert after.logits.dtype == np.float32
    assert (after.parts == before.parts).all()
    for name, value in vars(copy).items():
        assert np.array_equal(getattr(before, name), value), "checkpoints keep the arrays without a copy"


def test_a_rows_own_output_is_that_of_the_choice_without_its_part() -> None:
    held_out = example()
    expected = [held_out.logits[part, row] for row, part in enumerate([0, 1, 2, 0, 1, 2])]
    assert np.array_equal(held_out.own_logits, expected)
    for choice in range(4):
        assert held_out.probabilities(choice) == pytest.approx(softmax(held_out.logits[choice], axis=1), rel=1e-6)
        assert held_out.probabilities(choice).sum(1) == pytest.approx(1, abs=1e-15)


def test_a_file_holds_all_to_the_last_digit_and_equal_outputs_give_equal_bytes(tmp_path: Path) -> None:
    held_out = example(rows=7, classes=3)
    held_out.scores[1] = np.nan
    write_held_out(held_out, tmp_path / "new/folder/0.safetensors")
    back = read_held_out(tmp_path / "new/folder/0.safetensors", 7, 3)
    for name, value in vars(held_out).items():
        assert np.array_equal(getattr(back, name), value, equal_nan=True), name
        assert getattr(back, name).dtype == value.dtype
    write_held_out(back, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "new/folder/0.safetensors").read_bytes()


def test_outputs_of_other_memory_layout_are_written_in_their_order(tmp_path: Path) -> None:
    held_out = example()
    turned = HeldOut(**vars(held_out) | {"logits": np.asfortranarray(held_out.logits)})
    write_held_out(turned, tmp_path / "0.safetensors")
    assert np.array_equal(read_held_out(tmp_path / "0.safetensors", 6, 2).logits, held_out.logits)


def test_a_missing_damaged_or_foreign_file_is_one_message(tmp_path: Path) -> None:
    file = tmp_path / "0.safetensors"

    def fails(message: str, rows: int = 6, classes: int = 2) -> None:
        with pytest.raises(InputError, match=f"^{re.escape(str(file))}: {message}"):
            read_held_out(file, rows, classes)

    fails("is not there: `dvc repro` writes it")
    write_held_out(example(), file)
    whole = file.read_bytes()
    fails("has parts of 6 images, expected 5: run `dvc repro`", rows=5)
    fails(r"has outputs \[4, 6, 2\], expected \[4, 6, 3\]: it was written for other validation images", classes=3)
    for content in (b"", whole[:40], whole[:-10], b"no tensors at all"):
        file.write_bytes(content)
        fails("is damaged: ")
    tensors = {name: np.ascontiguousarray(value) for name, value in vars(example()).items()}
    save_file({name: value for name, value in tensors.items() if name != "epochs"}, file)
    fails("is damaged: .*epochs")
    save_file(tensors | {"parts": np.arange(5) % 3}, file)
    fails("has parts of 5 images, expected 6")
    file.unlink()
    file.mkdir()
    fails("is damaged: .*directory")
