"""Sections: values are held against their types, YAML is read as DVC reads it, and every fault is named by its key."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from dvc.utils.serialize import parse_yaml
from pydantic import Field

from tumorboard.base.errors import InputError
from tumorboard.base.schema import Section, expecting, nearest, parse, read_yaml


class Inner(Section):
    share: float
    sizes: tuple[int, ...]


class Listed(Section):
    few: Annotated[tuple[int, ...], Field(min_length=2)]


class Outer(Section):
    name: Literal["one", "two"] | None
    inner: Inner
    others: dict[str, Inner]


class Weight(Section):
    weight: Inner


class Choices(Section):
    """Unions, for which pydantic reports the faults of every member under a name of its own."""

    pair: tuple[int, int] | Literal["all"] | None = None
    form: Weight | Listed | Literal["none"] = "none"
    sized: tuple[int, int, int] = (1, 2, 3)
    named: Annotated[tuple[str, str], expecting("two names, such as [a, b]")] | None = None
    by_name: dict[Annotated[str, Field(pattern="^[a-z]+$")], Inner] = Field(default_factory=dict)


RIGHT = {"name": "one", "inner": {"share": 1, "sizes": [1, 2]}, "others": {}}


def write(folder: Path, text: str) -> Path:
    file = folder / "file.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_lists_become_tuples_and_whole_numbers_floats() -> None:
    found = parse(Outer, RIGHT, "here")
    assert found == Outer(name="one", inner=Inner(share=1.0, sizes=(1, 2)), others={})
    assert type(found.inner.share) is float


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"nam": 1}, "here: nam: unknown key; did you mean name?"),
        ({"inner": {"share": 1}}, "here: inner.sizes: missing"),
        ({"inner": {"share": "1", "sizes": []}}, "here: inner.share: is '1': input should be a valid number"),
        ({"inner": {"share": 1, "sizes": [1, "2"]}}, "here: inner.sizes.1: is '2': input should be a valid integer"),
        ({"others": {"a": {"shares": 1, "sizes": []}}}, "here: others.a.shares: unknown key; did you mean share?"),
        ({"inner": {"share": 1, "sizes": 1}}, "here: inner.sizes: is 1: input should be a valid list"),
        ({"inner": {"share": float("nan"), "sizes": []}}, "here: inner.share: is nan: input should be a finite number"),
        ({"name": 3}, "here: name: is 3: input should be 'one' or 'two'"),
    ],
)
def test_a_fault_is_named_by_its_key(changes: dict[str, object], fault: str) -> None:
    with pytest.raises(InputError) as raised:
        parse(Outer, RIGHT | changes, "here")
    assert fault in str(raised.value).splitlines()


@pytest.mark.parametrize(
    ("given", "faults"),
    [
        # The value has the type of no member: the types of all are listed once, under the key itself.
        ({"pair": "al"}, ["pair: is 'al': input should be a valid list or input should be 'all'"]),
        ({"pair": {"a": "b: c"}}, ["pair: is {'a': 'b: c'}: input should be a valid list or input should be 'all'"]),
        ({"form": 3}, ["form: is 3: input should be a mapping of keys or input should be 'none'"]),
        # The value has the type of one member: only that one's faults are described, at their own place.
        ({"pair": [1, "2"]}, ["pair.1: is '2': input should be a valid integer"]),
        ({"pair": [1]}, ["pair: is [1]: list should have 2 items"]),
        ({"form": {"few": [1, "2"]}}, ["form.few.1: is '2': input should be a valid integer"]),
        ({"form": {"few": [1]}}, ["form.few: is [1]: list should have at least 2 items, not 1"]),
        ({"form": {"few": [1, 2], "fewer": 1}}, ["form.fewer: unknown key; did you mean few?"]),
        # Lists of the wrong length.
        ({"sized": []}, ["sized: is []: list should have 3 items"]),
        ({"sized": [1, 2]}, ["sized: is [1, 2]: list should have 3 items"]),
        ({"sized": [1, 2, 3, 4]}, ["sized: is [1, 2, 3, 4]: list should have at most 3 items, not 4"]),
        # One message for any fault of a value that says what it expects.
        ({"named": ["a"]}, ["named: is ['a'], expected two names, such as [a, b]"]),
        ({"named": ["a", 3]}, ["named: is ['a', 3], expected two names, such as [a, b]"]),
        ({"named": "a"}, ["named: is 'a', expected two names, such as [a, b]"]),
        # Mappings.
        ({"by_name": None}, ["by_name: is empty: give it keys, or delete the line"]),
        ({"by_name": [1]}, ["by_name: is [1]: input should be a mapping of keys"]),
        ({"by_name": {"a": None}}, ["by_name.a: is empty: give it keys, or delete the line"]),
        (
            {"by_name": {"A": {"share": 1, "sizes": []}}},
            ["by_name.A: is 'A': string should match pattern '^[a-z]+$'"],
        ),
    ],
)
def test_no_name_of_pydantic_is_in_a_message(given: dict[str, object], faults: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        parse(Choices, given, "here")
    assert str(raised.value).splitlines() == [f"here: {fault}" for fault in faults]


def test_a_hint_below_a_union_is_of_the_member_that_has_the_key() -> None:
    with pytest.raises(InputError) as raised:
        parse(Choices, {"form": {"weight": {"share": 1, "sizes": [], "size": 1}}}, "here")
    assert "here: form.weight.size: unknown key; did you mean sizes?" in str(raised.value).splitlines()


def test_what_a_value_expects_leaves_right_values_as_they_are() -> None:
    assert parse(Choices, {"named": ["a", "b"]}, "here").named == ("a", "b")
    assert parse(Choices, {"named": None}, "here").named is None


def test_a_list_is_called_so_and_its_wrong_items_are_not_counted_as_missing() -> None:
    with pytest.raises(InputError, match=r"^here: few\.0: is 'a': input should be a valid integer$"):
        parse(Listed, {"few": ["a", 1]}, "here")
    with pytest.raises(InputError, match=r"^here: few: is \[1\]: list should have at least 2 items"):
        parse(Listed, {"few": [1]}, "here")


def test_a_hint_is_the_nearest_name_or_else_all() -> None:
    assert nearest("resnet_18", ["resnet18", "vgg16"]) == "; did you mean resnet18?"
    assert nearest("x", ["vgg16", "cnn"]) == "; known: cnn, vgg16"
    assert nearest("x", []) == ""


def test_scalars_and_merged_keys_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    text = (
        "words: [off, on, yes, no, 2026-11-24, 0x10, 1_000]\nnumbers: [1e-3, 2E5, .5, 7, -3, 017, 08]\n"
        "truth: [true, False, null, ~]\nbase: &base {a: 1, b: 2}\n"
        "merged: &two {<<: *base, b: 3}\ntwice: {<<: *two, c: 4}\n"
    )
    found = read_yaml(write(tmp_path, text))
    assert found["words"][:4] == ["off", "on", "yes", "no"]
    assert found["numbers"] == [0.001, 200000.0, 0.5, 7, -3, 17, 8]
    assert [type(number) for number in found["numbers"][3:]] == [int] * 4
    assert found["twice"] == {"a": 1, "b": 3, "c": 4}
    theirs = parse_yaml(text, "file.yaml")
    assert {key: found[key] for key in ("truth", "base", "merged", "twice")} == {
        key: theirs[key] for key in ("truth", "base", "merged", "twice")
    }
    assert found["words"][:4] == theirs["words"][:4]
    assert found["numbers"] == theirs["numbers"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping of sections, found NoneType"),
        ("- a", "expected a mapping of sections, found list"),
        ("just words", "expected a mapping"),
        ("a: [", "not readable as YAML"),
        ("a: {b: 1, b: 2}", "the key 'b' is given twice"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read_yaml(write(tmp_path, text))
    assert message in str(raised.value)
    assert "file.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: Hämatologie".encode("latin-1"), "line 2 is not UTF-8: save the file in that encoding"),
        ("a: 1\n".encode("utf-16"), "line 1 is not UTF-8: save the file in that encoding"),
        (b"a:\n\tb: 1", "use spaces: YAML takes no tabs there"),
        (b"\xef\xbb\xbfa: 1\r\n", ""),
    ],
    ids=["latin", "utf-16", "tab", "mark"],
)
def test_a_file_of_another_editor_is_read_or_refused_with_what_to_do(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "file.yaml"
    file.write_bytes(content)
    if not message:
        assert read_yaml(file) == {"a": 1}
        return
    with pytest.raises(InputError) as raised:
        read_yaml(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert str(raised.value).endswith(message)


LEVELS = "a0: &a0 [x, x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
MERGED = "a0: &a0 {k0: 1}\n" + "".join(f"a{n}: &a{n} {{k: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LEVELS, "more than 100,000 values, once its aliases"),
        (MERGED, "more than 100,000 values, once its aliases"),
        ("a: [" + "1, " * 100_001 + "]", "more than 100,000 values"),
        ("a: &a [1, *a]", "the value at line 1 contains itself"),
        ("b: 1\na: &a {b: {c: *a}}", "the value at line 2 contains itself"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("a: 1 #" + " " * 2_000_000, "has 2,000,006 bytes, more than 2,000,000"),
        ("? [a, b]\n: 1", "a key is not a plain text"),
        ("a: !!int x", "not readable as YAML: invalid literal"),
        ("a: !!bool x", "not readable as YAML"),
        ("a: " + "9" * 5000, "not readable as YAML: Exceeds the limit"),
    ],
    ids=["lists", "mappings", "long", "self", "deep self", "deep", "bytes", "key", "int", "bool", "digits"],
)
def test_a_yaml_that_grows_or_does_not_end_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read_yaml(write(tmp_path, text))
    assert message in str(raised.value)
    assert len(str(raised.value)) < 500


def test_aliases_within_the_limit_are_read(tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, "a: &a [1, 2]\nb: [*a, *a]")) == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


def test_each_reader_has_a_tree_of_its_own_and_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    file = write(tmp_path, "a: {b: [1]}")
    read_yaml(file)["a"]["b"].append(2)
    assert read_yaml(file) == {"a": {"b": [1]}}
    assert read_yaml(write(tmp_path, "a: {b: [3]}")) == {"a": {"b": [3]}}


def test_a_missing_file_and_bytes_that_are_no_utf_8(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match=r"cannot be read: Is a directory"):
        read_yaml(tmp_path)
    (tmp_path / "odd.yaml").write_bytes(b"a: \xff")
    with pytest.raises(InputError, match=r"odd\.yaml: line 1 is not UTF-8"):
        read_yaml(tmp_path / "odd.yaml")
