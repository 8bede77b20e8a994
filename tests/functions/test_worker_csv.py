"""What the worker reads out of delimited tables."""

import pytest

from functions.worker.extract import Kind, Unreadable, assemble
from functions.worker.formats import csv_table


def read(text):
    return [piece.text for piece in csv_table.pieces(text)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_told_by_the_rows(delimiter):
    text = "Cost|Payer|Due\nRent|tenant|1,5 to 2,5\nWater|landlord|a - b\n".replace("|", delimiter)
    if delimiter == ",":
        text = text.replace("1,5 to 2,5", '"1,5 to 2,5"')
    assert read(text) == ["Cost: Rent; Payer: tenant; Due: 1,5 to 2,5", "Cost: Water; Payer: landlord; Due: a - b"]


def test_rows_are_items():
    assert [piece.kind for piece in csv_table.pieces("a,b\nc,d\n")] == [Kind.ITEM]


def test_excels_own_word_for_the_delimiter_is_believed():
    assert read("sep=;\nName;Note\nAda;a,b,c,d\n") == ["Name: Ada; Note: a,b,c,d"]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        pytest.param(
            'Name,Note\nAda,"two\nlines, and ""more"""\n', ['Name: Ada; Note: two lines, and "more"'], id="quoted"
        ),
        pytest.param("Größe,Имя\n1,Ада\n", ["Größe: 1; Имя: Ада"], id="unicode"),
        pytest.param("a,b,c\n1\n1,2,3,4\n\n,2,\n", ["a: 1", "a: 1; b: 2; c: 3; 4", "b: 2"], id="ragged"),
        pytest.param(
            "2026-11-25,Ada,5\n2026-11-26,Bob,7\n", ["2026-11-25; Ada; 5", "2026-11-26; Bob; 7"], id="no names"
        ),
        pytest.param("Ada,36\nBob,41\n", ["Ada; 36", "Bob; 41"], id="a value in the first row"),
        pytest.param("Name\nAda\nBob\n", ["Name: Ada", "Name: Bob"], id="one column"),
        pytest.param("Cost,Payer\n", ["Cost; Payer"], id="names alone"),
        pytest.param("a,b\r\n1,2\r\n", ["a: 1; b: 2"], id="Windows line ends"),
        pytest.param('a,b\n1,"never closed\n2,3\n', ["a: 1; b: never closed 2,3"], id="a quotation without an end"),
    ],
)
def test_rows_survive_whatever_they_look_like(text, rows):
    assert read(text) == rows


def test_a_field_may_be_as_long_as_the_text():
    long = "word " * 100_000
    assert read(f"a,b\n1,{long}\n") == [f"a: 1; b: {long.strip()}"]


@pytest.mark.parametrize("text", ["", "\n\n", " \n,,,\n"])
def test_a_table_without_words_has_no_pieces(text):
    assert read(text) == []


def test_a_long_name_is_not_said_in_full_in_each_row():
    # 1,000 rows with a name of 10,000 characters would be 10,000,000 of them.
    extract = assemble(csv_table.pieces("x" * 10_000 + ",b\n" + "1,2\n" * 1_000))
    assert len(extract.text) < 150_000


def test_rows_that_grow_without_end_are_refused_without_being_kept():
    names = ",".join(f"{number:0>100}x" for number in range(5_000))
    row = ",".join(["1"] * 5_000)
    with pytest.raises(Unreadable) as caught:
        assemble(csv_table.pieces(f"{names}\n" + f"{row}\n" * 300))
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    "text", ['"' * 200_001, "'\"," * 100_000, "\0" * 1_000, ("a" * 100 + "\n") * 10_000 + "," * 200_000]
)
def test_texts_that_are_no_tables_are_read_all_the_same(text):
    for piece in csv_table.pieces(text):
        assert piece.kind is Kind.ITEM
