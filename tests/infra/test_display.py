"""A terminal's last lines change in place; a pipe is only ever added to."""

import io
import os

import pytest

from infra.local.display import Display, cut, padded, printable


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True

    def new(self):
        """What was written since this was last asked."""
        written = self.getvalue()
        self.seek(0)
        self.truncate()
        return written


@pytest.fixture
def terminal():
    return Terminal()


@pytest.fixture
def display(terminal):
    """A display on the terminal, of 40 columns and 24 rows unless said otherwise."""

    def display(columns=40, rows=24, **environment):
        size = os.terminal_size((columns, rows))
        return Display(terminal, environment={"TERM": "xterm", **environment}, size=lambda: size)

    return display


def test_lines_are_written_over_those_before(display, terminal):
    shown = display()
    shown.update(["one", "two"])
    assert terminal.new() == "\rone\x1b[K\ntwo\x1b[K\n\x1b[J"
    shown.update(["uno", "two"])
    assert terminal.new() == "\x1b[2A\runo\x1b[K\ntwo\x1b[K\n\x1b[J"
    shown.update(["uno"])
    assert terminal.new() == "\x1b[2A\runo\x1b[K\n\x1b[J"
    shown.update([])
    assert terminal.new() == "\x1b[1A\r\x1b[J"


def test_nothing_is_written_while_nothing_changes(display, terminal):
    shown = display()
    shown.update(["one"])
    terminal.new()
    shown.update(["one"])
    assert terminal.new() == ""


def test_lines_that_stay_go_above_and_are_not_written_over(display, terminal):
    shown = display()
    shown.update(["one", "two"])
    terminal.new()
    shown.update(["two"], ["one is done"])
    assert terminal.new() == "\x1b[2A\rone is done\x1b[K\ntwo\x1b[K\n\x1b[J"
    shown.update(["two more"])
    assert terminal.new() == "\x1b[1A\rtwo more\x1b[K\n\x1b[J"


def test_a_line_that_the_terminal_would_wrap_is_cut(display, terminal):
    display(columns=10).update(["123456789", "1234567890"])
    # Nine at most: after the last column a terminal erases what stands in it.
    assert terminal.new() == "\r123456789\x1b[K\n12345678…\x1b[K\n\x1b[J"


def test_a_line_that_stays_is_told_whole(display, terminal):
    display(columns=10).update([], ["1234567890123"])
    assert terminal.new() == "\r1234567890123\x1b[K\n\x1b[J"


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        pytest.param(24, [*"abcdefghi", "  … and 3 more"], id="ten at most"),
        pytest.param(6, [*"abc", "  … and 9 more"], id="two rows fewer than the terminal has"),
        pytest.param(1, ["  … and 12 more"], id="hardly any rows"),
    ],
)
def test_more_lines_than_there_is_room_for_are_counted(display, terminal, rows, lines):
    display(rows=rows).update([*"abcdefghijkl"])
    assert terminal.new() == "\r" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"


def test_as_many_lines_as_there_is_room_for_are_all_shown(display, terminal):
    display().update([*"abcdefghij"])
    assert terminal.new() == "\r" + "".join(f"{line}\x1b[K\n" for line in "abcdefghij") + "\x1b[J"


def test_a_terminal_has_colours(display):
    shown = display()
    assert [shown.coloured("it", colour) for colour in ("red", "green", "yellow")] == [
        "\x1b[31mit\x1b[0m",
        "\x1b[32mit\x1b[0m",
        "\x1b[33mit\x1b[0m",
    ]


def test_who_wants_no_colours_gets_none_and_still_changing_lines(display, terminal):
    shown = display(NO_COLOR="1")
    shown.update([], [shown.coloured("red", "red")])
    assert terminal.new() == "\rred\x1b[K\n\x1b[J"
    # "When present and not an empty string."
    assert display(NO_COLOR="").coloured("red", "red") != "red"


@pytest.mark.parametrize(
    ("stream", "term"),
    [
        pytest.param(io.StringIO, {"TERM": "xterm"}, id="pipe"),
        pytest.param(Terminal, {"TERM": "dumb"}, id="dumb terminal"),
        pytest.param(Terminal, {}, id="terminal that says nothing of itself"),
    ],
)
def test_elsewhere_only_what_stays_is_printed_without_a_control_character(stream, term):
    stream = stream()
    shown = Display(stream, environment=term)
    shown.update(["one", "two"])
    shown.update(["two"], [shown.coloured("one", "green")])
    shown.update([], ["two"])
    assert stream.getvalue() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param("handbook", "handbook", id="as long as may be"),
        pytest.param("handbooks", "handboo…", id="longer"),
        pytest.param("契約書一", "契約書一", id="wide, as long as may be"),
        pytest.param("契約書一二", "契約書…", id="wide, longer"),
        pytest.param("xe\u0301" + "y" * 6, "xe\u0301" + "y" * 6, id="an accent of its own takes no cell"),
    ],
)
def test_a_text_is_cut_by_the_cells_that_it_takes(text, kept):
    assert cut(text, 8) == kept


@pytest.mark.parametrize(
    ("text", "filled"),
    [("abc", "abc  "), ("契約", "契約 "), ("abcdef", "abcd…"), ("契約書", "契約…")],
)
def test_a_column_is_as_wide_whatever_stands_in_it(text, filled):
    assert padded(text, 5) == filled


def test_what_a_terminal_would_obey_is_made_visible():
    # A cleared screen, a new line, and a name written backwards.
    assert printable("a\x1b[2Jb\nc\u202egpj.exe é") == "a�[2Jb�c�gpj.exe é"
