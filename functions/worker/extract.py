"""The text of a document, whatever it was written in, as one string and the blocks that it is made of.

A block is a heading, a paragraph, a list item, a table row or a piece of code: a span of the text, with its page and
the headings above it. Formats that know no pages have `page=None`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

# A densely set book of 1,000 pages has 3 million; a passage and a vector for every 800 characters of it.
MAX_CHARACTERS = 4_000_000
# Between two blocks of the text, and between the items of one list or table.
GAP, ITEM_GAP = "\n\n", "\n"
# What PDFs print as one glyph, in letters that a search knows.
LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}
# Control characters mean nothing in a text, and Postgres cannot store a NUL; the rest is invisible or only a blank.
UNWANTED = {
    **dict.fromkeys([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0xFEFF]),
    0x0D: "\n",
    0xA0: " ",
}
REPAIRS = str.maketrans({**LIGATURES, **UNWANTED})


class Kind(Enum):
    """What a block is."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    ITEM = "item"
    """Of a list or a table: belongs with its neighbours, and can stand alone if it must."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A block before it has its place in the text."""

    text: str
    kind: Kind = Kind.PARAGRAPH
    level: int = 0
    """Of a heading, from 1."""
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A block in its place."""

    start: int
    end: int
    """Where it stands in the text, in characters; end exclusive."""
    kind: Kind
    page: int | None
    heading: tuple[str, ...]
    """The headings above it, outermost first; a heading's own words included."""


@dataclass(frozen=True, slots=True)
class Extract:
    """A document's text; every block is `text[block.start:block.end]`, in order, and never blank."""

    text: str
    blocks: tuple[Block, ...]
    pages: int | None = None
    media_type: str = ""
    """What the bytes are, whatever they were announced as."""
    title: str | None = None
    """What the document calls itself, if it does."""


class Unreadable(Exception):  # noqa: N818  # reads as what happened
    """The document cannot be read, however often one tries; the sentence is for its owner."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence


def table_row(columns: Sequence[str], cells: Sequence[str]) -> Piece:
    """Return a table's row, each cell with its column's name, so that the row can be understood alone."""
    if len(columns) == len(cells):
        cells = [f"{column}: {cell}" if column else cell for column, cell in zip(columns, cells, strict=True)]
    return Piece("; ".join(cell for cell in cells if cell), Kind.ITEM)


def assemble(pieces: Iterable[Piece], *, pages: int | None = None) -> Extract:
    """Put the pieces into one text, in order, each under the headings that came before it.

    Raises Unreadable (`too_large`) as soon as they are more text than we take; the rest is not asked for.
    """
    text: list[str] = []
    blocks: list[Block] = []
    path: list[tuple[int, str]] = []
    position = 0
    for piece in pieces:
        words = mended(piece.text)
        if not words:
            continue
        if piece.kind is Kind.HEADING:
            path = [above for above in path if above[0] < piece.level]
            path.append((piece.level, " ".join(words.split())))
        if blocks:
            gap = ITEM_GAP if piece.kind is blocks[-1].kind is Kind.ITEM else GAP
            text.append(gap)
            position += len(gap)
        text.append(words)
        end = position + len(words)
        if end > MAX_CHARACTERS:
            raise Unreadable("too_large", f"The file has more than {MAX_CHARACTERS:,} characters.")
        blocks.append(Block(position, end, piece.kind, piece.page, tuple(name for _, name in path)))
        position = end
    return Extract("".join(text), tuple(blocks), pages)


def mended(text: str) -> str:
    """Return the text as it can be stored and found: no control characters, ligatures or halves of surrogate pairs."""
    whole = text.replace("\r\n", "\n").translate(REPAIRS)
    return whole.encode("utf-8", "replace").decode().strip()
