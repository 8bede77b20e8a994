"""Each kind of file comes to its own reader, whatever it was called."""

import pytest

from functions.documents import media
from tests.parts.archives import CORE, relations, zipped
from tests.parts.files import blocks, printed, read

OFFICE = "application/vnd.openxmlformats-officedocument."
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
IDS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"

DOCX = zipped(
    {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": relations(("officeDocument", "word/document.xml")),
        "word/document.xml": f'<document xmlns="{WORD}"><body><p><r><t>Rent.</t></r></p></body></document>',
        "docProps/core.xml": CORE.format("Lease"),
    }
)
SLIDE = "<sld><sp><nvSpPr><nvPr/></nvSpPr><txBody><p><r><t>Rent.</t></r></p></txBody></sp></sld>"
PPTX = zipped(
    {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": relations(("officeDocument", "ppt/presentation.xml")),
        "ppt/presentation.xml": f'<p xmlns:r="{IDS}"><sldIdLst><sldId r:id="r1"/><sldId r:id="r2"/></sldIdLst></p>',
        "ppt/_rels/presentation.xml.rels": relations(("slide", "a.xml"), ("slide", "b.xml")),
        "ppt/a.xml": SLIDE,
        "ppt/b.xml": SLIDE,
        "docProps/core.xml": CORE.format("Lease"),
    }
)
SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
XLSX = zipped(
    {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": relations(("officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": (
            f'<workbook xmlns="{SHEET}" xmlns:r="{IDS}"><sheets><sheet name="Rents" sheetId="1" r:id="r1"/></sheets>'
            "</workbook>"
        ),
        "xl/_rels/workbook.xml.rels": relations(("worksheet", "worksheets/sheet1.xml")),
        "xl/worksheets/sheet1.xml": (
            f'<worksheet xmlns="{SHEET}"><sheetData><row r="1"><c r="A1" t="inlineStr"><is><t>Rent.</t></is></c></row>'
            "</sheetData></worksheet>"
        ),
        "docProps/core.xml": CORE.format("Lease"),
    }
)
EPUB = zipped(
    {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container><rootfiles><rootfile full-path="book.opf"/></rootfiles></container>',
        "book.opf": (
            '<package xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>Lease</dc:title></metadata>'
            '<manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest>'
            '<spine><itemref idref="a"/></spine></package>'
        ),
        "a.xhtml": "<html><body><p>Rent.</p></body></html>",
    }
)
MAIL = b"Message-ID: <1@a.test>\nMIME-Version: 1.0\nFrom: ada@a.test\nSubject: Lease\n\nRent."


EACH_KIND = [
    pytest.param(printed(["Rent."], title="Lease"), "", "application/pdf", "Lease", 1, id="PDF"),
    pytest.param(DOCX, "", f"{OFFICE}wordprocessingml.document", "Lease", None, id="docx"),
    pytest.param(PPTX, "", f"{OFFICE}presentationml.presentation", "Lease", 2, id="pptx"),
    pytest.param(XLSX, "", f"{OFFICE}spreadsheetml.sheet", "Lease", None, id="xlsx"),
    pytest.param(EPUB, "", "application/epub+zip", "Lease", None, id="epub"),
    pytest.param(MAIL, "", "message/rfc822", "Lease", None, id="mail"),
    pytest.param(b"<html><title>Lease</title><p>Rent.", "", "text/html", "Lease", None, id="HTML"),
    pytest.param(b"# Lease\n\nRent.", "a.md", "text/markdown", None, None, id="Markdown"),
    pytest.param(b"Rent.\n", "a.csv", "text/csv", None, None, id="CSV"),
    pytest.param(b'["Rent."]', "a.json", "application/json", None, None, id="JSON"),
    pytest.param(b"Rent.", "a.txt", "text/plain", None, None, id="plain text"),
]


@pytest.mark.parametrize(("content", "filename", "media_type", "title", "pages"), EACH_KIND)
def test_each_kind_of_file_is_read_by_its_reader(content, filename, media_type, title, pages):
    extract = read(content, announced="application/octet-stream", filename=filename)
    assert (extract.media_type, extract.title, extract.pages) == (media_type, title, pages)
    assert blocks(extract)[-1].removeprefix("- ") == "Rent."


def test_every_kind_that_documents_takes_has_a_reader():
    assert sorted(media.MEDIA_TYPES) == sorted(str(kind.values[2]) for kind in EACH_KIND)


@pytest.mark.parametrize("content", [DOCX, PPTX, XLSX, EPUB, printed(["Rent."])])
@pytest.mark.parametrize("announced", ["text/plain", "text/html", "text/csv", "message/rfc822", "image/png"])
def test_data_is_read_as_what_it_is_whatever_it_is_called(content, announced):
    assert "Rent." in read(content, announced=announced, filename="a.txt").text
