"""The labelled set: documents, questions about them with the words that answer, and how well these are found."""

import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import UUID, uuid5

from agentkit import embeddings, passages
from agentkit.auth import Caller
from agentkit.embeddings import Vector
from functions.worker import chunk as chunking
from functions.worker.chunk import Sizes, chunk
from functions.worker.extract import Extract, assemble
from functions.worker.formats import markdown

FOLDER = Path(__file__).parent
NAMES = UUID("00000000-0000-4000-8000-0000000000da")
# As deep as a passage is looked for.
WANTED, FIRST = 10, 5

Embedded = Callable[[str, chunking.Placed], str]
Ranks = Sequence[int | None]


@dataclass(frozen=True, slots=True)
class Question:
    """What someone asks, and the words that answer it."""

    text: str
    document: str
    """A file's name without its ending, which is the document's title as it would be after an upload."""
    quote: str
    """Stands in that document alone; the first passage that holds it is the one to find."""
    kind: str


@cache
def questions() -> tuple[Question, ...]:
    """Return all of them."""
    read = tomllib.loads((FOLDER / "questions.toml").read_text())
    return tuple(Question(**each) for each in read["question"])


@cache
def documents() -> dict[str, Extract]:
    """Return each document's text by its title."""
    return {
        path.stem: assemble(markdown.pieces(path.read_text())) for path in sorted((FOLDER / "documents").glob("*.md"))
    }


async def ingest(owner: UUID, sizes: Sizes, embedded: Embedded = chunking.embedded) -> int:
    """Make the documents that person's, in passages of those sizes; return how many passages there are."""
    count = 0
    for title, extract in documents().items():
        document, job = uuid5(NAMES, title), uuid5(NAMES, f"{title} {owner}")
        made = chunk(extract, title=title, sizes=sizes)
        stored = [
            passages.Passage(document, owner, number, each.text, title, each.start, each.end, heading=each.heading)
            for number, each in enumerate(made)
        ]
        found = await embeddings.embed([embedded(title, each) for each in stored])
        await passages.stage(job, stored, found.vectors)
        await passages.swap(job, document, owner, version=0, count=len(stored))
        await passages.unstage(job)
        count += len(stored)
    return count


async def asked() -> list[Vector]:
    """Return the questions' vectors."""
    return (await embeddings.embed([question.text for question in questions()])).vectors


async def ranks(caller: Caller, mode: passages.Mode, vectors: Sequence[Vector]) -> list[int | None]:
    """Return for each question the place, from 1, of the first passage that answers it; None when none is found."""
    places = []
    for question, vector in zip(questions(), vectors, strict=True):
        about = None if mode == "keyword" else vector
        matches = await passages.find(caller, about, question.text, limit=WANTED, mode=mode)
        answering = (place for place, match in enumerate(matches, 1) if question.quote in match.text)
        places.append(next(answering, None))
    return places


def ndcg(places: Ranks) -> float:
    """Return the mean nDCG@10: with one passage to find, 1 over the binary logarithm of its place plus 1."""
    return sum(1 / math.log2(1 + place) for place in places if place) / len(places)


def recall(places: Ranks) -> float:
    """Return the share of questions whose passage is among the first five."""
    return sum(place is not None and place <= FIRST for place in places) / len(places)
