"""E-books (.epub) to pieces of text: their chapters in reading order, each by the reader of HTML.

The container names the package, the package lists the files and their order (the "spine"): EPUB 3.3, chapters 4 and 5
(https://www.w3.org/TR/epub-33/). Left out: the table of contents, chapters that are not HTML, and those that are
listed but missing. Fonts may be scrambled; a book whose text is encrypted is refused.
"""

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from functions.worker.charset import decode
from functions.worker.extract import Piece, Unreadable
from functions.worker.formats import hypertext
from functions.worker.formats.archive import Archive, damaged, inside, readable

CONTAINER, ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
FONTS_ONLY = {"http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"}
CHAPTERS = {"application/xhtml+xml", "text/html"}
# XML may end these at once; HTML would take the rest of the chapter for their text.
ENDED_AT_ONCE = re.compile(r"<(title|script|style|textarea|iframe|noscript)\b([^<>]*)/>", re.IGNORECASE)


def pieces(content: bytes) -> Iterator[Piece]:
    """Return the text of the chapters, in reading order."""
    with readable():
        archive = Archive(content)
        _refuse_encrypted(archive)
        name, package = _package(archive)
        files = {item.get("id"): item for item in package.iterfind("manifest/item")}
        for reference in package.iterfind("spine/itemref"):
            item = files.get(reference.get("idref"))
            if item is None or item.get("media-type") not in CHAPTERS or "nav" in item.get("properties", "").split():
                continue
            chapter = inside(name, item.get("href", "").partition("#")[0])
            if chapter in archive:
                text = decode(archive.read(chapter))
                yield from hypertext.pieces(ENDED_AT_ONCE.sub(r"<\1\2></\1>", text or ""))


def title(content: bytes) -> str | None:
    """Return what the book is called."""
    _, package = _package(Archive(content))
    return " ".join(package.findtext("metadata/title", "").split()) or None


def _package(archive: Archive) -> tuple[str, Element]:
    """Return the name and root of the part that says what the book is made of."""
    root = archive.tree(CONTAINER).find("rootfiles/rootfile")
    if root is None:
        raise damaged()
    name = root.get("full-path", "")
    return name, archive.tree(name)


def _refuse_encrypted(archive: Archive) -> None:
    if ENCRYPTION in archive:
        for method in archive.tree(ENCRYPTION).iterfind("EncryptedData/EncryptionMethod"):
            if method.get("Algorithm") not in FONTS_ONLY:
                raise Unreadable("encrypted", "The book is copy-protected (DRM); upload one that is not.")
