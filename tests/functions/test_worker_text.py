"""What the worker reads out of texts: Markdown, HTML and plain text, in whatever character set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.worker.extract import MAX_CHARACTERS, Kind, Piece, Unreadable, assemble
from tests.parts.files import blocks, read, refusal

MARKDOWN, PLAIN, HTML = "text/markdown", "text/plain", "text/html"


# Markdown


def test_markdown_loses_its_markup_and_keeps_its_structure():
    text = "# A *big* title\n\nSome [link](https://x.test) and `code`.\n\n## Part\n\n1. one\n2. two\n\n- dot\n\n"
    extract = read(f"{text}```\nx = 1\n```\n".encode(), announced=MARKDOWN)
    assert blocks(extract) == ["A big title", "Some link and code.", "Part", "1. one", "2. two", "- dot", "x = 1"]
    assert extract.blocks[-1].heading == ("A big title", "Part")
    assert extract.blocks[0].page is None


def test_a_tables_rows_carry_their_columns_names():
    text = "| Cost | Payer |\n|---|---|\n| Rent | tenant |\n| Water | landlord |\n"
    assert blocks(read(text.encode(), announced=MARKDOWN)) == [
        "Cost: Rent; Payer: tenant",
        "Cost: Water; Payer: landlord",
    ]


# HTML


def test_html_is_read_as_it_is_seen():
    page = """<!doctype html><head><title>t</title><style>p{}</style></head><body><nav>Home</nav><script>x()</script>
    <h1>Manual</h1><p>Press <b>both</b>
    keys.<br>Wait.</p><h2>Care</h2><ul><li>wipe<li>dry <p>well</p></ul><pre>a
      b</pre><table><tr><th>Part<th>Price<tr><td>Lid<td><p>3</p> euros</table>&copy;&nbsp;us<!-- no --></body>"""
    extract = read(page.encode())
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
    assert blocks(read(b"<div>" * 20_000 + b"deep", announced=HTML)) == ["deep"]


@pytest.mark.parametrize(
    ("head", "title"),
    [
        pytest.param("<title>\n  Lease &amp;\n  terms </title>", "Lease & terms", id="a title"),
        pytest.param("<title> </title>", None, id="a blank one"),
        pytest.param("", None, id="none"),
    ],
)
def test_a_pages_title_is_the_documents(head, title):
    assert read(f"<html><head>{head}</head><body>Rent.<svg><title>no</title></svg>".encode()).title == title


# Plain text


def test_plain_text_is_divided_at_blank_lines():
    assert blocks(read(b"one\r\ntwo\r\n\r\n \r\nthree", announced=PLAIN)) == ["one\ntwo", "three"]


# Character sets


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param("größer".encode(), "größer", id="UTF-8"),
        pytest.param(b"\xef\xbb\xbf" + "größer".encode(), "größer", id="UTF-8 with a mark"),
        pytest.param("größer".encode("utf-16"), "größer", id="UTF-16 with a mark"),
        pytest.param("größer".encode("utf-32"), "größer", id="UTF-32 with a mark"),
        pytest.param("größer “so”".encode("cp1252"), "größer “so”", id="Windows-1252"),
        pytest.param("مرحبا بالعالم".encode(), "مرحبا بالعالم", id="right to left"),
        pytest.param(b"a\0b", "ab", id="a NUL"),
        pytest.param("ﬁne soft\u00adware".encode(), "fine software", id="ligature and soft hyphen"),
        pytest.param(b"caf\xe9 and more words", "café and more words", id="one byte that is no UTF-8"),
    ],
)
def test_texts_are_decoded_and_cleaned(content, text):
    assert read(content, announced=PLAIN).text == text


@pytest.mark.parametrize(
    ("declared", "encoding", "text"),
    [
        pytest.param('<meta charset="windows-1251">', "cp1251", "аренда", id="by meta charset"),
        pytest.param(
            "<meta http-equiv=Content-Type content='text/html; charset=Shift_JIS'>",
            "cp932",
            "家賃",
            id="by content type",
        ),
        pytest.param('<meta charset="iso-2022-jp">', "iso-2022-jp", "家賃", id="of seven bits"),
        pytest.param('<meta charset="ISO-8859-1">', "cp1252", "“rent”", id="Latin 1, which is Windows-1252 on the web"),
        pytest.param('<meta charset="ISO-8859-1">', "utf-8", "größer", id="another than it is in"),
        pytest.param('<meta charset="unicode_escape">', "cp1252", r"größer \x41", id="one that no browser knows"),
        pytest.param('<meta charset="klingon">', "cp1252", "größer", id="one that nobody knows"),
    ],
)
def test_a_page_is_read_in_its_own_character_set(declared, encoding, text):
    page = f"<!doctype html><html><head>{declared}</head><body>{text}</body></html>"
    assert read(page.encode(encoding)).text == text


def test_a_page_of_xml_declares_its_character_set_at_its_head():
    page = '<?xml version="1.0" encoding="iso-8859-2"?><html><body>nájem</body></html>'
    assert read(page.encode("iso-8859-2")).text == "nájem"


# Refusals


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"", "no_text", id="no bytes at all"),
        pytest.param(b" \n\t\r\n", "no_text", id="blanks"),
        pytest.param(b"<html><script>x()</script></html>", "no_text", id="scripts alone"),
        pytest.param(b"word" * 1_250_000, "too_large", id="5 MB of one word"),
    ],
)
@pytest.mark.parametrize("announced", [MARKDOWN, PLAIN, HTML])
def test_what_cannot_be_read_is_refused_with_its_reason(content, announced, code):
    assert refusal(content, announced=announced).code == code


# What all readers share

anything = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=3000)


@given(st.lists(st.tuples(anything, st.sampled_from(list(Kind)), st.integers(1, 6))))
def test_an_extracts_blocks_are_in_order_and_never_blank(pieces):
    extract = assemble(Piece(text, kind, level) for text, kind, level in pieces)
    position = 0
    for block in extract.blocks:
        assert position <= block.start < block.end <= len(extract.text)
        assert extract.text[block.start : block.end].strip()
        position = block.end


def test_a_reader_is_stopped_at_the_first_piece_that_is_too_much():
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield Piece("x" * (MAX_CHARACTERS // 2))

    with pytest.raises(Unreadable) as caught:
        assemble(endless())
    # Two halves and the gap between them are more than the whole.
    assert (caught.value.code, len(asked)) == ("too_large", 2)
