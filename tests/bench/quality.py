"""Retrieval quality: whether the passage that answers is found, and how far up, for each mode and several divisions.

    python -m infra bench quality

The labelled set of `tests/retrieval` is ingested with the local MiniLM into a Postgres of its own, once for each way to
divide it, and each question asked through `passages.find` as its owner. The defaults stand first and are held to being
no worse than the others, and hybrid search to being no worse than either half of it: by more than two questions in a
hundred: a set of that size cannot tell less from chance.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from agentkit import database, embeddings, passages, settings
from agentkit.settings import ChunkSettings
from functions.worker import chunk as chunking
from functions.worker.chunk import Placed, Sizes
from infra.local.embedder import Embedder
from infra.local.postgres import Postgres
from tests.bench.row import Row
from tests.parts.people import ADA, caller
from tests.retrieval import labelled
from tests.retrieval.labelled import Embedded, asked, ndcg, questions, ranks, recall

MODES: tuple[passages.Mode, ...] = get_args(passages.Mode)
# Two questions in a hundred.
NO_WORSE = 0.98

Figures = Mapping[tuple[str, passages.Mode], tuple[float, float]]


def alone(_: str, passage: Placed) -> str:
    """Return the passage without its place."""
    return passage.text


def divisions() -> dict[str, tuple[Sizes, Embedded]]:
    """Return what is compared, the defaults first: characters / of them repeated."""
    by_default = ChunkSettings.model_construct()
    window = by_default.embedding_window_tokens
    usual = Sizes(by_default.passage_characters, by_default.passage_overlap_characters, window)
    name = f"{usual.characters}/{usual.overlap}"
    return {
        name: (usual, chunking.embedded),
        "400/80": (Sizes(400, 80, window), chunking.embedded),
        "1200/200": (Sizes(1_200, 200, window), chunking.embedded),
        f"{usual.characters}/0": (Sizes(usual.characters, 0, window), chunking.embedded),
        f"{name}, without title and headings": (usual, alone),
    }


def run() -> list[Row]:
    """Measure every division and mode; takes about a minute, most of it embedding."""
    with _parts():
        figures = asyncio.run(_measured())
    usual, *others = divisions()
    rows = []
    for at, measure in enumerate(("nDCG@10", "recall@5")):
        hybrid = figures[usual, "hybrid"][at]
        best_half = max(figures[usual, mode][at] for mode in MODES if mode != "hybrid")
        best_other = max(figures[other, "hybrid"][at] for other in others)
        rows += [_row(f"{measure}, {mode}, {name}", figures[name, mode][at]) for name, mode in figures]
        rows += [
            _no_worse(f"{measure}, hybrid, {usual}", hybrid, best_half, "the better half of it"),
            _no_worse(f"{measure}, defaults, hybrid", hybrid, best_other, "the best of the others"),
        ]
    return rows


def _row(name: str, measured: float) -> Row:
    return Row("quality", name, measured, "", len(questions()))


def _no_worse(name: str, measured: float, baseline: float, against: str) -> Row:
    samples = len(questions())
    return Row("quality", name, measured, "", samples, baseline, against, NO_WORSE, bounds="ratio", at_least=True)


async def _measured() -> Figures:
    """Return nDCG@10 and recall@5 of each division and mode."""
    figures = {}
    vectors = await asked()
    for name, (sizes, embedded) in divisions().items():
        count = await labelled.ingest(ADA.id, sizes, embedded)
        print(f"{name}: {count} passages", file=sys.stderr, flush=True)
        for mode in MODES:
            places = await ranks(caller(ADA), mode, vectors)
            figures[name, mode] = ndcg(places), recall(places)
    await embeddings.close()
    await database.close()
    return figures


@contextmanager
def _parts() -> Iterator[None]:
    """The functions find a Postgres and an embedder of their own inside, and log in as the worker."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="agentkit-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        postgres, embedder = Postgres(folder, durable=False), Embedder(folder)
        try:
            for part in (postgres, embedder):
                part.start()
                os.environ |= part.environment
            for url in ("DATABASE_URL", "VECTOR_DATABASE_URL"):
                os.environ[url] = postgres.environment[f"WORKER_{url}"]
            os.environ["OPENAI_API_KEY"] = "not-needed-here"
            settings.forget()
            passages._collection.cache_clear()
            yield
        finally:
            os.environ.clear()
            os.environ |= before
            settings.forget()
            passages._collection.cache_clear()
            embedder.stop()
            postgres.stop()
