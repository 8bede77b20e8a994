"""A document's file -> its text -> passages -> vectors -> `vecs.passages`, in steps that may break off anywhere.

What is ready stays findable until the new passages take its place, all at once. What was embedded once is not embedded
again: passages are known by what they say, so the same bytes cost nothing and a changed file costs its changes.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from agentkit import database, embeddings, jobs, passages, storage, telemetry
from agentkit.database import Row
from agentkit.errors import ContentTooLarge, NotFound, Unavailable
from agentkit.jobs import Job
from agentkit.passages import Incomplete, Passage, Superseded
from agentkit.settings import EmbeddingSettings, QuotaSettings, StorageSettings, load
from agentkit.work import Busy, LeaseLost, Over, WorkFailed
from functions.worker import chunk, claims, sandbox
from functions.worker.chunk import Sizes
from functions.worker.claims import JobClaim, PartClaim, Steps
from functions.worker.extract import Unreadable
from functions.worker.fetch import FetchFailed, fetch
from functions.worker.sandbox import Reading

# Passages embedded between two notes of progress.
BATCH = 64
# A document of more is embedded in parts of so many, which several workers share: seconds each, so that little is
# lost with a worker.
PART = 128
# Workers called to help with a document in parts.
HELPERS = 8
# Another number when the same bytes and sizes give other passages than before.
EDITION = 1
TITLE_CHARACTERS = 300

# The service sees everyone's documents: a job works on one of its own owner's, whatever its row says. One that was
# cancelled just now must not say that it is being read. Also: what the owner's other documents hold.
BEGIN = """
    with job as (select owner, document_id from agentkit.jobs where id = %(id)s and holder = %(holder)s for update)
    update agentkit.documents as document set status = 'processing'
    from job, lateral (
        select coalesce(sum(pages), 0)::bigint as other_pages, coalesce(sum(size_bytes), 0)::bigint as other_bytes,
               coalesce(sum(passages), 0)::bigint as other_passages
        from agentkit.documents as other where other.owner = job.owner and other.id <> job.document_id
    ) as others
    where document.id = job.document_id and document.owner = job.owner
    returning document.*, others.*
"""
HELD = "select exists (select from agentkit.jobs where id = %(id)s and holder = %(holder)s) as held"
FIND = "select * from agentkit.documents where id = %s and owner = %s"
FETCHED = """
    update agentkit.documents
    set size_bytes = %(size_bytes)s, media_type = %(media_type)s, filename = %(filename)s
    where id = %(id)s
"""
NAMED = "update agentkit.documents set title = %s where id = %s"
# The job first, as everyone locks them: a deletion at this moment waits, and neither waits for the other.
LOCK = "select from agentkit.jobs where id = %(id)s for update"
# Both or neither: a document that is gone leaves its job as it is, to be failed; a job that is not ours any more leaves
# the document as it is. Asked for once more since it began, the job begins again: its file may be another by now.
READY = """
    with document as (
        select id from agentkit.documents where id = %(document_id)s and owner = %(owner)s for update
    ),
    ended as (
        update agentkit.jobs
        set status = case when source ? 'again' then 'queued' else 'ready' end,
            finished_at = case when source ? 'again' then null else now() end,
            attempts = case when source ? 'again' then 0 else attempts end,
            source = source - 'again', holder = null, lease_until = null,
            progress = progress || case when progress ? 'pages_total'
                                        then jsonb_build_object('pages', progress -> 'pages_total') else '{}' end
        where id = %(id)s and holder = %(holder)s and exists (select from document)
        returning id, status
    ),
    ready as (
        update agentkit.documents
        set status = ended.status, media_type = %(media_type)s, size_bytes = %(size_bytes)s, pages = %(pages)s,
            passages = %(passages)s, content_hash = %(content_hash)s, etag = %(etag)s, recipe = %(recipe)s,
            error_code = null, error = null
        from ended where agentkit.documents.id in (select id from document)
    ),
    parts as (delete from agentkit.job_parts where job_id in (select id from ended))
    select exists (select from document) as kept, exists (select from ended) as ended
"""

log = telemetry.logger(__name__)


class Note(Protocol):
    """Tells how far a batch has brought it."""

    async def __call__(self, tokens: int, *, staged: int, reused: int) -> None:
        """So many passages have their vectors, of which so many were known; the last ones cost so much."""


async def next_step(job_id: UUID) -> JobClaim | PartClaim | Busy | Over:
    """Claim what is to be done next on that job."""
    return await claims.claim(job_id, Steps(read=_read, embed=_embed_part, index=_index))


async def _read(claim: JobClaim) -> None:
    """Read the document's file and cut it; embed and index it at once when it is short."""
    job = claim.job
    ours = {"id": job.id, "holder": claim.holder}
    found, held = await database.service_fetch_all("begin an ingestion", [(BEGIN, ours), (HELD, ours)])
    if not held[0]["held"]:
        raise LeaseLost
    if not found:
        raise await _deleted(job)
    row = found[0]
    # As it was read before; a site may say otherwise.
    media_type = row["media_type"]
    file = await _fetched(row) if row["source_url"] else await _stored(row)
    source: dict[str, object] = {
        "etag": file.etag,
        "content_hash": hashlib.sha256(file.content).hexdigest(),
        "recipe": _recipe(),
        "size_bytes": len(file.content),
        "media_type": media_type,
        "pages": row["pages"],
    }
    if row["passages"] and all(row[name] == source[name] for name in ("content_hash", "recipe")):
        await claim.advance(
            "indexing", passages=row["passages"], passages_total=row["passages"], reused=row["passages"]
        )
        await _finish(claim, source, count=row["passages"])
        return
    began = time.perf_counter()
    reading = await _apart(row, file.content)
    _check_quota(row, pages=reading.pages or 0, passages=len(reading.passages))
    source |= {"media_type": reading.media_type, "pages": reading.pages}
    row["title"] = await _title(row, reading)
    log.info(
        "document.parsed",
        document_id=row["id"],
        media_type=reading.media_type,
        pages=reading.pages,
        passages=len(reading.passages),
        seconds=round(time.perf_counter() - began, 2),
    )
    placed = list(enumerate(reading.passages))
    if len(placed) > PART:
        parts = [placed[start : start + PART] for start in range(0, len(placed), PART)]
        await claim.split(parts, source)
        await _call_helpers(job, len(parts))
        return
    total = len(placed)
    pages = {} if reading.pages is None else {"pages": reading.pages, "pages_total": reading.pages}

    async def note(tokens: int, *, staged: int, reused: int) -> None:
        await claim.note(tokens, passages=staged, passages_total=total, reused=reused, **pages)

    await note(0, staged=0, reused=0)
    reused = await _embed(job, _passages(job, row, placed), note)
    await claim.advance("indexing", passages=total, passages_total=total, reused=reused, **pages)
    await _replace(claim, source, count=total)


async def _embed_part(claim: PartClaim) -> None:
    """Give one part's passages their vectors."""
    row = await _document(claim.job)
    await _embed(claim.job, _passages(claim.job, row, claim.passages), claim.note)


async def _index(claim: JobClaim) -> None:
    """Make the new passages the document's, unless its file has become another meanwhile."""
    row = await _document(claim.job)
    try:
        stored = await storage.head(row["object_key"])
    except NotFound as error:
        raise _file_missing() from error
    if stored.etag != claim.job.source.get("etag"):
        log.info("document.changed", document_id=row["id"], job_id=claim.job.id)
        await claim.start_over()
        return
    await _replace(claim, claim.job.source, count=claim.job.progress["passages_total"])


async def _replace(claim: JobClaim, source: dict[str, object], *, count: int) -> None:
    """Swap the document's passages for those that the job has staged, and end the job."""
    job = claim.job
    assert job.document_id is not None  # noqa: S101  # `documents` enqueues no ingestion without one
    try:
        await passages.swap(job.id, job.document_id, job.owner, version=job.number, count=count)
    except Incomplete as error:
        # An earlier attempt staged passages of what was another file then.
        log.warning("document.incomplete", document_id=job.document_id, job_id=job.id, exc_info=error)
        await passages.unstage(job.id)
        await claim.start_over()
        return
    except Superseded as error:
        raise WorkFailed("superseded", "The document was ingested again meanwhile.") from error
    await _finish(claim, source, count=count)
    await passages.unstage(job.id)


async def _finish(claim: JobClaim, source: dict[str, object], *, count: int) -> None:
    """The document and its job are ready."""
    job = claim.job
    facts = {
        **source,
        "passages": count,
        "document_id": job.document_id,
        "owner": job.owner,
        "id": job.id,
        "holder": claim.holder,
    }
    _, (said,) = await database.service_fetch_all("end an ingestion", [(LOCK, facts), (READY, facts)])
    if not said["kept"]:
        raise await _deleted(job)
    if not said["ended"]:
        raise LeaseLost
    log.info("document.ingested", document_id=job.document_id, job_id=job.id, passages=count, pages=source["pages"])


async def _embed(job: Job, found: Sequence[Passage], note: Note) -> int:
    """Stage the passages with their vectors, telling `note` after each batch; return how many were known before."""
    reused = 0
    for start in range(0, len(found), BATCH):
        batch = found[start : start + BATCH]
        unknown = await passages.stage_known(job.id, batch)
        tokens = 0
        if unknown:
            embedded = await embeddings.embed([chunk.embedded(each.title, each) for each in unknown])
            await passages.stage(job.id, unknown, embedded.vectors)
            tokens = embedded.tokens
        reused += len(batch) - len(unknown)
        await note(tokens, staged=start + len(batch), reused=reused)
    return reused


def _passages(job: Job, row: Row, placed: Sequence[tuple[int, chunk.Passage]]) -> list[Passage]:
    return [
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
            content_hash=embeddings.content_hash(chunk.embedded(row["title"], piece)),
            version=job.number,
        )
        for ordinal, piece in placed
    ]


async def _stored(row: Row) -> storage.File:
    """Return the file that was uploaded."""
    try:
        return await storage.read(row["object_key"], max_bytes=load(StorageSettings).max_upload_bytes)
    except NotFound as error:
        raise _file_missing() from error
    except ContentTooLarge as error:
        raise WorkFailed("too_large", error.detail) from error


async def _fetched(row: Row) -> storage.File:
    """Return the web page as it is now, once it is stored as the document's file."""
    try:
        page = await fetch(row["source_url"], max_bytes=load(StorageSettings).max_upload_bytes)
    except FetchFailed as failure:
        if failure.retriable:
            raise Unavailable(failure.sentence, code=failure.code) from failure
        raise WorkFailed(failure.code, failure.sentence) from failure
    _check_quota(row, bytes=len(page.content))
    row |= {"filename": page.filename, "media_type": page.media_type, "size_bytes": len(page.content)}
    etag = await storage.write(row["object_key"], page.content, media_type=page.media_type)
    await database.service_fetch_all("note what was fetched", [(FETCHED, row)])
    return storage.File(page.content, etag)


async def _apart(row: Row, content: bytes) -> Reading:
    try:
        return await sandbox.read_apart(
            content,
            announced=row["media_type"],
            filename=row["filename"],
            title=row["title"],
            sizes=Sizes.configured(),
        )
    except Unreadable as error:
        raise WorkFailed(error.code, error.sentence) from error


def _check_quota(row: Row, **held: int) -> None:
    """Raise WorkFailed when with so many bytes, pages or passages the owner would hold more than one person may."""
    settings = load(QuotaSettings)
    limits = {
        "bytes": settings.user_max_bytes,
        "pages": settings.user_max_pages,
        "passages": settings.user_max_passages,
    }
    for what, new in held.items():
        most = limits[what]
        if row[f"other_{what}"] + new > most:
            sentence = f"You may keep {most:,} {what} in all, and this document has {new:,}; delete others first."
            raise WorkFailed("quota_exceeded", sentence)


async def _title(row: Row, reading: Reading) -> str:
    """Return what the document is called: a web page that nobody named has its address until its own name is known."""
    unnamed = row["source_url"] is not None and row["title"] == row["source_url"][:TITLE_CHARACTERS]
    title = (reading.title or "").strip()[:TITLE_CHARACTERS]
    if not (unnamed and title):
        return str(row["title"])
    await database.service_fetch_all("name a document", [(NAMED, [title, row["id"]])])
    return title


async def _document(job: Job) -> Row:
    (found,) = await database.service_fetch_all("find a document", [(FIND, [job.document_id, job.owner])])
    if not found:
        raise await _deleted(job)
    return found[0]


async def _deleted(job: Job) -> WorkFailed:
    """Return why there is nothing to do, once no passage is left, of this attempt or of one that broke off."""
    assert job.document_id is not None  # noqa: S101  # `documents` enqueues no ingestion without one
    await passages.unstage(job.id)
    await passages.remove(job.document_id, job.owner)
    return WorkFailed("document_deleted", "The document was deleted.")


def _file_missing() -> WorkFailed:
    return WorkFailed("file_missing", "The file is no longer there; upload it again.")


def _recipe() -> str:
    """Return what the passages depend on beside the bytes."""
    sizes, model = Sizes.configured(), load(EmbeddingSettings)
    return (
        f"{EDITION}: {sizes.characters}/{sizes.overlap}/{sizes.window_tokens},"
        f" {model.embedding_model}/{model.embedding_dimensions} in {model.embedding_collection}"
    )


async def _call_helpers(job: Job, parts: int) -> None:
    try:
        await jobs.send(job, copies=min(parts - 1, HELPERS))
    except Exception as error:  # whatever the queue says: it takes longer alone, and gets done
        log.warning("queue.refused", job_id=job.id, exc_info=error)
