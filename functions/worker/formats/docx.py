"""Word documents (.docx) to pieces of text, by way of the HTML that mammoth makes of them.

Kept: headings and the title, paragraphs, list items, tables, boxes, the descriptions of pictures, ticked and empty
checkboxes; tracked changes as if all were accepted. Footnotes and endnotes follow the text, numbered as they are
referred to. Left out: headers and footers, comments, charts, formulas, and what Word would compute (page numbers, a
table of contents that was never filled).

mammoth 1.13 builds a tree of the whole document, some 35 bytes for each byte of XML: hence the limit.
"""

import re
from collections.abc import Iterator
from itertools import count
from typing import Any

from functions.worker.extract import Piece, Unreadable
from functions.worker.formats import archive, hypertext

# Several hundred pages as Word writes them; they took 420 MB in a measurement of 11 MB.
MAX_XML_BYTES = 12_000_000
STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='heading 7'] => h6:fresh
p[style-name='heading 8'] => h6:fresh
p[style-name='heading 9'] => h6:fresh
"""
SURELY_COLUMNS = 3
# What mammoth writes for a note, its arrow back to the text, and a checkbox.
NOTE = re.compile(r'<li id="[^"]*note-[^"]*">(<p>)?')
BACK = re.compile(r'<a href="#[^"]*note-ref-[^"]*">↑</a>')
CHECKBOX = re.compile(r"<input ([^<>]*)/>")

# Of mammoth's own tree, which it declares no types for.
Node = Any


def pieces(content: bytes) -> Iterator[Piece]:
    """Return the document's text in the order in which it is read."""
    with archive.readable():
        yield from hypertext.pieces(_html(content))


def title(content: bytes) -> str | None:
    """Return what the document's properties call it."""
    return archive.office_title(content)


def _html(content: bytes) -> str:
    import mammoth

    document = archive.packed(archive.Archive(content).parts())
    if document.getbuffer().nbytes > MAX_XML_BYTES:
        raise Unreadable("too_large", "The document has more text and markup than we take; divide it.")
    html: str = mammoth.convert_to_html(
        document,
        style_map=STYLES,
        external_file_access=False,
        convert_image=mammoth.images.img_element(lambda _: {}),
        transform_document=_named_columns,
    ).value
    numbers = count(1)
    html = NOTE.sub(lambda _: f"<li><p>[{next(numbers)}] ", html)
    return CHECKBOX.sub(lambda box: "☑" if "checked=" in box[1] else "☐", BACK.sub("", html))


def _named_columns(document: Node) -> Node:
    """Take the first row of a table as its columns' names when it looks so: few writers mark it."""
    from mammoth.documents import Table
    from mammoth.raw_text import extract_raw_text_from_element as words

    for table in document.children:
        rows = table.children if isinstance(table, Table) else []
        if len(rows) < 2 or any(getattr(row, "is_header", True) for row in rows):  # noqa: PLR2004  # names and a row
            continue
        cells = rows[0].children
        bold = all(run.is_bold for cell in cells for run in _runs(cell) if words(run).strip())
        # Two columns may be a form, with its names at the left.
        if all(words(cell).strip() for cell in cells) and (bold or len(cells) >= SURELY_COLUMNS):
            rows[0].is_header = True
    return document


def _runs(cell: Node) -> Iterator[Node]:
    for paragraph in cell.children:
        for run in getattr(paragraph, "children", []):
            if hasattr(run, "is_bold"):
                yield run
