"""The worker: does the long work that other functions asked for, one SQS message for each job.

    ingest      a document's file -> its text -> passages -> vectors -> `vecs.passages`       asked for by `documents`

It has no URL. Every step may run again: passages are named by their document and place, so a second ingestion writes
over the first. What passes by itself (a database, the storage or the embedding model out of reach) is left to
SQS's next delivery; what does not makes the document `failed`, with a code and a sentence for its owner.
"""

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING
from uuid import UUID

from agentkit import database, embeddings, jobs, passages, storage, telemetry
from agentkit.database import Row
from agentkit.embeddings import Vector
from agentkit.errors import ContentTooLarge, NotFound
from agentkit.jobs import Job, Work, WorkFailed, sqs_handler
from agentkit.passages import Passage
from agentkit.settings import StorageSettings, load
from functions.worker.chunk import chunk
from functions.worker.extract import Extract, Unreadable
from functions.worker.parse import parse

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# Passages embedded between two notes of progress.
BATCH = 64

# The service sees everyone's documents: a job works on one of its own owner's, whatever its row says.
BEGIN = "update agentkit.documents set status = 'processing' where id = %s and owner = %s returning *"
READY = """
    update agentkit.documents
    set status = 'ready', pages = %(pages)s, passages = %(passages)s, content_hash = %(content_hash)s,
        error_code = null, error = null
    where id = %(id)s
"""
FAILED = "update agentkit.documents set status = 'failed', error_code = %s, error = %s where id = %s and owner = %s"

telemetry.configure_logging()
log = telemetry.logger(__name__)


async def ingest(job: Job) -> None:
    """The document of that job is ready: its passages can be found and say what its file says.

    Raises WorkFailed when the file cannot be read, or when its document was deleted meanwhile.
    """
    began = time.perf_counter()
    assert job.document_id is not None  # noqa: S101  # `documents` enqueues no ingestion without one
    async with database.service_transaction("begin an ingestion") as connection:
        row = await (await connection.execute(BEGIN, [job.document_id, job.owner])).fetchone()
    if row is None:
        raise await _deleted(job.document_id, job.owner)
    content = await _content(row)
    extract = await _extract(content, row["media_type"])
    found = [
        Passage(
            document_id=row["id"],
            owner=row["owner"],
            audience=row["audience"],
            title=row["title"],
            ordinal=ordinal,
            text=piece.text,
            start=piece.start,
            end=piece.end,
            page=piece.page,
            heading=piece.heading,
            content_hash=hashlib.sha256(piece.text.encode()).hexdigest(),
        )
        for ordinal, piece in enumerate(await asyncio.to_thread(chunk, extract))
    ]
    await passages.stage(job.id, found, await _vectors(job, found))
    await passages.swap(job.id, row["id"], row["owner"], version=0, count=len(found))
    await passages.unstage(job.id)
    await _finish(row, pages=extract.pages, count=len(found), content=content)
    seconds = round(time.perf_counter() - began, 2)
    log.info("document.ingested", document_id=row["id"], pages=extract.pages, passages=len(found), seconds=seconds)


async def ingest_failed(connection: "AsyncConnection[Row]", job: Job, failure: WorkFailed) -> None:
    """The document says why it could not be read; passages of an earlier ingestion stay."""
    await connection.execute(FAILED, [failure.code, failure.sentence, job.document_id, job.owner])


async def _content(row: Row) -> bytes:
    try:
        return await storage.read(row["object_key"], max_bytes=load(StorageSettings).max_upload_bytes)
    except NotFound as error:
        raise WorkFailed("file_missing", "The file is no longer there; upload it again.") from error
    except ContentTooLarge as error:
        raise WorkFailed("too_large", error.detail) from error


async def _extract(content: bytes, media_type: str) -> Extract:
    try:
        return await asyncio.to_thread(parse, content, media_type)
    except Unreadable as error:
        raise WorkFailed(error.code, error.sentence) from error


async def _vectors(job: Job, found: list[Passage]) -> list[Vector]:
    """Return each passage's vector, noting progress for those who watch the job."""
    vectors: list[Vector] = []
    for start in range(0, len(found), BATCH):
        await jobs.progress(job, passages=start, passages_total=len(found))
        texts = [_embedded(each) for each in found[start : start + BATCH]]
        vectors += (await embeddings.embed(texts)).vectors
    await jobs.progress(job, passages=len(found), passages_total=len(found))
    return vectors


def _embedded(passage: Passage) -> str:
    """Return what the vector stands for: the passage in its place, since "it rises to 31 days" says little alone."""
    return "\n".join([" > ".join([passage.title, *passage.heading]), passage.text])


async def _finish(row: Row, *, pages: int | None, count: int, content: bytes) -> None:
    facts = {
        "id": row["id"],
        "pages": pages,
        "passages": count,
        "content_hash": hashlib.sha256(content).hexdigest(),
    }
    async with database.service_transaction("end an ingestion") as connection:
        kept = (await connection.execute(READY, facts)).rowcount
    if not kept:
        raise await _deleted(row["id"], row["owner"])


async def _deleted(document_id: UUID, owner: UUID) -> WorkFailed:
    """Return why there is nothing to do, once no passage is left, of this attempt or of one that broke off."""
    await passages.remove(document_id, owner)
    return WorkFailed("document_deleted", "The document was deleted.")


handler = sqs_handler({"ingest": Work(run=ingest, failed=ingest_failed)})
