"""Documents: what a person gives us to read.

    POST   /v1/documents               NewDocument -> Created           30 a minute for each caller, with all that write
    POST   /v1/documents/{id}/upload   NewFile -> Upload
    POST   /v1/documents/{id}/ingest   -> Accepted
    POST   /v1/documents/text          NewText -> AcceptedDocument
    POST   /v1/documents/url           NewAddress -> AcceptedDocument
    DELETE /v1/documents/{id}
    GET    /v1/documents               ?cursor=&limit= -> Page          120 a minute, with the next
    GET    /v1/documents/{id}          -> Document
    POST   /v1/documents/hooks/storage                                  `hooks`: not for people

A file never passes through here: the browser PUTs it into the bucket by the signed request that `POST /v1/documents`
returns, then asks for its ingestion, which the worker does. Nothing is fetched, parsed or embedded here, so this stays
quick. What one person may keep is limited (`agentkit.documents`): pages and passages by the worker, which knows them.

An `Idempotency-Key` makes a POST safe to repeat: a document's id is made from it, and a job keeps it.
"""

import hashlib
import re
from contextlib import suppress
from datetime import datetime
from pathlib import PurePath
from typing import Annotated, Literal
from urllib.parse import urlsplit
from uuid import UUID, uuid4, uuid5

from fastapi import status
from pydantic import AfterValidator, BaseModel, Field

from agentkit import auth, jobs, passages, storage
from agentkit.auth import Caller, CurrentCaller, FreshCaller
from agentkit.database import Row
from agentkit.documents import Audience
from agentkit.documents import NewDocument as NewRow
from agentkit.errors import Conflict, ContentTooLarge, Invalid, NotFound, Problem
from agentkit.http import Body, IdempotencyKey, Text, create_app, lambda_handler
from agentkit.jobs import Fault, Job
from agentkit.paging import PageCursor, PageLimit
from agentkit.ratelimit import limit
from agentkit.settings import StorageSettings, load
from functions.documents import hooks, media, rows

# A request's body ends at 6 MB in Lambda; JSON's escapes can make a text half as large again.
MAX_TEXT_BYTES = 4_000_000
KEPT_IN_FILENAME = re.compile(r"[^A-Za-z0-9._-]+")
TITLE_CHARACTERS = 300

WRITE = limit("documents-write", per_minute=30)
READ = limit("documents-read", per_minute=120)

app = create_app("documents")

# More than blanks.
VISIBLE = r"\S"

Title = Annotated[Text, Field(min_length=1, max_length=TITLE_CHARACTERS, pattern=VISIBLE)]
MediaType = Annotated[
    Text,
    Field(
        max_length=255,
        description="What the browser takes the file for, which may be nothing: then the filename's ending decides.",
        examples=["application/pdf"],
    ),
]
Status = Literal["awaiting_upload", "queued", "processing", "ready", "failed", "cancelled"]


def _web_address(url: str) -> str:
    """Return it if it has the form of one; whether it leads anywhere that we go is for the worker to find out."""
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("must not contain blanks or control characters")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("must be a web address, such as https://example.com/page")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a name or a password")
    return url


WebAddress = Annotated[Text, AfterValidator(_web_address), Field(max_length=2_048, json_schema_extra={"format": "uri"})]


class NewDocument(Body):
    """A file that will be uploaded."""

    filename: Text = Field(min_length=1, max_length=255, pattern=VISIBLE, examples=["staff-handbook.pdf"])
    media_type: MediaType = ""
    size_bytes: int = Field(ge=1, description="Exactly as many as will be uploaded.", examples=[48_211])
    title: Title | None = Field(None, description="The filename without its ending when left out.")
    audience: Audience = Field("owner", description="`everyone` (all signed-in users) is for admins.")


class NewText(Body):
    """A text to read, without a file."""

    title: Title = Field(examples=["Notes on the lease"])
    text: Text = Field(min_length=1, pattern=VISIBLE, examples=["# Lease\n\nIt ends on 30 September 2027."])
    media_type: Literal["text/markdown", "text/plain"] = "text/markdown"
    audience: Audience = "owner"


class NewAddress(Body):
    """A web address whose page or file is to be read."""

    url: WebAddress = Field(examples=["https://example.com/handbook"])
    title: Title | None = Field(None, description="The page's own when left out.")
    audience: Audience = "owner"


class NewFile(Body):
    """A file that will take the place of a document's."""

    size_bytes: int = Field(ge=1, description="Exactly as many as will be uploaded.", examples=[48_211])
    media_type: MediaType | None = Field(None, description="As it was when left out.")


class Upload(BaseModel):
    """The request that uploads the file: send it as it stands, with the file as its body."""

    url: str
    method: str
    headers: dict[str, str]
    expires_at: datetime


class Created(BaseModel):
    """A document that waits for its file."""

    id: UUID
    status: Status = Field(description="`awaiting_upload`, unless a repeated request finds the document further on.")
    upload: Upload


class Accepted(BaseModel):
    """The work has begun; `GET /v1/jobs/{job_id}/events` tells how far it is."""

    job_id: UUID


class AcceptedDocument(Accepted):
    """It is a document, and is being read."""

    id: UUID


class Document(BaseModel):
    """A document, as its readers see it."""

    id: UUID
    title: str
    filename: str
    media_type: str
    size_bytes: int = Field(description="0 while a web address has not been fetched.")
    source_url: str | None = Field(description="The web address that it was fetched from.")
    audience: Audience
    status: Status
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


@app.post("/documents", status_code=status.HTTP_201_CREATED, dependencies=[WRITE])
async def create_document(new: NewDocument, caller: CurrentCaller, key: IdempotencyKey = None) -> Created:
    """Make a document and return the request by which its file is uploaded."""
    media_type = media.media_type(new.media_type, new.filename)
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
        object_key=_object_key(caller, document_id, new, new.filename),
    )
    upload = await _upload(row.object_key, media_type=media_type, size_bytes=new.size_bytes)
    kept = await rows.insert(caller, row)
    return Created(id=document_id, status=kept["status"], upload=upload)


@app.post("/documents/{document_id}/upload", dependencies=[WRITE])
async def replace_file(document_id: UUID, new: NewFile, caller: CurrentCaller) -> Upload:
    """Return the request by which a newer file takes the place of the document's.

    What is found of the document stays that of the earlier file until the newer one has been ingested.
    """
    _check_size(new.size_bytes, load(StorageSettings).max_upload_bytes)
    row = await rows.owned(caller, document_id)
    if row["source_url"] is not None:
        raise Conflict("The document is fetched from the web; ingest it again.", code="fetched_from_the_web")
    media_type = row["media_type"] if new.media_type is None else media.media_type(new.media_type, row["filename"])
    upload = await _upload(row["object_key"], media_type=media_type, size_bytes=new.size_bytes)
    await rows.resize(caller, document_id, size_bytes=new.size_bytes, media_type=media_type)
    return upload


@app.post("/documents/{document_id}/ingest", status_code=status.HTTP_202_ACCEPTED, dependencies=[WRITE])
async def ingest_document(document_id: UUID, caller: CurrentCaller, key: IdempotencyKey = None) -> Accepted:
    """Have the worker read the uploaded file, or fetch the web address; again, when it was read before."""
    row = await rows.owned(caller, document_id)
    if row["source_url"] is None:
        await _check_uploaded(row)
    job = await _enqueue(caller, document_id, key)
    return Accepted(job_id=job.id)


@app.post("/documents/text", status_code=status.HTTP_202_ACCEPTED, dependencies=[WRITE])
async def create_text(new: NewText, caller: CurrentCaller, key: IdempotencyKey = None) -> AcceptedDocument:
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
        object_key=_object_key(caller, document_id, new, filename),
    )
    # The object first: without it the document would be of no use, and of itself it is seen by nobody.
    await storage.write(row.object_key, content, media_type=new.media_type)
    try:
        await rows.insert(caller, row)
    except Problem as problem:
        # A repeated key has the first request's object: it stays, unless no row of that key can have it.
        if key is None or isinstance(problem, Invalid | Conflict):
            with suppress(Problem):
                await storage.delete(row.object_key)
        raise
    job = await _enqueue(caller, document_id, str(document_id) if key else None)
    return AcceptedDocument(id=document_id, job_id=job.id)


@app.post("/documents/url", status_code=status.HTTP_202_ACCEPTED, dependencies=[WRITE])
async def create_from_web(new: NewAddress, caller: CurrentCaller, key: IdempotencyKey = None) -> AcceptedDocument:
    """Make a document of what is at a web address and have the worker fetch and read it."""
    await _check_audience(new.audience, caller)
    document_id = _new_id(caller, key)
    row = NewRow(
        id=document_id,
        title=new.title or new.url[:TITLE_CHARACTERS],
        # Until it has been fetched.
        filename="page.html",
        media_type="text/html",
        size_bytes=0,
        audience=new.audience,
        object_key=_object_key(caller, document_id, new, "page"),
        source_url=new.url,
    )
    await rows.insert(caller, row)
    job = await _enqueue(caller, document_id, str(document_id) if key else None)
    return AcceptedDocument(id=document_id, job_id=job.id)


@app.get("/documents", dependencies=[READ])
async def list_documents(
    caller: CurrentCaller,
    cursor: PageCursor = None,
    limit: PageLimit = 20,
) -> Page:
    """Return the documents that the caller may read, newest first."""
    found, next_cursor = await rows.page(caller, cursor, limit)
    return Page(items=[Document.of(row) for row in found], next_cursor=next_cursor)


@app.get("/documents/{document_id}", dependencies=[READ])
async def get_document(document_id: UUID, caller: CurrentCaller) -> Document:
    """Return one document that the caller may read."""
    return Document.of(await rows.visible(caller, document_id))


@app.delete("/documents/{document_id}", status_code=status.HTTP_204_NO_CONTENT, dependencies=[WRITE])
async def delete_document(document_id: UUID, caller: FreshCaller) -> None:
    """Remove the caller's document, its passages and its file.

    What can be read goes first and the row last, so that a deletion which broke off leaves nothing to read and can be
    asked for again. A worker that was writing meanwhile either finds its job ended and the row gone, and takes its
    passages back, or wrote them before that; these are deleted at the end.
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


def _object_key(caller: Caller, document_id: UUID, request: Body, filename: str) -> str:
    """Return where the document's file is; another request under the same Idempotency-Key has another place."""
    digest = hashlib.sha256(request.model_dump_json().encode()).hexdigest()[:32]
    return f"{caller.id}/{document_id}/{digest}-{_safe(filename)}"


def _safe(filename: str) -> str:
    """Return a name for the object that no storage, URL or log takes amiss."""
    return KEPT_IN_FILENAME.sub("-", filename).strip("-.")[-64:] or "file"


async def _upload(object_key: str, *, media_type: str, size_bytes: int) -> Upload:
    signed = await storage.upload_url(object_key, media_type=media_type, size_bytes=size_bytes)
    return Upload(url=signed.url, method=signed.method, headers=signed.headers, expires_at=signed.expires_at)


async def _check_uploaded(row: Row) -> None:
    """Return when the document's file is there, as it was announced."""
    try:
        stored = await storage.head(row["object_key"])
    except NotFound as error:
        raise Conflict("The file has not been uploaded yet.", code="upload_missing") from error
    if stored.size_bytes != row["size_bytes"]:
        raise Conflict(
            f"The uploaded file has {stored.size_bytes:,} bytes where {row['size_bytes']:,} were announced.",
            code="upload_size_mismatch",
        )


async def _enqueue(caller: Caller, document_id: UUID, key: str | None) -> Job:
    return await jobs.enqueue(
        caller,
        "ingest",
        document_id=document_id,
        idempotency_key=key,
        also=[(jobs.QUEUED, [document_id])],
    )


app.include_router(hooks.router)
handler = lambda_handler(app)
