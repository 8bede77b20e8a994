"""A file's bytes to its text, whatever kind of file it is.

The bytes say what it is (`sniff`); the announced type and the name only choose between kinds of text. A file that
cannot be read raises Unreadable with a code that stays the same:

    type_unsupported    of a kind that we do not read       unreadable      damaged
    no_text             has no text (a scan, an empty page) encrypted       needs a password
    too_large           more pages or text than we take

Each reader is imported when the first file of its kind comes: a text pays for no PDF library.
"""

from collections.abc import Iterable
from dataclasses import replace

from functions.worker import sniff
from functions.worker.charset import decode
from functions.worker.extract import MAX_CHARACTERS, Extract, Piece, Unreadable, assemble


def parse(content: bytes, *, announced: str, filename: str) -> Extract:
    """Return the text of a file; raises Unreadable when it has none that we can find."""
    hint = sniff.hinted(announced, filename)
    kind = sniff.sniff(content) or (sniff.MAIL if sniff.is_mail(content, hint) else None)
    if kind:
        extract = _read(content, kind)
    else:
        text = decode(content)
        if text is None:
            raise sniff.unsupported("of no kind that we know", "upload it as PDF or text")
        if len(text) > MAX_CHARACTERS:
            raise Unreadable("too_large", f"The file has more than {MAX_CHARACTERS:,} characters.")
        kind = sniff.text_kind(text, hint)
        extract = _read_text(text, kind)
    if not any(character.isalnum() for character in extract.text):
        raise _empty(kind)
    return replace(extract, media_type=kind)


def _read(content: bytes, kind: str) -> Extract:
    match kind:
        case sniff.PDF:
            from functions.worker.formats import pdf

            return pdf.read(content)
        case sniff.DOCX:
            from functions.worker.formats import docx

            return _titled(docx.pieces(content), docx.title(content))
        case sniff.PPTX:
            from functions.worker.formats import pptx

            return _paged(_titled(pptx.pieces(content), pptx.title(content)))
        case sniff.XLSX:
            from functions.worker.formats import xlsx

            return _titled(xlsx.pieces(content), xlsx.title(content))
        case sniff.EPUB:
            from functions.worker.formats import epub

            return _titled(epub.pieces(content), epub.title(content))
    from functions.worker.formats import mail

    return _titled(mail.pieces(content), mail.title(content))


def _read_text(text: str, kind: str) -> Extract:
    match kind:
        case sniff.HTML:
            from functions.worker.formats import hypertext

            return hypertext.read(text)
        case sniff.MARKDOWN:
            from functions.worker.formats import markdown

            return assemble(markdown.pieces(text))
        case sniff.CSV:
            from functions.worker.formats import csv_table

            return assemble(csv_table.pieces(text))
        case sniff.JSON:
            from functions.worker.formats import json_text

            return assemble(json_text.pieces(text))
    from functions.worker.formats import plain

    return assemble(plain.pieces(text))


def _titled(pieces: Iterable[Piece], title: str | None) -> Extract:
    return replace(assemble(pieces), title=title)


def _paged(extract: Extract) -> Extract:
    """Count the slides up to the last that says something."""
    return replace(extract, pages=max((block.page or 0 for block in extract.blocks), default=0))


def _empty(kind: str) -> Unreadable:
    if kind == sniff.PDF:
        return Unreadable("no_text", "No text was found in the file; a scan needs text recognition (OCR) first.")
    return Unreadable("no_text", "No text was found in the file.")
