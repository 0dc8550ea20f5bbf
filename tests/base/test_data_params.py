"""The section `data`: which columns, classes and places of files it accepts, and what its messages say."""

from pathlib import Path
from typing import Any

import pytest

from tumorboard.base.data_params import Data
from tumorboard.base.errors import InputError
from tumorboard.base.params import load_params
from tumorboard.base.schema import parse

SECTION = load_params(Path(__file__).parents[2] / "params.yaml").data.model_dump()


def test_a_mapping_of_some_columns_leaves_the_others_as_they_are() -> None:
    columns = parse(Data, SECTION | {"columns": {"label": ["MEL", "NV"], "group": "Patient ID"}}, "params.yaml").columns
    assert columns is not None
    assert columns.model_fields_set == {"label", "group"}
    assert columns.label == ("MEL", "NV")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": {0: "a", 1: "b"}}, "classes: the key 0 is not text: write it in quotes, as the table has it"),
        ({"classes": {"size": "a", "1": "b"}}, "classes: DVC ignores changes below a key named 'size'"),
        ({"classes": {"1": "b"}}, "should have at least 2 items"),
        ({"extension": "jpg"}, "extension: is 'jpg'"),
        ({"columns": {"lable": "dx"}}, "columns.lable: unknown key; did you mean label?"),
        ({"columns": {"label": ["one"]}}, "columns.label: is"),
        ({"layout": "folder"}, "layout: is 'folder'"),
        ({"links": "all"}, "links: is 'all'"),
    ],
)
def test_wrong_values_are_named_with_the_key(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(Data, SECTION | change, "params.yaml: data")
    assert words in str(caught.value)
