"""What the worker reads out of JSON and JSON Lines."""

import json

import pytest

from functions.worker.extract import Kind, Unreadable, assemble
from functions.worker.formats import json_text


def read(value):
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return [piece.text for piece in json_text.pieces(text)]


def test_values_are_items_and_what_is_nested_stands_under_its_key():
    lease = {"Mieter": "Ada", "rent": {"net": 900, "heating": {"paid": True}}, "since": "2026", "note": None}
    extract = assemble(json_text.pieces(json.dumps(lease, ensure_ascii=False)))
    found = [(extract.text[block.start : block.end], block.heading) for block in extract.blocks]
    assert found == [
        ("Mieter: Ada", ()),
        ("since: 2026", ()),
        ("rent", ("rent",)),
        ("net: 900", ("rent",)),
        ("heating", ("rent", "heating")),
        ("paid: true", ("rent", "heating")),
    ]


def test_flat_objects_in_an_array_are_rows_with_their_keys():
    rows = [{"cost": "Rent", "payer": "tenant"}, {"cost": "Größe", "tags": ["a", 2], "payer": None}]
    found = list(json_text.pieces(json.dumps(rows)))
    assert [piece.text for piece in found] == ["cost: Rent; payer: tenant", "cost: Größe; tags: a, 2"]
    assert {piece.kind for piece in found} == {Kind.ITEM}


def test_objects_in_an_array_that_nest_are_numbered():
    assert read({"units": [{"at": {"floor": 1}}, {"at": {"floor": 2}}]}) == [
        *("units", "units 1", "at", "floor: 1"),
        *("units 2", "at", "floor: 2"),
    ]


def test_plain_values_in_an_array_are_list_items():
    assert read(["a", False, 2, [3, 4], [[5]]]) == ["- a", "- false", "- 2", "- 3, 4", "Item 5", "- 5"]


def test_lines_of_json_are_rows():
    assert read('{"a": 1}\n\n{"a": 2, "b": "x"}\n') == ["a: 1", "a: 2; b: x"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("1.10", ["1.10"], id="a number as it is written"),
        pytest.param("1" * 10_000, ["1" * 10_000], id="a number of 10,000 digits"),
        pytest.param("[1e400, NaN]", ["- 1e400", "- NaN"], id="numbers that computers lack"),
        pytest.param('"text"', ["text"], id="a text"),
        pytest.param('{"": {"": "x"}}', ["?", ": x"], id="keys without a name"),
        pytest.param('["\\ud800"]', ["- \ud800"], id="half a character"),
    ],
)
def test_values_stay_what_they_are(text, said):
    assert read(text) == said


@pytest.mark.parametrize("text", ["", " \n", "{}", "[]", "null", '{"a": null}', "[{}]"])
def test_nothing_has_no_words(text):
    assert assemble(json_text.pieces(text)).text in {"", "a"}


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        pytest.param('{\n"a": }', "unreadable", "line 2, column 6", id="a value that is missing"),
        pytest.param("[1, 2", "unreadable", "line 1", id="cut off"),
        pytest.param('{"a": 1}\n{"a": ', "unreadable", "line 2", id="lines that are cut off"),
        pytest.param("no JSON", "unreadable", "line 1, column 1", id="prose"),
        pytest.param("[" * 100_000 + "]" * 100_000, "too_large", "levels", id="100,000 levels"),
        pytest.param("[" * 100 + "]" * 100, "too_large", "levels", id="100 levels"),
        pytest.param('{"a":' * 100_000, "too_large", "levels", id="100,000 levels that never end"),
    ],
)
def test_what_cannot_be_read_is_refused_and_says_where(text, code, words):
    with pytest.raises(Unreadable, match=words) as caught:
        list(json_text.pieces(text))
    assert caught.value.code == code


def test_headings_have_no_more_levels_than_in_html():
    text = "".join(f'{{"level {depth}": ' for depth in range(1, 51)) + '{"x": 1}' + "}" * 50
    found = list(json_text.pieces(text))
    assert [piece.level for piece in found if piece.kind is Kind.HEADING] == [1, 2, 3, 4, 5] + [6] * 45
