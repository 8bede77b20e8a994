"""Lines at the foot of a terminal that change in place, under lines that stay.

Where there is no terminal (a pipe, CI, TERM=dumb) only the lines that stay are printed, without a control character.
NO_COLOR (https://no-color.org) turns colours off, not the changing lines.
"""

import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TextIO

# Of the lines that change: who has more under way sees how many.
MOST_LINES = 10
# Left for what stays, and for the line on which the cursor waits.
ROWS_ABOVE = 2
ERASE_TO_LINE_END, ERASE_BELOW, PLAIN = "\x1b[K", "\x1b[J", "\x1b[0m"
COLOURS = {"red": "\x1b[31m", "green": "\x1b[32m", "yellow": "\x1b[33m"}
# In the place of what a terminal would obey or hide.
UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"


class Display:
    """The end of a terminal's text, or a file that only grows."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        environment: Mapping[str, str] = os.environ,
        size: Callable[[], os.terminal_size] = shutil.get_terminal_size,
    ) -> None:
        """`stream`: standard output when left out. `size`: of the terminal, asked anew each time."""
        self._stream = stream or sys.stdout
        self._size = size
        self.in_place = self._stream.isatty() and environment.get("TERM", "dumb") != "dumb"
        """Whether lines can change."""
        self._coloured = self.in_place and not environment.get("NO_COLOR")
        self._shown: list[str] = []

    def update(self, changing: Sequence[str], staying: Sequence[str] = ()) -> None:
        """Show lines in the place of those that changed so far, and above them some that stay for good."""
        if not self.in_place:
            self._write("".join(f"{line}\n" for line in staying))
            return
        shown = self._fitted(changing)
        if shown == self._shown and not staying:
            return
        # All at once, each line over the one before: nothing is blank in between.
        back = f"\x1b[{len(self._shown)}A\r" if self._shown else "\r"
        lines = "".join(f"{line}{ERASE_TO_LINE_END}\n" for line in (*staying, *shown))
        self._write(f"{back}{lines}{ERASE_BELOW}")
        self._shown = shown

    def coloured(self, text: str, colour: Literal["red", "green", "yellow"]) -> str:
        """Return the text in that colour, where there are any."""
        return f"{COLOURS[colour]}{text}{PLAIN}" if self._coloured else text

    def _fitted(self, lines: Sequence[str]) -> list[str]:
        """Return what there is room for: a line that the terminal wrapped would be two."""
        columns, rows = self._size()
        room = max(1, min(MOST_LINES, rows - ROWS_ABOVE))
        if len(lines) > room:
            lines = [*lines[: room - 1], f"  … and {len(lines) - room + 1:,} more"]
        return [cut(line, columns - 1) for line in lines]

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()


def printable(text: str) -> str:
    """Return the text without anything that a terminal would obey, such as a file's name may hold."""
    return "".join(each if each.isprintable() else UNPRINTABLE for each in text)


def cut(text: str, cells: int) -> str:
    """Return the text in so many of a terminal's cells at most, with an ellipsis for what had to go."""
    if sum(map(_cells, text)) <= cells:
        return text
    kept, left = "", cells - 1
    for each in text:
        left -= _cells(each)
        if left < 0:
            break
        kept += each
    return f"{kept}…"


def padded(text: str, cells: int) -> str:
    """Return the text in exactly so many cells."""
    text = cut(text, cells)
    return text + " " * (cells - sum(map(_cells, text)))


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1
