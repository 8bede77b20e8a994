"""Delimited tables (CSV, TSV) to pieces of text: a row is an item with its columns' names."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from itertools import islice

from functions.worker.extract import MAX_CHARACTERS, Piece
from functions.worker.formats import tables

DELIMITERS = ",;\t|"
LOOKS_AT_CHARACTERS, LOOKS_AT_ROWS = 50_000, 100
# Excel's own word for the delimiter, in a line before the table.
EXCEL_SAYS = re.compile(r"sep=(.)\n", re.IGNORECASE)
# A number, an amount or a date is a value, and no column's name.
VALUE = re.compile(r"[-+(]?\W{0,3}\d[\d.,:/\s'-]*(%|\)|\w{1,3})?")


def pieces(text: str) -> Iterator[Piece]:
    """Return the rows of a table whose delimiter is told by where it divides the rows alike."""
    said = EXCEL_SAYS.match(text)
    table = text[said.end() :] if said else text
    rows = (row for row in _rows(table, said[1] if said else _delimiter(table)) if any(map(str.strip, row)))
    first = next(rows, [])
    if _are_names(first):
        yield from tables.rows(first, rows)
    else:
        yield from tables.rows([], [first])
        yield from tables.rows([], rows)


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    # A field may be as long as the whole text: what ends a quotation may be missing.
    csv.field_size_limit(MAX_CHARACTERS)
    return csv.reader(StringIO(text, newline=""), delimiter=delimiter)


def _delimiter(text: str) -> str:
    """Return the delimiter that divides most of the first rows into the same number of cells, and into most.

    `csv.Sniffer` takes letters for delimiters, and minutes for a text full of quotation marks.
    """
    sample = text[:LOOKS_AT_CHARACTERS]

    def fit(delimiter: str) -> tuple[float, int]:
        widths = [len(row) for row in islice(_rows(sample, delimiter), LOOKS_AT_ROWS) if row]
        (width, times), *_ = Counter(widths).most_common(1) or [(1, 0)]
        return (times / len(widths), width) if width > 1 else (0, 0)

    return max(DELIMITERS, key=fit)


def _are_names(row: list[str]) -> bool:
    """Say whether a table's first row names its columns: words that differ, and no values."""
    names = [cell.strip() for cell in row if cell.strip()]
    return len(set(names)) == len(names) and not any(VALUE.fullmatch(name) for name in names)
