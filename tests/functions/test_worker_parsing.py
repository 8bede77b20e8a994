"""What the worker reads out of files: text, pages, headings; and what it refuses."""

import random
from contextlib import suppress
from io import BytesIO

import pytest
from fpdf import FPDF
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter

from functions.worker import parse as parsing
from functions.worker.extract import Kind, Piece, Unreadable, assemble
from functions.worker.formats import pdf as pdfs
from functions.worker.parse import parse
from infra.demo import make_pdf

PDF, MARKDOWN, PLAIN, HTML = "application/pdf", "text/markdown", "text/plain", "text/html"


def printed(*pages, running=""):
    """A PDF of those pages, each a list of paragraphs; `("Title", 20)` is printed in 20 points."""
    book = FPDF(format="A4")
    for number, paragraphs in enumerate(pages, 1):
        book.add_page()
        if running:
            book.set_font("Helvetica", "", 9)
            book.cell(0, 8, running.format(number), new_x="LMARGIN", new_y="NEXT")
        for paragraph in paragraphs:
            text, points = paragraph if isinstance(paragraph, tuple) else (paragraph, 11)
            book.set_font("Helvetica", "", points)
            book.multi_cell(0, points * 0.5, text, new_x="LMARGIN", new_y="NEXT")
            book.ln(4)
    return bytes(book.output())


def encrypted(content, password):
    writer = PdfWriter(clone_from=PdfReader(BytesIO(content)))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


def scanned():
    book = FPDF(format="A4")
    book.add_page()
    book.rect(20, 20, 100, 100, style="F")
    return bytes(book.output())


def noise(seed, size):
    return random.Random(seed).randbytes(size)  # noqa: S311  # the same in every run


def blocks(extract):
    return [extract.text[block.start : block.end] for block in extract.blocks]


def refusal(content, media_type):
    with pytest.raises(Unreadable) as caught:
        parse(content, media_type)
    return caught.value.code


# PDF


def test_a_pdfs_lines_become_paragraphs_with_their_page():
    long = "The tenant pays the rent on the first working day of each month, in advance, to the account in the annex."
    extract = parse(printed([long, "Second."], ["Third."]), PDF)
    assert blocks(extract) == [long, "Second.", "Third."]
    assert [block.page for block in extract.blocks] == [1, 1, 2]
    assert extract.pages == 2


def test_larger_letters_are_headings_by_their_size():
    extract = parse(printed([("Book", 24), ("Chapter", 16), "One text.", ("Next", 16), "Another, longer text."]), PDF)
    assert [block.heading for block in extract.blocks] == [
        ("Book",),
        ("Book", "Chapter"),
        ("Book", "Chapter"),
        ("Book", "Next"),
        ("Book", "Next"),
    ]


def test_what_stands_at_the_edge_of_every_page_is_left_out():
    extract = parse(printed(["One."], ["Two."], ["Three."], running="Staff handbook, page {}"), PDF)
    assert blocks(extract) == ["One.", "Two.", "Three."]


def test_what_stands_on_two_pages_alone_is_kept():
    extract = parse(printed(["One."], ["Two."], running="Staff handbook, page {}"), PDF)
    assert blocks(extract)[0] == "Staff handbook, page 1"


def test_a_word_divided_at_a_lines_end_is_whole_again():
    lines = [pdfs.Line("The land-", 11, 700), pdfs.Line("lord pays in Baden-", 11, 687), pdfs.Line("Baden.", 11, 674)]
    (piece,) = pdfs._pieces([lines])
    assert piece.text == "The landlord pays in Baden- Baden."


def test_the_demonstrations_handbook_is_read_whole():
    source = make_pdf.SOURCE.read_text()
    extract = parse(make_pdf.SOURCE.with_suffix(".pdf").read_bytes(), PDF)
    words = [line.lstrip("# ") for line in source.splitlines() if line]
    assert blocks(extract) == words
    assert extract.pages == 7


def test_a_pdf_that_only_forbids_printing_is_read():
    assert blocks(parse(encrypted(printed(["Open."]), ""), PDF)) == ["Open."]


def test_junk_before_a_pdfs_header_is_forgiven():
    assert blocks(parse(b"HTTP/1.1 200 OK\r\n\r\n" + printed(["Open."]), PDF)) == ["Open."]


# Text


def test_markdown_loses_its_markup_and_keeps_its_structure():
    text = "# A *big* title\n\nSome [link](https://x.test) and `code`.\n\n## Part\n\n1. one\n2. two\n\n- dot\n\n"
    extract = parse(f"{text}```\nx = 1\n```\n".encode(), MARKDOWN)
    assert blocks(extract) == ["A big title", "Some link and code.", "Part", "1. one", "2. two", "- dot", "x = 1"]
    assert extract.blocks[-1].heading == ("A big title", "Part")
    assert extract.blocks[0].page is None


def test_a_tables_rows_carry_their_columns_names():
    text = "| Cost | Payer |\n|---|---|\n| Rent | tenant |\n| Water | landlord |\n"
    assert blocks(parse(text.encode(), MARKDOWN)) == ["Cost: Rent; Payer: tenant", "Cost: Water; Payer: landlord"]


def test_html_is_read_as_it_is_seen():
    page = """<!doctype html><head><title>t</title><style>p{}</style></head><body><nav>Home</nav><script>x()</script>
    <h1>Manual</h1><p>Press <b>both</b>
    keys.<br>Wait.</p><h2>Care</h2><ul><li>wipe<li>dry <p>well</p></ul><pre>a
      b</pre><table><tr><th>Part<th>Price<tr><td>Lid<td><p>3</p> euros</table>&copy;&nbsp;us<!-- no --></body>"""
    extract = parse(page.encode(), HTML)
    assert blocks(extract) == [
        "Manual",
        "Press both keys.\nWait.",
        "Care",
        "- wipe",
        "- dry",
        "well",
        "a\n      b",
        "Part: Lid; Price: 3 euros",
        "© us",
    ]
    assert extract.blocks[4].heading == ("Manual", "Care")
    assert [extract.blocks[index].kind for index in (0, 1, 3, 5, 7)] == [
        Kind.HEADING,
        Kind.PARAGRAPH,
        Kind.ITEM,
        Kind.ITEM,
        Kind.ITEM,
    ]


def test_deeply_nested_html_is_read():
    assert blocks(parse(b"<div>" * 20_000 + b"deep", HTML)) == ["deep"]


def test_plain_text_is_divided_at_blank_lines():
    assert blocks(parse(b"one\r\ntwo\r\n\r\n \r\nthree", PLAIN)) == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param("größer".encode(), "größer", id="UTF-8"),
        pytest.param(b"\xef\xbb\xbf" + "größer".encode(), "größer", id="UTF-8 with a mark"),
        pytest.param("größer".encode("utf-16"), "größer", id="UTF-16 with a mark"),
        pytest.param("größer “so”".encode("cp1252"), "größer “so”", id="Windows-1252"),
        pytest.param("مرحبا بالعالم".encode(), "مرحبا بالعالم", id="right to left"),
        pytest.param(b"a\0b", "ab", id="a NUL"),
        pytest.param("ﬁne soft\u00adware".encode(), "fine software", id="ligature and soft hyphen"),
        pytest.param(b"caf\xe9 and more words", "café and more words", id="one byte that is no UTF-8"),
    ],
)
def test_texts_are_decoded_and_cleaned(content, text):
    assert parse(content, PLAIN).text == text


# Refusals


@pytest.mark.parametrize(
    ("content", "media_type", "code"),
    [
        pytest.param(encrypted(printed(["Secret."]), "password"), PDF, "pdf_encrypted", id="encrypted"),
        pytest.param(scanned(), PDF, "no_text", id="a scan"),
        pytest.param(b"%PDF-1.7\nnothing follows", PDF, "pdf_unreadable", id="a header alone"),
        pytest.param(printed(["Cut off."] * 40)[:300], PDF, "pdf_unreadable", id="cut off"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(64), PDF, "type_mismatch", id="a PNG called PDF"),
        pytest.param(b"Hello", PDF, "type_mismatch", id="a text called PDF"),
        pytest.param(printed(["Open."]), PLAIN, "type_mismatch", id="a PDF called text"),
        pytest.param(b"PK\x03\x04" + bytes(64), MARKDOWN, "type_mismatch", id="a ZIP called Markdown"),
        pytest.param(b"", PDF, "type_mismatch", id="no bytes at all, called PDF"),
        pytest.param(b"", PLAIN, "no_text", id="no bytes at all"),
        pytest.param(b" \n\t\r\n", MARKDOWN, "no_text", id="blanks"),
        pytest.param(b"<html><script>x()</script></html>", HTML, "no_text", id="scripts alone"),
        pytest.param(noise(7, 20_000), PLAIN, "not_text", id="random bytes"),
        pytest.param(bytes(1000), PLAIN, "not_text", id="NULs"),
        pytest.param("größer".encode("utf-16-le"), PLAIN, "not_text", id="UTF-16 without a mark"),
        pytest.param(b"word" * 1_250_000, PLAIN, "too_large", id="5 MB of one word"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(content, media_type, code):
    assert refusal(content, media_type) == code


def test_too_many_pages_are_refused(monkeypatch):
    monkeypatch.setattr(pdfs, "MAX_PAGES", 2)
    assert refusal(printed(["1"], ["2"], ["3"]), PDF) == "too_large"


def test_too_much_text_in_a_pdf_is_refused(monkeypatch):
    monkeypatch.setattr(parsing, "MAX_CHARACTERS", 20)
    assert refusal(printed(["More than twenty letters."]), PDF) == "too_large"


@pytest.mark.parametrize("position", range(0, 1000, 37))
def test_a_damaged_pdf_is_read_or_refused_but_never_crashes(position):
    content = bytearray(printed(["Some text.", ("A title", 20), "More text."]))
    start = position * len(content) // 1000
    content[start : start + 40] = noise(position, 40)
    with suppress(Unreadable):
        assert parse(bytes(content), PDF).blocks


anything = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=3000)


@given(st.lists(st.tuples(anything, st.sampled_from(list(Kind)), st.integers(1, 6))))
def test_an_extracts_blocks_are_in_order_and_never_blank(pieces):
    extract = assemble(Piece(text, kind, level) for text, kind, level in pieces)
    position = 0
    for block in extract.blocks:
        assert position <= block.start < block.end <= len(extract.text)
        assert extract.text[block.start : block.end].strip()
        position = block.end
