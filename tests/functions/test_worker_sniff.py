"""What a file is: its bytes say it, and the sender's word counts only between kinds of text."""

import gzip
import io
import random
import tarfile

import pytest

from functions.worker import sniff
from tests.parts.archives import locked, zipped
from tests.parts.files import printed, read, refusal

OFFICE = "application/vnd.openxmlformats-officedocument."
DOCX = f"{OFFICE}wordprocessingml.document"
PPTX = f"{OFFICE}presentationml.presentation"
XLSX = f"{OFFICE}spreadsheetml.sheet"


def office(part):
    return zipped({"[Content_Types].xml": "<Types/>", part: "<x/>"})


def ole(*streams):
    """An old Office file's head, and its directory's entries (MS-CFB 2.6.1: names in UTF-16, 64 bytes each)."""
    directory = b"".join(name.encode("utf-16-le").ljust(128, b"\0") for name in ("Root Entry", *streams))
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + directory


def tarred():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return out.getvalue()


def noise(seed, size):
    return random.Random(seed).randbytes(size)  # noqa: S311  # the same in every run


LETTER = (
    b"Received: from a.test by b.test\r\nMessage-ID: <1@a.test>\r\nFrom: ada@a.test\r\nTo: bob@b.test\r\n"
    b"Subject: Rent\r\n\r\nIt is due.\r\n"
)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        pytest.param(printed(["Rent."]), "application/pdf", id="PDF"),
        pytest.param(b"\r\n" + printed(["Rent."]), "application/pdf", id="PDF after a blank line"),
        pytest.param(office("word/document.xml"), DOCX, id="docx"),
        pytest.param(office("word/document2.xml"), DOCX, id="docx as SharePoint writes it"),
        pytest.param(office("ppt/presentation.xml"), PPTX, id="pptx"),
        pytest.param(office("xl/workbook.xml"), XLSX, id="xlsx"),
        pytest.param(zipped({"mimetype": "application/epub+zip\n"}), "application/epub+zip", id="epub"),
        pytest.param(b"Rent is due.", None, id="a text"),
        pytest.param(
            b"%PDF-1.7 is a header, says the manual." * 40, "application/pdf", id="a text that begins as a PDF"
        ),
        pytest.param(b"A file of PDF begins with %PDF-1.7.", None, id="a text on PDFs"),
    ],
)
def test_data_is_told_by_its_bytes(content, kind):
    assert sniff.sniff(content) == kind


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(
            ole("WordDocument"), "an old Word document (.doc), which cannot be read here; save it as .docx", id=".doc"
        ),
        pytest.param(
            ole("Workbook"), "an old Excel workbook (.xls), which cannot be read here; save it as .xlsx", id=".xls"
        ),
        pytest.param(
            ole("Book"), "an old Excel workbook (.xls), which cannot be read here; save it as .xlsx", id=".xls of 1995"
        ),
        pytest.param(
            ole("PowerPoint Document"),
            "an old PowerPoint presentation (.ppt), which cannot be read here; save it as .pptx",
            id=".ppt",
        ),
        pytest.param(
            ole("__properties_version1.0"),
            "an Outlook message (.msg), which cannot be read here; save it as .eml",
            id=".msg",
        ),
        pytest.param(ole("Else"), "an old Office document", id="another of that age"),
        pytest.param(zipped({"mimetype": "application/vnd.oasis.opendocument.text"}), "an OpenDocument file", id="odt"),
        pytest.param(
            zipped({"a.docx": "x", "word/b": "y"}), "a ZIP archive, which cannot be read here; unpack it", id="zip"
        ),
        pytest.param(zipped({}), "a ZIP archive", id="an empty zip"),
        pytest.param(gzip.compress(b"Rent."), "a gzip archive", id="gzip"),
        pytest.param(tarred(), "a tar archive", id="tar"),
        pytest.param(
            b"\x89PNG\r\n\x1a\n" + bytes(64), "a PNG image, which cannot be read here; text recognition", id="PNG"
        ),
        pytest.param(b"\xff\xd8\xff\xe0" + bytes(64), "a JPEG image", id="JPEG"),
        pytest.param(b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP image", id="WebP"),
        pytest.param(b"\0\0\0\x18ftypheic" + bytes(64), "a HEIC image", id="HEIC"),
        pytest.param(b"\0\0\0\x18ftypmp42" + bytes(64), "a video or sound", id="MP4"),
        pytest.param(b"{\\rtf1\\ansi Rent.}", "an RTF document", id="RTF"),
        pytest.param(b"\x7fELF" + bytes(64), "a program", id="ELF"),
        pytest.param(noise(7, 20_000), "of no kind that we know", id="random bytes"),
        pytest.param(bytes(1000), "of no kind that we know", id="NULs"),
        pytest.param("größer".encode("utf-16-le"), "of no kind that we know", id="UTF-16 without a mark"),
    ],
)
@pytest.mark.parametrize("announced", ["application/pdf", "text/plain", ""])
def test_what_we_do_not_read_is_refused_by_its_name_and_with_advice(content, announced, says):
    refused = refusal(content, announced=announced)
    assert refused.code == "type_unsupported"
    assert refused.sentence.startswith(f"The file is {says}")


def test_an_encrypted_office_file_is_told_from_an_old_one():
    assert refusal(ole("EncryptionInfo", "EncryptedPackage")).code == "encrypted"


@pytest.mark.parametrize("cut", [10, 60, -30])
def test_a_damaged_archive_is_refused_as_that(cut):
    assert refusal(office("word/document.xml")[:cut]).code == "unreadable"


def test_an_archive_whose_type_is_locked_needs_a_password():
    assert refusal(locked(zipped({"mimetype": "application/epub+zip"}))).code == "encrypted"


def test_an_archive_whose_type_is_packed_in_an_unknown_way_is_refused():
    content = bytearray(zipped({"mimetype": "application/epub+zip"}))
    # Compression method 99 in the directory (APPNOTE.TXT 4.3.12).
    place = content.rindex(b"PK\x01\x02") + 10
    content[place : place + 2] = (99).to_bytes(2, "little")
    assert refusal(bytes(content)).code == "unreadable"


def test_a_pdf_called_text_is_read_as_the_pdf_that_it_is():
    extract = read(printed(["Rent."]), announced="text/plain", filename="lease.txt")
    assert (extract.media_type, extract.pages, extract.text) == ("application/pdf", 1, "Rent.")


def test_a_text_called_pdf_is_read_as_text():
    extract = read(b"Rent.", announced="application/pdf", filename="lease.pdf")
    assert (extract.media_type, extract.pages, extract.text) == ("text/plain", None, "Rent.")


TABLE = b"name,rent,due\nAda,900,1 May\nBob,800,2 May\n"


@pytest.mark.parametrize(
    ("content", "announced", "filename", "kind"),
    [
        pytest.param(b"# Rent\n\nLow.", "text/markdown", "", "text/markdown", id="announced Markdown"),
        pytest.param(b"Rent.", "text/markdown; charset=utf-8", "", "text/markdown", id="announced with parameters"),
        pytest.param(b"Rent.", "application/octet-stream", "README.md", "text/markdown", id="Markdown by its name"),
        pytest.param(b"Rent.", "text/plain", "README.md", "text/markdown", id="plain, with a better name"),
        pytest.param(b"# Rent\n\nLow.", "", "", "text/markdown", id="Markdown by its heading"),
        pytest.param(b"# Rent\n\nLow.", "text/plain", "", "text/plain", id="announced plain, with a number sign"),
        pytest.param(b"<!DOCTYPE html>\n<p>Rent", "text/plain", "a.txt", "text/html", id="a page called plain"),
        pytest.param(b"<!-- a --><!-- b --><html>Rent", "", "", "text/html", id="a page after comments"),
        pytest.param(b"<p>Rent</p>", "text/html", "", "text/html", id="a part of a page"),
        pytest.param(b"Rent < 3 and 5 > 4.", "text/html", "", "text/plain", id="no page, though announced as one"),
        pytest.param(TABLE, "", "rents.csv", "text/csv", id="CSV by its name"),
        pytest.param(TABLE, "", "", "text/csv", id="CSV by its rows"),
        pytest.param(TABLE, "text/plain", "rents.txt", "text/plain", id="rows announced as plain text"),
        pytest.param(b"One, two.\nThree, four, five.\nSix.", "", "", "text/plain", id="sentences with commas"),
        pytest.param(b'{"rent": 900}', "", "", "application/json", id="JSON by its shape"),
        pytest.param(b"[1] A note\n[2]", "", "", "text/plain", id="brackets that are no JSON"),
        pytest.param(b"[" * 100_000 + b"]", "", "", "text/plain", id="brackets without end"),
        pytest.param(b'{"a": 1}\n{"a": 2}', "", "rents.jsonl", "application/json", id="JSON lines by their name"),
        pytest.param(LETTER, "", "", "message/rfc822", id="a message by its way"),
        pytest.param(b"Subject: Rent\n\nDue.", "message/rfc822", "", "message/rfc822", id="an announced message"),
        pytest.param(b"From: Ada\nDate: May\n\nDear Bob", "", "", "text/plain", id="a letter typed by hand"),
        pytest.param(b"Not a header\n\nDue.", "", "a.eml", "text/plain", id="no message, though called one"),
    ],
)
def test_kinds_of_text_are_told_by_their_bytes_and_between_them_by_the_senders_word(content, announced, filename, kind):
    hint = sniff.hinted(announced, filename)
    told = sniff.MAIL if sniff.is_mail(content, hint) else sniff.text_kind(content.decode(), hint)
    assert told == kind


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("<!--" * 200_000, id="comments without end"),
        pytest.param("<!---->" * 100_000, id="comments alone"),
        pytest.param("<a " * 300_000, id="tags without end"),
        pytest.param("1." * 500_000, id="numbers without end"),
    ],
)
def test_no_text_takes_for_ever_to_be_told(content):
    assert sniff.text_kind(content, sniff.HTML) == "text/plain"
