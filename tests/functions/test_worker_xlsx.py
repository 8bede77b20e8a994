"""What the worker reads out of workbooks."""

import resource

import pytest

from functions.worker.extract import Kind, Unreadable
from functions.worker.formats import xlsx
from tests.parts.archives import CORE, LAUGHS, OUTSIDE, locked, relations, zipped

MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
R = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
# The styles by their numbers: 0 as it is, 1 a date, 2 a date and time, 3 hours over a day, 4 a date of one's own.
STYLES = f"""<styleSheet {MAIN}><numFmts><numFmt numFmtId="170" formatCode="[h]:mm:ss"/>
<numFmt numFmtId="171" formatCode="dd/mm/yyyy"/></numFmts><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/>
<xf numFmtId="22"/><xf numFmtId="170"/><xf numFmtId="171"/></cellXfs></styleSheet>"""


def cell(place, value, *, kind="inlineStr", style=0):
    inner = f"<is><t>{value}</t></is>" if kind == "inlineStr" else f"<v>{value}</v>"
    return f'<c r="{place}" t="{kind}" s="{style}">{inner}</c>'


def sheet(*rows, merged=()):
    """A sheet of rows, each of texts, from A1 on; an empty one is no cell."""
    lines = (
        "".join(cell(f"{'ABCDEFGH'[column]}{number}", text) for column, text in enumerate(row) if text)
        for number, row in enumerate(rows, 1)
    )
    return cells(*lines, merged=merged)


def cells(*rows, merged=()):
    ranges = "".join(f'<mergeCell ref="{each}"/>' for each in merged)
    return f"<sheetData>{''.join(f'<row>{row}</row>' for row in rows)}</sheetData><mergeCells>{ranges}</mergeCells>"


def book(*sheets, states=(), shared="", doctype="", **parts):
    """A workbook of those sheets, called Sheet1 and so on."""
    names = "".join(
        f'<sheet name="Sheet{number}" sheetId="{number}" r:id="r{number}" {state}/>'
        for number, state in enumerate([*states, *[""] * (len(sheets) - len(states))], 1)
    )
    return zipped(
        {
            "_rels/.rels": relations(("officeDocument", "xl/workbook.xml")),
            "xl/workbook.xml": f"{doctype}<workbook {MAIN} {R}><sheets>{names}</sheets></workbook>",
            "xl/_rels/workbook.xml.rels": relations(
                *(("worksheet", f"worksheets/sheet{number}.xml") for number in range(1, len(sheets) + 1))
            ),
            "xl/styles.xml": STYLES,
            "xl/sharedStrings.xml": shared or f"<sst {MAIN}/>",
            **{
                f"xl/worksheets/sheet{number}.xml": f"<worksheet {MAIN}>{each}</worksheet>"
                for number, each in enumerate(sheets, 1)
            },
            **parts,
        }
    )


def read(*sheets, **more):
    return [piece.text for piece in xlsx.pieces(book(*sheets, **more))]


def refusal(content):
    with pytest.raises(Unreadable) as caught:
        list(xlsx.pieces(content))
    return caught.value.code


def test_sheets_are_headings_in_their_order_and_rows_carry_their_columns_names():
    first = sheet(["Cost", "Payer"], ["Rent", "tenant"], ["Größe", "landlord"])
    found = list(xlsx.pieces(book(first, sheet(["Name"], ["Ada"]))))
    assert [(piece.text, piece.kind) for piece in found] == [
        ("Sheet1", Kind.HEADING),
        ("Cost: Rent; Payer: tenant", Kind.ITEM),
        ("Cost: Größe; Payer: landlord", Kind.ITEM),
        ("Sheet2", Kind.HEADING),
        ("Name: Ada", Kind.ITEM),
    ]


def test_blank_rows_and_cells_are_left_out():
    rows = sheet([], ["a", "b", "c"], [], ["1", "", "3"], ["", "", ""], ["", "2"])
    assert read(rows) == ["Sheet1", "a: 1; c: 3", "b: 2"]


def test_a_caption_is_no_row_of_names():
    assert read(sheet(["Costs of 2026"], [], ["Cost", "Payer"], ["Rent", "tenant"])) == [
        "Sheet1",
        "Costs of 2026",
        "Cost: Rent; Payer: tenant",
    ]


def test_names_without_rows_are_not_lost():
    assert read(sheet(["Cost", "Payer"])) == ["Sheet1", "Cost; Payer"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        pytest.param(cell("A2", 3, kind="n"), "3", id="a whole number"),
        pytest.param(cell("A2", "0.30000000000000004", kind="n"), "0.3", id="the noise of adding"),
        pytest.param(cell("A2", "1234567.891", kind="n"), "1234567.891", id="a fraction"),
        pytest.param(cell("A2", "-1E+20", kind="n"), "-100000000000000000000", id="a large number"),
        # Day 1 is 1900-01-01, and Excel counts a 29 February 1900: 45,000 is 2023-03-15.
        pytest.param(cell("A2", 45000, kind="n", style=1), "2023-03-15", id="a date"),
        pytest.param(cell("A2", 45000, kind="n", style=4), "2023-03-15", id="a date in a format of its own"),
        pytest.param(cell("A2", 45000.75, kind="n", style=2), "2023-03-15 18:00", id="a date and time"),
        pytest.param(cell("A2", 1.5, kind="n", style=3), "1 day, 12:00:00", id="36 hours"),
        pytest.param(cell("A2", 1, kind="b"), "TRUE", id="true"),
        pytest.param(cell("A2", " two\n lines "), "two lines", id="lines in a cell"),
        pytest.param(cell("A2", "007"), "007", id="digits that are a text"),
        pytest.param('<c r="A2" t="str"><f>A1</f><v>formula</v></c>', "formula", id="what a formula gave"),
        pytest.param('<c r="A2" t="s"><v>1</v></c>', "shared", id="a shared text"),
    ],
)
def test_values_are_written_as_a_person_does(written, said):
    texts = f"<sst {MAIN}><si><t>no</t></si><si><t>sha</t><r><t>red</t></r></si></sst>".replace(
        "<t>sha</t><r>", "<r><t>sha</t></r><r>"
    )
    assert read(cells(cell("A1", "x"), written), shared=texts) == ["Sheet1", f"x: {said}"]


def test_a_cell_merged_downwards_is_said_in_each_row_and_never_below():
    rows = [["Kind", "Cost"], ["Running", "Rent"], ["", "Water"], ["", "Other"]]
    assert read(sheet(*rows, merged=["A2:A3"])) == [
        "Sheet1",
        "Kind: Running; Cost: Rent",
        "Kind: Running; Cost: Water",
        "Cost: Other",
    ]


def test_merging_is_found_where_the_sheet_does_not_begin_at_its_corner():
    rows = [cell("C5", "Kind") + cell("D5", "Cost"), cell("C6", "Running") + cell("D6", "Rent"), cell("D7", "Water")]
    assert read(cells(*rows, merged=["C6:C7"]))[1:] == ["Kind: Running; Cost: Rent", "Kind: Running; Cost: Water"]


def test_hidden_sheets_are_left_out():
    states = ['state="hidden"', 'state="veryHidden"']
    assert read(*(sheet(["a"], [text]) for text in "xyz"), states=states) == ["Sheet3", "a: z"]


def test_the_title_is_that_of_the_properties():
    assert xlsx.title(book(**{"docProps/core.xml": CORE.format("Costs")})) == "Costs"


def test_a_workbook_without_cells_has_no_pieces():
    assert read(cells(), cells("")) == []


def corners(first, last):
    return cells(cell(first, "a"), cell(last, "b"))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"", "unreadable", id="no bytes"),
        pytest.param(book(sheet(["Cut off."]))[:-100], "unreadable", id="cut off"),
        pytest.param(book("<sheetData><row>"), "unreadable", id="a sheet that never ends"),
        pytest.param(book(cells('<c r="A1" t="s"><v>7</v></c>')), "unreadable", id="a shared text that is missing"),
        pytest.param(book(cells(cell("1A", "x"))), "unreadable", id="a place that is none"),
        pytest.param(locked(book(sheet(["Secret."]))), "encrypted", id="parts with a password"),
        pytest.param(book(sheet(["x"]), doctype=LAUGHS), "unreadable", id="entities of entities"),
        pytest.param(
            book(sheet(["x"]), shared=f"{OUTSIDE}<sst><si><t>&a;</t></si></sst>"), "unreadable", id="a disk's"
        ),
        pytest.param(book(sheet([" " * 20_000_000])), "too_large", id="20 MB in 20 kB"),
        pytest.param(book(corners("A1", "XFD1048576")), "too_large", id="two cells as far apart as they can be"),
        pytest.param(book(corners("XFD1", "A1048576")), "too_large", id="the other two corners"),
        pytest.param(book(cells(cell("A4294967295", "x"))), "unreadable", id="a row that no sheet has"),
        pytest.param(book(cells(cell("A1048577", "x"))), "too_large", id="a row after the last"),
        pytest.param(
            book('<sheetData><row r="4294967295"><c><v>1</v></c></row></sheetData>'),
            "too_large",
            id="only its row says so",
        ),
        pytest.param(book(sheet(["x"]), shared=f'<sst {MAIN} uniqueCount="1000000000000"/>'), "too_large", id="24 TB"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(content, code):
    assert refusal(content) == code


def test_one_cell_in_the_last_corner_is_read():
    assert read('<dimension ref="A1:XFD1048576"/>' + cells(cell("XFD1048576", "far"))) == ["Sheet1", "far"]


def test_styled_cells_without_a_value_take_no_room():
    assert read(cells(cell("A1", "x"), cell("A2", "y"), '<c r="XFD1048576" s="1"/>')) == ["Sheet1", "x: y"]


def test_a_long_text_that_a_thousand_cells_share_is_refused():
    texts = f"<sst {MAIN}><si><t>{'word ' * 1_000}</t></si></sst>"
    # 5,000 characters 801 times are more than 4,000,000.
    rows = ['<c t="s"><v>0</v></c>'] * 801
    assert refusal(book(cells(*rows), shared=texts)) == "too_large"
    assert len(read(cells(*rows[:799]), shared=texts)) == 799


def test_a_sheet_of_a_million_rows_is_refused_before_it_takes_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(book(corners("A1", "Z1048576"))) == "too_large"
    # 26 columns of 1,048,576 cells of 32 bytes would be 872 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
