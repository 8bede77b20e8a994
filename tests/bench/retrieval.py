"""Filtered vector search: how much of the exact answer comes back, how many rows, and how fast.

    python -m infra bench retrieval

Seeded, clustered vectors in `vecs.passages` of a Postgres of its own. A tenant who holds a share of them writes about
few topics; half of the questions are about these, half about anything, which is what makes a filtered scan of an index
end too soon. Asked in the same run on the same table: `passages.find` as that tenant under row-level security, an exact
scan and vecs' own query, these two as the superuser with the owner as a filter. The ways take turns, question by
question. `retrieval_view` shows what comes of it.

Words are used as in any language, the n-th most common one a n-th as often as the first: a question holds two that
nearly every passage holds and two rare ones, or, as the hardest case of hybrid search, common ones alone.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import numpy.typing as npt
import psycopg
import vecs

from agentkit import database, passages, settings
from agentkit.auth import Caller
from infra.local.postgres import Postgres
from tests.bench.row import Row

SIZES = (1_000, 10_000, 100_000)
SHARES = (0.001, 0.01, 0.1, 1.0)
QUESTIONS = 40
WANTED = 10
DIMENSIONS = 384
TOPICS = 200
# Of a tenant; the rest of the world writes about everything.
OWN_TOPICS = 5
# How far a passage lies from the middle of its topic: cosines of 0.5 to 0.7 within one, about 0 between two.
SPREAD = 0.04
SEED = 20_261
NAMES = UUID("00000000-0000-4000-8000-0000000000be")
# Words of a passage, of so many that there are; the first COMMON stand in a third of all passages or more.
WORDS, VOCABULARY, COMMON = 30, 5_000, 8
RARE = range(500, 2_000)
# Passages of a document.
DOCUMENT = 20
# Our ways of asking, and the one that each is told beside.
OURS = {"semantic": "vecs", "hybrid": "exact", "common words": "exact", "in a document": ""}
HNSW = "ix_vector_cosine_ops_hnsw_m16_efc64_agentkit"

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(slots=True)
class Answers:
    """What one way of asking brought a tenant."""

    recalls: list[float] = field(default_factory=list)
    """Of each question, the share of the nearest ten (or all, when there are fewer) that came back."""
    returned: list[float] = field(default_factory=list)
    """Of each question, the rows that came back over those that could."""
    ms: list[float] = field(default_factory=list)

    @property
    def recall(self) -> float:
        """Of the mean question."""
        return statistics.mean(self.recalls)

    @property
    def fewest(self) -> float:
        """Of the worst question, the rows that came back over those that could."""
        return min(self.returned)

    def percentile(self, percent: int) -> float:
        """Return the milliseconds within which so many of a hundred questions are answered."""
        return statistics.quantiles(self.ms, n=100)[percent - 1]


@dataclass(frozen=True, slots=True)
class Tenant:
    """Someone, what they hold, and what they ask."""

    share: float
    owner: UUID
    rows: Rows
    questions: Vectors
    mixed: list[str]
    """Of each question's words, when some are rare."""
    common: list[str]
    """And when none is."""

    def in_document(self, number: int) -> Rows:
        """Return the rows of the document that this question is kept to."""
        document = self.rows[number * 7919 % len(self.rows)] // DOCUMENT
        return self.rows[np.flatnonzero(self.rows // DOCUMENT == document)]


@dataclass(frozen=True, slots=True)
class World:
    """What stands in the table."""

    vectors: Vectors
    words: Rows
    """Of each passage, the most common word being 0."""
    tenants: list[Tenant]

    def nearest(self, rows: Rows, question: Vectors) -> set[str]:
        """Return the ids of those among the rows that are really nearest."""
        similarity = self.vectors[rows] @ question
        return {_id(row) for row in rows[np.argsort(-similarity)[:WANTED]]}


def run() -> list[Row]:
    """Measure every size, share and way; takes some four minutes, most of it building indexes of 100,000."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="agentkit-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = Postgres(folder, durable=False)
        server.start()
        try:
            for size in SIZES:
                # One who holds everything leaves no room for others, so that is a table of its own.
                for together in ([share for share in SHARES if share < 1], [share for share in SHARES if share == 1]):
                    world = _world(size, together)
                    began = time.perf_counter()
                    _fill(server, world)
                    print(f"{size:,} passages: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
                    for tenant in world.tenants:
                        rows += _rows(f"{tenant.share * 100:g} % of {size:,}", _ask(server, world, tenant))
        finally:
            server.stop()
    return rows


def _rows(case: str, answers: Mapping[str, Answers]) -> list[Row]:
    def floor(name: str, least: float, measured: float, theirs: float | None = None) -> Row:
        beside = theirs, "" if theirs is None else "vecs"
        return Row("retrieval", name, measured, "", QUESTIONS, *beside, least, at_least=True, case=case)

    def took(way: str, other: str, percent: int) -> Row:
        ours, name = answers[way].percentile(percent), f"{way}, p{percent}"
        theirs = answers[other].percentile(percent) if other else None
        return Row("retrieval", name, ours, "ms", QUESTIONS, theirs, other, case=case)

    return [
        floor("recall@10", 0.95, answers["semantic"].recall, answers["vecs"].recall),
        floor("recall@10 in a document", 0.95, answers["in a document"].recall),
        floor("fewest rows", 1.0, min(answers[way].fewest for way in OURS), answers["vecs"].fewest),
        *(took(way, other, percent) for way, other in OURS.items() for percent in (50, 95)),
    ]


def _world(size: int, shares: Sequence[float]) -> World:
    """Return passages and the tenants who hold some of them."""
    random = np.random.default_rng(SEED + size)
    middles = _unit(random.standard_normal((TOPICS, DIMENSIONS)))
    topics = random.integers(TOPICS, size=size)
    tenants = []
    first = 0
    for share in shares:
        held = max(1, round(size * share))
        rows = np.arange(first, first + held)
        first += held
        own = random.choice(TOPICS, OWN_TOPICS, replace=False) if share < 1 else np.arange(TOPICS)
        topics[rows] = random.choice(own, held)
        asked = np.concatenate([random.choice(own, QUESTIONS // 2), random.integers(TOPICS, size=QUESTIONS // 2)])
        questions = _unit(middles[asked] + SPREAD * random.standard_normal((QUESTIONS, DIMENSIONS)))
        common = random.integers(COMMON, size=(QUESTIONS, 4))
        mixed = np.concatenate([common[:, :2], random.choice(RARE, (QUESTIONS, 2))], axis=1)
        owner = uuid5(NAMES, f"{size} {share}")
        tenants.append(Tenant(share, owner, rows, questions, [*map(_text, mixed)], [*map(_text, common)]))
    vectors = _unit(middles[topics] + SPREAD * random.standard_normal((size, DIMENSIONS)))
    often = 1 / np.arange(1, VOCABULARY + 1)
    words = random.choice(VOCABULARY, (size, WORDS), p=often / often.sum())
    return World(vectors, words, tenants)


def _fill(server: Postgres, world: World) -> None:
    owners = [uuid5(NAMES, f"other {row % 97}") for row in range(len(world.vectors))]
    for tenant in world.tenants:
        for row in tenant.rows:
            owners[row] = tenant.owner
    with psycopg.connect(server.environment["ADMIN_VECTOR_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("truncate vecs.passages")
        (definition,) = connection.execute(
            "select indexdef from pg_indexes where indexname = %s", [HNSW]
        ).fetchone() or (None,)
        assert definition
        connection.execute(f"drop index vecs.{HNSW}")
        # In the order of a table that has lived: tenants' rows lie among the others'.
        order = np.random.default_rng(SEED).permutation(len(world.vectors))
        with connection.cursor().copy("copy vecs.passages (id, vec, metadata) from stdin") as copy:
            for row in order:
                metadata = {
                    "owner": str(owners[row]),
                    "document_id": str(_document(row)),
                    "text": _text(world.words[row]),
                    "title": "Bench",
                }
                copy.write_row((_id(row), _literal(world.vectors[row]), json.dumps(metadata)))
        connection.execute("set maintenance_work_mem = '1GB'")
        connection.execute(definition)
        connection.execute("vacuum analyze vecs.passages")


def _ask(server: Postgres, world: World, tenant: Tenant) -> dict[str, Answers]:
    """Return what each way brought that tenant."""
    person = Caller(tenant.owner, {"sub": str(tenant.owner), "role": "authenticated"})
    with _environment(server), _vecs(server) as collection, _exact(server) as exact, asyncio.Runner() as loop:

        def find(number: int, text: str, mode: passages.Mode, document_ids: list[UUID] | None = None) -> list[str]:
            vector = [float(each) for each in tenant.questions[number]]
            return [
                match.id
                for match in loop.run(
                    passages.find(person, vector, text, limit=WANTED, mode=mode, document_ids=document_ids)
                )
            ]

        def in_document(number: int) -> list[str]:
            return find(number, "", "semantic", [_document(tenant.in_document(number)[0])])

        def vecs_query(number: int) -> list[str]:
            mine = {"owner": {"$eq": str(tenant.owner)}}
            return [str(found) for found in collection.query(tenant.questions[number], limit=WANTED, filters=mine)]

        ways: dict[str, Callable[[int], list[str]]] = {
            "semantic": lambda number: find(number, "", "semantic"),
            "hybrid": lambda number: find(number, tenant.mixed[number], "hybrid"),
            "common words": lambda number: find(number, tenant.common[number], "hybrid"),
            "in a document": in_document,
            "exact": lambda number: exact(tenant.owner, tenant.questions[number]),
            "vecs": vecs_query,
        }
        answers = {way: Answers() for way in ways}
        for ask in ways.values():
            ask(0)  # connected, and its plan's pages in memory
        for number, question in enumerate(tenant.questions):
            for way, ask in ways.items():
                began = time.perf_counter()
                found = ask(number)
                answers[way].ms.append((time.perf_counter() - began) * 1000)
                rows = tenant.in_document(number) if way == "in a document" else tenant.rows
                possible = min(WANTED, len(rows))
                answers[way].recalls.append(len(world.nearest(rows, question).intersection(found)) / possible)
                answers[way].returned.append(len(found) / possible)
        loop.run(database.close())
    return answers


@contextmanager
def _environment(server: Postgres) -> Iterator[None]:
    """The functions find that server inside."""
    before = dict(os.environ)
    os.environ |= server.environment
    settings.forget()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
        settings.forget()


@contextmanager
def _vecs(server: Postgres) -> Iterator[vecs.Collection]:
    url = server.environment["ADMIN_VECTOR_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://", 1)
    client = vecs.create_client(url)
    yield client.get_or_create_collection("passages", dimension=DIMENSIONS)
    client.disconnect()


@contextmanager
def _exact(server: Postgres) -> Iterator[Callable[[UUID, Vectors], list[str]]]:
    with psycopg.connect(server.environment["ADMIN_VECTOR_DATABASE_URL"], autocommit=True) as connection:

        def ask(owner: UUID, question: Vectors) -> list[str]:
            return [
                found
                for (found,) in connection.execute(
                    "select id from vecs.passages where owner = %s order by (vec <=> %s::vector) + 0 limit %s",
                    [owner, _literal(question), WANTED],
                )
            ]

        yield ask


def _unit(vectors: npt.NDArray[np.float64]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def _literal(vector: Vectors) -> str:
    return "[" + ",".join(map(str, vector.tolist())) + "]"


def _text(words: Rows) -> str:
    return " ".join(f"word{number}" for number in words)


def _id(row: int) -> str:
    return f"{row:08d}"


@cache
def _document(row: int) -> UUID:
    return uuid5(NAMES, f"document {row // DOCUMENT}")
