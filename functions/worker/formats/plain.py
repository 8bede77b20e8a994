"""Plain text to pieces of text: paragraphs are what stands between blank lines."""

import re

from functions.worker.extract import Piece

BLANK_LINES = re.compile(r"\n[ \t]*\n[\s]*")


def pieces(text: str) -> list[Piece]:
    """Return the paragraphs of a text."""
    return [Piece(paragraph) for paragraph in BLANK_LINES.split(text)]
