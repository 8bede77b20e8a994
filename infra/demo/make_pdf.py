"""Make the demonstration's PDF from the Markdown beside it: `python -m infra.demo.make_pdf`.

The same source gives the same bytes: the date is fixed and nothing is compressed.
"""

from datetime import UTC, datetime
from pathlib import Path

from fpdf import FPDF
from fpdf.enums import XPos, YPos
from markdown_it import MarkdownIt

FOLDER = Path(__file__).resolve().parent / "documents"
SOURCE = FOLDER / "staff-handbook.md"
PRINTED_ON = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
BODY_POINTS, LINE_MM, MARGIN_MM = 11, 5.6, 25
HEADING_POINTS = {"h1": 22, "h2": 16, "h3": 12.5}
# A heading never stands alone at the foot of a page.
HEADING_NEEDS_MM = 30


class Handbook(FPDF):
    """Pages with a running title and a page number, as printed handbooks have them."""

    running_title = ""

    def header(self) -> None:
        """Print the running title on every page but the first."""
        if self.page_no() > 1:
            self.set_font("Helvetica", "I", 9)
            self.cell(0, 6, self.running_title, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
            self.ln(4)

    def footer(self) -> None:
        """Print the page number."""
        self.set_y(-15)
        self.set_font("Helvetica", "I", 9)
        self.cell(0, 6, f"Page {self.page_no()}", align="C")


def pdf(markdown: str) -> bytes:
    """Return the PDF of a Markdown text of headings and paragraphs; chapters begin on a new page."""
    book = Handbook(format="A4")
    book.set_compression(False)
    book.set_creation_date(PRINTED_ON)
    book.set_producer("infra.demo.make_pdf")
    book.set_margin(MARGIN_MM)
    book.set_auto_page_break(True, margin=MARGIN_MM)
    kind = "p"
    for token in MarkdownIt("commonmark").parse(markdown):
        if token.nesting == 1:
            kind = token.tag
        elif token.type == "inline" and kind in HEADING_POINTS:
            _heading(book, kind, token.content)
        elif token.type == "inline":
            book.set_font("Helvetica", "", BODY_POINTS)
            book.multi_cell(0, LINE_MM, token.content, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
            book.ln(3)
    return bytes(book.output())


def _heading(book: Handbook, level: str, text: str) -> None:
    if level == "h1":
        book.set_title(text)
        book.running_title = text
    if book.page == 0 or level == "h2":
        book.add_page()
    if book.will_page_break(HEADING_NEEDS_MM):
        book.add_page()
    book.set_font("Helvetica", "B", HEADING_POINTS[level])
    book.multi_cell(0, HEADING_POINTS[level] * 0.6, text, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    book.ln(2)


if __name__ == "__main__":
    SOURCE.with_suffix(".pdf").write_bytes(pdf(SOURCE.read_text()))
