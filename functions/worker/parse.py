"""Bytes to text: PDF, Markdown, plain text and HTML.

The kind is announced by whoever uploads a file, and checked against the bytes. A file that cannot be read raises
Unreadable with a code that stays the same:

    pdf_encrypted   needs a password            no_text         has no text (a scan, an empty page)
    pdf_unreadable  damaged                     not_text        is no text, but some other kind of data
    type_mismatch   is not what it was announced as             too_large       more pages or text than we take
"""

import re
from collections.abc import Callable

from functions.worker.extract import MAX_CHARACTERS, Extract, Piece, Unreadable, assemble
from functions.worker.formats import hypertext, markdown, pdf, plain

# A text has hardly any control characters; random bytes have one in ten.
MAX_CONTROL_SHARE = 0.02
CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
# How other kinds of files begin.
SIGNATURES = {
    b"%PDF-": "a PDF",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"PK\x03\x04": "a ZIP archive or an Office document",
    b"\xd0\xcf\x11\xe0": "an old Office document",
    b"\x1f\x8b": "a gzip archive",
    b"\x7fELF": "a program",
    b"{\\rtf": "an RTF document",
}
# Some programs write a line of their own before a PDF's first.
PDF_HEADER_WITHIN = 1_024

BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def parse(content: bytes, media_type: str) -> Extract:
    """Return the text of a file; raises Unreadable when it has none that we can find."""
    looks_like = _kind_of(content)
    if media_type == "application/pdf":
        if looks_like != "a PDF":
            raise Unreadable("type_mismatch", f"The file was announced as a PDF, but is {looks_like or 'none'}.")
        extract = pdf.read(content, max_characters=MAX_CHARACTERS)
    else:
        if looks_like:
            raise Unreadable("type_mismatch", f"The file was announced as text, but is {looks_like}.")
        text = decode(content)
        if len(text) > MAX_CHARACTERS:
            raise Unreadable("too_large", f"The file has more than {MAX_CHARACTERS:,} characters.")
        extract = assemble(READERS[media_type](text))
    if not any(character.isalnum() for character in extract.text):
        raise Unreadable("no_text", "No text was found in the file; a scan needs text recognition first.")
    return extract


def decode(content: bytes) -> str:
    """Return the text of those bytes; raises Unreadable when they are no text.

    A byte order mark decides; otherwise it is UTF-8 if it can be, and Windows-1252 if not: that is what old files
    are, and it knows a character for nearly every byte.
    """
    encoding = next((name for mark, name in BOMS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("cp1252" if encoding == "utf-8" else encoding, "replace")
    strange = len(CONTROL.findall(text)) + text.count("\N{REPLACEMENT CHARACTER}")
    # One stray character is forgiven a short text, too.
    if strange > max(1, MAX_CONTROL_SHARE * len(text)):
        raise Unreadable("not_text", "The file is not text.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _kind_of(content: bytes) -> str | None:
    if b"%PDF-" in content[:PDF_HEADER_WITHIN]:
        return "a PDF"
    return next((name for signature, name in SIGNATURES.items() if content.startswith(signature)), None)


READERS: dict[str, Callable[[str], list[Piece]]] = {
    "text/plain": plain.pieces,
    "text/markdown": markdown.pieces,
    "text/html": hypertext.pieces,
}
