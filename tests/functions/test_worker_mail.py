"""What the worker reads out of messages."""

from email.message import EmailMessage

import pytest

from functions.worker.extract import Kind, Unreadable
from functions.worker.formats import mail

HEAD = b"From: Ada <ada@x.test>\r\nSubject: Rent\r\n"


def message(text="Pay by May.", subject="Rent", **headers):
    """A message as Python's own library writes it."""
    letter = EmailMessage()
    letter["From"] = "Ada <ada@x.test>"
    letter["Subject"] = subject
    for name, value in headers.items():
        letter[name] = value
    letter.set_content(text)
    return letter


def read(content):
    return [piece.text.strip() for piece in mail.pieces(content) if piece.text.strip()]


def body(content):
    """What follows the subject and the head."""
    return read(content)[2:]


def test_the_head_comes_first_and_then_the_text():
    letter = message("One.\n\nTwo.", To="Bob <bob@x.test>, c@x.test", Date="Wed, 25 Nov 2026 10:05:00 +0100")
    found = [piece for piece in mail.pieces(bytes(letter)) if piece.text.strip()]
    assert (found[0].text, found[0].kind, found[0].level) == ("Rent", Kind.HEADING, 1)
    assert found[1].text.split("\n") == [
        "From: Ada <ada@x.test>",
        "To: Bob <bob@x.test>, c@x.test",
        "Date: 2026-11-25 10:05 +0100",
        "Subject: Rent",
    ]
    assert [piece.text.strip() for piece in found[2:]] == ["One.", "Two."]


@pytest.mark.parametrize("encoding", ["quoted-printable", "base64", "8bit"])
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "windows-1252"])
def test_transfer_encodings_and_character_sets_are_undone(encoding, charset):
    letter = message()
    letter.set_content("größer £", charset=charset, cte=encoding)
    assert body(bytes(letter)) == ["größer £"]


@pytest.mark.parametrize(
    ("raw", "subject"),
    [
        pytest.param(b"=?utf-8?q?Gr=C3=B6=C3=9Fe?= =?utf-8?b?4oKs?=", "Größe€", id="encoded words"),
        pytest.param("Größe".encode(), "Größe", id="bytes as they are"),
        pytest.param("Größe".encode("latin-1"), "Größe", id="bytes of Windows"),
        pytest.param(b"=?x-unknown?q?Rent?=", "Rent", id="a character set that nobody knows"),
        pytest.param(b"=?utf-8?b?a?=", "=?utf-8?b?a?=", id="an encoded word that is none"),
        pytest.param(b"=?unicode_escape?q?=5Cu0041?=", r"\u0041", id="a character set that is none"),
        pytest.param(b"one\r\n two", "one two", id="two lines"),
        pytest.param(b"=?utf-8?q?one?=\r\n =?utf-8?q?_two?=", "one two", id="encoded words on two lines"),
        pytest.param(b"=?utf-8?q?a=0D=0ABcc=3A_x?=", "a Bcc: x", id="a line end that is hidden"),
    ],
)
def test_headers_are_as_their_reader_sees_them(raw, subject):
    content = b"Subject: " + raw + b"\r\n\r\ntext"
    assert read(content)[0] == subject
    assert mail.title(content) == subject


def test_a_text_is_preferred_to_its_html():
    letter = message("Plain.")
    letter.add_alternative("<h1>HTML</h1>", subtype="html")
    assert body(bytes(letter)) == ["Plain."]


@pytest.mark.parametrize("text", ["", " \n"])
def test_html_is_read_when_there_is_no_text(text):
    letter = message(text)
    letter.add_alternative("<h1>Heading</h1><p>größer<script>x()</script></p>", subtype="html")
    found = [piece for piece in mail.pieces(bytes(letter)) if piece.text.strip()][2:]
    assert [(piece.text, piece.kind) for piece in found] == [
        ("Heading", Kind.HEADING),
        ("größer", Kind.PARAGRAPH),
    ]
    # The subject's is 1, and all of the text stands under it.
    assert found[0].level > 1


def test_attachments_are_named_and_not_read():
    letter = message("See below.")
    letter.add_attachment("a,b\n", subtype="csv", filename="Größe.csv")
    letter.add_attachment(b"%PDF-1.7 secret", maintype="application", subtype="pdf", filename="lease.pdf")
    letter.add_attachment(b"x", maintype="image", subtype="png")
    found = body(bytes(letter))
    assert found == ["See below.", "Attachment: Größe.csv", "Attachment: lease.pdf", "Attachment: image/png"]


def test_what_is_attached_to_the_alternative_that_is_not_read_is_named():
    letter = message("Plain.")
    letter.add_alternative("<p>HTML</p>", subtype="html")
    letter.get_payload(1).add_attachment(b"x", maintype="application", subtype="pdf", filename="plan.pdf")
    assert body(bytes(letter)) == ["Plain.", "Attachment: plan.pdf"]


def test_a_message_in_a_message_stands_under_its_own_subject():
    letter = message("Forwarded.")
    letter.add_attachment(message("Inner text.", subject="Deposit"))
    found = [piece for piece in mail.pieces(bytes(letter)) if piece.text.strip()]
    assert [(piece.text.strip(), piece.level) for piece in found] == [
        ("Rent", 1),
        ("From: Ada <ada@x.test>\nSubject: Rent", 0),
        ("Forwarded.", 0),
        ("Deposit", 3),
        ("From: Ada <ada@x.test>\nSubject: Deposit", 0),
        ("Inner text.", 0),
    ]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        pytest.param(
            b"Content-Type: text/plain; charset=nonsense\r\n\r\ngr\xc3\xb6\xc3\x9fer", "größer", id="unknown set"
        ),
        pytest.param(
            b"Content-Type: text/plain; charset=utf-8\r\n\r\ngr\xf6\xdfer", "größer", id="not the set it says"
        ),
        pytest.param(b"Content-Type: text/plain; charset=idna\r\n\r\nxn--a", "xn--a", id="a codec that is no set"),
        pytest.param(b"Content-Type: nonsense\r\n\r\ntext", "text", id="a type that is none"),
        pytest.param(b"Content-Transfer-Encoding: base64\r\n\r\nR3Jlbn", "Gren", id="unfinished base64"),
        pytest.param(
            b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nnever closed", "never closed", id="open"
        ),
        pytest.param(b"Content-Type: multipart/mixed\r\n\r\ntext", "text", id="a multipart without a boundary"),
        pytest.param(b"Date: yesterday\r\n\r\ntext", "text", id="a date that is none"),
    ],
)
def test_broken_parts_are_read_as_far_as_they_go(part, text):
    assert read(HEAD + part)[-1] == text


def test_an_empty_file_has_no_pieces():
    assert read(b"") == []


def nested(depth):
    opened = "".join(f'Content-Type: multipart/mixed; boundary="b{each}"\r\n\r\n--b{each}\r\n' for each in range(depth))
    return HEAD + opened.encode() + b"\r\ntext"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(nested(40), id="40 multiparts in each other"),
        pytest.param(nested(3_000), id="3,000 multiparts in each other"),
        pytest.param(HEAD + b"Content-Type: message/rfc822\r\n\r\n" * 40 + b"text", id="40 messages in each other"),
        pytest.param(HEAD + b"Content-Type: message/rfc822\r\n\r\n" * 5_000, id="5,000 messages in each other"),
    ],
)
def test_a_message_that_nests_without_end_is_refused(content):
    with pytest.raises(Unreadable) as caught:
        read(content)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    "header",
    [
        b"To: " + b"a@x.test, " * 50_000,
        b"Subject: " + b"=?utf-8?q?a?= " * 20_000,
        b"From: " + b"(" * 100_000,
        b"Date: " + b"1 " * 100_000,
        b'Content-Type: text/plain; x="' + b"\\" * 100_000,
        b"Content-Disposition: attachment; " + b"filename*0*=a; " * 20_000,
    ],
)
def test_headers_of_half_a_megabyte_are_read(header):
    assert read(HEAD + header + b"\r\n\r\ntext")


def test_an_attachments_name_is_never_a_path_that_is_opened(tmp_path):
    (tmp_path / "secret").write_text("secret words")
    letter = message("Text.")
    letter.add_attachment(b"x", maintype="application", subtype="zip", filename=f"../../../..{tmp_path}/secret")
    assert body(bytes(letter)) == ["Text.", f"Attachment: ../../../..{tmp_path}/secret"]
