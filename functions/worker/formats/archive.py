"""The containers of Office files and e-books: ZIP archives of XML parts, which come from strangers.

Nothing in them is believed. A part is read only when it says that it is not too large, and never further than it said,
so that a few kilobytes cannot become gigabytes; a part with a document type is refused, for that is where entities
that grow without end, or fetch, are declared (ECMA-376 part 2 forbids it to Office files). No part is written to a
disk, and a name is only ever looked up in the archive, whatever path it pretends to be. A library is handed
`packed(archive.parts())`: what was read so, without pictures.
"""

import posixpath
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from urllib.parse import unquote
from xml.etree import ElementTree as ET
from zipfile import BadZipFile, LargeZipFile, ZipFile

from agentkit import telemetry
from functions.worker.extract import Unreadable

MAX_PARTS = 20_000
# Of what is read; Word writes about 6 bytes for a character of prose, Excel 15 for one in a short cell.
MAX_PART_BYTES, MAX_BYTES = 48_000_000, 64_000_000
# XML of Office shrinks to a tenth or a fiftieth; zeros to a thousandth. Small parts may shrink as they like.
MAX_RATIO, SMALL_BYTES = 200, 1_000_000
ENCRYPTED = 0x1
DOCTYPES = ["<!DOCTYPE".encode(encoding) for encoding in ("ascii", "utf-16-le", "utf-16-be")]
XML = (".rels", ".xml")
CORE = "docProps/core.xml"

log = telemetry.logger(__name__)


class Archive:
    """The parts of a file."""

    def __init__(self, content: bytes) -> None:
        try:
            self._zip = ZipFile(BytesIO(content))
        except (BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise damaged() from error
        if len(self._zip.filelist) > MAX_PARTS:
            raise Unreadable("too_large", f"The file is made of more than {MAX_PARTS:,} parts.")
        self._left = MAX_BYTES

    def __contains__(self, name: str) -> bool:
        return name in self._zip.NameToInfo

    def __iter__(self) -> Iterator[str]:
        return iter(self._zip.NameToInfo)

    def read(self, name: str) -> bytes:
        """Return a part; raises Unreadable when it is missing, damaged, encrypted or too large."""
        entry = self._zip.NameToInfo.get(name)
        if entry is None:
            raise damaged()
        if entry.flag_bits & ENCRYPTED:
            raise Unreadable("encrypted", "The file needs a password; upload it without one.")
        swollen = entry.file_size > SMALL_BYTES and entry.file_size > MAX_RATIO * entry.compress_size
        if swollen or entry.file_size > min(MAX_PART_BYTES, self._left):
            raise Unreadable("too_large", "The file unpacks to more than we take.")
        self._left -= entry.file_size
        try:
            # Asked for a number of bytes, it unpacks no more of them; without one it unpacks all there are.
            with self._zip.open(entry) as part:
                return part.read(entry.file_size + 1)
        except (BadZipFile, LargeZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError) as error:
            raise damaged() from error

    def xml(self, name: str) -> bytes:
        """Return a part that declares no document type."""
        content = self.read(name)
        if any(doctype in content for doctype in DOCTYPES):
            raise Unreadable("unreadable", "The file declares XML entities, which no document of its kind needs.")
        return content

    def tree(self, name: str) -> ET.Element:
        """Return the root of an XML part, elements by their local names: Office has two sets of namespaces."""
        try:
            root = ET.fromstring(self.xml(name))  # noqa: S314  # no document type, so no entities
        except (ET.ParseError, ValueError, LookupError) as error:
            raise damaged() from error
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root

    def related(self, name: str, kind: str) -> dict[str, str]:
        """Return the parts that a part (`""`: the file) refers to as such a kind, by the id that it uses for them."""
        folder, file = posixpath.split(name)
        relations = posixpath.join(folder, "_rels", f"{file}.rels")
        if relations not in self:
            return {}
        return {
            relation.get("Id", ""): inside(name, relation.get("Target", ""))
            for relation in self.tree(relations)
            if relation.get("Type", "").endswith(f"/{kind}") and relation.get("TargetMode") != "External"
        }

    def parts(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and content of every part that is XML."""
        for name in self._zip.NameToInfo:
            if name.lower().endswith(XML):
                yield name, self.xml(name)


def packed(parts: Iterable[tuple[str, bytes]]) -> BytesIO:
    """Return a new archive of parts that were read, for a library that would trust the first."""
    copy = BytesIO()
    with ZipFile(copy, "w") as archive:
        for name, part in parts:
            archive.writestr(name, part)
    copy.seek(0)
    return copy


def inside(name: str, target: str) -> str:
    """Return the name of the part that a part refers to by a relative or absolute path."""
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(name), unquote(target))).lstrip("/")


def damaged() -> Unreadable:
    """Return the refusal of a file that is not what its kind should be."""
    return Unreadable("unreadable", "The file is damaged, or is not of the kind that it seems to be.")


@contextmanager
def readable() -> Iterator[None]:
    """Let any way in which a parser fails mean that the file is damaged."""
    try:
        yield
    except Unreadable:
        raise
    except Exception as error:
        log.info("document.damaged", exc_info=error)
        raise damaged() from error


def office_title(content: bytes) -> str | None:
    """Return what an Office file says that it is called, if it does."""
    try:
        core = Archive(content).tree(CORE)
    except Unreadable:
        # Many have none, and damage to it is no reason to refuse the text.
        return None
    return " ".join(core.findtext("title", "").split()) or None
