"""Rows of cells to pieces of text: each row with its columns' names, so that it can be understood alone."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from functions.worker.extract import Piece, table_row

# A longer one is no name; said again in each row, it would make a book of a page.
MAX_NAME_CHARACTERS = 100


def rows(columns: Sequence[str], table: Iterable[Sequence[str]]) -> Iterator[Piece]:
    """Yield each row that is not blank, without its blank cells; it may be shorter or longer than the columns.

    A table that has nothing but names yields these.
    """
    names = [" ".join(column.split())[:MAX_NAME_CHARACTERS] for column in columns]
    bare = True
    for row in table:
        cells = [
            (name, text) for name, cell in zip_longest(names, row, fillvalue="") if (text := " ".join(cell.split()))
        ]
        if cells:
            bare = False
            yield table_row([name for name, _ in cells], [text for _, text in cells])
    if bare and any(names):
        yield table_row([], [name for name in names if name])
