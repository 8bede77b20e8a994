"""Messages (.eml, RFC 5322 and MIME) to pieces of text: the subject, who wrote to whom and when, and then the text.

Of alternatives the plain text is read, or else the HTML. A message within a message stands under a heading of its own.
Attachments are named and not read; encrypted parts are attachments.

Headers are read here and not by `email.policy.default`, whose grammar takes minutes for a long one and fails at some
that are only odd; what cannot be decoded is shown as it came.
"""

from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.utils import parsedate_to_datetime

from functions.worker import charset
from functions.worker.extract import Kind, Piece, Unreadable
from functions.worker.formats import hypertext, plain

SHOWN = ("From", "To", "Cc", "Date", "Subject")
# Of messages and multiparts in each other.
MAX_DEPTH = 30
# A multipart whose parts cannot be told apart is a text.
READ = {"text", "multipart"}
# What a part says that says nothing: then the bytes are asked.
UNSAID = {"", "us-ascii", "ascii", "unknown-8bit"}


def pieces(content: bytes) -> Iterator[Piece]:
    """Return the head and the text of a message; raises Unreadable when it nests too deep."""
    try:
        message = message_from_bytes(content)
    except RecursionError as error:
        raise _too_deep() from error
    yield from _message(message, 1)


def title(content: bytes) -> str | None:
    """Return the subject."""
    head, _, _ = content.replace(b"\r\n", b"\n").partition(b"\n\n")
    return _header(message_from_bytes(head), "Subject") or None


def _message(message: Message, depth: int) -> Iterator[Piece]:
    subject = _header(message, "Subject")
    if subject:
        yield Piece(subject, Kind.HEADING, level=depth)
    elif depth > 1:
        yield Piece("Message", Kind.HEADING, level=depth)
    head = {name: words for name in SHOWN if (words := _header(message, name))}
    yield Piece("\n".join(f"{name}: {words}" for name, words in head.items()))
    yield from _part(message, depth)


def _part(part: Message, depth: int) -> Iterator[Piece]:
    """Yield the text of a part and of those in it."""
    if depth > MAX_DEPTH:
        raise _too_deep()
    kind = part.get_content_type()
    inner = _inner(part)
    if kind == "message/rfc822":
        for message in inner:
            yield from _message(message, depth + 1)
    elif kind == "multipart/alternative" and inner:
        yield from _alternative(inner, depth)
    elif inner:
        for each in inner:
            yield from _part(each, depth + 1)
    elif part.get_content_disposition() == "attachment" or part.get_filename() or kind.split("/")[0] not in READ:
        yield Piece(f"Attachment: {_filename(part)}")
    elif kind == "text/html":
        for piece in hypertext.pieces(_text(part)):
            yield replace(piece, level=piece.level + depth) if piece.kind is Kind.HEADING else piece
    else:
        yield from plain.pieces(_text(part))


def _inner(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [each for each in payload if isinstance(each, Message)] if isinstance(payload, list) else []


def _alternative(parts: list[Message], depth: int) -> Iterator[Piece]:
    """Yield the plain text if there is one, else the richest that we read; and what is attached to the others."""
    texts = [part for part in parts if part.get_content_type() == "text/plain" and _text(part).strip()]
    pages = [part for part in parts if part.get_content_type() == "text/html" or part.is_multipart()]
    chosen = (texts[:1] or pages[-1:] or parts[:1])[0]
    yield from _part(chosen, depth + 1)
    for other in parts:
        if other is not chosen:
            named = (part for part in other.walk() if part.get_content_disposition() == "attachment")
            yield from (Piece(f"Attachment: {_filename(part)}") for part in named)


def _filename(part: Message) -> str:
    return _unencoded(part.get_filename() or "") or part.get_content_type()


def _text(part: Message) -> str:
    content = part.get_payload(decode=True)
    return _decoded(content, part.get_content_charset("")) if isinstance(content, bytes) else ""


def _decoded(content: bytes, said: str) -> str:
    """Return the text of bytes in the character set that they are said to be in, if it is one that is sent."""
    name = charset.MEANT.get(said.lower(), said.lower())
    if said.lower() in UNSAID or not charset.KNOWN.fullmatch(name):
        return charset.decode(content) or ""
    return content.decode(name, "replace").replace("\r\n", "\n")


def _header(message: Message, name: str) -> str:
    """Return a header as its reader sees it; blank when there is none."""
    values = (str(value) for key, value in message.raw_items() if key.lower() == name.lower())
    words = _unencoded(next(values, ""))
    if name == "Date":
        try:
            return f"{parsedate_to_datetime(words):%Y-%m-%d %H:%M %z}".strip()
        except ValueError:
            return words
    return words


def _unencoded(value: str) -> str:
    """Return a header's value without folds, encoded words and bytes that came as they were."""
    line = charset.decode(value.encode("utf-8", "surrogateescape")) or ""
    try:
        runs = decode_header(line)
    except HeaderParseError:
        return " ".join(line.split())
    return " ".join("".join(_run(*run) for run in runs).split())


def _run(words: bytes | str, said: str | None) -> str:
    if isinstance(words, str):
        return words
    # What stands between encoded words comes back in this encoding, whatever it holds.
    return words.decode("raw-unicode-escape", "replace") if said is None else _decoded(words, said)


def _too_deep() -> Unreadable:
    return Unreadable("too_large", f"The message nests more than {MAX_DEPTH} levels deep, which is more than we take.")
