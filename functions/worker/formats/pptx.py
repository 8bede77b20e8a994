"""Presentations (.pptx) to pieces of text; a page is a slide, numbered as it is shown.

Of a slide: its title, its text in the order in which a screen reader says it, bullets with a dash for each level,
tables, the descriptions of pictures, and at the end what the speaker noted. Left out: hidden slides, what is the same
on every slide (dates, footers, numbers), and the words in charts and SmartArt. ECMA-376 part 1 tells where things
stand: chapter 19 for slides, chapter 21 for the text in them.
"""

from collections.abc import Iterator
from dataclasses import replace
from xml.etree.ElementTree import Element

from functions.worker.extract import Kind, Piece, Unreadable, table_row
from functions.worker.formats.archive import Archive, office_title, readable

MAX_SLIDES = 5_000
TITLES = {"title", "ctrTitle"}
REPEATED = {"dt", "ftr", "hdr", "sldImg", "sldNum"}
# Placeholders whose paragraphs have a bullet unless they say otherwise; one without a type is of these.
BULLETED = {"", "body", "obj"}
# What PowerPoint calls every file that nobody gave a title.
NO_TITLE = "PowerPoint Presentation"


def pieces(content: bytes) -> Iterator[Piece]:
    """Return the text of the slides, in the order in which they are shown."""
    with readable():
        archive = Archive(content)
        for number, (name, slide) in enumerate(_slides(archive), 1):
            found = [*_slide(slide), *_notes(archive, name)]
            if found and found[0].kind is not Kind.HEADING:
                # Or it would stand under the title of the slide before it.
                found.insert(0, Piece(f"Slide {number}", Kind.HEADING, level=1))
            yield from (replace(piece, page=number) for piece in found)


def title(content: bytes) -> str | None:
    """Return what the presentation's properties call it."""
    name = office_title(content)
    return None if name == NO_TITLE else name


def _slides(archive: Archive) -> Iterator[tuple[str, Element]]:
    for main in archive.related("", "officeDocument").values():
        names = archive.related(main, "slide")
        listed = archive.tree(main).findall("sldIdLst/sldId")
        if len(listed) > MAX_SLIDES:
            raise Unreadable("too_large", f"The presentation has more than {MAX_SLIDES:,} slides.")
        for each in listed:
            name = names[next((value for key, value in each.items() if key.endswith("}id")), "")]
            slide = archive.tree(name)
            if slide.get("show") not in {"0", "false"}:
                yield name, slide


def _slide(slide: Element) -> Iterator[Piece]:
    """Yield a slide's title, and then what else is on it."""
    shapes = list(_shapes(slide))
    titles = [shape for shape in shapes if _placeholder(shape) in TITLES]
    words = " ".join(" ".join(text.split()) for shape in titles for text, _ in _paragraphs(shape))
    if words:
        yield Piece(words, Kind.HEADING, level=1)
    for shape in shapes:
        match shape.tag:
            case "sp" if shape not in titles and _placeholder(shape) not in REPEATED:
                yield from _text(shape)
            case "graphicFrame":
                yield from _table(shape)
            case "pic":
                yield Piece(shape.find("nvPicPr/cNvPr").get("descr", ""))  # type: ignore[union-attr]


def _shapes(slide: Element) -> Iterator[Element]:
    """Yield shapes, tables and pictures, those of groups too."""
    # What old programs show instead of the new says the same again.
    for choice in list(slide.iter("AlternateContent")):
        for instead in choice.findall("Fallback"):
            choice.remove(instead)
    return (element for element in slide.iter() if element.tag in {"sp", "graphicFrame", "pic"})


def _placeholder(shape: Element) -> str | None:
    """Return which of the layout's places the shape fills; None for one of its own."""
    place = shape.find("nvSpPr/nvPr/ph")
    return None if place is None else place.get("type", "")


def _text(shape: Element) -> Iterator[Piece]:
    bulleted = _placeholder(shape) in BULLETED
    for text, style in _paragraphs(shape):
        own = {child.tag for child in style}
        if own & {"buChar", "buAutoNum", "buBlip"} or (bulleted and "buNone" not in own):
            yield Piece(f"{'-' * (int(style.get('lvl', '0')) + 1)} {text}", Kind.ITEM)
        else:
            yield Piece(text)


def _paragraphs(body: Element) -> Iterator[tuple[str, Element]]:
    """Yield the text of each paragraph that has any, and how it is set."""
    for paragraph in body.iterfind("txBody/p"):
        text = "".join(
            "\n" if part.tag == "br" else part.findtext("t", "")
            for part in paragraph.iter()
            if part.tag in {"r", "br", "fld"}
        ).strip()
        style = paragraph.find("pPr")
        if text:
            yield text, Element("pPr") if style is None else style


def _table(frame: Element) -> Iterator[Piece]:
    for table in frame.iterfind("graphic/graphicData/tbl"):
        style = table.find("tblPr")
        rows = [
            [" ".join(text for text, _ in _paragraphs(cell)) for cell in row.iterfind("tc")]
            for row in table.iterfind("tr")
        ]
        named = style is not None and style.get("firstRow") in {"1", "true"} and len(rows) > 1
        columns = rows.pop(0) if named else []
        for row in rows:
            yield table_row(columns, row)


def _notes(archive: Archive, slide: str) -> Iterator[Piece]:
    for name in archive.related(slide, "notesSlide").values():
        bodies = (shape for shape in _shapes(archive.tree(name)) if _placeholder(shape) == "body")
        said = "\n".join(text for shape in bodies for text, _ in _paragraphs(shape))
        if said:
            yield Piece(f"Notes: {said}")
