"""Bytes to text, in the character set that they are written in."""

import re

BOMS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
# Where a browser looks for a page's own word about its characters, and what it takes that word for
# (https://encoding.spec.whatwg.org/#names-and-labels): the set that writers who say the one really use.
DECLARED_WITHIN = 1_024
DECLARED = re.compile(rb"""<(?:meta|\?xml)\b[^>]*?\b(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
MEANT = {
    **dict.fromkeys(["ascii", "us-ascii", "iso-8859-1", "latin1"], "cp1252"),
    "iso-8859-9": "cp1254",
    **dict.fromkeys(["shift_jis", "shift-jis", "x-sjis"], "cp932"),
    **dict.fromkeys(["gb2312", "gbk", "x-gbk"], "gb18030"),
    **dict.fromkeys(["euc-kr", "ks_c_5601-1987"], "cp949"),
    "macintosh": "mac-roman",
    "windows-874": "cp874",
}
# Python knows more that must not be chosen by a page: `unicode_escape`, `utf-7`.
KNOWN = re.compile(r"cp\d+|iso-8859-\d+|windows-125\d|koi8-[ru]|mac-roman|euc-jp|iso-2022-jp|gb18030|big5")
# Shifts between sets of seven-bit characters (ISO 2022), which as such are sound UTF-8.
ESCAPE = b"\x1b"
# A text has hardly any control characters; random bytes have one in ten.
MAX_CONTROL_SHARE = 0.02
CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def decode(content: bytes) -> str | None:
    """Return the text of those bytes with plain line ends; None when they are no text.

    A byte order mark decides; otherwise it is UTF-8 if it can be, else what a page says of itself, else Windows-1252:
    that is what old files are, and it knows a character for nearly every byte.
    """
    text = content.decode(_encoding(content), "replace")
    strange = len(CONTROL.findall(text)) + text.count("\N{REPLACEMENT CHARACTER}")
    # One stray character is forgiven a short text, too.
    if strange > max(1, MAX_CONTROL_SHARE * len(text)):
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoding(content: bytes) -> str:
    for mark, encoding in BOMS.items():
        if content.startswith(mark):
            return encoding
    declared = _declared(content)
    if declared and ESCAPE in content:
        return declared
    try:
        content.decode()
    except UnicodeDecodeError:
        return declared or "cp1252"
    return "utf-8"


def _declared(content: bytes) -> str | None:
    found = DECLARED.search(content[:DECLARED_WITHIN])
    if not found:
        return None
    name = found[1].decode("ascii", "replace").lower()
    name = MEANT.get(name, name)
    return name if KNOWN.fullmatch(name) else None
