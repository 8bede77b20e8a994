"""Documents: what a person gives us to read.

    POST   /v1/documents               NewDocument -> Created       30 a minute for each caller
    POST   /v1/documents/{id}/ingest   -> Accepted                  30 a minute
    POST   /v1/documents/text          NewText -> AcceptedText      30 a minute
    GET    /v1/documents               ?cursor=&limit= -> Page      120 a minute, with the next
    GET    /v1/documents/{id}          -> Document
    DELETE /v1/documents/{id}                                       30 a minute

A file never passes through here: the browser PUTs it into the bucket by the signed request that `POST /v1/documents`
returns, then asks for its ingestion, which the worker does. Nothing is parsed or embedded here, so this stays quick.

An `Idempotency-Key` makes a POST safe to repeat: a document's id is made from it, and a job keeps it.
"""

import hashlib
import re
from contextlib import suppress
from datetime import datetime
from pathlib import PurePath
from typing import Annotated, Literal
from uuid import UUID, uuid4, uuid5

from fastapi import status
from pydantic import BaseModel, Field

from agentkit import auth, jobs, passages, storage
from agentkit.auth import Caller, CurrentCaller, FreshCaller
from agentkit.database import Row
from agentkit.errors import Conflict, ContentTooLarge, Invalid, NotFound, Problem, Unavailable, UnsupportedMediaType
from agentkit.http import Body, IdempotencyKey, Text, create_app, lambda_handler
from agentkit.jobs import Fault, Job
from agentkit.paging import PageCursor, PageLimit
from agentkit.ratelimit import limit
from agentkit.settings import StorageSettings, load
from functions.documents import rows
from functions.documents.rows import Audience, NewRow

MEDIA_TYPES = ("application/pdf", "text/markdown", "text/plain", "text/html")
# A request's body ends at 6 MB in Lambda; JSON's escapes can make a text half as large again.
MAX_TEXT_BYTES = 4_000_000
KEPT_IN_FILENAME = re.compile(r"[^A-Za-z0-9._-]+")

app = create_app("documents")

# More than blanks.
VISIBLE = r"\S"

Title = Annotated[Text, Field(min_length=1, max_length=300, pattern=VISIBLE)]


class NewDocument(Body):
    """A file that will be uploaded."""

    filename: Text = Field(min_length=1, max_length=255, pattern=VISIBLE, examples=["staff-handbook.pdf"])
    media_type: Text = Field(
        max_length=255, description=f"One of {', '.join(MEDIA_TYPES)}.", examples=["application/pdf"]
    )
    size_bytes: int = Field(ge=1, description="Exactly as many as will be uploaded.", examples=[48_211])
    title: Title | None = Field(None, description="The filename without its ending when left out.")
    audience: Audience = Field("owner", description="`everyone` (all signed-in users) is for admins.")


class NewText(Body):
    """A text to read, without a file."""

    title: Title = Field(examples=["Notes on the lease"])
    text: Text = Field(min_length=1, pattern=VISIBLE, examples=["# Lease\n\nIt ends on 30 September 2027."])
    media_type: Literal["text/markdown", "text/plain"] = "text/markdown"
    audience: Audience = "owner"


class Upload(BaseModel):
    """The request that uploads the file: send it as it stands, with the file as its body."""

    url: str
    method: str
    headers: dict[str, str]
    expires_at: datetime


class Created(BaseModel):
    """A document that waits for its file."""

    id: UUID
    status: Literal["awaiting_upload", "queued", "processing", "ready", "failed"] = Field(
        description="`awaiting_upload`, unless a repeated request finds the document further on."
    )
    upload: Upload


class Accepted(BaseModel):
    """The work has begun; `GET /v1/jobs/{job_id}` says how far it is."""

    job_id: UUID


class AcceptedText(Accepted):
    """The text is a document, and is being read."""

    id: UUID


class Document(BaseModel):
    """A document, as its readers see it."""

    id: UUID
    title: str
    filename: str
    media_type: str
    size_bytes: int
    audience: Audience
    status: Literal["awaiting_upload", "queued", "processing", "ready", "failed"]
    pages: int | None = Field(description="Known once it is ready, for files that have pages.")
    passages: int | None = Field(description="Known once it is ready.")
    error: Fault | None = Field(description="Why it failed; only when it did.")
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Row) -> "Document":
        """Return the document of that row."""
        error = Fault(code=row["error_code"], detail=row["error"]) if row["error_code"] else None
        return cls.model_validate({**row, "error": error})


class Page(BaseModel):
    """Documents, newest first."""

    items: list[Document]
    next_cursor: str | None = Field(description="Ask for the next page with it; null on the last.")


@app.post("/documents", status_code=status.HTTP_201_CREATED, dependencies=[limit("documents-write", per_minute=30)])
async def create_document(new: NewDocument, caller: CurrentCaller, key: IdempotencyKey = None) -> Created:
    """Make a document and return the request by which its file is uploaded."""
    media_type = new.media_type.partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise UnsupportedMediaType(f"We read {', '.join(MEDIA_TYPES)}.")
    _check_size(new.size_bytes, load(StorageSettings).max_upload_bytes)
    await _check_audience(new.audience, caller)
    document_id = _new_id(caller, key)
    row = NewRow(
        id=document_id,
        title=new.title or PurePath(new.filename).stem.strip() or new.filename,
        filename=new.filename,
        media_type=media_type,
        size_bytes=new.size_bytes,
        audience=new.audience,
        object_key=f"{caller.id}/{document_id}/{_safe(new.filename)}",
    )
    upload = await storage.upload_url(row.object_key, media_type=media_type, size_bytes=new.size_bytes)
    kept = await rows.insert(caller, row)
    return Created(
        id=document_id,
        status=kept["status"],
        upload=Upload(url=upload.url, method=upload.method, headers=upload.headers, expires_at=upload.expires_at),
    )


@app.post(
    "/documents/{document_id}/ingest",
    status_code=status.HTTP_202_ACCEPTED,
    dependencies=[limit("documents-write", per_minute=30)],
)
async def ingest_document(document_id: UUID, caller: CurrentCaller, key: IdempotencyKey = None) -> Accepted:
    """Have the worker read the uploaded file; again, when it was read before."""
    row = await rows.owned(caller, document_id)
    try:
        stored = await storage.head(row["object_key"])
    except NotFound as error:
        raise Conflict("The file has not been uploaded yet.", code="upload_missing") from error
    if stored.size_bytes != row["size_bytes"]:
        raise Conflict(
            f"The uploaded file has {stored.size_bytes:,} bytes where {row['size_bytes']:,} were announced.",
            code="upload_size_mismatch",
        )
    job = await _enqueue(caller, document_id, key)
    return Accepted(job_id=job.id)


@app.post(
    "/documents/text", status_code=status.HTTP_202_ACCEPTED, dependencies=[limit("documents-write", per_minute=30)]
)
async def create_text(new: NewText, caller: CurrentCaller, key: IdempotencyKey = None) -> AcceptedText:
    """Make a document of a text and have the worker read it."""
    content = new.text.encode()
    _check_size(len(content), MAX_TEXT_BYTES)
    await _check_audience(new.audience, caller)
    document_id = _new_id(caller, key)
    filename = "text.md" if new.media_type == "text/markdown" else "text.txt"
    row = NewRow(
        id=document_id,
        title=new.title,
        filename=filename,
        media_type=new.media_type,
        size_bytes=len(content),
        audience=new.audience,
        # By the whole request: the same key with another text or title must not touch the first one's object.
        object_key=f"{caller.id}/{document_id}/{hashlib.sha256(new.model_dump_json().encode()).hexdigest()}-{filename}",
    )
    # The object first: without it the document would be of no use, and of itself it is seen by nobody.
    await storage.write(row.object_key, content, media_type=new.media_type)
    try:
        await rows.insert(caller, row)
    except Problem as problem:
        # A repeated key has the first request's object: it stays, unless no row of that key can have it.
        if key is None or isinstance(problem, Invalid):
            with suppress(Problem):
                await storage.delete(row.object_key)
        raise
    job = await _enqueue(caller, document_id, str(document_id) if key else None)
    return AcceptedText(id=document_id, job_id=job.id)


@app.get("/documents", dependencies=[limit("documents-read", per_minute=120)])
async def list_documents(
    caller: CurrentCaller,
    cursor: PageCursor = None,
    limit: PageLimit = 20,
) -> Page:
    """Return the documents that the caller may read, newest first."""
    found, next_cursor = await rows.page(caller, cursor, limit)
    return Page(items=[Document.of(row) for row in found], next_cursor=next_cursor)


@app.get("/documents/{document_id}", dependencies=[limit("documents-read", per_minute=120)])
async def get_document(document_id: UUID, caller: CurrentCaller) -> Document:
    """Return one document that the caller may read."""
    return Document.of(await rows.visible(caller, document_id))


@app.delete(
    "/documents/{document_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    dependencies=[limit("documents-write", per_minute=30)],
)
async def delete_document(document_id: UUID, caller: FreshCaller) -> None:
    """Remove the caller's document, its passages and its file.

    What can be read goes first and the row last, so that a deletion which broke off leaves nothing to read and can be
    asked for again. A worker that was writing meanwhile either finds the row gone and takes its passages back, or
    wrote them before that; these are deleted at the end.
    """
    row = await rows.owned(caller, document_id)
    await passages.remove_as(caller, document_id)
    await storage.delete(row["object_key"])
    await rows.delete(caller, document_id)
    await passages.remove_as(caller, document_id)


def _check_size(size_bytes: int, most: int) -> None:
    if size_bytes > most:
        raise ContentTooLarge(f"At most {most:,} bytes.", max_bytes=most)


async def _check_audience(audience: Audience, caller: Caller) -> None:
    if audience == "everyone":
        await auth.admin(caller)
        await auth.fresh_caller(caller)


def _new_id(caller: Caller, key: str | None) -> UUID:
    """Return a new id; for a key always the same, and never another person's."""
    return uuid5(caller.id, f"documents {key}") if key else uuid4()


def _safe(filename: str) -> str:
    """Return a name for the object that no storage, URL or log takes amiss."""
    return KEPT_IN_FILENAME.sub("-", filename).strip("-.")[-100:] or "file"


async def _enqueue(caller: Caller, document_id: UUID, key: str | None) -> Job:
    try:
        return await jobs.enqueue(
            caller,
            "ingest",
            document_id=document_id,
            idempotency_key=key,
            also=[(rows.QUEUED, [document_id])],
        )
    except Unavailable as problem:
        if problem.code == "queue_unavailable":
            await rows.fail(caller, document_id, problem.code, problem.detail)
        raise


handler = lambda_handler(app)
