"""What a file is, told by its bytes: whoever sends it may be wrong about it, or lie.

sniff(content)                  "application/pdf"; None for what may be text; Unreadable for all other data
hinted(announced, filename)     which kind of text the sender takes it for: their word counts between these
is_mail(content, hint)          the one kind of text whose parts have character sets of their own
text_kind(text, hint)           which of the other kinds of text it is
"""

import csv
import json
import re
from pathlib import PurePath

from functions.worker.extract import Unreadable

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EPUB = "application/epub+zip"
MAIL = "message/rfc822"
HTML, MARKDOWN, CSV, JSON, PLAIN = "text/html", "text/markdown", "text/csv", "application/json", "text/plain"

# What we read, and how files of that kind are called.
ENDINGS = {
    **dict.fromkeys([".html", ".htm", ".xhtml"], HTML),
    **dict.fromkeys([".md", ".markdown"], MARKDOWN),
    **dict.fromkeys([".csv", ".tsv"], CSV),
    **dict.fromkeys([".json", ".jsonl", ".ndjson"], JSON),
    ".eml": MAIL,
    ".txt": PLAIN,
}
# The names that kinds of text go by.
ANNOUNCED = {
    **{each: each for each in (HTML, MARKDOWN, CSV, JSON, MAIL)},
    "application/xhtml+xml": HTML,
    "text/x-markdown": MARKDOWN,
    "text/tab-separated-values": CSV,
    **dict.fromkeys(["text/json", "application/x-ndjson", "application/jsonl"], JSON),
}

NEEDS_RECOGNITION = "text recognition (OCR) must make a PDF or a text of it first"
UNPACK = "unpack it, and upload the documents in it"
# How data begins that we do not read: from which byte on, what it is, and what its owner can do.
FOREIGN = [
    (0, b"\x89PNG\r\n", "a PNG image", NEEDS_RECOGNITION),
    (0, b"\xff\xd8\xff", "a JPEG image", NEEDS_RECOGNITION),
    (0, b"GIF8", "a GIF image", NEEDS_RECOGNITION),
    (0, b"II*\0", "a TIFF image", NEEDS_RECOGNITION),
    (0, b"MM\0*", "a TIFF image", NEEDS_RECOGNITION),
    (8, b"WEBP", "a WebP image", NEEDS_RECOGNITION),
    (4, b"ftyphei", "a HEIC image", NEEDS_RECOGNITION),
    (4, b"ftypmif1", "a HEIC image", NEEDS_RECOGNITION),
    (4, b"ftyp", "a video or sound", "upload its text"),
    (0, b"ID3", "a sound", "upload its text"),
    (0, b"OggS", "a video or sound", "upload its text"),
    (0, b"\x1aE\xdf\xa3", "a video", "upload its text"),
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (0, b"BZh", "a bzip2 archive", UNPACK),
    (0, b"\xfd7zXZ\0", "an xz archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"Rar!\x1a", "a RAR archive", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"{\\rtf", "an RTF document", "save it as .docx or PDF, and upload that"),
    (0, b"%!PS", "a PostScript document", "save it as PDF, and upload that"),
    (0, b"\x7fELF", "a program", "upload a document"),
    (0, b"MZ\x90\0", "a program", "upload a document"),
    (0, b"\xcf\xfa\xed\xfe", "a program", "upload a document"),
    (0, b"SQLite format 3\0", "a database", "export its tables as CSV, and upload these"),
]
# Some programs write a line of their own before a PDF's first; then the rest must look like one, for texts speak of
# PDFs, too.
PDF_HEADER, PDF_HEADER_WITHIN, PDF_OBJECT = b"%PDF-", 1_024, b"endobj"

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# The streams that an old Office file keeps, what it is then, and as what to save it.
OLE_STREAMS = {
    "WordDocument": ("an old Word document (.doc)", ".docx"),
    "PowerPoint Document": ("an old PowerPoint presentation (.ppt)", ".pptx"),
    "Workbook": ("an old Excel workbook (.xls)", ".xlsx"),
    "Book": ("an old Excel workbook (.xls)", ".xlsx"),
    "__properties_version1.0": ("an Outlook message (.msg)", ".eml"),
}
OLE_ENCRYPTED = "EncryptedPackage"

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
OFFICE_TYPES = "[Content_Types].xml"
OFFICE_FOLDERS = {"word/": DOCX, "ppt/": PPTX, "xl/": XLSX}
# An EPUB and an OpenDocument file say what they are in a part of this name.
SAYS_TYPE = "mimetype"

# What may stand before a page's first tag, one after the other: one pattern for all of them would try for ever.
BEFORE_PAGE = re.compile(r"\s*(<\?xml[^>]*>|<!--.*?-->)", re.DOTALL)
PAGE = re.compile(r"\s*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
TAG = re.compile(r"</?[a-z][a-z0-9]*(\s[^<>]*)?/?>", re.IGNORECASE)
MARKUP = re.compile(r"^(#{1,6} +\S|```)", re.MULTILINE)
# The first lines of a message, and which of them people do not write into texts of their own.
MAIL_HEAD_WITHIN = 65_536
MAIL_HEADERS = re.compile(rb"\A(?:[!-9;-~]+:[^\n]*\r?\n(?:[ \t][^\n]*\r?\n)*)+")
MAIL_NAME = re.compile(rb"^([!-9;-~]+):", re.MULTILINE)
TRANSPORT = {b"received", b"message-id", b"mime-version", b"return-path", b"delivered-to", b"dkim-signature"}
# Rows that a table without an announcement must show, all of so many cells or more.
TABLE_ROWS, TABLE_CELLS, TABLE_LOOKS_AT = 3, 3, 20


def hinted(announced: str, filename: str) -> str | None:
    """Return which kind of text the sender takes it for, if they say; many call every text plain."""
    announced = announced.partition(";")[0].strip().lower()
    kind = ANNOUNCED.get(announced) or ENDINGS.get(PurePath(filename).suffix.lower())
    return kind or (PLAIN if announced == PLAIN else None)


def sniff(content: bytes) -> str | None:
    """Return what the bytes are when they are data that we read; None when they may be text.

    Raises Unreadable for other data (`type_unsupported`), and for what is `encrypted` or so damaged (`unreadable`) that
    it cannot be told.
    """
    at = content.find(PDF_HEADER, 0, PDF_HEADER_WITHIN)
    if at >= 0 and (not content[:at].strip() or PDF_OBJECT in content):
        return PDF
    if content.startswith(ZIP):
        return _zipped(content)
    if content.startswith(OLE):
        raise _old_office(content)
    for start, signature, what, advice in FOREIGN:
        if content.startswith(signature, start):
            raise unsupported(what, advice)
    return None


def unsupported(what: str, advice: str) -> Unreadable:
    """Return the refusal of a file that is none of ours."""
    return Unreadable("type_unsupported", f"The file is {what}, which cannot be read here; {advice}.")


def is_mail(content: bytes, hint: str | None) -> bool:
    """Say whether the bytes are a message: it begins with its headers, and was announced or has been on its way."""
    head = MAIL_HEADERS.match(content[:MAIL_HEAD_WITHIN])
    names = {name.lower() for name in MAIL_NAME.findall(head[0])} if head else set()
    return bool(names) if hint == MAIL else b"from" in names and len(names & TRANSPORT) > 1


def text_kind(text: str, hint: str | None) -> str:
    """Return which kind of text it is: what it clearly is, else what it was taken for if it can be, else plain."""
    if _is_page(text):
        return HTML
    if hint in {MARKDOWN, CSV, JSON}:
        return hint
    if hint == HTML and TAG.search(text):
        return HTML
    if _is_json(text):
        return JSON
    if hint != PLAIN and _is_table(text):
        return CSV
    return MARKDOWN if hint != PLAIN and MARKUP.search(text) else PLAIN


def _zipped(content: bytes) -> str:
    from functions.worker.formats.archive import Archive

    archive = Archive(content)
    says = archive.read(SAYS_TYPE).decode("ascii", "replace").strip() if SAYS_TYPE in archive else ""
    if says == EPUB:
        return EPUB
    if says.startswith("application/vnd.oasis.opendocument"):
        raise unsupported("an OpenDocument file", "save it as .docx, .pptx or .xlsx, and upload that")
    if OFFICE_TYPES in archive:
        for folder, kind in OFFICE_FOLDERS.items():
            if any(name.startswith(folder) for name in archive):
                return kind
    raise unsupported("a ZIP archive", UNPACK)


def _old_office(content: bytes) -> Unreadable:
    if OLE_ENCRYPTED.encode("utf-16-le") in content:
        return Unreadable("encrypted", "The file needs a password; upload it without one.")
    for stream, (what, better) in OLE_STREAMS.items():
        # Its name in the directory, to its end.
        if f"{stream}\0".encode("utf-16-le") in content:
            return unsupported(what, f"save it as {better}, and upload that")
    return unsupported("an old Office document", "save it as .docx, .pptx or .xlsx, and upload that")


def _is_page(text: str) -> bool:
    start = 0
    while skipped := BEFORE_PAGE.match(text, start):
        start = skipped.end()
    return PAGE.match(text, start) is not None


def _is_json(text: str) -> bool:
    if not (text.lstrip().startswith(("{", "[")) and text.rstrip().endswith(("}", "]"))):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_table(text: str) -> bool:
    """Say whether the first lines have the same cells, apart by one of the usual marks."""
    lines = text.split("\n", TABLE_LOOKS_AT)[:TABLE_LOOKS_AT]
    lines = [line for line in lines if line.strip()]
    for mark in (",", ";", "\t"):
        try:
            counts = {len(row) for row in csv.reader(lines, delimiter=mark)}
        except csv.Error:
            continue
        if len(lines) >= TABLE_ROWS and len(counts) == 1 and counts.pop() >= TABLE_CELLS:
            return True
    return False
