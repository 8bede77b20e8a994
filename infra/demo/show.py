"""What the demonstration prints: how far its documents are, answers and their citations, a table, what to do next."""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.demo.client import Answer
from infra.demo.events import Watch
from infra.functions import ROOT
from infra.local.display import Display
from infra.local.model import MODEL
from infra.local.progress import under_way

WIDTH = 100
MARGIN = " " * 5
COLUMNS = "{:<49}{:>11}{:>12}{:>10}{:>7}{:>10}"


class Progress:
    """A line that changes, where a terminal can, and then stays as the last that is said of it."""

    def __init__(self, failure: Callable[[], str | None]) -> None:
        """`failure`: why what is waited for will not come."""
        self._failure = failure
        self._display = Display()

    def of(self, filename: str) -> Watch:
        """Return what shows the states of that file's job as they come; it raises RuntimeError for a failure."""

        def watch(job: dict[str, Any]) -> None:
            if reason := self._failure():
                raise RuntimeError(reason)
            self._display.update([under_way(filename, job["status"], job["progress"])])

        return watch

    def end(self, line: str) -> None:
        """Let this line stay in its place."""
        self._display.update([], [line])


class Prose:
    """Text that is printed word by word as it comes, wrapped, and behind a margin."""

    def __init__(self) -> None:
        self._word = ""
        self._column = 0

    def add(self, piece: str) -> None:
        """Print what of it is whole words by now."""
        for part in re.findall(r"\n|[^\S\n]+|\S+", piece):
            if not part.isspace():
                self._word += part
                continue
            self._print_word()
            if part == "\n":
                self._break()

    def end(self) -> None:
        """Print the rest."""
        self._print_word()
        self._break()

    def _print_word(self) -> None:
        word, self._word = self._word, ""
        if not word:
            return
        if self._column and self._column + len(word) + 1 > WIDTH:
            self._break()
        before = " " if self._column else MARGIN
        self._column += len(before) + len(word)
        print(f"{before}{word}", end="", flush=True)

    def _break(self) -> None:
        if self._column:
            print()
        self._column = 0


def citations(answer: Answer) -> None:
    """Print each page that was cited once, with its quotes, and what went wrong."""
    pages: dict[str, list[str]] = {}
    for citation in answer.citations:
        page = f", page {citation['page']}" if citation["page"] else ""
        quote = f"“{' '.join(citation['quote'].split())}”"
        quotes = pages.setdefault(f"{citation['title']}{page}", [])
        if quote not in quotes:
            quotes.append(quote)
    for page, quotes in pages.items():
        print(_indented(f"↳ {page}: {' '.join(quotes)}"))
    for error in answer.errors:
        print(_indented(f"! {error}"))


def table(rows: Sequence[tuple[str, Answer, Mapping[str, Any]]], *, model: str) -> None:
    """Print what each answer took; a row is the question, its answer and its round trips."""
    print("\n" + COLUMNS.format("question", "first byte", "first token", "tokens/s", "Redis", "Postgres"))
    for question, answer, trips in rows:
        took = answer.last_token - answer.first_token
        speed = f"{(answer.pieces - 1) / took:.0f}" if took > 0 else "–"
        print(
            COLUMNS.format(
                textwrap.shorten(question, 48, placeholder=" …"),
                _time(answer.first_byte),
                _time(answer.first_token),
                speed,
                trips.get("redis", "?"),
                trips.get("postgres", "?"),
            )
        )
    notes = ["Redis and Postgres: round trips of the whole answer; before its first byte it waits for one of each."]
    if model.endswith(MODEL):
        notes.append(
            "The first token waits for two calls of a small model that reads its prompts on this machine's processor: "
            "one for the search, one for the answer. A hosted model takes a fraction of that."
        )
    for note in notes:
        print(textwrap.fill(note, WIDTH))


def next_steps(environment: Mapping[str, str], folder: Path, *, still_up: bool) -> None:
    """Say how to go on."""
    variables = f"{folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder}/env"
    if still_up:
        told = (
            f"Next: {environment['AGENTKIT_URL']}/docs shows every operation; {variables} has the URLs, keys and "
            f"passwords that a client needs, those of {environment['DEMO_ADA_EMAIL']} among them."
        )
    else:
        told = (
            "Next: `make dev` keeps this stack up and prints its URLs, with a page of every operation at /docs; "
            f"{variables} then has the keys and passwords that a client needs. README.md shows how an app calls it."
        )
    print("\n" + textwrap.fill(told, WIDTH))


def _indented(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=MARGIN + "  ", subsequent_indent=MARGIN + "    ")


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
