"""A document's text in passages: pieces of a size that an embedding model understands and a reader can check.

A passage follows the text's own joints: it begins at a heading where there is one, ends between paragraphs, list items
or sentences, and never crosses a page. Each is `text[start:end]`, so that a quotation can be found in the document.
Where a passage must end within a section, the next begins with its last sentence again, so that "it" keeps its meaning.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from functions.worker.extract import Block, Extract, Kind

# Characters, some four to a token: about 200 tokens, which MiniLM (256) and the models with small windows take whole.
MAX_CHARACTERS = 850
# A passage this long ends at the next section instead of taking its beginning in.
ENOUGH_CHARACTERS = 200
# A last sentence longer than this is not worth repeating.
OVERLAP_CHARACTERS = 160

SENTENCE_END = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[^a-z\s])")  # other scripts' marks
BLANK = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A span of the text that is found and cited as one."""

    text: str
    start: int
    end: int
    page: int | None
    heading: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Span:
    """A stretch of one block that is not divided further."""

    start: int
    end: int
    block: Block


def chunk(extract: Extract) -> list[Passage]:
    """Return the passages of a text, in order; together they hold every word of it."""
    return [
        Passage(
            extract.text[spans[0].start : spans[-1].end],
            spans[0].start,
            spans[-1].end,
            spans[0].block.page,
            _heading(spans),
        )
        for spans in _grouped(extract)
    ]


def _grouped(extract: Extract) -> Iterator[list[_Span]]:
    group: list[_Span] = []
    for block in extract.blocks:
        for span in _spans(extract.text, block):
            if group and _ends_before(group, span):
                yield group
                group = _overlap(group, span)
            group.append(span)
    if group:
        yield group


def _ends_before(group: list[_Span], span: _Span) -> bool:
    """Say whether the passage is complete without that span."""
    first, last = group[0], group[-1]
    length = span.end - first.start
    if span.block.page != last.block.page or length > MAX_CHARACTERS:
        return True
    if last.block.kind is Kind.HEADING:
        return False
    begins_section = span.block.kind is Kind.HEADING
    return begins_section and last.end - first.start >= ENOUGH_CHARACTERS


def _overlap(group: list[_Span], span: _Span) -> list[_Span]:
    """Return what the next passage repeats: the last sentence, when the same paragraph goes on."""
    last = group[-1]
    goes_on = last.block is span.block and len(group) > 1
    fits = last.end - last.start <= OVERLAP_CHARACTERS and span.end - last.start <= MAX_CHARACTERS
    return [last] if goes_on and fits else []


def _heading(spans: list[_Span]) -> tuple[str, ...]:
    """Return the headings that all of the passage stands under."""
    texts = [span for span in spans if span.block.kind is not Kind.HEADING]
    paths = [span.block.heading for span in texts or spans]
    shared = 0
    while all(len(path) > shared and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    return paths[0][:shared]


def _spans(text: str, block: Block) -> Iterator[_Span]:
    """Divide a block that is too long: between sentences, else between words, else anywhere."""
    if block.end - block.start <= MAX_CHARACTERS:
        yield _Span(block.start, block.end, block)
        return
    for start, end in _divided(text, block.start, block.end, SENTENCE_END):
        if end - start <= MAX_CHARACTERS:
            yield _Span(start, end, block)
            continue
        for word_start, word_end in _filled(_divided(text, start, end, BLANK)):
            for cut in range(word_start, word_end, MAX_CHARACTERS):
                yield _Span(cut, min(cut + MAX_CHARACTERS, word_end), block)


def _divided(text: str, start: int, end: int, joint: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Yield the stretches between the joints."""
    begin = start
    for match in joint.finditer(text, start, end):
        if begin < match.start():
            yield begin, match.start()
        begin = match.end()
    if begin < end:
        yield begin, end


def _filled(words: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join neighbouring stretches as far as a passage takes them."""
    start, end = next(words)
    for next_start, next_end in words:
        if next_end - start > MAX_CHARACTERS:
            yield start, end
            start = next_start
        end = next_end
    yield start, end
