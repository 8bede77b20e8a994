"""Verified citations: which sentence of an answer is held by which passage, word for word.

    cited = Citations(passages)
    cited.read("The lease ends on 30 September 2027 [1]. ")   -> [Citation(...)]      as the answer grows
    cited.close()                                             -> what the last, unfinished sentence adds

A model may say where a sentence comes from by `[n]`, the passage's number; a small one says nothing, and the passage is
looked for. Either way the claim is checked: a citation is made only for a quote that stands in the passage, holds
every number of the answer's sentence, agrees with it in saying yes or no, and shares enough of its words. A sentence
that names a passage which does not hold it is reported as unsupported.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentkit.passages import Match

# Share of the sentence's content words that the quote must hold: less where the model itself names the passage.
WORDS_WHEN_CLAIMED = 0.4
WORDS_WHEN_FOUND = 0.6
LEAST_WORDS = 2
# A quote is for reading; sentences longer than this are lists or tables that lost their ends.
LONGEST_QUOTE = 600
LONGEST_SENTENCE = 2_000

MARKER = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
# A sentence ends at . ! ? (or the like of other scripts) before white space, or at the end of a line. Not after an
# abbreviation or an initial, and not inside a number.
END = re.compile(
    r"(?:(?<!\be\.g)(?<!\bi\.e)(?<!\b[A-Z])(?<!\b(?:Dr|Mr|Ms|No|St))(?<!\b(?:Mrs|etc))[.]|[!?。！？؟۔…])[\"”’')\]]*(?:\s*\[[\d,\s]+\])*(?=\s)|\n"
)
WORD = re.compile(r"[^\W\d_]+", re.UNICODE)
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
NEGATIONS = frozenset("no not never none nobody nothing neither nor without cannot".split())
STOP_WORDS = frozenset(
    "a an and are as at be been by can do does for from has have he her his how i in is it its may must of on or our "
    "per she should so such than that the their them then there these they this those to up was we were what when "
    "where which who will with would you your about after all also any before but into if more most other out over "
    "under until only each every both s t answer according document documents passage text states says".split()
)


@dataclass(frozen=True, slots=True)
class Citation:
    """A sentence of the answer and the quote that holds it; `passage.text[start:end] == quote`."""

    passage: Match
    start: int
    end: int
    quote: str
    answer_start: int
    answer_end: int

    @property
    def data(self) -> dict[str, Any]:
        """The `data-citation` part; start and end count characters of the passage, answer_* of the answer."""
        return {
            "document_id": str(self.passage.document_id),
            "passage_id": self.passage.id,
            "title": self.passage.title,
            "page": self.passage.page,
            "start": self.start,
            "end": self.end,
            "quote": self.quote,
            "answer_start": self.answer_start,
            "answer_end": self.answer_end,
        }


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A sentence of the answer that names passages which do not hold it."""

    sentence: str
    claimed: tuple[int, ...]
    answer_start: int
    answer_end: int

    @property
    def data(self) -> dict[str, Any]:
        """The `data-unsupported` part."""
        return {
            "sentence": self.sentence,
            "claimed": list(self.claimed),
            "answer_start": self.answer_start,
            "answer_end": self.answer_end,
        }


@dataclass(frozen=True, slots=True)
class _Content:
    """What a sentence says, as far as it can be compared."""

    words: frozenset[str]
    numbers: frozenset[str]
    negated: bool


@dataclass(frozen=True, slots=True)
class _Quotable:
    """A sentence of a passage."""

    passage: Match
    number: int
    start: int
    end: int
    content: _Content


class Citations:
    """Reads an answer as it grows, and says of each finished sentence what holds it."""

    def __init__(self, passages: Sequence[Match]) -> None:
        self._count = 0
        self._quotable: list[_Quotable] = []
        self._read = ""
        self._done = 0
        self.add(passages)

    def add(self, passages: Sequence[Match]) -> None:
        """Take in more passages; the model knows them by the numbers that follow the earlier ones."""
        for number, passage in enumerate(passages, self._count + 1):
            for start, end in _sentences(passage.text):
                if end - start <= LONGEST_QUOTE:
                    content = _content(passage.text[start:end])
                    self._quotable.append(_Quotable(passage, number, start, end, content))
        self._count += len(passages)

    def read(self, delta: str) -> list[Citation | Unsupported]:
        """Take in more of the answer; return what the sentences that it completes are held by."""
        self._read += delta
        # A marker may still follow the end of a sentence, so the last one waits for what comes after it.
        return self._judge_all(self._read, complete=False)

    def close(self) -> list[Citation | Unsupported]:
        """The answer is complete; return what its last sentence is held by."""
        return self._judge_all(self._read, complete=True)

    def _judge_all(self, text: str, *, complete: bool) -> list[Citation | Unsupported]:
        found: list[Citation | Unsupported] = []
        spans = [(start + self._done, end + self._done) for start, end in _sentences(text[self._done :])]
        if not complete:
            spans = spans[:-1]
        for start, end in spans:
            found += self._judge(text[start:end], start, end)
            self._done = end
        return found

    def _judge(self, sentence: str, start: int, end: int) -> Iterator[Citation | Unsupported]:
        if len(sentence) > LONGEST_SENTENCE:
            return
        claimed = tuple(dict.fromkeys(int(n) for group in MARKER.findall(sentence) for n in group.split(",")))
        content = _content(MARKER.sub(" ", sentence))
        numbers: Sequence[int | None] = claimed or (None,)
        least = WORDS_WHEN_CLAIMED if claimed else WORDS_WHEN_FOUND
        quotes = [best for number in numbers if (best := self._best(content, number, least))]
        for quote in quotes:
            text = quote.passage.text[quote.start : quote.end]
            yield Citation(quote.passage, quote.start, quote.end, text, start, end)
        if claimed and not quotes:
            yield Unsupported(sentence.strip(), claimed, start, end)

    def _best(self, content: _Content, number: int | None, least: float) -> _Quotable | None:
        """Return the quotable sentence that holds the content best, of one passage or of all; None when none does."""
        if len(content.words) + len(content.numbers) < LEAST_WORDS:
            return None
        best, most = None, 0.0
        for candidate in self._quotable:
            if number is not None and candidate.number != number:
                continue
            share = _share(content, candidate.content)
            if share >= least and share > most:
                best, most = candidate, share
        return best


def _share(said: _Content, held: _Content) -> float:
    """Return which share of what is said is held, 0 to 1; 0 when a number is missing or yes became no."""
    if not said.numbers <= held.numbers or said.negated != held.negated:
        return 0.0
    said_all = len(said.words) + len(said.numbers)
    return (len(said.words & held.words) + len(said.numbers)) / said_all if said_all else 0.0


def _content(sentence: str) -> _Content:
    words = [word.lower() for word in WORD.findall(sentence.replace("n't", " not").replace("n’t", " not"))]
    numbers = frozenset(number.replace(",", "") for number in NUMBER.findall(sentence))
    content = frozenset(_stem(word) for word in words if word not in STOP_WORDS and word not in NEGATIONS)
    return _Content(content, numbers, any(word in NEGATIONS for word in words))


def _stem(word: str) -> str:
    """Return the word without the endings that English adds most; the same for both sides is all that matters."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 3:
            return word[: -len(ending)]
    return word


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each sentence starts and ends, white space around it left out."""
    start = 0
    for match in END.finditer(text):
        if span := _trimmed(text, start, match.end()):
            yield span
        start = match.end()
    if span := _trimmed(text, start, len(text)):
        yield span


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    piece = text[start:end]
    stripped = piece.strip()
    if not stripped:
        return None
    start += len(piece) - len(piece.lstrip())
    return start, start + len(stripped)
