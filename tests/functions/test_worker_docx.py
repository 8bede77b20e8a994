"""What the worker reads out of Word documents."""

import tracemalloc

import pytest

from functions.worker.extract import Kind, Unreadable
from functions.worker.formats import archive, docx
from tests.parts.archives import CORE, LAUGHS, OUTSIDE, locked, relations, zipped

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
DRAWING = (
    'xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing"'
    ' xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
    ' xmlns:pic="http://schemas.openxmlformats.org/drawingml/2006/picture"'
    ' xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)
STYLES = f"""<w:styles {W}>
<w:style w:type="paragraph" w:styleId="Titel"><w:name w:val="Title"/></w:style>
<w:style w:type="paragraph" w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
<w:style w:type="paragraph" w:styleId="berschrift2"><w:name w:val="heading 2"/></w:style></w:styles>"""
NUMBERING = f"""<w:numbering {W}><w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/></w:lvl>
<w:lvl w:ilvl="1"><w:numFmt w:val="bullet"/></w:lvl></w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num></w:numbering>"""


def p(text, style="", more=""):
    named = f'<w:pStyle w:val="{style}"/>' if style else ""
    return f"<w:p><w:pPr>{named}{more}</w:pPr>{run(text)}</w:p>"


def run(text, *, bold=False):
    return f'<w:r><w:rPr>{"<w:b/>" if bold else ""}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def item(text, level=0):
    return p(text, more=f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="1"/></w:numPr>')


def table(*rows, bold=False):
    cells = (
        "".join(f"<w:tc><w:p>{run(cell, bold=bold and number == 0)}</w:p></w:tc>" for cell in row)
        for number, row in enumerate(rows)
    )
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def written(body, doctype="", **parts):
    """A document with that body, and other parts by their names under word/."""
    kinds = ["styles", "numbering", *parts]
    return zipped(
        {
            "_rels/.rels": relations(("officeDocument", "word/document.xml")),
            "word/_rels/document.xml.rels": relations(*((kind, f"{kind}.xml") for kind in kinds)),
            "word/document.xml": f"{doctype}<w:document {W} {DRAWING}><w:body>{body}</w:body></w:document>",
            "word/styles.xml": STYLES,
            "word/numbering.xml": NUMBERING,
            **{f"word/{kind}.xml": part for kind, part in parts.items()},
        }
    )


def read(content):
    return [piece.text for piece in docx.pieces(content)]


def refusal(content):
    with pytest.raises(Unreadable) as caught:
        list(docx.pieces(content))
    return caught.value.code


def test_headings_are_known_by_the_styles_names_in_any_language():
    body = p("Lease", "Titel") + p("Rent", "berschrift1") + p("Größe £") + p("Deposit", "berschrift2")
    found = list(docx.pieces(written(body)))
    assert [(piece.text, piece.kind, piece.level) for piece in found] == [
        ("Lease", Kind.HEADING, 1),
        ("Rent", Kind.HEADING, 1),
        ("Größe £", Kind.PARAGRAPH, 0),
        ("Deposit", Kind.HEADING, 2),
    ]


def test_list_items_stay_items():
    found = list(docx.pieces(written(item("one") + item("two", 1) + item("three"))))
    assert [piece.text for piece in found] == ["- one", "- two", "- three"]
    assert {piece.kind for piece in found} == {Kind.ITEM}


@pytest.mark.parametrize(
    ("drawn", "rows"),
    [
        pytest.param(
            table(["Cost", "Payer", "Due"], ["Rent", "tenant", "May"]),
            ["Cost: Rent; Payer: tenant; Due: May"],
            id="three columns and more have names above them",
        ),
        pytest.param(
            table(["Cost", "Payer"], ["Rent", "tenant"], bold=True), ["Cost: Rent; Payer: tenant"], id="bold names"
        ),
        pytest.param(
            table(["Cost", "Payer"], ["Rent", "tenant"]).replace("<w:tr>", "<w:tr><w:trPr><w:tblHeader/></w:trPr>", 1),
            ["Cost: Rent; Payer: tenant"],
            id="marked names",
        ),
        pytest.param(table(["Name", "Ada"], ["Age", "36"]), ["Name; Ada", "Age; 36"], id="a form of two columns"),
        pytest.param(table(["a", "b", "c"]), ["a; b; c"], id="one row alone"),
    ],
)
def test_a_tables_rows_carry_their_columns_names(drawn, rows):
    assert read(written(drawn)) == rows


def test_footnotes_follow_the_text_with_the_number_that_refers_to_them():
    reference = '<w:p><w:r><w:t>Pay</w:t></w:r><w:r><w:footnoteReference w:id="4"/></w:r></w:p>'
    note = f'<w:footnotes {W}><w:footnote w:id="4">{p("By May.")}</w:footnote></w:footnotes>'
    assert read(written(reference + p("End."), footnotes=note)) == ["Pay[1]", "End.", "[1] By May."]


def test_tracked_changes_count_as_accepted():
    changed = (
        f"<w:p>{run('The rent is ')}<w:del><w:r><w:delText>800</w:delText></w:r></w:del>"
        f"<w:ins>{run('900')}</w:ins>{run(' euros.')}</w:p>"
    )
    assert read(written(changed)) == ["The rent is 900 euros."]


def test_a_picture_is_its_description_and_never_its_bytes():
    picture = (
        '<w:p><w:r><w:drawing><wp:inline><wp:docPr id="1" name="x" descr="The floor plan"/><a:graphic><a:graphicData>'
        '<pic:pic><pic:blipFill><a:blip r:embed="r3"/></pic:blipFill></pic:pic></a:graphicData></a:graphic></wp:inline>'
        "</w:drawing></w:r></w:p>"
    )
    references = relations(("styles", "styles.xml"), ("numbering", "numbering.xml"), ("image", "media/plan.png"))
    parts = {"word/_rels/document.xml.rels": references, "word/media/plan.png": b"\x89PNG and so on"}
    assert read(with_more(written(picture), parts)) == ["The floor plan"]


def test_checkboxes_are_seen_ticked_or_empty():
    box = '<w:r><w:fldChar w:fldCharType="begin"><w:ffData><w:checkBox>{}</w:checkBox></w:ffData></w:fldChar></w:r>'
    code = "<w:r><w:instrText>FORMCHECKBOX</w:instrText></w:r>"
    end = '<w:r><w:fldChar w:fldCharType="end"/></w:r>'
    boxes = "".join(
        f"<w:p>{box.format(state)}{code}{end}{run(text)}</w:p>"
        for state, text in (("<w:checked/>", " heating"), ('<w:default w:val="0"/>', " water"))
    )
    assert read(written(boxes)) == ["☑ heating", "☐ water"]


def test_headers_footers_and_comments_are_left_out():
    commented = (
        '<w:p><w:commentRangeStart w:id="0"/>'
        f'{run("Text.")}<w:commentRangeEnd w:id="0"/><w:r><w:commentReference w:id="0"/></w:r></w:p>'
    )
    comment = f'<w:comments {W}><w:comment w:id="0" w:author="A">{p("Why?")}</w:comment></w:comments>'
    header = f"<w:hdr {W}>{p('Page 1')}</w:hdr>"
    assert read(written(commented, comments=comment, header=header)) == ["Text."]


def test_a_style_map_in_the_file_cannot_hide_its_text():
    assert read(with_more(written(p("Seen.")), {"mammoth/style-map": "p => !"})) == ["Seen."]


def with_more(content, parts):
    whole = archive.Archive(content)
    return zipped({**dict(whole.parts()), **parts})


def test_the_title_is_that_of_the_documents_properties():
    content = written(p("Text."))
    assert docx.title(with_more(content, {"docProps/core.xml": CORE.format(" The lease\n")})) == "The lease"
    assert docx.title(content) is None
    assert docx.title(with_more(content, {"docProps/core.xml": "<damaged"})) is None


def test_a_document_without_text_has_no_pieces():
    assert read(written("")) == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"", "unreadable", id="no bytes"),
        pytest.param(b"PK\3\4 and nothing more", "unreadable", id="a beginning alone"),
        pytest.param(written(p("Cut off."))[:-200], "unreadable", id="cut off"),
        pytest.param(zipped({"word/other.xml": "<x/>"}), "unreadable", id="no document in it"),
        pytest.param(written("<w:p><w:r>"), "unreadable", id="XML that never ends"),
        pytest.param(written("<w:smartTag>" * 5_000 + "</w:smartTag>" * 5_000), "unreadable", id="5,000 levels deep"),
        pytest.param(locked(written(p("Secret."))), "encrypted", id="parts with a password"),
        pytest.param(written(p("&b;"), doctype=LAUGHS), "unreadable", id="entities of entities"),
        pytest.param(written(p("&a;"), doctype=OUTSIDE), "unreadable", id="an entity from the disk"),
        pytest.param(written(p("x"), styles=OUTSIDE + STYLES), "unreadable", id="an entity in another part"),
        pytest.param(written(p(" " * 20_000_000)), "too_large", id="20 MB in 20 kB"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(content, code):
    assert refusal(content) == code


def test_a_document_type_is_found_in_any_encoding():
    part = (OUTSIDE + f"<w:document {W}><w:body/></w:document>").encode("utf-16")
    with pytest.raises(Unreadable, match="entities"):
        read(zipped({"word/document.xml": part}))


def test_more_markup_than_memory_allows_is_refused(monkeypatch):
    monkeypatch.setattr(docx, "MAX_XML_BYTES", 2_000)
    assert refusal(written(p("word " * 200))) == "too_large"


def test_a_part_that_unpacks_to_more_than_it_says_is_read_no_further():
    content = zipped({"word/document.xml": bytes(50_000_000)})
    size, less = (50_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")
    # It is said before the part and at the end of the archive.
    assert content.count(size) == 2
    part = archive.Archive(content.replace(size, less))
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable):
            part.read("word/document.xml")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_name_that_climbs_out_of_the_archive_is_only_looked_up_in_it(tmp_path):
    (tmp_path / "secret.xml").write_text(f"<w:document {W}><w:body>{p('Secret.')}</w:body></w:document>")
    away = f"../../../../../../../..{tmp_path}/secret.xml"
    content = zipped({"_rels/.rels": relations(("officeDocument", away)), away + "x": "<x/>"})
    assert refusal(content) == "unreadable"
