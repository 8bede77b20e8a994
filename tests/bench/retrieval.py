"""Filtered vector search: how much of the exact answer comes back, how many rows, and how fast.

    python -m tests.bench.retrieval [PASSAGES ...]

Seeded, clustered vectors in `vecs.passages` of a Postgres of its own. A tenant who holds a share of them writes about
few topics; half of the questions are about these, half about anything, which is what makes a filtered scan of an index
end too soon. Asked in the same run on the same table: `passages.find`, an exact scan, and vecs' own query.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import numpy.typing as npt
import psycopg
import vecs

from agentkit import database, passages, settings
from agentkit.auth import Caller
from infra.local.postgres import Postgres

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
VOCABULARY = [f"{first}{second}" for first in "lease rent tenant notice floor".split() for second in "ab cd ef".split()]
HNSW = "ix_vector_cosine_ops_hnsw_m16_efc64_agentkit"

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Measured:
    """One way of asking, for one tenant."""

    passages: int
    """In the table."""
    share: float
    """Of them, the tenant's."""
    method: str
    recall: float | None
    """Mean share of the nearest ten (or all, when there are fewer) that came back; None where nearness is not all."""
    fewest: float
    """Rows returned over rows that could be, at the worst question."""
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Tenant:
    """Someone, what they hold, and what they ask."""

    share: float
    owner: UUID
    rows: npt.NDArray[np.int64]
    questions: Vectors

    def exact(self, vectors: Vectors, question: Vectors) -> set[str]:
        """Return the ids of the passages that are really nearest."""
        similarity = vectors[self.rows] @ question
        return {_id(row) for row in self.rows[np.argsort(-similarity)[:WANTED]]}


def run(
    sizes: Sequence[int] = SIZES, *, shares: Sequence[float] = SHARES, say: Callable[[str], None] = print
) -> list[Measured]:
    """Measure every size, share and method; takes some four minutes, most of it building indexes of 100,000."""
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="agentkit-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = Postgres(folder, durable=False)
        server.start()
        try:
            for size in sizes:
                # One who holds everything leaves no room for others, so that is a table of its own.
                for together in ([share for share in shares if share < 1], [share for share in shares if share == 1]):
                    vectors, tenants = _world(size, together)
                    began = time.perf_counter()
                    _fill(server, vectors, tenants)
                    say(f"{size:,} passages stored and indexed in {time.perf_counter() - began:.0f} s")
                    for tenant in tenants:
                        measured += _compare(server, vectors, tenant)
        finally:
            server.stop()
    return measured


def _world(size: int, shares: Sequence[float]) -> tuple[Vectors, list[Tenant]]:
    """Return unit vectors and the tenants who hold some of them."""
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
        tenants.append(Tenant(share, uuid5(NAMES, f"{size} {share}"), rows, questions))
    vectors = _unit(middles[topics] + SPREAD * random.standard_normal((size, DIMENSIONS)))
    return vectors, tenants


def _fill(server: Postgres, vectors: Vectors, tenants: Sequence[Tenant]) -> None:
    owners = np.full(len(vectors), None, dtype=object)
    for tenant in tenants:
        owners[tenant.rows] = tenant.owner
    with psycopg.connect(server.environment["ADMIN_VECTOR_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("truncate vecs.passages")
        (definition,) = connection.execute(
            "select indexdef from pg_indexes where indexname = %s", [HNSW]
        ).fetchone() or (None,)
        assert definition
        connection.execute(f"drop index vecs.{HNSW}")
        # In the order of a table that has lived: tenants' rows lie among the others'.
        order = np.random.default_rng(SEED).permutation(len(vectors))
        with connection.cursor().copy("copy vecs.passages (id, vec, metadata) from stdin") as copy:
            for row in order:
                owner = str(owners[row] or uuid5(NAMES, f"other {row % 97}"))
                words = " ".join(VOCABULARY[(row * step) % len(VOCABULARY)] for step in (1, 3, 7, 11, 13))
                metadata = {"owner": owner, "document_id": owner, "text": words, "title": "Bench"}
                copy.write_row((_id(row), _literal(vectors[row]), json.dumps(metadata)))
        connection.execute("set maintenance_work_mem = '1GB'")
        connection.execute(definition)
        connection.execute("vacuum analyze vecs.passages")


def _compare(server: Postgres, vectors: Vectors, tenant: Tenant) -> Iterator[Measured]:
    with _environment(server), _vecs(server) as collection, _exact(server) as exact:
        person = Caller(tenant.owner, {"sub": str(tenant.owner), "role": "authenticated"})
        words = " ".join(VOCABULARY[:4])
        with asyncio.Runner() as loop:

            def find(mode: passages.Mode) -> Callable[[Vectors], list[str]]:
                def ask(question: Vectors) -> list[str]:
                    vector = [float(number) for number in question]
                    return [
                        match.id for match in loop.run(passages.find(person, vector, words, limit=WANTED, mode=mode))
                    ]

                return ask

            def vecs_query(question: Vectors) -> list[str]:
                return [
                    str(found)
                    for found in collection.query(
                        data=question, limit=WANTED, filters={"owner": {"$eq": str(tenant.owner)}}
                    )
                ]

            methods: dict[str, Callable[[Vectors], list[str]]] = {
                "find, semantic": find("semantic"),
                "find, hybrid": find("hybrid"),
                "exact scan": lambda question: exact(tenant.owner, question),
                "vecs query": vecs_query,
            }
            for name, ask in methods.items():
                yield _measure(name, ask, vectors, tenant)
            loop.run(database.close())


def _measure(name: str, ask: Callable[[Vectors], list[str]], vectors: Vectors, tenant: Tenant) -> Measured:
    recalls, returned, seconds = [], [], []
    possible = min(WANTED, len(tenant.rows))
    ask(tenant.questions[0])  # connected, and its plan's pages in memory
    for question in tenant.questions:
        began = time.perf_counter()
        found = ask(question)
        seconds.append(time.perf_counter() - began)
        recalls.append(len(set(found) & tenant.exact(vectors, question)) / possible)
        returned.append(len(found) / possible)
    return Measured(
        passages=len(vectors),
        share=tenant.share,
        method=name,
        recall=None if "hybrid" in name else round(statistics.mean(recalls), 3),
        fewest=round(min(returned), 2),
        p50_ms=round(statistics.median(seconds) * 1000, 1),
        p95_ms=round(statistics.quantiles(seconds, n=20)[-1] * 1000, 1),
    )


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


def _id(row: int) -> str:
    return f"{row:08d}"


if __name__ == "__main__":
    print(f"{'passages':>9} {'share':>6}  {'method':<15} {'recall@10':>9} {'fewest':>6} {'p50 ms':>7} {'p95 ms':>7}")
    for each in run([int(size) for size in sys.argv[1:]] or SIZES, say=lambda line: print(line, file=sys.stderr)):
        print(
            f"{each.passages:>9,} {each.share:>6.1%}  {each.method:<15} {each.recall or '-':>9} {each.fewest:>6.2f}"
            f" {each.p50_ms:>7.1f} {each.p95_ms:>7.1f}"
        )
