"""A document's text in passages: pieces of a size that an embedding model understands and a reader can check.

A passage follows the text's own joints: it begins at a heading where there is one, ends between paragraphs, list items,
table rows or sentences, and never crosses a page. Each is `text[start:end]`, so that a quotation can be found in the
document. Where a passage must end within a paragraph, the next begins with its last sentences again, so that "it" keeps
its meaning.

What is embedded is the passage in its place, under its document's title and its headings, and never more than the model
reads: a model leaves out what exceeds its window, without a word.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from agentkit.settings import ChunkSettings, load
from functions.worker.extract import Block, Extract, Kind
from functions.worker.tokens import clipped, is_english, tokens

# A passage this long ends at the next section instead of taking its beginning in.
ENOUGH_CHARACTERS = 200
# Of title and headings together, whatever their author put into them.
PLACE_TOKENS = 48
# What a model puts around a text.
SPECIAL_TOKENS = 2
# Of the headings above a passage the nearest are kept, and so much of each.
MOST_HEADINGS = 8
HEADING_CHARACTERS = 160

# Each joint begins behind its group. Other scripts' sentences end without a blank.
SENTENCE_END = re.compile(
    r"((?<=[.!?…])[\"'”’)\]]*)\s+(?=[\"'“‘(\[]?[^a-z\s])|((?<=[。！？])(?![。！？])[」』”’）]*)\s*"
)
LINE_END = re.compile(r"()\n\s*")
BLANK = re.compile(r"()\s+")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a passage may be."""

    characters: int
    overlap: int
    """Characters that it repeats at most."""
    window_tokens: int
    """What the embedding model reads of a text."""

    @classmethod
    def configured(cls) -> Self:
        """Return this deployment's."""
        settings = load(ChunkSettings)
        return cls(settings.passage_characters, settings.passage_overlap_characters, settings.embedding_window_tokens)


@dataclass(frozen=True, slots=True)
class Passage:
    """A span of the text that is found and cited as one."""

    text: str
    start: int
    end: int
    page: int | None
    heading: tuple[str, ...]


class Placed(Protocol):
    """A passage, as it is made here or as it is stored."""

    @property
    def text(self) -> str:
        """Its words."""

    @property
    def heading(self) -> tuple[str, ...]:
        """The headings above it, outermost first."""


def chunk(extract: Extract, *, title: str, sizes: Sizes) -> list[Passage]:
    """Return the passages of a text, in order; together they hold every word of it."""
    return [
        Passage(
            extract.text[spans[0].start : spans[-1].end],
            spans[0].start,
            spans[-1].end,
            spans[0].block.page,
            _shortened(_shared(spans)),
        )
        for spans in _Division(extract.text, title, sizes).groups(extract.blocks)
    ]


def embedded(title: str, passage: Placed) -> str:
    """Return what the vector stands for: the passage in its place, since "it rises to 31 days" says little alone."""
    return f"{_place(title, passage.heading)}\n{passage.text}"


def _place(title: str, heading: tuple[str, ...]) -> str:
    """Return title and headings; of too many words the outer headings' are left out first."""
    parts = [_short(title), *_shortened(heading)]
    while _cost(parts) > PLACE_TOKENS and len(parts) > 2:  # noqa: PLR2004  # the title and the nearest heading
        del parts[1]
    if _cost(parts) > PLACE_TOKENS:
        parts = [clipped(part, PLACE_TOKENS // len(parts) - 1) for part in parts]
    return " > ".join(parts)


def _cost(parts: Sequence[str]) -> int:
    """Return the tokens of a place, each part with the mark behind it."""
    return sum(tokens(part) + 1 for part in parts)


def _shortened(heading: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_short(each) for each in heading[-MOST_HEADINGS:])


def _short(name: str) -> str:
    return name if len(name) <= HEADING_CHARACTERS else f"{name[: HEADING_CHARACTERS - 1].rstrip()}…"


@dataclass(frozen=True, slots=True)
class _Span:
    """A stretch of one block that is not divided further."""

    start: int
    end: int
    tokens: int
    block: Block


def _shared(spans: Sequence[_Span]) -> tuple[str, ...]:
    """Return the headings that all of the passage stands under."""
    texts = [span for span in spans if span.block.kind is not Kind.HEADING]
    first, *others = [span.block.heading for span in texts or spans]
    shared = len(first)
    for path in others:
        if path is not first:
            shared = min(shared, len(path))
            shared = next((level for level in range(shared) if path[level] != first[level]), shared)
    return first[:shared]


class _Division:
    """One text's division, whose time grows with the text's length alone."""

    def __init__(self, text: str, title: str, sizes: Sizes) -> None:
        self._text = text
        self._title = title
        self._sizes = sizes
        self._reserves: dict[tuple[str, ...], int] = {}
        self._group: list[_Span] = []
        # What the group's spans cost, and the place that it stands in.
        self._tokens = self._reserve = 0

    def groups(self, blocks: Sequence[Block]) -> Iterator[list[_Span]]:
        """Yield the spans of each passage."""
        for block in blocks:
            for span in self._spans(block):
                if self._group and self._ends_before(span):
                    complete, begun = self._parted(span)
                    yield complete
                    self._group, self._tokens, self._reserve = [], 0, 0
                    for each in begun:
                        self._add(each)
                self._add(span)
        if self._group:
            yield self._group

    def _add(self, span: _Span) -> None:
        self._group.append(span)
        self._tokens += span.tokens + 1
        self._reserve = max(self._reserve, self._reserved(span.block))

    def _ends_before(self, span: _Span) -> bool:
        """Say whether the passage is complete without that span."""
        first, last = self._group[0], self._group[-1]
        tokens_with = self._tokens + span.tokens + max(self._reserve, self._reserved(span.block)) + SPECIAL_TOKENS
        if (
            span.block.page != last.block.page
            or span.end - first.start > self._sizes.characters
            or tokens_with > self._sizes.window_tokens
        ):
            return True
        begins_section = span.block.kind is Kind.HEADING and last.block.kind is not Kind.HEADING
        return begins_section and last.end - first.start >= ENOUGH_CHARACTERS

    def _parted(self, span: _Span) -> tuple[list[_Span], list[_Span]]:
        """Return the complete passage, and what the next one begins with before that span."""
        headings = self._headings_before(span.block)
        if headings and span.block.page == headings[0].block.page and len(headings) < len(self._group):
            return self._group[: -len(headings)], headings
        return self._group, self._repeated(span)

    def _headings_before(self, block: Block) -> list[_Span]:
        """Return the headings at the group's end, which belong to what follows, unless that leaves it too little."""
        count = 0
        for span in reversed(self._group[-MOST_HEADINGS:]):
            if span.block.kind is not Kind.HEADING or 2 * (block.start - span.start) > self._sizes.characters:
                break
            count += 1
        headings = self._group[len(self._group) - count :]
        fit = 2 * sum(span.tokens + 1 for span in headings) <= self._room(block)
        return headings if fit else []

    def _repeated(self, span: _Span) -> list[_Span]:
        """Return the last sentences, as many as may be said again, when the same paragraph goes on."""
        group = self._group
        most = min(self._sizes.overlap, (group[-1].end - group[0].start) // 2)
        count, room = 0, self._room(span.block) - span.tokens
        for last in reversed(group):
            room -= last.tokens + 1
            fits = group[-1].end - last.start <= most and span.end - last.start <= self._sizes.characters and room >= 0
            if last.block is not span.block or not fits:
                break
            count += 1
        return group[len(group) - count :]

    def _room(self, block: Block) -> int:
        """Return the tokens that a passage of that block may have."""
        return self._sizes.window_tokens - SPECIAL_TOKENS - self._reserved(block)

    def _reserved(self, block: Block) -> int:
        """Return what the place of that block, or of a passage that it shares with others, costs at most."""
        path = block.heading
        if path not in self._reserves:
            cost = _cost([_short(self._title), *_shortened(path)])
            self._reserves[path] = min(cost, PLACE_TOKENS) if len(path) <= MOST_HEADINGS else PLACE_TOKENS
        return self._reserves[path]

    def _spans(self, block: Block) -> Iterator[_Span]:
        """Divide a block that is too long: between sentences, else between lines or words, else anywhere."""
        headings = self._headings_before(block)
        characters = self._sizes.characters - (block.start - headings[0].start if headings else 0)
        most = self._room(block) - sum(span.tokens + 1 for span in headings)
        whole = self._measured(block.start, block.end, block)
        if _fits(whole, characters, most):
            yield whole
            return
        for start, end in _divided(self._text, block.start, block.end, SENTENCE_END):
            english = is_english(self._text[start:end])
            for line_start, line_end in _divided(self._text, start, end, LINE_END):
                line = self._measured(line_start, line_end, block, english=english)
                if _fits(line, characters, most):
                    yield line
                else:
                    yield from _filled(self._words(line, characters, most, english=english), characters, most)

    def _measured(self, start: int, end: int, block: Block, *, english: bool | None = None) -> _Span:
        return _Span(start, end, tokens(self._text[start:end], english=english), block)

    def _words(self, line: _Span, characters: int, most: int, *, english: bool) -> Iterator[_Span]:
        """Yield the words, one that is too long in pieces."""
        for start, end in _divided(self._text, line.start, line.end, BLANK):
            begin = start
            while begin < end:
                stop = min(begin + characters, end)
                while not _fits(word := self._measured(begin, stop, line.block, english=english), characters, most):
                    stop = begin + max(1, (stop - begin) * most // word.tokens)
                yield word
                begin = stop


def _fits(span: _Span, characters: int, most: int) -> bool:
    return span.end - span.start <= characters and span.tokens <= most


def _divided(text: str, start: int, end: int, joint: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Yield the stretches between the joints."""
    begin = start
    for match in joint.finditer(text, start, end):
        stop = match.end(match.lastindex or 0)
        if begin < stop:
            yield begin, stop
        begin = match.end()
    if begin < end:
        yield begin, end


def _filled(words: Iterator[_Span], characters: int, most: int) -> Iterator[_Span]:
    """Join neighbouring words as far as a passage takes them."""
    joined = next(words)
    for word in words:
        both = _Span(joined.start, word.end, joined.tokens + word.tokens, joined.block)
        if _fits(both, characters, most):
            joined = both
        else:
            yield joined
            joined = word
    yield joined
