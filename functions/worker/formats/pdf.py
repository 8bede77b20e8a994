"""PDF to pieces of text, page by page: lines joined to paragraphs, headings told by the outline and by their size.

A PDF holds glyphs at places and knows no paragraphs. Lines that follow each other closely in letters of one size are
one paragraph; a line that the document's outline (its bookmarks) names on that page is a heading, and so are letters
clearly larger than those of most of the text; what stands at the edge of most pages (running titles, page numbers) is
left out.

    encrypted    needs a password           too_large    has more pages or characters than we take
    unreadable   damaged
"""

import ctypes
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from threading import Lock

import pypdfium2
from pypdfium2 import raw

from agentkit import telemetry
from functions.worker.extract import MAX_CHARACTERS, Extract, Kind, Piece, Unreadable, assemble, mended

MAX_PAGES = 2_000
# An outline is a help, not the text: one of more lines than this is read so far.
MAX_BOOKMARKS = 10_000
# A heading may go over so many lines.
HEADING_LINES = 3
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
# How pdfium ends a line: by a line break, or by this in place of a hyphen that divides a word.
HYPHEN = "\ufffe"
LINE_END = re.compile(rf"\r\n|[\r\n{HYPHEN}]")
# "2.1 Scope" in the outline may be "Scope" on the page, or the other way round.
NUMBERING = re.compile(r"^\d+([.)]\d+)*[.)]?\s+(?=\S)")
# What programs call a file that nobody gave a title.
NO_TITLE = re.compile(r"untitled|microsoft \w+ - .*|.*\.(docx?|pptx?|xlsx?|odt|indd|pdf|tex)", re.IGNORECASE)
# pdfium may be called by one thread at a time.
ONE_AT_A_TIME = Lock()

log = telemetry.logger(__name__)

Outline = dict[int, dict[str, int]]
"""The levels of the headings that stand on a page, from 1, by the page's number and the heading's key."""


@dataclass(slots=True)
class Line:
    """A line of print."""

    text: str
    size: float
    """Of its letters, in points."""
    height: float
    """Where on the page, in points from the bottom; of turned text, from where its lines end."""

    @property
    def points(self) -> float:
        """Its size, without the noise of scaling."""
        return round(self.size, 1)


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Lines of print that belong together."""

    lines: list[Line]
    page: int
    level: int
    """Of a heading that the outline names; 0 for all else."""

    @property
    def size(self) -> float:
        """That of its letters."""
        return self.lines[0].points


def read(content: bytes) -> Extract:
    """Return the text of a PDF with its page numbers; raises Unreadable for one that cannot be read."""
    try:
        with ONE_AT_A_TIME, _opened(content) as document:
            pages = _pages(document)
            outline = _outline(document)
            title = mended(document.get_metadata_value("Title"))
    except Unreadable:
        raise
    except Exception as error:
        # A damaged file can make a parser fail in any way there is.
        log.info("pdf.unreadable", exc_info=error)
        raise Unreadable("unreadable", "The file is damaged, or is not a PDF that we can read.") from error
    extract = assemble(_pieces(pages, outline), pages=len(pages))
    return replace(extract, title=None if NO_TITLE.fullmatch(title) else title or None)


def _opened(content: bytes) -> pypdfium2.PdfDocument:
    try:
        # Many files are encrypted only to forbid printing: they open with no password.
        return pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        if error.err_code in {raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY}:
            raise Unreadable("encrypted", "The file needs a password; upload it without one.") from error
        raise


def _pages(document: pypdfium2.PdfDocument) -> list[list[Line]]:
    if len(document) > MAX_PAGES:
        raise Unreadable("too_large", f"The file has more than {MAX_PAGES:,} pages.")
    pages = []
    characters = 0
    for number in range(len(document)):
        # Closed at once: what pdfium holds of a page is many times its text.
        with closing(document[number]) as page, closing(page.get_textpage()) as text_page:
            characters += text_page.count_chars()
            if characters > MAX_CHARACTERS:
                raise Unreadable("too_large", f"The file has more than {MAX_CHARACTERS:,} characters.")
            pages.append(list(_lines(text_page)))
    return pages


def _lines(page: pypdfium2.PdfTextPage) -> Iterator[Line]:
    text = page.get_text_range()
    # pdfium counts in units of UTF-16, where a character may be two.
    start, start_units = 0, 0
    for end in [*LINE_END.finditer(text), None]:
        words = text[start : end.start() if end else len(text)]
        if words.strip():
            # The letter in its middle speaks for a line: the first may be an initial or a footnote's number.
            middle = words[: len(words) // 2 + 1].rstrip() or words[: len(words) - len(words.lstrip()) + 1]
            size, height = _place(page, start_units + _units(middle) - 1)
            yield Line(words + "-" * (end is not None and end[0] == HYPHEN), size, height)
        if end:
            start_units += _units(words + end[0])
            start = end.end()


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _place(page: pypdfium2.PdfTextPage, index: int) -> tuple[float, float]:
    """Return the size of a letter and its height on the page, by its place in the text."""
    letter = raw.FPDFText_GetCharIndexFromTextIndex(page, index)
    matrix, x, y = raw.FS_MATRIX(), ctypes.c_double(), ctypes.c_double()
    raw.FPDFText_GetMatrix(page, letter, matrix)
    raw.FPDFText_GetCharOrigin(page, letter, x, y)
    # Up, for that letter: lines of turned text follow each other to the side.
    scale = (matrix.c**2 + matrix.d**2) ** 0.5
    up = (matrix.c / scale, matrix.d / scale) if scale else (0.0, 1.0)
    return raw.FPDFText_GetFontSize(page, letter) * scale, x.value * up[0] + y.value * up[1]


def _outline(document: pypdfium2.PdfDocument) -> Outline:
    levels: Outline = {}
    for bookmark in islice(document.get_toc(), MAX_BOOKMARKS):
        place = bookmark.get_dest()
        page = place.get_index() if place else None
        if page is not None and (key := _heading_key(bookmark.get_title())):
            levels.setdefault(page + 1, {}).setdefault(key, bookmark.level + 1)
    return levels


def _heading_key(text: str) -> str:
    return "".join(letter for letter in NUMBERING.sub("", mended(text), 1).casefold() if letter.isalnum())


def _pieces(pages: list[list[Line]], outline: Outline) -> Iterator[Piece]:
    pages = _without_running_lines(pages)
    sizes: Counter[float] = Counter()
    for line in (line for page in pages for line in page):
        sizes[line.points] += len(line.text)
    body = max(sizes, key=lambda size: sizes[size], default=0.0)
    headings = sorted((size for size in sizes if size > body * HEADING_RATIO), reverse=True)
    leading = _leading(pages)
    paragraphs = [
        Paragraph(lines, number, level)
        for number, page in enumerate(pages, 1)
        for lines, level in _paragraphs(page, leading, dict(outline.get(number, {})))
    ]
    # Letters larger than all that the outline names are above it: the document's title, mostly.
    named = {each.size: each.level for each in reversed(paragraphs) if each.level}
    above = sum(size > max(named) for size in headings) if named else 0
    levels: dict[float, int] = {}
    for size in headings:
        levels[size] = above + named[size] if size in named else max(levels.values(), default=0) + 1
    for each in paragraphs:
        text = _joined(each.lines)
        if each.level:
            yield Piece(text, Kind.HEADING, above + each.level, each.page)
        elif each.size in levels and len(text) <= HEADING_CHARACTERS:
            yield Piece(text, Kind.HEADING, levels[each.size], each.page)
        else:
            yield Piece(text, Kind.ITEM if ITEM.match(text) else Kind.PARAGRAPH, page=each.page)


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


def _paragraphs(lines: list[Line], leading: float, titles: dict[str, int]) -> Iterator[tuple[list[Line], int]]:
    """Yield the lines of each paragraph, and its level where it is one of the titles; each is so once."""
    paragraph: list[Line] = []
    rest = lines
    while rest:
        count, level = _title(rest, titles)
        if paragraph and (level or _begins(rest[0], paragraph[-1], leading)):
            yield paragraph, 0
            paragraph = []
        if level:
            yield rest[:count], level
        else:
            paragraph.append(rest[0])
        rest = rest[count:]
    if paragraph:
        yield paragraph, 0


def _begins(line: Line, above: Line, leading: float) -> bool:
    """Say whether a line begins a paragraph; a jump upwards is the next column, where a sentence may go on."""
    apart = above.height - line.height > line.points * leading * GAP_RATIO
    return apart or above.points != line.points or ITEM.match(line.text) is not None


def _title(lines: list[Line], titles: dict[str, int]) -> tuple[int, int]:
    """Return how many of the first lines are a title, and its level; (1, 0) when they are none."""
    for count in range(min(HEADING_LINES, len(lines)), 0, -1) if titles else ():
        if level := titles.pop(_heading_key(_joined(lines[:count])), 0):
            return count, level
    return 1, 0


def _joined(paragraph: list[Line]) -> str:
    """Return the lines as one, words that were divided at a line's end made whole."""
    text = ""
    for line in paragraph:
        part = " ".join(line.text.split())
        if text.endswith("-") and text[-2:-1].islower() and part[:1].islower():
            text = text[:-1] + part
        else:
            text = f"{text} {part}" if text else part
    return text
