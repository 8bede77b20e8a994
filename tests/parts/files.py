"""Files as people upload them, made on the spot, and what the worker reads in them."""

from io import BytesIO

import pytest
from fpdf import FPDF
from pypdf import PdfReader, PdfWriter

from functions.worker.extract import Extract, Unreadable
from functions.worker.parse import parse

Paragraph = str | tuple[str, int]


def printed(
    *pages: list[Paragraph], running: str = "", title: str = "", outline: dict[str, int] | None = None
) -> bytes:
    """A PDF of those pages, each a list of paragraphs; `("Title", 20)` is printed in 20 points.

    outline: the paragraphs that the bookmarks name, where they stand first, and how deep, from 0.
    """
    unnamed = dict(outline or {})
    book = FPDF(format="A4")
    book.set_title(title)
    for number, paragraphs in enumerate(pages, 1):
        book.add_page()
        if running:
            book.set_font("Helvetica", "", 9)
            book.cell(0, 8, running.format(number), new_x="LMARGIN", new_y="NEXT")
        for paragraph in paragraphs:
            text, points = paragraph if isinstance(paragraph, tuple) else (paragraph, 11)
            if text in unnamed:
                book.start_section(text, level=unnamed.pop(text))
            book.set_font("Helvetica", "", points)
            book.multi_cell(0, points * 0.5, text, new_x="LMARGIN", new_y="NEXT")
            book.ln(4)
    return bytes(book.output())


def encrypted(content: bytes, password: str) -> bytes:
    """The same PDF, to be opened with a password; "" for one that is only not to be printed."""
    writer = PdfWriter(clone_from=PdfReader(BytesIO(content)))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


def read(content: bytes, *, announced: str = "", filename: str = "") -> Extract:
    """Read a file of which the sender says only that."""
    return parse(content, announced=announced, filename=filename)


def blocks(extract: Extract) -> list[str]:
    """The text of each block."""
    return [extract.text[block.start : block.end] for block in extract.blocks]


def refusal(content: bytes, *, announced: str = "", filename: str = "") -> Unreadable:
    """Why the file is not read."""
    with pytest.raises(Unreadable) as caught:
        read(content, announced=announced, filename=filename)
    return caught.value
