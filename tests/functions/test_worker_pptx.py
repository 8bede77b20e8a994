"""What the worker reads out of presentations."""

import pytest

from functions.worker.extract import Kind, Unreadable
from functions.worker.formats import pptx
from tests.parts.archives import CORE, LAUGHS, OUTSIDE, locked, relations, zipped

P = (
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"'
    ' xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
    ' xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)


def shape(*paragraphs, place=None):
    """A shape; `place` is the layout's place that it fills, "" for one without a type, None for a box of its own."""
    kind = f' type="{place}"' if place else ' idx="1"'
    filled = "" if place is None else f"<p:ph{kind}/>"
    texts = "".join(each if each.startswith("<") else f"<a:p><a:r><a:t>{each}</a:t></a:r></a:p>" for each in paragraphs)
    return f"<p:sp><p:nvSpPr><p:nvPr>{filled}</p:nvPr></p:nvSpPr><p:txBody>{texts}</p:txBody></p:sp>"


def bullet(text, style):
    return f"<a:p><a:pPr {style}</a:pPr><a:r><a:t>{text}</a:t></a:r></a:p>"


def slide(*shapes, more=""):
    return f"<p:sld {P}{more}><p:cSld><p:spTree>{''.join(shapes)}</p:spTree></p:cSld></p:sld>"


def deck(*slides, order=None, doctype="", notes=None, **parts):
    """A presentation of those slides, in that order of their numbers; `notes` are slides by the number of theirs."""
    shown = order or range(1, len(slides) + 1)
    listed = "".join(f'<p:sldId id="{255 + number}" r:id="r{number}"/>' for number in shown)
    content = {
        "_rels/.rels": relations(("officeDocument", "ppt/presentation.xml")),
        "ppt/presentation.xml": f"{doctype}<p:presentation {P}><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": relations(
            *(("slide", f"slides/slide{number}.xml") for number in range(1, len(slides) + 1))
        ),
        **{f"ppt/slides/slide{number}.xml": each for number, each in enumerate(slides, 1)},
        **parts,
    }
    for number, note in (notes or {}).items():
        content[f"ppt/slides/_rels/slide{number}.xml.rels"] = relations(("notesSlide", f"../notesSlides/n{number}.xml"))
        content[f"ppt/notesSlides/n{number}.xml"] = note
    return zipped(content)


def read(*shapes):
    return [piece.text for piece in pptx.pieces(deck(slide(*shapes)))][1:]


def refusal(content):
    with pytest.raises(Unreadable) as caught:
        list(pptx.pieces(content))
    return caught.value.code


def test_slides_come_as_they_are_shown_each_a_page():
    slides = [slide(shape(text, place="title")) for text in ("One", "Zwei größer", "Three")]
    found = list(pptx.pieces(deck(*slides, order=[3, 1, 2])))
    assert [(piece.text, piece.page) for piece in found] == [("Three", 1), ("One", 2), ("Zwei größer", 3)]
    assert {(piece.kind, piece.level) for piece in found} == {(Kind.HEADING, 1)}


def test_a_title_comes_first_wherever_it_lies():
    found = list(pptx.pieces(deck(slide(shape("Text."), shape("The", "title", place="ctrTitle")))))
    assert [piece.text for piece in found] == ["The title", "Text."]


def test_a_slide_without_a_title_does_not_stand_under_the_last_one():
    found = list(pptx.pieces(deck(slide(shape("Rent", place="title")), slide(shape("Text.")))))
    assert [(piece.text, piece.kind) for piece in found] == [
        ("Rent", Kind.HEADING),
        ("Slide 2", Kind.HEADING),
        ("Text.", Kind.PARAGRAPH),
    ]


def test_bullets_are_items_with_their_depth():
    body = shape("one", bullet("two", 'lvl="1">'), bullet("plain", "><a:buNone/>"), place="")
    box = shape("no bullet", bullet("a bullet", '><a:buChar char="•"/>'))
    assert read(body, box) == ["- one", "-- two", "plain", "no bullet", "- a bullet"]


def test_line_breaks_and_fields_are_part_of_the_text():
    assert read(shape("<a:p><a:r><a:t>a</a:t></a:r><a:br/><a:fld><a:t>b</a:t></a:fld></a:p>")) == ["a\nb"]


@pytest.mark.parametrize(
    ("style", "rows"),
    [
        pytest.param(' firstRow="1"', ["Cost: Rent; Payer: tenant"], id="with names"),
        pytest.param("", ["Cost; Payer", "Rent; tenant"], id="without"),
    ],
)
def test_tables_are_rows(style, rows):
    cell = "<a:tc><a:txBody><a:p><a:r><a:t>{}</a:t></a:r></a:p></a:txBody></a:tc>"
    lines = "".join(
        f"<a:tr>{''.join(map(cell.format, line))}</a:tr>" for line in (("Cost", "Payer"), ("Rent", "tenant"))
    )
    table = f"<a:graphic><a:graphicData><a:tbl><a:tblPr{style}/>{lines}</a:tbl></a:graphicData></a:graphic>"
    assert read(f"<p:graphicFrame>{table}</p:graphicFrame>") == rows


def test_shapes_in_groups_are_read_where_they_lie():
    assert read(shape("a"), f"<p:grpSp>{shape('b')}<p:grpSp>{shape('c')}</p:grpSp></p:grpSp>", shape("d")) == [*"abcd"]


def test_what_stands_in_for_new_shapes_is_not_said_twice():
    compatibility = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    choice = f"<mc:Choice>{shape('New.')}</mc:Choice><mc:Fallback>{shape('Old.')}</mc:Fallback>"
    assert read(f"<mc:AlternateContent {compatibility}>{choice}</mc:AlternateContent>") == ["New."]


def test_pictures_are_their_descriptions():
    assert read('<p:pic><p:nvPicPr><p:cNvPr id="2" name="x" descr="The plan"/></p:nvPicPr></p:pic>') == ["The plan"]


def test_what_every_slide_repeats_is_left_out():
    repeated = [shape("same", place=place) for place in ("dt", "ftr", "sldNum")]
    assert list(pptx.pieces(deck(slide(*repeated)))) == []


def test_hidden_slides_are_left_out():
    found = pptx.pieces(deck(slide(shape("Seen", place="title")), slide(shape("Not", place="title"), more=' show="0"')))
    assert [piece.text for piece in found] == ["Seen"]


def test_what_the_speaker_noted_follows_the_slide():
    note = slide(shape("3", place="sldNum"), shape("Smile.", "Wait.", place="body"))
    slides = slide(shape("One", place="title")), slide(shape("Two", place="title"))
    found = list(pptx.pieces(deck(*slides, notes={1: note})))
    assert [(piece.text, piece.page) for piece in found] == [("One", 1), ("Notes: Smile.\nWait.", 1), ("Two", 2)]


@pytest.mark.parametrize(
    ("said", "title"),
    [
        pytest.param("Our plan", "Our plan", id="its own"),
        pytest.param("PowerPoint Presentation", None, id="that of every file"),
        pytest.param("", None, id="blank"),
    ],
)
def test_the_title_is_that_of_the_properties(said, title):
    assert pptx.title(deck(**{"docProps/core.xml": CORE.format(said)})) == title


def test_a_presentation_without_slides_has_no_pieces():
    assert list(pptx.pieces(deck())) == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"", "unreadable", id="no bytes"),
        pytest.param(deck(slide(shape("Cut off.")))[:-100], "unreadable", id="cut off"),
        pytest.param(deck("<p:sld"), "unreadable", id="a slide that never ends"),
        pytest.param(deck(slide(), order=[1, 2]), "unreadable", id="a slide that is missing"),
        pytest.param(locked(deck(slide(shape("Secret.")))), "encrypted", id="parts with a password"),
        pytest.param(deck(LAUGHS + slide(shape("&b;"))), "unreadable", id="entities of entities"),
        pytest.param(deck(OUTSIDE + slide(shape("&a;"))), "unreadable", id="an entity from the disk"),
        pytest.param(deck(doctype=OUTSIDE), "unreadable", id="an entity in another part"),
        pytest.param(deck(slide(shape(" " * 20_000_000))), "too_large", id="20 MB in 20 kB"),
        pytest.param(deck(slide(), order=[1] * 5_001), "too_large", id="5,001 slides"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(content, code):
    assert refusal(content) == code


def test_a_slide_outside_the_archive_is_missing(tmp_path):
    (tmp_path / "slide.xml").write_text(slide(shape("Secret.")))
    away = {"ppt/_rels/presentation.xml.rels": relations(("slide", f"../../../../../..{tmp_path}/slide.xml"))}
    assert refusal(deck(slide(), **away)) == "unreadable"


def test_groups_in_groups_without_end_are_read():
    deep = "<p:grpSp>" * 50_000 + shape("deep") + "</p:grpSp>" * 50_000
    assert read(deep) == ["deep"]
