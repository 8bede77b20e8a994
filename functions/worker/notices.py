"""Word that a file is in the bucket, from the bucket itself: its document is ingested without anyone asking.

    S3's ObjectCreated events, sent to the jobs queue
        https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    {"version": 1, "uploaded": {"bucket", "key", "size_bytes", "etag", "at"}}, as `documents` forwards the webhook of
        Supabase Storage; all but bucket and key may be null

Such word comes late, twice, or beside the client's own request: a file is ingested once all the same. A file without
a document, in a folder that is named by its owner's id (Supabase's convention), becomes one of that person's.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote_plus
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import BaseModel, ValidationError

from agentkit import database, documents, jobs, storage, telemetry
from agentkit.database import Row
from agentkit.documents import NewDocument
from agentkit.errors import Conflict, NotFound
from agentkit.settings import StorageSettings, load
from agentkit.storage import Stored
from agentkit.work import Later

# When a file is looked at again that came while its document was being ingested.
LATER_SECONDS = 30
TITLE_CHARACTERS, FILENAME_CHARACTERS = 300, 255
A_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# In its owner's folder; and there in a document's own, which `documents` made.
OWNERS = re.compile(rf"(?P<owner>{A_UUID})/.*[^/]", re.IGNORECASE | re.DOTALL)
DOCUMENTS = re.compile(rf"{A_UUID}/{A_UUID}/", re.IGNORECASE)

# The document of that file, with the latest job about it.
FIND = """
    select document.*, job.status as job_status, job.source ->> 'etag' as job_etag,
           job.started_at as job_started_at, job.finished_at as job_finished_at
    from agentkit.documents as document
    left join lateral (
        select * from agentkit.jobs
        where document_id = document.id and owner = document.owner and kind = 'ingest'
        order by number desc limit 1
    ) as job on true
    where document.object_key = %s
"""
RESIZE = "update agentkit.documents set size_bytes = %s where id = %s"

log = telemetry.logger(__name__)


class File(BaseModel):
    """What is said of a file; None for what is not."""

    bucket: str
    key: str
    size_bytes: int | None = None
    etag: str | None = None
    at: datetime | None = None
    """When it came."""


class Forwarded(BaseModel):
    """A message of our own `documents`."""

    version: Literal[1]
    uploaded: File


async def uploaded(message: Mapping[str, Any]) -> None:
    """Have the files ingested that the message tells of.

    Raises Later when one of them is to be looked at again, or the message is none that we know.
    """
    try:
        files = list(_files(message))
    except (ValidationError, KeyError, TypeError) as error:
        log.error("notice.unreadable", members=sorted(map(str, message))[:20])
        raise Later from error
    again = False
    for file in files:
        if file.bucket == load(StorageSettings).storage_bucket:
            again |= not await _settle(file)
    if again:
        raise Later(LATER_SECONDS)


def _files(message: Mapping[str, Any]) -> Iterator[File]:
    if "uploaded" in message:
        yield Forwarded.model_validate(message).uploaded
        return
    if message.get("Event") == "s3:TestEvent":
        return
    for record in message["Records"]:
        if record["eventSource"] == "aws:s3" and record["eventName"].startswith("ObjectCreated:"):
            stored = record["s3"]["object"]
            yield File(
                bucket=record["s3"]["bucket"]["name"],
                key=unquote_plus(stored["key"]),
                size_bytes=stored.get("size"),
                etag=stored.get("eTag"),
                at=record.get("eventTime"),
            )


async def _settle(file: File) -> bool:
    """Have the file ingested if it has not been; False when that cannot be said yet."""
    (found,) = await database.service_fetch_all("find an upload's document", [(FIND, [file.key])])
    row = found[0] if found else await _adopted(file)
    # What is at a web address, the worker itself has stored.
    if row is None or row["source_url"] is not None:
        return True
    if row["job_status"] in jobs.LIVE:
        return row["job_status"] == "queued" or (file.etag is not None and row["job_etag"] == file.etag)
    stored = await _stored(file)
    if stored is None or _was_read(row, stored, file):
        return True
    await database.service_fetch_all("note an upload", [(RESIZE, [stored.size_bytes, row["id"]])])
    try:
        await jobs.enqueue_for(row["owner"], "ingest", row["id"], reason="ingest an upload")
    except Conflict:
        # Someone else's job of the document has just begun and ended.
        return False
    return True


def _was_read(row: Row, stored: Stored, file: File) -> bool:
    """Say whether the document's last job, which is over, was about the file as it is."""
    if row["status"] == "ready":
        return bool(row["etag"] == stored.etag)
    # What failed had been begun on this file; what its owner has ended stays so.
    settled = {"failed": row["job_started_at"], "cancelled": row["job_finished_at"]}.get(row["status"])
    return settled is not None and file.at is not None and settled > file.at


async def _stored(file: File) -> Stored | None:
    """Return what the bucket has there now; None when that is nothing, or empty."""
    try:
        stored = await storage.head(file.key)
    except NotFound:
        stored = None
    if stored is None or not stored.size_bytes:
        log.info("notice.left", reason="nothing is there")
        return None
    return stored


async def _adopted(file: File) -> Row | None:
    """Return the document that the file becomes; None for a file that is nobody's, or one too many."""
    place = OWNERS.fullmatch(file.key)
    if place is None or DOCUMENTS.match(file.key):
        # A document's own folder without the document: that was deleted.
        log.info("notice.left", reason="it is no document's" if place else "it is in no person's folder")
        return None
    stored = await _stored(file)
    if stored is None:
        return None
    name = PurePosixPath(file.key).name
    new = NewDocument(
        id=uuid5(NAMESPACE_URL, f"{file.bucket}/{file.key}"),
        title=PurePosixPath(name).stem[:TITLE_CHARACTERS].strip() or name[:TITLE_CHARACTERS],
        filename=name[-FILENAME_CHARACTERS:],
        media_type=stored.media_type,
        size_bytes=stored.size_bytes,
        object_key=file.key,
    )
    owner = UUID(place["owner"])
    try:
        row = documents.added(
            await database.service_fetch_all("make an upload a document", documents.adding(owner, new))
        )
    except Conflict as problem:
        log.warning("notice.left", reason=problem.code, owner=owner)
        return None
    log.info("document.adopted", document_id=row["id"], owner=owner)
    return {**row, "job_status": None, "job_started_at": None, "job_finished_at": None}
