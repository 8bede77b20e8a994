"""What the worker reads out of PDFs: paragraphs, headings, pages; and which it refuses."""

import random
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import pytest
from fpdf import FPDF
from pypdf import PdfReader, PdfWriter

from functions.worker.extract import Kind, Unreadable
from functions.worker.formats import pdf
from infra.demo import make_pdf
from tests.parts.files import blocks, encrypted, printed, read, refusal

LONG = "The tenant pays the rent on the first working day of each month, in advance, to the account in the annex."


@pytest.fixture
def lines():
    """Print those lines below each other, each as it is; returns the PDF."""

    def make(*texts, font=""):
        book = FPDF(format="A4")
        book.add_page()
        if font:
            book.add_font("other", "", font)
        book.set_font("other" if font else "Helvetica", "", 11)
        for text in texts:
            book.cell(0, 5, text, new_x="LMARGIN", new_y="NEXT")
        return bytes(book.output())

    return make


@pytest.fixture
def every_script():
    """A font that has letters of many scripts."""
    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@pytest.fixture
def pages_read(monkeypatch):
    """At each page that is read, how many pages before it are still open."""
    seen: list = []
    still_open: list = []

    def note(page):
        still_open.append(sum(bool(before.raw or before.page.raw) for before in seen))
        seen.append(page)
        return lines_of(page)

    lines_of = pdf._lines
    monkeypatch.setattr(pdf, "_lines", note)
    return still_open


def bookmarked(content, title, page_number):
    """The same PDF with that bookmark."""
    book = PdfWriter(clone_from=PdfReader(BytesIO(content)))
    book.add_outline_item(title=title, page_number=page_number)
    out = BytesIO()
    book.write(out)
    return out.getvalue()


def headings(extract):
    """Each block's last words, and the headings that it stands under."""
    return [(text, block.heading) for text, block in zip(blocks(extract), extract.blocks, strict=True)]


def test_lines_become_paragraphs_with_their_page():
    extract = read(printed([LONG, "Second."], ["Third."]))
    assert blocks(extract) == [LONG, "Second.", "Third."]
    assert [block.page for block in extract.blocks] == [1, 1, 2]
    assert extract.pages == 2


def test_an_empty_page_counts():
    extract = read(printed(["First."], [], ["Third."]))
    assert ([block.page for block in extract.blocks], extract.pages) == ([1, 3], 3)


def test_larger_letters_are_headings_by_their_size():
    extract = read(printed([("Book", 24), ("Chapter", 16), "One text.", ("Next", 16), "Another, longer text."]))
    assert [block.heading for block in extract.blocks] == [
        ("Book",),
        ("Book", "Chapter"),
        ("Book", "Chapter"),
        ("Book", "Next"),
        ("Book", "Next"),
    ]


def test_a_line_that_the_outline_names_is_a_heading_though_its_letters_are_as_all_others():
    extract = read(printed(["Rent", LONG, "Deposit", "Two months."], outline={"Rent": 0, "Deposit": 1}))
    assert headings(extract) == [
        ("Rent", ("Rent",)),
        (LONG, ("Rent",)),
        ("Deposit", ("Rent", "Deposit")),
        ("Two months.", ("Rent", "Deposit")),
    ]


def test_the_outline_tells_a_headings_level_where_its_letters_say_another():
    extract = read(printed([("Part", 14), LONG, ("Chapter", 20), LONG], outline={"Part": 0, "Chapter": 1}))
    assert extract.blocks[3].heading == ("Part", "Chapter")


def test_letters_larger_than_all_that_the_outline_names_stand_above_it():
    extract = read(printed([("Lease", 24), ("Rent", 16), LONG, ("Term", 16), LONG], outline={"Rent": 0, "Term": 0}))
    assert [block.heading for block in extract.blocks[2::2]] == [("Lease", "Rent"), ("Lease", "Term")]


def test_a_heading_is_no_heading_on_other_pages():
    extract = read(printed(["Rent", LONG], ["Rent", "is due."], outline={"Rent": 0}))
    assert [block.kind for block in extract.blocks] == [Kind.HEADING, *[Kind.PARAGRAPH] * 3]


def test_a_heading_of_two_lines_and_a_number_is_found_in_the_outline(lines):
    book = bookmarked(lines("2.1. What the tenant", "pays for", "Water and heating."), "What the Tenant Pays For", 0)
    assert headings(read(book))[-1] == ("Water and heating.", ("2.1. What the tenant pays for",))


def test_an_outline_that_leads_nowhere_does_no_harm():
    (block,) = read(bookmarked(printed(["Open."]), "Open.", None)).blocks
    assert block.kind is Kind.PARAGRAPH


def test_what_stands_at_the_edge_of_every_page_is_left_out():
    extract = read(printed(["One."], ["Two."], ["Three."], running="Staff handbook, page {}"))
    assert blocks(extract) == ["One.", "Two.", "Three."]


def test_what_stands_on_two_pages_alone_is_kept():
    extract = read(printed(["One."], ["Two."], running="Staff handbook, page {}"))
    assert blocks(extract)[0] == "Staff handbook, page 1"


def test_a_column_that_ends_within_a_sentence_goes_on_in_the_next():
    book = FPDF(format="A4")
    book.add_page()
    book.set_font("Helvetica", "", 11)
    with book.text_columns(ncols=2, gutter=10) as columns:
        columns.write(" ".join(["The landlord repairs the roof and pays for it."] * 90))
    (text,) = blocks(read(bytes(book.output())))
    assert text == " ".join(["The landlord repairs the roof and pays for it."] * 90)


def test_a_word_divided_at_a_lines_end_is_whole_again(lines):
    extract = read(lines("The land-", "lord pays in Baden-", "Baden -", "and nowhere else."))
    assert blocks(extract) == ["The landlord pays in Baden- Baden - and nowhere else."]


def test_turned_text_is_read_in_its_lines():
    book = FPDF(format="A4")
    book.add_page()
    book.set_font("Helvetica", "", 11)
    with book.rotation(90, 100, 150):
        book.text(100, 150, "Water is shared")
        book.text(100, 155, "by all flats.")
        book.text(100, 175, "Heating is not.")
    assert blocks(read(bytes(book.output()))) == ["Water is shared by all flats.", "Heating is not."]


def test_letters_beyond_the_first_plane_are_read_and_those_after_them_keep_their_place(lines, every_script):
    assert blocks(read(lines("𝕏𝕏𝕏𝕏𝕏𝕏 is a set", "of sets.", font=every_script))) == ["𝕏𝕏𝕏𝕏𝕏𝕏 is a set of sets."]


def test_right_to_left_text_is_read_as_it_is_spoken(lines, every_script):
    # On paper its letters stand from left to right in the reverse order.
    assert blocks(read(lines("שלום עולם"[::-1], font=every_script))) == ["שלום עולם"]


@pytest.mark.parametrize(
    ("title", "read_as"),
    [
        pytest.param("Lease of 14 Harbour Street", "Lease of 14 Harbour Street", id="a title"),
        pytest.param("", None, id="none"),
        pytest.param("Microsoft Word - lease_v3_final.docx", None, id="a file's name by Word"),
        pytest.param("untitled", None, id="untitled"),
    ],
)
def test_a_title_is_what_the_document_calls_itself(title, read_as):
    assert read(printed(["Open."], title=title)).title == read_as


def test_the_demonstrations_handbook_is_read_whole():
    source = make_pdf.SOURCE.read_text()
    extract = read(make_pdf.SOURCE.with_suffix(".pdf").read_bytes())
    assert blocks(extract) == [line.lstrip("# ") for line in source.splitlines() if line]
    assert extract.pages == 7


def test_a_pdf_that_only_forbids_printing_is_read():
    assert blocks(read(encrypted(printed(["Open."]), ""))) == ["Open."]


def test_junk_before_a_pdfs_header_is_forgiven():
    assert blocks(read(b"HTTP/1.1 200 OK\r\n\r\n" + printed(["Open."]))) == ["Open."]


def scanned():
    book = FPDF(format="A4")
    book.add_page()
    book.rect(20, 20, 100, 100, style="F")
    return bytes(book.output())


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(encrypted(printed(["Secret."]), "password"), "encrypted", id="encrypted"),
        pytest.param(scanned(), "no_text", id="a scan"),
        pytest.param(b"%PDF-1.7\nnothing follows", "unreadable", id="a header alone"),
        pytest.param(printed(["Cut off."] * 40)[:300], "unreadable", id="cut off"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(content, code):
    assert refusal(content).code == code


def test_a_scans_owner_is_told_what_it_needs():
    assert refusal(scanned()).sentence == "No text was found in the file; a scan needs text recognition (OCR) first."


def test_too_many_pages_are_refused_before_any_is_read(monkeypatch):
    monkeypatch.setattr(pdf, "MAX_PAGES", 2)
    monkeypatch.setattr(pdf, "_lines", None)
    assert refusal(printed(["1"], ["2"], ["3"])).code == "too_large"


def test_too_much_text_is_refused_without_reading_on(monkeypatch, pages_read):
    monkeypatch.setattr(pdf, "MAX_CHARACTERS", 20)
    assert refusal(printed(["Ten letters"], ["Ten letters"], ["Ten letters"])).code == "too_large"
    assert len(pages_read) == 1


def test_each_page_is_closed_before_the_next_is_opened(pages_read):
    read(printed(["One."], ["Two."], ["Three."]))
    assert pages_read == [0, 0, 0]


@pytest.mark.parametrize("position", range(0, 1000, 37))
def test_a_damaged_pdf_is_read_or_refused_but_never_crashes(position):
    content = bytearray(printed(["Some text.", ("A title", 20), "More text."]))
    start = position * len(content) // 1000
    content[start : start + 40] = random.Random(position).randbytes(40)  # noqa: S311  # the same in every run
    with suppress(Unreadable):
        assert read(bytes(content)).blocks
