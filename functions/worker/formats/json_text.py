"""JSON and JSON Lines to pieces of text.

An object's plain values are items, `key: value`; what is nested in it follows under a heading, its key. Objects in an
array that nest nothing are rows. Numbers stay as they are written.
"""

import json
from collections.abc import Iterator

from functions.worker.extract import Kind, Piece, Unreadable, table_row

MAX_DEPTH = 60
# HTML and Word have no more levels either; what is deeper stands under a heading of the last.
MAX_LEVEL = 6


def pieces(text: str) -> Iterator[Piece]:
    """Return the values, in order; raises Unreadable for what is no JSON or nests too deep."""
    if text.strip():
        yield from _nested(_loaded(text), "", 0)


def _loaded(text: str) -> object:
    """Return the value, or the list of those on the lines."""
    try:
        return _value(text)
    except json.JSONDecodeError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        try:
            if len(lines) > 1:
                return [_value(line) for line in lines]
        except json.JSONDecodeError:
            # The first line alone is no value: it was one text, and broken where it says.
            pass
        where = f"line {error.lineno}, column {error.colno}"
        raise Unreadable("unreadable", f"The file is not valid JSON: {error.msg} at {where}.") from error


def _value(text: str) -> object:
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except RecursionError as error:
        raise _too_deep() from error


def _nested(value: object, name: str, depth: int) -> Iterator[Piece]:
    """Yield what is in an array or object, under its name."""
    if depth > MAX_DEPTH:
        raise _too_deep()
    if name:
        yield Piece(name, Kind.HEADING, level=min(depth, MAX_LEVEL))
    if isinstance(value, dict):
        yield from (Piece(f"{key}: {_said(each)}", Kind.ITEM) for key, each in value.items() if _said(each))
        for key, each in value.items():
            if not _is_plain(each):
                yield from _nested(each, key or "?", depth + 1)
    elif isinstance(value, list):
        for number, each in enumerate(value, 1):
            if isinstance(each, dict) and all(map(_is_plain, each.values())):
                cells = {key: _said(cell) for key, cell in each.items() if _said(cell)}
                yield table_row(list(cells), list(cells.values()))
            elif _is_plain(each):
                yield Piece(f"- {_said(each)}", Kind.ITEM)
            else:
                yield from _nested(each, f"{name or 'Item'} {number}", depth + 1)
    else:
        yield Piece(_said(value))


def _is_plain(value: object) -> bool:
    """Say whether a value fits on a line: an array does, if it is of texts, numbers and the like."""
    if isinstance(value, list):
        return not any(isinstance(each, dict | list) for each in value)
    return not isinstance(value, dict)


def _said(value: object) -> str:
    """Return a plain value as text; blank for nothing, and for what is not plain."""
    match value:
        case None | dict():
            return ""
        case bool():
            return str(value).lower()
        case list():
            return ", ".join(map(_said, value)) if _is_plain(value) else ""
    return str(value)


def _too_deep() -> Unreadable:
    return Unreadable("too_large", f"The file nests more than {MAX_DEPTH} levels deep, which is more than we take.")
