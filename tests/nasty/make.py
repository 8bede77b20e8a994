"""Files that break readers, made when they are needed: none of them is worth keeping.

`FILES` holds each by its name, with what must come of it: its text on its page, or the code of a refusal. What is huge
when unpacked is written as its packed bytes at once, so that making a bomb costs nothing.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from itertools import pairwise

from fpdf import FPDF
from fpdf.enums import EncryptionMethod

from tests.parts.archives import locked

MEGABYTE = 1_000_000
GIGABYTE = 1_000 * MEGABYTE


@dataclass(frozen=True)
class Nasty:
    """A file, and what must come of it."""

    make: Callable[[], bytes]
    name: str
    announced: str = "application/octet-stream"
    says: str | None = None
    """Words that one passage of it holds."""
    page: int | None = None
    """Where these stand."""
    refused: str | None = None
    """The code of its refusal; None for a file that is read."""
    never: str | None = None
    """Words that no passage holds."""
    killed: bool = False
    """Whether it takes so much that its reader dies of it."""
    seconds: float = 30
    """What reading it may take, of the clock and of the processor."""


# Texts


def scrambled(text, encoding, mark=b""):
    return lambda: mark + text.encode(encoding)


def deep_outline():
    return b"".join(b"  " * depth + b"- said\n" for depth in range(20)) + b"  " * 20 + b"- innermost\n"


def long_json_nesting():
    return b"[" * 100_000 + b"]" * 100_000


def json_lines():
    return b"".join(b'{"day": %d, "said": "line %d"}\n' % (number, number) for number in range(1, 200))


def huge_cell():
    return b"name,story,end\nAda," + b"word " * 50_000 + b",done\nBob,short,done\n"


RAGGED = b'name,note,age\n"Lovelace, Ada","two\nlines",36\nBob\nCarol,x,41,extra,"more ""quoted"""\n'


def wide_table():
    return b",".join(b"c%d" % number for number in range(20_000)) + b"\n" + b",".join([b"1"] * 20_000) + b"\n"


# HTML


def nested_page(depth):
    return lambda: b"<!doctype html><body>" + b"<b>" * depth + b"the kernel" + b"</b>" * 3


def open_page():
    return b"<html><body><h1>Rules<p>No tag is closed<ul><li>first<li>second<table><tr><td>cell<tr><td>other cell"


def attributes_page(count):
    """The parser (lexbor) looks at all other attributes for each."""
    attributes = b" ".join(b"a%d=1" % number for number in range(count))
    return lambda: b"<html><body><p " + attributes + b">after them</p>"


def page_with_spans():
    cell = b'<td colspan="1000000000" rowspan="1000000000">wide cell</td>'
    return b"<html><body><table><tr>" + cell + b"</tr></table><p>below the table</p>"


# Archives


def deflated(unit, times):
    """The deflated bytes of `unit`, so many times over: each has its own block, and they are all the same."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(unit) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * times + packer.flush(zlib.Z_FINISH)


def archive(entries):
    """A ZIP of those entries, deflated."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
    return out.getvalue()


def swapped(content, name, *, packed, size):
    """That ZIP with other bytes for an entry, and the size that it then claims."""
    with zipfile.ZipFile(io.BytesIO(content)) as read:
        entries = [(entry, read.read(entry)) for entry in read.infolist()]
    out, directory = b"", b""
    for entry, plain in entries:
        file = entry.filename.encode()
        data = packed if entry.filename == name else deflated(plain, 1)
        claimed = size if entry.filename == name else len(plain)
        facts = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, zlib.crc32(plain), len(data), claimed, len(file), 0)
        directory += struct.pack("<IH", 0x02014B50, 20) + facts + struct.pack("<HHHII", 0, 0, 0, 0, len(out)) + file
        out += struct.pack("<I", 0x04034B50) + facts + file + data
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, len(entries), len(entries), len(directory), len(out), 0)
    return out + directory + end


# Office

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
SHEETS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SLIDES = "http://schemas.openxmlformats.org/presentationml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"


def office(main, kind, parts, *, relations=""):
    """An Office file of those parts, the main one first."""
    folder, _, file = main.partition("/")
    target = f'<Relationship Id="r" Type="{OFFICE}/officeDocument" Target="{main}"/>'
    override = f'<Override PartName="/{main}" ContentType="application/vnd.openxmlformats-officedocument.{kind}+xml"/>'
    standard = '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    standard += '<Default Extension="xml" ContentType="application/xml"/>'
    return archive(
        {
            "[Content_Types].xml": f'<Types xmlns="{TYPES}">{standard}{override}</Types>',
            "_rels/.rels": f'<Relationships xmlns="{RELATIONS}">{target}</Relationships>',
            f"{folder}/_rels/{file}.rels": f'<Relationships xmlns="{RELATIONS}">{relations}</Relationships>',
            **parts,
        }
    )


def docx(body="<w:p><w:r><w:t>The lease ends in May.</w:t></w:r></w:p>", *, before="", more=None):
    document = f'<?xml version="1.0"?>{before}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    return office("word/document.xml", "wordprocessingml.document.main", {"word/document.xml": document} | (more or {}))


def entities(levels, factor, text="lol"):
    """A document type whose last entity, `&bomb;`, expands to factor^levels times the text."""
    names = ["e0", *(f"e{level}" for level in range(1, levels)), "bomb"]
    declared = [f'<!ENTITY {names[0]} "{text}">']
    declared += [f'<!ENTITY {above} "{f"&{below};" * factor}">' for below, above in pairwise(names)]
    return f"<!DOCTYPE x [{''.join(declared)}]>"


def paragraph(text):
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def docx_bomb(*, claimed):
    return lambda: swapped(
        docx(), "word/document.xml", packed=deflated(b" " * MEGABYTE, 4_000), size=min(claimed, 2**32 - 1)
    )


def nested_docx(depth):
    """Tables within tables."""
    opened, closed = "<w:tbl><w:tr><w:tc>" * depth, "</w:tc></w:tr></w:tbl>" * depth
    return lambda: docx(opened + paragraph("innermost") + closed)


def xlsx(rows, *, dimension="A1", shared="", before=""):
    sheet = f'<?xml version="1.0"?>{before}<worksheet xmlns="{SHEETS}"><dimension ref="{dimension}"/>'
    sheet += f"<sheetData>{rows}</sheetData></worksheet>"
    book = f'<workbook xmlns="{SHEETS}" xmlns:r="{OFFICE}">'
    book += '<sheets><sheet name="Stock" sheetId="1" r:id="s"/></sheets></workbook>'
    styles = (
        f'<styleSheet xmlns="{SHEETS}"><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>'
    )
    relations = f'<Relationship Id="s" Type="{OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
    relations += f'<Relationship Id="t" Type="{OFFICE}/styles" Target="styles.xml"/>'
    relations += f'<Relationship Id="u" Type="{OFFICE}/sharedStrings" Target="sharedStrings.xml"/>'
    parts = {
        "xl/workbook.xml": book,
        "xl/worksheets/sheet1.xml": sheet,
        "xl/styles.xml": styles,
        "xl/sharedStrings.xml": shared or f'<sst xmlns="{SHEETS}" count="0" uniqueCount="0"/>',
    }
    return office("xl/workbook.xml", "spreadsheetml.sheet.main", parts, relations=relations)


def cell(place, text):
    return f'<c r="{place}" t="inlineStr"><is><t>{text}</t></is></c>'


def row(number, *cells):
    return f'<row r="{number}">{"".join(cells)}</row>'


def far_cell():
    return xlsx(row(1, cell("A1", "near")) + row(1_048_576, cell("XFD1048576", "far away")), dimension="A1:XFD1048576")


def tall_sheet():
    return xlsx(row(1, cell("A1", "only")) + row(16_000_000, cell("A16000000", "last")), dimension="A1:A16000000")


def sixteen_million_rows():
    """Each of one cell, and all of them there."""
    rows = deflated(b"<row><c><v>1</v></c></row>" * 10_000, 1_600)
    return swapped(xlsx(""), "xl/worksheets/sheet1.xml", packed=rows, size=26 * 16 * MEGABYTE)


def sheet_that_claims_much():
    return xlsx(
        row(1, cell("A1", "Item"), cell("B1", "Count")) + row(2, cell("A2", "Bolt"), cell("B2", "7")),
        dimension="A1:XFD1048576",
    )


def sheet_of_texts_that_are_not_there():
    shared = f'<sst xmlns="{SHEETS}" count="4000000000" uniqueCount="4000000000"><si><t>one</t></si></sst>'
    return xlsx(row(1, '<c r="A1" t="s"><v>0</v></c>'), shared=shared)


def sheet_of_formulas():
    heads = row(1, cell("A1", "Item"), cell("B1", "Total"), cell("C1", "Due"), cell("D1", "State"))
    values = (
        '<c r="B2"><f>SUM(C1:C9)</f><v>42</v></c><c r="C2" s="1"><v>46000</v></c><c r="D2" t="e"><v>#DIV/0!</v></c>'
    )
    return xlsx(heads + row(2, cell("A2", "Bolts"), values), dimension="A1:D2")


def sheet_that_repeats_a_long_text():
    """A text of a megabyte, shown by 2,000 cells."""
    shared = f'<sst xmlns="{SHEETS}" count="2000" uniqueCount="1"><si><t>{"word " * 200_000}</t></si></sst>'
    return xlsx("".join(row(n, f'<c r="A{n}" t="s"><v>0</v></c>') for n in range(1, 2_001)), shared=shared)


def pptx():
    show = f'<p:presentation xmlns:p="{SLIDES}"><p:sldIdLst/></p:presentation>'
    return office("ppt/presentation.xml", "presentationml.presentation.main", {"ppt/presentation.xml": show})


def epub(chapter="text.xhtml", *, more=None, stored=None):
    container = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    container += '<rootfile full-path="book.opf"/></rootfiles></container>'
    package = '<package xmlns="http://www.idpf.org/2007/opf"><metadata/><manifest>'
    package += f'<item id="c" href="{chapter}" media-type="application/xhtml+xml"/></manifest>'
    package += '<spine><itemref idref="c"/></spine></package>'
    text = "<html><body><p>It was a dark and stormy night.</p></body></html>"
    parts = {"META-INF/container.xml": container, "book.opf": package, stored or chapter: text}
    return archive({"mimetype": "application/epub+zip", **parts, **(more or {})})


def epub_with_drm():
    method = (
        '<EncryptedData><EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/></EncryptedData>'
    )
    return epub(more={"META-INF/encryption.xml": f"<encryption>{method}</encryption>"})


# Mail


def mail(charset, body):
    return lambda: (
        b"From: ada@example.com\r\nTo: bob@example.com\r\nMessage-ID: <1@example.com>\r\nMIME-Version: 1.0\r\n"
        b"Subject: =?no-such-set?Q?Re=3A_the_lease?=\r\n"
        b'Content-Type: text/plain; charset="' + charset + b'"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n' + body
    )


def nested_mail(depth):
    def make():
        message = EmailMessage()
        message.set_content("the innermost message")
        for number in range(depth):
            message["Subject"] = f"Forward {number}"
            message["From"] = "ada@example.com"
            message["Message-ID"] = f"<{number}@example.com>"
            outer = EmailMessage()
            outer.set_content(f"see below, {number}")
            outer.add_attachment(message)
            message = outer
        message["From"] = "bob@example.com"
        message["Message-ID"] = "<outer@example.com>"
        return message.as_bytes()

    return make


def mail_with_bomb():
    message = EmailMessage()
    message["From"], message["Message-ID"], message["Subject"] = "a@example.com", "<1@example.com>", "A present"
    message.set_content("Open the attachment.")
    bomb = docx_bomb(claimed=4 * GIGABYTE)()
    message.add_attachment(bomb, maintype="application", subtype="zip", filename="present.docx")
    return message.as_bytes()


# PDF


def printed(*pages, points=11, angle=0, encryption=None):
    book = FPDF(format="A4")
    if encryption:
        book.set_encryption("owner", user_password=encryption, encryption_method=EncryptionMethod.RC4)
    for paragraphs in pages:
        book.add_page()
        book.set_font("Helvetica", "", points)
        for text in paragraphs:
            with book.rotation(angle, 100, 150):
                book.multi_cell(0, points * 0.5, text, new_x="LMARGIN", new_y="NEXT")
            book.ln(6)
    return bytes(book.output())


def columns():
    book = FPDF(format="A4")
    book.add_page()
    book.set_font("Helvetica", "", 11)
    left = ["The tenant pays the rent", "on the first day of May."]
    right = ["The landlord repairs the", "roof before each winter."]
    for x, lines in ((20, left), (120, right)):
        for number, line in enumerate(lines):
            book.text(x, 40 + 5 * number, line)
    return bytes(book.output())


def pdf(*objects, root=1):
    """A PDF of those objects, numbered from 1; a stream is a pair of its dictionary and its bytes."""
    out, places = b"%PDF-1.7\n", []
    for number, it in enumerate(objects, 1):
        places.append(len(out))
        body = (
            it if isinstance(it, bytes) else b"<< %s /Length %d >>\nstream\n%s\nendstream" % (it[0], len(it[1]), it[1])
        )
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer << /Size %d /Root %d 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    return out + end % (len(objects) + 1, table, len(objects) + 1, root, len(out))


CATALOG = b"<< /Type /Catalog /Pages 2 0 R >>"
FONT = b"<< /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
SHOW = b"BT /F 12 Tf 72 700 Td (%s) Tj ET"


def page(content=4, *, box=b"0 0 595 842", more=b""):
    return b"<< /Type /Page /Parent 2 0 R /MediaBox [%s] /Resources %s /Contents %d 0 R %s >>" % (
        box,
        FONT,
        content,
        more,
    )


def pages(kids, count):
    return b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, count)


def one_page(content, **facts):
    return pdf(CATALOG, pages(b"3 0 R", 1), page(**facts), content)


def many_pages():
    return pdf(CATALOG, pages(b"3 0 R " * 100_000, 100_000), page(), (b"", SHOW % b"the same page"))


def pages_in_a_circle():
    return pdf(CATALOG, pages(b"2 0 R 3 0 R 2 0 R", 3), page(), (b"", SHOW % b"round and round"))


def pages_that_only_claim():
    return pdf(CATALOG, pages(b"3 0 R", 2_000_000_000), page(), (b"", SHOW % b"the only page"))


def pdf_without_table():
    whole = one_page((b"", SHOW % b"still there"))
    return whole[: whole.index(b"xref")] + whole[whole.index(b"trailer") :]


def stream_bomb():
    twice = zlib_wrapped(deflated(zlib_wrapped(deflated(b" " * MEGABYTE, 2_000), 2_000 * MEGABYTE), 1), 0)
    return one_page((b"/Filter [/FlateDecode /FlateDecode]", twice))


def zlib_wrapped(packed, spaces):
    """Deflated bytes as a zlib stream, with the checksum (RFC 1950) of so many spaces."""
    a = (1 + 32 * spaces) % 65_521
    b = (spaces + 32 * spaces * (spaces + 1) // 2) % 65_521
    return b"\x78\xda" + packed + struct.pack(">I", b << 16 | a)


def form_in_itself():
    form = b"/Type /XObject /Subtype /Form /BBox [0 0 595 842] /Resources << /XObject << /X 5 0 R >> >>"
    loop = page(more=b"/Dummy 0").replace(FONT, FONT[:-2] + b"/XObject << /X 5 0 R >> >>")
    return pdf(
        CATALOG, pages(b"3 0 R", 1), loop, (b"", b"/X Do " + SHOW % b"outside of the form"), (form, b"/X Do /X Do")
    )


def active():
    catalog = b"<< /Type /Catalog /Pages 2 0 R /OpenAction 5 0 R /AA << /WC 6 0 R >> >>"
    launch = b"<< /S /Launch /F (/bin/sh) /Win << /F (cmd.exe) /P (/c calc) >> >>"
    script = b"<< /S /JavaScript /JS (app.alert\\('boo'\\); while\\(true\\){}) >>"
    return pdf(catalog, pages(b"3 0 R", 1), page(), (b"", SHOW % b"a quiet page"), launch, script)


def letters_of_long_words():
    """A ligature, and a soft hyphen, as PDFs hold them: ToUnicode says what the glyphs mean."""
    cmap = (
        b"1 begincodespacerange <00> <FF> endcodespacerange 3 beginbfchar <01> <FB01> <02> <00AD> <03> <0020> endbfchar"
    )
    cmap = b"begincmap " + cmap + b" 1 beginbfrange <61> <7A> <0061> endbfrange endcmap"
    font = b"<< /Font << /F 5 0 R >> >>"
    helvetica = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 6 0 R >>"
    shown = (b"", SHOW % b"the \\001nal in\\002surance".replace(b" ", b"\\003"))
    return pdf(CATALOG, pages(b"3 0 R", 1), page().replace(FONT, font), shown, helvetica, (b"", cmap))


def scan():
    book = FPDF(format="A4")
    book.add_page()
    book.rect(20, 20, 100, 100, style="F")
    return bytes(book.output())


HELLO = ["The tenant pays the rent on the first day of each month."]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d4944415478da63f8ffff3f0005fe02fea735"
    "81e40000000049454e44ae426082"
)
PDF, TEXT, HTML, JSON, CSV = "application/pdf", "text/plain", "text/html", "application/json", "text/csv"
MARKDOWN, MAIL = "text/markdown", "message/rfc822"
OPEN_XML = "application/vnd.openxmlformats-officedocument"
DOCX, XLSX = f"{OPEN_XML}.wordprocessingml.document", f"{OPEN_XML}.spreadsheetml.sheet"

FILES = {
    # Texts
    "empty": Nasty(bytes, "a.txt", TEXT, refused="no_text"),
    "one byte": Nasty(lambda: b"a", "a.txt", TEXT, says="a"),
    "whitespace only": Nasty(lambda: b" \n\t\r\n" * 1_000, "a.txt", TEXT, refused="no_text"),
    "control characters only": Nasty(lambda: bytes(range(1, 9)) * 100, "a.txt", TEXT, refused="type_unsupported"),
    "NUL inside a text": Nasty(lambda: b"before\0after" + b" and so on" * 20, "a.txt", TEXT, says="beforeafter and"),
    "UTF-16 with a mark": Nasty(scrambled("the naïve café", "utf-16"), "a.txt", TEXT, says="the naïve café"),
    "UTF-16 without a mark": Nasty(
        scrambled("the naïve café " * 9, "utf-16-le"), "a.txt", TEXT, refused="type_unsupported"
    ),
    "Windows-1252": Nasty(scrambled("the naïve café – 5 €", "cp1252"), "a.txt", TEXT, says="the naïve café – 5 €"),
    "Shift-JIS page": Nasty(
        scrambled('<html><meta charset="Shift_JIS"><body>契約は五月に終わる。', "cp932"),
        "a.html",
        HTML,
        says="契約は五月に終わる。",
    ),
    "invalid UTF-8": Nasty(lambda: b"sound \xff\xfe\xfa and sound again", "a.txt", TEXT, says="and sound again"),
    "random bytes": Nasty(lambda: zlib.compress(bytes(range(256)) * 40)[2:], "a.txt", TEXT, refused="type_unsupported"),
    "one line without blanks": Nasty(lambda: b"x" * 5 * MEGABYTE, "a.txt", TEXT, refused="too_large"),
    "one line without blanks, not too long": Nasty(lambda: b"y" * 1_900_000, "a.txt", TEXT, says="yyyyyyyy"),
    "fifty megabytes of text": Nasty(lambda: b"word " * 10 * MEGABYTE, "a.txt", TEXT, refused="too_large"),
    "a heading without end": Nasty(lambda: b"# " + b"long " * 50_000 + b"\n\nshort", "a.md", MARKDOWN, says="short"),
    "a list twenty deep": Nasty(deep_outline, "a.md", MARKDOWN, says="- innermost"),
    "a hundred thousand quotes": Nasty(lambda: b">" * 100_000 + b" said", "a.md", MARKDOWN, refused="no_text"),
    "brackets without end": Nasty(lambda: b"[" * 20_000 + b"(" * 20_000 + b" end", "a.md", MARKDOWN, says="end"),
    "emphasis without end": Nasty(lambda: b"*a **b _c `d " * 5_000 + b" end", "a.md", MARKDOWN, says="end"),
    # JSON and tables
    "halves of characters in JSON": Nasty(lambda: b'{"name": "a\\ud800b"}', "a.json", JSON, says="name"),
    "deep JSON": Nasty(long_json_nesting, "a.json", JSON, refused="too_large"),
    "broken JSON": Nasty(lambda: b'{"name": "Ada", ', "a.json", JSON, refused="unreadable"),
    "a number without end": Nasty(lambda: b'{"n": ' + b"9" * 500_000 + b"}", "a.json", JSON, says="n"),
    "JSON lines": Nasty(json_lines, "a.jsonl", JSON, says="line 199"),
    "a huge cell": Nasty(huge_cell, "a.csv", CSV, says="Bob"),
    "ragged rows and line ends in quotes": Nasty(lambda: RAGGED, "a.csv", CSV, says='more "quoted"'),
    "a table named .txt": Nasty(lambda: b"name,age,town\nAda,36,London\nBob,41,Leeds\n", "a.txt", TEXT, says="Leeds"),
    "a table twenty thousand columns wide": Nasty(wide_table, "a.csv", CSV, says="c19999: 1"),
    "a quote that never ends": Nasty(lambda: b'a,b\n"never,' + b"x,y\n" * 50_000, "a.csv", CSV, says="never"),
    # HTML
    "a page two million deep": Nasty(nested_page(2_000_000), "a.html", HTML, refused="too_large"),
    "a page a million deep": Nasty(nested_page(1_000_000), "a.html", HTML, says="the kernel"),
    "a page a hundred thousand deep": Nasty(nested_page(100_000), "a.html", HTML, says="the kernel"),
    "a page whose tags are not closed": Nasty(open_page, "a.html", HTML, says="other cell"),
    "a page of scripts": Nasty(
        lambda: b"<html><body><script>alert('x')</script></body>", "a.html", HTML, refused="no_text"
    ),
    "a page in Windows-1251": Nasty(
        scrambled('<html><meta charset="windows-1251"><body>Договор', "cp1251"), "a.html", HTML, says="Договор"
    ),
    "a page in a set that does not exist": Nasty(
        lambda: b'<html><meta charset="unicode_escape"><body>caf\xe9 \\x41', "a.html", HTML, says="café \\x41"
    ),
    "ten thousand attributes": Nasty(attributes_page(10_000), "a.html", HTML, says="after them"),
    "a hundred thousand attributes": Nasty(
        attributes_page(100_000), "a.html", HTML, refused="took_too_long", killed=True, seconds=1
    ),
    "a cell that spans a billion": Nasty(page_with_spans, "a.html", HTML, says="below the table"),
    "a picture of markup": Nasty(
        lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>x</script><text>drawn</text></svg>',
        "a.svg",
        "image/svg+xml",
        says="drawn",
    ),
    # Word
    "an archive bomb": Nasty(docx_bomb(claimed=4 * GIGABYTE), "a.docx", DOCX, refused="too_large"),
    "an archive bomb that lies": Nasty(docx_bomb(claimed=1_000), "a.docx", DOCX, refused="unreadable"),
    "an archive in an archive": Nasty(
        lambda: archive({"a.zip": archive({"b.txt": "b"})}), "a.docx", DOCX, refused="type_unsupported"
    ),
    "a billion laughs": Nasty(
        lambda: docx(paragraph("&bomb;"), before=entities(9, 10)), "a.docx", DOCX, refused="unreadable"
    ),
    "an entity of two gigabytes": Nasty(
        lambda: docx(paragraph("&bomb;"), before=entities(1, 20_000, "x" * 100_000)),
        "a.docx",
        DOCX,
        refused="unreadable",
    ),
    "a file of the machine's": Nasty(
        lambda: docx(paragraph("read: &x;"), before='<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
        "a.docx",
        DOCX,
        refused="unreadable",
        never="root:",
    ),
    "half a Word file": Nasty(lambda: docx()[:-200], "a.docx", DOCX, refused="unreadable"),
    "a Word file without a text": Nasty(lambda: docx(""), "a.docx", DOCX, refused="no_text"),
    "a Word file with a password for each part": Nasty(lambda: locked(docx()), "a.docx", DOCX, refused="encrypted"),
    "tables within tables": Nasty(nested_docx(30), "a.docx", DOCX, says="innermost"),
    "tables within tables, too deep": Nasty(nested_docx(5_000), "a.docx", DOCX, refused="unreadable"),
    "twenty megabytes of paragraphs": Nasty(
        lambda: docx(paragraph("word") * 500_000), "a.docx", DOCX, refused="too_large"
    ),
    "an old Word file": Nasty(
        lambda: bytes.fromhex("d0cf11e0a1b11ae1") + bytes(3_000), "a.doc", refused="type_unsupported"
    ),
    # Excel
    "one cell at the far end": Nasty(far_cell, "a.xlsx", XLSX, refused="too_large"),
    "one cell in sixteen million rows": Nasty(tall_sheet, "a.xlsx", XLSX, refused="too_large"),
    "sixteen million rows of one cell": Nasty(sixteen_million_rows, "a.xlsx", XLSX, refused="too_large"),
    "a sheet that claims to be huge": Nasty(sheet_that_claims_much, "a.xlsx", XLSX, says="Item: Bolt"),
    "four billion texts that are not there": Nasty(
        sheet_of_texts_that_are_not_there, "a.xlsx", XLSX, refused="too_large"
    ),
    "one long text in each cell": Nasty(sheet_that_repeats_a_long_text, "a.xlsx", XLSX, refused="too_large"),
    "formulas, dates and errors": Nasty(sheet_of_formulas, "a.xlsx", XLSX, says="Total: 42; Due: 2025-12-09"),
    "entities in a sheet": Nasty(
        lambda: xlsx(row(1, cell("A1", "&bomb;")), before=entities(9, 10)), "a.xlsx", XLSX, refused="unreadable"
    ),
    # Slides and books
    "a presentation without slides": Nasty(pptx, "a.pptx", refused="no_text"),
    "a book that looks outside": Nasty(
        lambda: epub("../../../../etc/passwd", stored="unused.xhtml"), "a.epub", refused="no_text", never="root:"
    ),
    "a book with names that look outside": Nasty(
        lambda: epub(more={"../../evil.xhtml": "x", "/etc/passwd": "root:"}),
        "a.epub",
        says="dark and stormy",
        never="root:",
    ),
    "a book that is copy-protected": Nasty(epub_with_drm, "a.epub", refused="encrypted"),
    # Mail
    "a message in a set that does not exist": Nasty(
        mail(b"no-such-set", "the café closes".encode()), "a.eml", MAIL, says="closes"
    ),
    "a message whose set is wrong": Nasty(mail(b"ascii", b"the caf\xe9 closes"), "a.eml", MAIL, says="closes"),
    "messages nine deep": Nasty(nested_mail(9), "a.eml", MAIL, says="the innermost message"),
    "messages fifty deep": Nasty(nested_mail(50), "a.eml", MAIL, refused="too_large"),
    "a message with an archive bomb": Nasty(mail_with_bomb, "a.eml", MAIL, says="Open the attachment."),
    # PDF
    "a PDF with a password": Nasty(lambda: printed(HELLO, encryption="secret"), "a.pdf", PDF, refused="encrypted"),
    "half a PDF": Nasty(lambda: printed(HELLO, HELLO)[:600], "a.pdf", PDF, refused="unreadable"),
    "a PDF without its table": Nasty(pdf_without_table, "a.pdf", PDF, says="still there", page=1),
    "garbage that calls itself a PDF": Nasty(
        lambda: b"%PDF-1.7\n" + bytes(range(256)) * 50, "a.pdf", PDF, refused="unreadable"
    ),
    "a hundred thousand pages": Nasty(many_pages, "a.pdf", PDF, refused="too_large"),
    "pages in a circle": Nasty(pages_in_a_circle, "a.pdf", PDF, refused="unreadable"),
    "two billion pages that are not there": Nasty(pages_that_only_claim, "a.pdf", PDF, says="the only page", page=1),
    "a scan": Nasty(scan, "a.pdf", PDF, refused="no_text"),
    "a page as large as a field": Nasty(
        lambda: one_page((b"", SHOW % b"somewhere on it"), box=b"0 0 2000000000 2000000000"),
        "a.pdf",
        PDF,
        says="somewhere on it",
        page=1,
    ),
    "letters of one point": Nasty(
        lambda: printed(HELLO, points=1), "a.pdf", PDF, says="first day of each month", page=1
    ),
    "turned text": Nasty(lambda: printed(["x"], HELLO, angle=90), "a.pdf", PDF, says="first day of each month", page=2),
    "two columns": Nasty(columns, "a.pdf", PDF, says="rent on the first day of May", page=1),
    "ligatures and soft hyphens": Nasty(letters_of_long_words, "a.pdf", PDF, says="the final insurance", page=1),
    "actions and scripts": Nasty(active, "a.pdf", PDF, says="a quiet page", page=1, never="boo"),
    "a stream of two gigabytes": Nasty(stream_bomb, "a.pdf", PDF, refused="too_large", killed=True),
    "forms that double without end": Nasty(form_in_itself, "a.pdf", PDF, refused="too_large", killed=True),
    # What they are not
    "a picture named .pdf": Nasty(lambda: PNG, "a.pdf", PDF, refused="type_unsupported"),
    "a PDF named .txt": Nasty(lambda: printed(HELLO), "a.txt", TEXT, says="first day of each month", page=1),
    "a program": Nasty(lambda: b"\x7fELF\x02\x01\x01" + bytes(500), "a.txt", TEXT, refused="type_unsupported"),
    "a gzip bomb": Nasty(
        lambda: b"\x1f\x8b\x08" + bytes(7) + deflated(bytes(MEGABYTE), 100), "a.txt", TEXT, refused="type_unsupported"
    ),
}
