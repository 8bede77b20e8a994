"""What the worker reads out of e-books."""

import pytest

from functions.worker.extract import Kind, Unreadable
from functions.worker.formats import epub
from tests.parts.archives import LAUGHS, OUTSIDE, locked, zipped

CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
)
ENCRYPTION = (
    '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><enc:EncryptedData'
    ' xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:EncryptionMethod Algorithm="{}"/>'
    "</enc:EncryptedData></encryption>"
)


def chapter(body, head="<title/>"):
    declared = '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html>'
    return f'{declared}<html xmlns="http://www.w3.org/1999/xhtml"><head>{head}</head><body>{body}</body></html>'


def book(*chapters, order=None, doctype="", title="A book", kind="application/xhtml+xml", **parts):
    """A book of those chapters, in that order of their numbers."""
    items = "".join(
        f'<item id="c{number}" href="text/{number}%20.xhtml" media-type="{kind}"/>'
        for number in range(1, len(chapters) + 1)
    )
    spine = "".join(f'<itemref idref="c{number}"/>' for number in order or range(1, len(chapters) + 1))
    package = (
        f'{doctype}<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        f"<dc:title>{title}</dc:title></metadata><manifest>{items}"
        '<item id="toc" href="toc.xhtml" media-type="application/xhtml+xml" properties="nav"/></manifest>'
        f'<spine><itemref idref="toc"/>{spine}</spine></package>'
    )
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": CONTAINER,
            "OPS/book.opf": package,
            "OPS/toc.xhtml": chapter("<ol><li>Contents</li></ol>"),
            **{f"OPS/text/{number} .xhtml": each for number, each in enumerate(chapters, 1)},
            **parts,
        }
    )


def read(content):
    return [piece.text for piece in epub.pieces(content)]


def refusal(content):
    with pytest.raises(Unreadable) as caught:
        list(epub.pieces(content))
    return caught.value.code


def test_chapters_come_in_reading_order_and_keep_their_structure():
    chapters = chapter("<h1>Two</h1><p>größer</p>"), chapter("<h1>One</h1><ul><li>item</li></ul>")
    found = list(epub.pieces(book(*chapters, order=[2, 1])))
    assert [(piece.text, piece.kind) for piece in found] == [
        ("One", Kind.HEADING),
        ("- item", Kind.ITEM),
        ("Two", Kind.HEADING),
        ("größer", Kind.PARAGRAPH),
    ]


@pytest.mark.parametrize(
    "head", ["<title/>", "<script src='x.js'/>", '<style type="a"/>', "<title>t</title><script></script>"]
)
def test_elements_that_end_at_once_take_no_text_with_them(head):
    assert read(book(chapter("<p>Text.</p>", head=head))) == ["Text."]


def test_a_chapter_in_another_encoding_is_read():
    assert read(book(chapter("<p>größer</p>").encode("utf-16"))) == ["größer"]


def test_a_chapter_that_is_listed_and_missing_is_passed_over():
    assert read(book(chapter("<p>One</p>"), order=[3, 1])) == ["One"]


def test_what_is_no_html_in_the_reading_order_is_passed_over():
    assert read(book(chapter("<p>x</p>"), kind="image/svg+xml")) == []


def test_the_title_is_that_of_the_package():
    assert epub.title(book(title="Müller\n &amp; Sons")) == "Müller & Sons"
    assert epub.title(book(title="")) is None


def test_a_book_without_chapters_has_no_pieces():
    assert read(book()) == []


def test_scrambled_fonts_do_not_hide_the_text():
    fonts = {"META-INF/encryption.xml": ENCRYPTION.format("http://www.idpf.org/2008/embedding")}
    assert read(book(chapter("<p>Open.</p>"), **fonts)) == ["Open."]


COPY_PROTECTED = {"META-INF/encryption.xml": ENCRYPTION.format("http://www.w3.org/2001/04/xmlenc#aes128-cbc")}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"", "unreadable", id="no bytes"),
        pytest.param(book(chapter("<p>Cut off.</p>"))[:-100], "unreadable", id="cut off"),
        pytest.param(zipped({"mimetype": "application/epub+zip"}), "unreadable", id="no container"),
        pytest.param(zipped({"META-INF/container.xml": "<container/>"}), "unreadable", id="no package"),
        pytest.param(book(**{"OPS/book.opf": "<package>"}), "unreadable", id="a package that never ends"),
        pytest.param(book(chapter("x"), **COPY_PROTECTED), "encrypted", id="copy-protected"),
        pytest.param(locked(book(chapter("x"))), "encrypted", id="parts with a password"),
        pytest.param(book(doctype=LAUGHS, title="&b;"), "unreadable", id="entities of entities"),
        pytest.param(book(doctype=OUTSIDE, title="&a;"), "unreadable", id="an entity from the disk"),
        pytest.param(book(chapter(" " * 20_000_000)), "too_large", id="20 MB in 20 kB"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(content, code):
    assert refusal(content) == code


def test_entities_in_a_chapter_neither_grow_nor_fetch():
    page = LAUGHS + "<html><body><p>&b;</p></body></html>"
    assert "haha" not in "".join(read(book(page)))


def test_many_parts_that_are_small_each_are_too_large_together():
    # 70 of 900 kB are 63 MB, 72 are 64.8 MB.
    page = chapter("<p>x</p>" + " " * 900_000)
    assert refusal(book(*[page] * 72)) == "too_large"


def test_a_chapter_outside_the_archive_is_missing(tmp_path):
    (tmp_path / "secret.xhtml").write_text(chapter("<p>Secret.</p>"))
    package = (
        f'<package><manifest><item id="a" href="../../../../../..{tmp_path}/secret.xhtml"'
        ' media-type="text/html"/></manifest><spine><itemref idref="a"/></spine></package>'
    )
    assert read(book(**{"OPS/book.opf": package})) == []
