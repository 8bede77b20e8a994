"""PDF to pieces of text, page by page: lines joined to paragraphs, headings told by the size of their letters.

A PDF holds glyphs at places and knows no paragraphs. Lines that follow each other closely in letters of one size are
one paragraph; letters clearly larger than those of most of the text are a heading; what stands at the edge of
most pages (running titles, page numbers) is left out.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise

from pypdf import PageObject, PasswordType, PdfReader
from pypdf.errors import DependencyError

from agentkit import telemetry
from functions.worker.extract import Extract, Kind, Piece, Unreadable, assemble

MAX_PAGES = 2_000
# Larger than most of the text by this much is a heading, if it is no longer than that.
HEADING_RATIO = 1.12
HEADING_CHARACTERS = 200
# A gap between lines that is wider than the usual one by this much begins a paragraph.
GAP_RATIO = 1.3
# A line at the edge of at least so many pages, and of half of them, belongs to the paper and not to the text.
RUNNING_PAGES = 3
EDGE_LINES = 2
# Between lines, as a multiple of the letters' size: the usual, and the most that is believed of a file of few lines,
# where the gaps between paragraphs may outnumber those within.
USUAL_LEADING, WIDE_LEADING = 1.2, 1.8
FEW_LINES = 20
ITEM = re.compile(r"([-*•◦▪‣·\N{EN DASH}]|\d{1,3}[.)])\s")
HYPHENATED = re.compile(r"[a-z]-$")

log = telemetry.logger(__name__)


@dataclass(slots=True)
class Line:
    """A line of print."""

    text: str
    size: float
    """Of its letters, in points."""
    height: float
    """Where on the page, in points from the bottom."""

    @property
    def points(self) -> float:
        """Its size, without the noise of scaling."""
        return round(self.size, 1)


def read(content: bytes, *, max_characters: int) -> Extract:
    """Return the text of a PDF with its page numbers; raises Unreadable for one that cannot be read."""
    try:
        pages = _pages(_opened(content), max_characters)
    except Unreadable:
        raise
    except Exception as error:
        # A damaged file can make a parser fail in any way there is.
        log.info("pdf.unreadable", exc_info=error)
        raise Unreadable("pdf_unreadable", "The file is damaged, or is not a PDF that we can read.") from error
    return assemble(_pieces(pages), pages=len(pages))


def _opened(content: bytes) -> PdfReader:
    reader = PdfReader(BytesIO(content))
    # Many files are encrypted only to forbid printing: they open with an empty password.
    try:
        locked = reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED
    except (DependencyError, NotImplementedError):
        locked = True
    if locked:
        raise Unreadable("pdf_encrypted", "The file needs a password; upload it without one.")
    return reader


def _pages(reader: PdfReader, max_characters: int) -> list[list[Line]]:
    if len(reader.pages) > MAX_PAGES:
        raise Unreadable("too_large", f"The file has more than {MAX_PAGES:,} pages.")
    pages = []
    characters = 0
    for page in reader.pages:
        pages.append(_lines(page))
        characters += sum(len(line.text) for line in pages[-1])
        if characters > max_characters:
            raise Unreadable("too_large", f"The file has more than {max_characters:,} characters.")
    return pages


def _lines(page: PageObject) -> list[Line]:
    lines: list[Line] = []
    fragments: list[str] = []
    size = height = 0.0

    def take(text: str, user: list[float], matrix: list[float], _: object, points: float) -> None:
        nonlocal size, height
        first, *rest = text.split("\n")
        for index, part in enumerate([first, *rest]):
            if index:
                lines.append(Line("".join(fragments), size, height))
                fragments.clear()
            if part.strip() and not "".join(fragments).strip():
                # Letters are as large as the font times both matrices' vertical scale.
                size = abs(points * (matrix[3] or matrix[1]) * (user[3] or user[1]))
                height = matrix[4] * user[1] + matrix[5] * user[3] + user[5]
            fragments.append(part)

    page.extract_text(visitor_text=take)
    lines.append(Line("".join(fragments), size, height))
    return [line for line in lines if line.text.strip()]


def _pieces(pages: list[list[Line]]) -> Iterator[Piece]:
    pages = _without_running_lines(pages)
    sizes: Counter[float] = Counter()
    for line in (line for page in pages for line in page):
        sizes[line.points] += len(line.text)
    body = max(sizes, key=lambda size: sizes[size], default=0.0)
    headings = sorted((size for size in sizes if size > body * HEADING_RATIO), reverse=True)
    leading = _leading(pages)
    for number, page in enumerate(pages, 1):
        for paragraph in _paragraphs(page, leading):
            text = _joined(paragraph)
            size = paragraph[0].points
            if size in headings and len(text) <= HEADING_CHARACTERS:
                yield Piece(text, Kind.HEADING, level=headings.index(size) + 1, page=number)
            else:
                yield Piece(text, Kind.ITEM if ITEM.match(text) else Kind.PARAGRAPH, page=number)


def _without_running_lines(pages: list[list[Line]]) -> list[list[Line]]:
    """Leave out what is printed at the edge of most pages, its numbers aside."""
    edges = [{_key(line) for line in _edge(page)} for page in pages]
    seen = Counter(key for edge in edges for key in edge)
    enough = max(RUNNING_PAGES, len(pages) / 2)
    running = {key for key, count in seen.items() if count >= enough}
    return [
        [line for line in page if _key(line) not in running or line not in _edge(page)] if edge & running else page
        for page, edge in zip(pages, edges, strict=True)
    ]


def _edge(page: list[Line]) -> list[Line]:
    by_height = sorted(page, key=lambda line: line.height)
    return [*by_height[:EDGE_LINES], *by_height[-EDGE_LINES:]]


def _key(line: Line) -> tuple[str, float]:
    return re.sub(r"\d+", "#", line.text.strip()), line.points


def _leading(pages: list[list[Line]]) -> float:
    """Return the usual distance between two lines of a paragraph, as a multiple of the letters' size."""
    ratios: Counter[float] = Counter()
    for page in pages:
        for above, below in pairwise(page):
            if above.points == below.points and 0 < below.points < above.height - below.height:
                ratios[round((above.height - below.height) / below.points, 1)] += 1
    usual = max(ratios, key=lambda ratio: ratios[ratio], default=USUAL_LEADING)
    return usual if ratios.total() > FEW_LINES else min(usual, WIDE_LEADING)


def _paragraphs(lines: list[Line], leading: float) -> Iterator[list[Line]]:
    paragraph: list[Line] = []
    for line in lines:
        if paragraph:
            above = paragraph[-1]
            # A jump upwards is the next column, where a sentence may go on.
            apart = above.height - line.height > line.points * leading * GAP_RATIO
            if apart or above.points != line.points or ITEM.match(line.text):
                yield paragraph
                paragraph = []
        paragraph.append(line)
    if paragraph:
        yield paragraph


def _joined(paragraph: list[Line]) -> str:
    """Return the lines as one, words that were divided at a line's end made whole."""
    text = ""
    for line in paragraph:
        part = " ".join(line.text.split())
        if HYPHENATED.search(text) and part[:1].islower():
            text = text[:-1] + part
        else:
            text = f"{text} {part}" if text else part
    return text
