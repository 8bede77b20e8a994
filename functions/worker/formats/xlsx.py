"""Workbooks (.xlsx) to pieces of text: each sheet a heading, each row an item with its columns' names.

The first row of a sheet with more than one cell names the columns; what stands alone above it is a caption. Values are
those that were last computed, dates and numbers as a person writes them; a cell merged over several rows is said in
each. Left out: hidden sheets, comments, charts, pictures and formulas.

calamine (in python-calamine 0.9) keeps a sheet as the rectangle between its first and its last cell, with a copy of a
text for each cell that shows it, reserves what a file says that it needs, and ends the process when memory is short.
So a sheet is measured before calamine sees it.
"""

import datetime as dt
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from xml.parsers import expat

import python_calamine as calamine

from functions.worker.extract import MAX_CHARACTERS, Kind, Piece, Unreadable
from functions.worker.formats import tables
from functions.worker.formats.archive import Archive, damaged, office_title, packed, readable

# Of a sheet, blank cells in between included; 32 bytes each.
MAX_CELLS = 4_000_000
# Excel's own.
MAX_ROWS, MAX_COLUMNS = 1_048_576, 16_384
REFERENCE = re.compile(r"\$?([A-Z]{1,3})\$?(\d{1,9})", re.IGNORECASE)
SHARED_TEXTS = "sharedstrings.xml"
Value = float | str | dt.date | dt.time | dt.timedelta


def pieces(content: bytes) -> Iterator[Piece]:
    """Return the rows of all sheets that are shown, in the workbook's order."""
    with readable():
        workbook = calamine.CalamineWorkbook.from_filelike(packed(_measured(Archive(content).parts())))
        for index, sheet in enumerate(workbook.sheets_metadata):
            if sheet.visible is calamine.SheetVisibleEnum.Visible and sheet.typ is calamine.SheetTypeEnum.WorkSheet:
                found = _rows(workbook.get_sheet_by_index(index))
                for first in found:
                    yield Piece(sheet.name, Kind.HEADING, level=1)
                    yield from chain([first], found)


def title(content: bytes) -> str | None:
    """Return what the workbook's properties call it."""
    return office_title(content)


def _rows(sheet: calamine.CalamineSheet) -> Iterator[Piece]:
    rows = ([_written(value) for value in row] for row in _unmerged(sheet))
    for row in rows:
        words = [cell for cell in row if cell]
        if len(words) > 1 or sheet.width == 1:
            yield from tables.rows(row, rows)
        else:
            yield Piece(words[0])


def _unmerged(sheet: calamine.CalamineSheet) -> Iterator[list[Value]]:
    """Yield the rows that are not blank, cells that are merged downwards filled."""
    _, left = sheet.start or (0, 0)
    merged = {
        (top, first - left): bottom
        for (top, first), (bottom, _) in sheet.merged_cell_ranges or []
        if bottom > top and first >= left
    }
    above: dict[int, tuple[int, Value]] = {}
    for number, row in enumerate(sheet.iter_rows()):
        if all(value == "" for value in row):
            continue
        if merged:
            for column, value in enumerate(row):
                bottom, said = above.get(column, (-1, ""))
                if (number, column) in merged:
                    above[column] = (merged[number, column], value)
                elif number <= bottom and value == "":
                    row[column] = said
        yield row


def _written(value: Value) -> str:
    match value:
        case bool():
            return str(value).upper()
        case float() | int():
            # Excel shows 15 digits: what stands behind them is noise of its arithmetic.
            return str(int(value)) if float(value).is_integer() else f"{value:.15g}"
        case dt.datetime():
            return value.isoformat(" ", "seconds" if value.second else "minutes")
        case dt.date() | dt.time():
            return value.isoformat()
    return " ".join(str(value).split())


def _measured(parts: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Yield the parts of a workbook; raises Unreadable when calamine would need too much for them."""
    # Shared texts first: what a sheet takes depends on them.
    ordered = sorted(parts, key=lambda part: not part[0].lower().endswith(SHARED_TEXTS))
    lengths: list[int] = []
    for name, part in ordered:
        if name.lower().endswith(SHARED_TEXTS):
            lengths = _Texts(part).lengths
        elif b"sheetData" in part:
            _Sheet(part, lengths)
        yield name, part


class _Part:
    """One pass through an XML part, without a tree of it."""

    def __init__(self, part: bytes) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = lambda tag, attributes: self.enter(tag.rpartition(":")[2], attributes)
        self.parser.EndElementHandler = lambda tag: self.leave(tag.rpartition(":")[2])
        self.parser.Parse(part, True)

    def enter(self, tag: str, attributes: dict[str, str]) -> None:
        """Take note of an element's begin."""

    def leave(self, tag: str) -> None:
        """Take note of its end."""


class _Texts(_Part):
    """The texts that cells share."""

    def __init__(self, part: bytes) -> None:
        self.lengths: list[int] = []
        super().__init__(part)

    def enter(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "sst" and int(attributes.get("uniqueCount", 0)) > MAX_CELLS:
            raise too_large(f"more than {MAX_CELLS:,} texts")
        if tag == "si":
            self.lengths.append(0)
        self.parser.CharacterDataHandler = self._take if tag == "t" and self.lengths else None

    def _take(self, text: str) -> None:
        self.lengths[-1] += len(text)


class _Sheet(_Part):
    """Where a sheet's cells are, and how much text."""

    def __init__(self, part: bytes, lengths: list[int]) -> None:
        self.lengths = lengths
        self.row = self.column = 0
        self.top, self.left, self.bottom, self.right = MAX_ROWS, MAX_COLUMNS, 0, 0
        self.is_shared = False
        self.value = ""
        self.characters = 0
        super().__init__(part)

    def enter(self, tag: str, attributes: dict[str, str]) -> None:
        match tag:
            case "row":
                self.row = int(attributes.get("r", self.row + 1))
                self.column = 0
            case "c":
                self._place(attributes.get("r"))
                self.is_shared = attributes.get("t") == "s"
                self.value = ""
            case "v" | "t":
                self.parser.CharacterDataHandler = self._take

    def leave(self, tag: str) -> None:
        if tag in {"v", "t"}:
            self.parser.CharacterDataHandler = None
        elif tag == "c" and self.value:
            self._count()

    def _place(self, reference: str | None) -> None:
        """Say where the cell is: it need not tell if it follows the one before it."""
        self.column += 1
        if reference is not None:
            found = REFERENCE.fullmatch(reference)
            if not found:
                raise damaged()
            self.row = int(found[2])
            self.column = 0
            for letter in found[1].upper():
                self.column = self.column * 26 + ord(letter) - ord("A") + 1

    def _take(self, text: str) -> None:
        self.value += text

    def _count(self) -> None:
        """Make the rectangle hold the cell; raises Unreadable when it is too large."""
        self.characters += self.lengths[int(self.value)] if self.is_shared else len(self.value)
        if self.characters > MAX_CHARACTERS:
            raise too_large(f"more than {MAX_CHARACTERS:,} characters")
        self.top, self.bottom = min(self.top, self.row), max(self.bottom, self.row)
        self.left, self.right = min(self.left, self.column), max(self.right, self.column)
        rows, columns = self.bottom - self.top + 1, self.right - self.left + 1
        if self.bottom > MAX_ROWS or rows * columns > MAX_CELLS:
            raise too_large(f"{rows:,} rows by {columns:,} columns, counted from its first cell to its last one")


def too_large(what: str) -> Unreadable:
    """Return the refusal of a sheet."""
    return Unreadable("too_large", f"A sheet of the file has {what}, which is more than we take.")
