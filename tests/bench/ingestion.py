"""Ingestion through the queue: how much slower than the embedding model alone, in how much memory, at what cost.

    python -m infra bench ingestion

Documents lie in the bucket and their jobs' messages in the queue; the worker's own sandboxes do the rest, with the real
embedding model. Beside it, in the same run: the model alone, asked for the vectors of the same texts by as many clients
as there are sandboxes. What a passage costs beside its vector is measured with a model that answers at once, on a table
that holds 1,000 and then 100,000 other passages.
"""

import asyncio
import json
import os
import random
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import psycopg
from fpdf import FPDF

from agentkit import jobs
from functions.worker import chunk
from infra.functions import declared
from infra.local.aws import BUCKET, Aws
from infra.local.lambdas import Lambdas, Limits
from infra.local.poller import poll
from tests.bench.parts import Parts, parts
from tests.bench.row import Row
from tests.parts.embedding_model import EmbeddingModel, serving
from tests.parts.people import ADA, BOB

WORKER = next(function for function in declared() if function.name == "worker")
SANDBOXES = 2
PAGES, SMALL_DOCUMENTS = 1_000, 2_000
# Of a document of a page, some 200 words.
SECTIONS, SENTENCES = 2, 7
# Messages that wait in the queue: its stand-in looks at each of them for each request, and would be what is measured.
WAITING = 60
# Of the same texts, what the model alone is asked for, several times.
SAMPLE, SAMPLES, REQUEST = 256, 5, 64
MB = 1_000_000
MEMORY_MB = 512
LEAST_OF_ALONE = 0.8
# Other passages on the table while what a passage costs is measured, and how many are ingested to measure it.
FEW, MANY, MEASURED, ROUNDS = 1_000, 100_000, 400, 5
LONGEST_SECONDS = 900
SUBJECT = "ingestion"
STATES = "select status, count(*) from agentkit.jobs where id = any(%s) group by status"
WORDS = """
    agreement boiler contract delivery engine fee garage handbook invoice july keeper lease meter notice office payment
    quarter rent server tenant update valve warranty yard access bicycle clause deposit entry floor guarantee heating
""".split()


def run() -> list[Row]:
    """Measure all of it; some five minutes."""
    with parts() as up, _bucket(up.folder) as aws:
        return asyncio.run(_measured(up, aws))


async def _measured(up: Parts, aws: Aws) -> list[Row]:
    environment = {**os.environ, **up.environment, **aws.environment, "USER_MAX_DOCUMENTS": "1000000"}
    rows: list[Row] = []
    peak = 0.0
    for name, documents in (
        (f"a PDF of {PAGES:,} pages", [("application/pdf", _pdf(PAGES))]),
        (
            f"{SMALL_DOCUMENTS:,} documents of a page",
            [("text/markdown", _note(each, SECTIONS)) for each in range(SMALL_DOCUMENTS)],
        ),
    ):
        async with _worker(environment, up.folder) as memory:
            # Starting Pythons is no part of it.
            await _ingested(up, aws, [("text/markdown", _note(-each, 1)) for each in range(1, 5 * SANDBOXES + 1)])
            _empty(up)
            seconds = await _ingested(up, aws, documents)
        peak = max(peak, memory())
        texts = _embedded(up)
        alone = await _alone(up, texts)
        rows.append(
            Row(
                SUBJECT,
                f"{name}: passages a second",
                len(texts) / seconds,
                "/s",
                len(texts),
                baseline=alone,
                against="the model alone",
                budget=LEAST_OF_ALONE,
                bounds="ratio",
                at_least=True,
            )
        )
        _empty(up)
    rows.append(
        Row(SUBJECT, "most memory of a worker, its readers included", peak, "MB", 2, budget=MEMORY_MB, at_least=False)
    )
    return [*rows, await _cost(up, aws, environment)]


async def _cost(up: Parts, aws: Aws, environment: dict[str, str]) -> Row:
    """Return what a passage takes beside its vector among many others, beside what it takes among few."""
    taken: dict[int, list[float]] = {FEW: [], MANY: []}
    with serving(EmbeddingModel()) as model:
        near = {**environment, "EMBEDDING_BASE_URL": model.url}
        async with _worker(near, up.folder):
            await _ingested(up, aws, [("text/markdown", _note(-1, MEASURED))])
            held = 0
            for size in (FEW, MANY):
                _fill(up, held, size)
                held = size
                for number in range(ROUNDS):
                    documents = [("text/markdown", _note(-size - number, MEASURED))]
                    taken[size].append(await _ingested(up, aws, documents) / MEASURED * 1000)
    return Row(
        SUBJECT,
        f"a passage beside its vector, among {MANY:,} others",
        statistics.median(taken[MANY]),
        "ms",
        ROUNDS,
        baseline=statistics.median(taken[FEW]),
        against=f"among {FEW:,}",
        budget=1.5,
        bounds="ratio",
    )


@contextmanager
def _bucket(folder: Path) -> Iterator[Aws]:
    aws = Aws(folder, max_receives=5)
    aws.start()
    # `jobs` and boto3 of this process find it there.
    before = {name: os.environ.get(name) for name in aws.environment}
    os.environ.update(aws.environment)
    try:
        yield aws
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        aws.stop()


@asynccontextmanager
async def _worker(environment: dict[str, str], folder: Path) -> AsyncIterator[Callable[[], float]]:
    """Keep the worker's sandboxes fed from the queue; yields what says how many MB one of them has taken at most."""
    lambdas = Lambdas(
        environment, folder / "logs", [WORKER], Limits(sandboxes=SANDBOXES, timeout_seconds=LONGEST_SECONDS)
    )
    peak = 0.0

    async def watch() -> None:
        nonlocal peak
        while True:
            for sandbox in list(lambdas.functions["worker"]._all):
                if sandbox.pid is not None:
                    peak = max(peak, await asyncio.to_thread(_resident_mb, sandbox.pid))
            await asyncio.sleep(0.25)

    tasks = [asyncio.create_task(poll(lambdas, environment)), asyncio.create_task(watch())]
    try:
        yield lambda: peak
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await lambdas.stop()


def _resident_mb(pid: int) -> float:
    """Return what a process and its children hold, pages that they share counted once."""
    total = 0
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.Error:
        return 0.0
    return total / MB


async def _ingested(up: Parts, aws: Aws, documents: list[tuple[str, bytes]]) -> float:
    """Have the documents ingested; return the seconds from the first message to the last document that is ready."""
    with psycopg.connect(up.postgres.environment["ADMIN_DATABASE_URL"], autocommit=True) as connection:
        made = [_record(connection, aws, media_type, content) for media_type, content in documents]
        began = time.perf_counter()
        sent = 0
        while True:
            found: dict[str, int] = dict(connection.execute(STATES, [made]).fetchall())
            ready = found.get("ready", 0)
            if ready == len(made):
                return time.perf_counter() - began
            if found.get("failed") or time.perf_counter() - began > LONGEST_SECONDS:
                raise RuntimeError(f"The documents are not all ready: {found}")
            if sent - ready < WAITING and sent < len(made):
                await asyncio.to_thread(_send, aws, made[sent : sent + WAITING])
                sent = min(sent + WAITING, len(made))
            await asyncio.sleep(0.05)


def _send(aws: Aws, made: list[uuid.UUID]) -> None:
    url = aws.environment["JOBS_QUEUE_URL"]
    for start in range(0, len(made), jobs.SENT_AT_ONCE):
        bodies = [
            jobs.Envelope(job_id=job, kind="ingest").model_dump_json() for job in made[start:][: jobs.SENT_AT_ONCE]
        ]
        aws.sqs.send_message_batch(
            QueueUrl=url, Entries=[{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]
        )


def _record(connection: psycopg.Connection, aws: Aws, media_type: str, content: bytes) -> uuid.UUID:
    document, job = uuid.uuid4(), uuid.uuid4()
    key = f"{ADA.id}/{document}/file"
    aws.s3.put_object(Bucket=BUCKET, Key=key, Body=content)
    connection.execute(
        "insert into agentkit.documents (id, owner, title, filename, media_type, size_bytes, status, object_key)"
        " values (%s, %s, 'A document', 'file', %s, %s, 'queued', %s)",
        [document, ADA.id, media_type, len(content), key],
    )
    connection.execute(
        "insert into agentkit.jobs (id, owner, kind, document_id) values (%s, %s, 'ingest', %s)",
        [job, ADA.id, document],
    )
    return job


def _embedded(up: Parts) -> list[str]:
    """Return the texts whose vectors are stored."""
    with psycopg.connect(up.postgres.environment["ADMIN_VECTOR_DATABASE_URL"]) as connection:
        found = connection.execute("select metadata from vecs.passages").fetchall()
    return [
        chunk.embedded(each["title"], chunk.Passage(each["text"], 0, 0, None, tuple(each["heading"])))
        for (each,) in found
    ]


async def _alone(up: Parts, texts: list[str]) -> float:
    """Return how many of such texts a second the model embeds when nothing else is done; the median of some samples."""
    rates = []
    chosen = random.Random(1)  # noqa: S311  # a sample, not a secret
    async with httpx.AsyncClient(timeout=None) as client:  # noqa: S113  # it takes what it takes
        url = f"{up.environment['EMBEDDING_BASE_URL']}/embeddings"
        for _ in range(SAMPLES):
            sample = chosen.sample(texts, min(SAMPLE, len(texts)))
            requests = [sample[start : start + REQUEST] for start in range(0, len(sample), REQUEST)]
            turns = asyncio.Semaphore(SANDBOXES)

            async def ask(some: list[str], turns: asyncio.Semaphore = turns) -> None:
                async with turns:
                    answer = await client.post(url, json={"model": "", "input": some, "encoding_format": "float"})
                    answer.raise_for_status()

            began = time.perf_counter()
            await asyncio.gather(*map(ask, requests))
            rates.append(len(sample) / (time.perf_counter() - began))
    return statistics.median(rates)


def _empty(up: Parts) -> None:
    with psycopg.connect(up.postgres.environment["ADMIN_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("truncate agentkit.documents, agentkit.jobs, agentkit.job_parts")
    with psycopg.connect(up.postgres.environment["ADMIN_VECTOR_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("truncate vecs.passages, vecs.staged")


def _fill(up: Parts, held: int, wanted: int) -> None:
    """Give someone else passages until the table has so many of them."""
    chosen = np.random.default_rng(held)
    with psycopg.connect(up.postgres.environment["ADMIN_VECTOR_DATABASE_URL"], autocommit=True) as connection:
        document = str(uuid.uuid4())
        with connection.cursor().copy("copy vecs.passages (id, vec, metadata) from stdin") as copy:
            for number in range(held, wanted):
                vector = chosen.normal(size=384)
                about = {"owner": str(BOB.id), "document_id": document, "text": " ".join(WORDS[:20]), "title": "Other"}
                numbers = ",".join(f"{each:.4f}" for each in vector)
                copy.write_row((f"{document}:{number}", f"[{numbers}]", json.dumps(about)))


def _sentence(words: random.Random) -> str:
    return f"The {' '.join(words.choice(WORDS) for _ in range(12))} {words.randint(1, 9_999)}. "


def _note(number: int, sections: int) -> bytes:
    """Return a document of that many sections, each of which makes one passage."""
    words = random.Random(number)  # noqa: S311  # texts, not secrets
    return "\n\n".join(_section(words, each) for each in range(sections)).encode()


def _section(words: random.Random, number: int) -> str:
    return f"# Section {number}\n\n{''.join(_sentence(words) for _ in range(SENTENCES))}"


def _pdf(pages: int) -> bytes:
    """Return a PDF of that many pages, each of which makes one passage."""
    words = random.Random(pages)  # noqa: S311  # texts, not secrets
    book = FPDF()
    book.set_font("Helvetica", size=11)
    for _ in range(pages):
        book.add_page()
        book.multi_cell(0, 6, "".join(_sentence(words) for _ in range(SENTENCES)))
    return bytes(book.output())
