"""Verified citations: which sentence of an answer is held by which passage, word for word.

    cited = Citations(passages)
    cited.read("The lease ends on 30 September 2027 [1]. ")   -> [Citation(...)]      as the answer grows
    cited.close()                                             -> what the last, unfinished sentence adds

A model may say where a sentence comes from by `[n]`, the passage's number; a small one says nothing, and the passage is
looked for. Either way the claim is checked: a citation is made only for a quote that stands in the passage and holds
what the answer's sentence claims (`claims`). A sentence that names a passage which says nothing of it, or something
else, is reported as unsupported; one that only seems to be held is left alone. A sentence that the answer repeats word
for word is judged once.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentkit.passages import Match
from functions.chat.claims import Claim, Holding, claim, held_by

# A quote is for reading; sentences longer than this are lists or tables that lost their ends.
LONGEST_QUOTE = 600
LONGEST_SENTENCE = 2_000

MARKER = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
# A sentence ends at . ! ? (or the like of other scripts) before white space, or at the end of a line. Not after an
# abbreviation or an initial, and not inside a number. Markers that follow belong to it, one that is coming included.
END = re.compile(
    r"(?:(?<!\be\.g)(?<!\bi\.e)(?<!\b[A-Z])(?<!\b(?:Dr|Mr|Ms|No|St))(?<!\b(?:Mrs|etc))[.]|[!?。！？؟۔…])[\"”’')\]]*+(?:\s*\[[\d,\s]+\])*+(?=\s|$)(?!\s*\[[\d,\s]*$)|\n"
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
class _Quotable:
    """A sentence of a passage."""

    passage: Match
    number: int
    start: int
    end: int
    claim: Claim


class Citations:
    """Reads an answer as it grows, and says of each finished sentence what holds it."""

    def __init__(self, passages: Sequence[Match]) -> None:
        self._count = 0
        self._quotable: list[_Quotable] = []
        self._read = ""
        self._done = 0
        self._judged: set[str] = set()
        self.add(passages)

    def add(self, passages: Sequence[Match]) -> None:
        """Take in more passages; the model knows them by the numbers that follow the earlier ones."""
        for number, passage in enumerate(passages, self._count + 1):
            before: Claim | None = None
            for start, end in _sentences(passage.text):
                before = claim(passage.text[start:end], before)
                if end - start <= LONGEST_QUOTE:
                    self._quotable.append(_Quotable(passage, number, start, end, before))
        self._count += len(passages)

    def read(self, delta: str) -> list[Citation | Unsupported]:
        """Take in more of the answer; return what the sentences that it completes are held by."""
        self._read += delta
        if END.search(self._read[self._done :]) is None:  # most pieces end no sentence
            return []
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
        if len(sentence) > LONGEST_SENTENCE or sentence in self._judged:
            return
        self._judged.add(sentence)
        claimed = tuple(dict.fromkeys(int(n) for group in MARKER.findall(sentence) for n in group.split(",")))
        said = claim(MARKER.sub(" ", sentence))
        if not claimed and not said.words:
            return
        touched = False
        for number in claimed or (None,):
            holding, quote = self._best(said, number)
            touched = touched or holding is not Holding.NOT
            if quote is not None and holding is Holding.WHOLLY:
                text = quote.passage.text[quote.start : quote.end]
                yield Citation(quote.passage, quote.start, quote.end, text, start, end)
        if claimed and not touched:
            yield Unsupported(sentence.strip(), claimed, start, end)

    def _best(self, said: Claim, number: int | None) -> tuple[Holding, _Quotable | None]:
        """Return the quotable sentence that holds most of the claim, of that passage or of all, and how far it does."""
        best, most, quote = Holding.NOT, 0.0, None
        for candidate in self._quotable:
            if number is None or candidate.number == number:
                holding, share = held_by(said, candidate.claim)
                if (holding.value, share) > (best.value, most):
                    best, most, quote = holding, share, candidate
        return best, quote


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
