"""Long work: a row that its owner can watch, end and begin again, and a message in SQS that starts a worker.

    job = await enqueue(caller, "ingest", document_id=id, idempotency_key=key)

    queued -> parsing -> embedding -> indexing -> ready | failed | cancelled

A message only says that a job needs hands: what is to be done, and for whom, is read from the row. So a message that
is delivered twice, late, or after the work was done does no harm. The worker's side is `agentkit.work`.
"""

import asyncio
import math
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, LiteralString
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict

from agentkit import database, telemetry
from agentkit.auth import Caller
from agentkit.database import Parameters, Row
from agentkit.errors import Conflict, Invalid, NotFound, Unavailable
from agentkit.paging import cursor_after, position
from agentkit.settings import QueueSettings, load

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

CONNECT_SECONDS = 2
READ_SECONDS = 10
# SQS takes so many messages in one request.
SENT_AT_ONCE = 10

Status = Literal["queued", "parsing", "embedding", "indexing", "ready", "failed", "cancelled"]
LIVE: tuple[Status, ...] = ("queued", "parsing", "embedding", "indexing")

RECORD = """
    insert into agentkit.jobs (id, owner, kind, document_id, idempotency_key, deadline)
    values (%(id)s, %(owner)s, %(kind)s, %(document_id)s, %(idempotency_key)s,
            now() + make_interval(secs => %(deadline_seconds)s))
    on conflict do nothing
"""
# The job just recorded, or the earlier one that stood in its way: the same key's, or the document's live one.
FIND_RECORDED = """
    select * from agentkit.jobs
    where owner = %(owner)s
      and (id = %(id)s
           or idempotency_key = %(idempotency_key)s
           or (document_id = %(document_id)s and kind = %(kind)s
               and status in ('queued', 'parsing', 'embedding', 'indexing')))
    order by id = %(id)s desc, idempotency_key = %(idempotency_key)s desc nulls last
    limit 1
"""
# A document waits when a job of its own does: true for a new job, untouched when an earlier one is under way or over.
QUEUED: LiteralString = """
    update agentkit.documents set status = 'queued', error_code = null, error = null
    where id = %s and exists (
        select from agentkit.jobs as job
        where job.document_id = documents.id and job.owner = documents.owner and job.status = 'queued')
"""
# A job that has begun may have read another file than the one that it is asked for now: it will look again at its end.
AGAIN: LiteralString = """
    update agentkit.jobs set source = source || '{"again": true}'
    where document_id = %(document_id)s and owner = %(owner)s and kind = %(kind)s
      and status in ('parsing', 'embedding', 'indexing')
"""
# The key is given back, so that the same request can be tried again.
GIVE_UP_SENDING = """
    with ended as (
        update agentkit.jobs
        set status = 'failed', error_code = 'queue_unavailable', error = %(sentence)s, finished_at = now(),
            idempotency_key = null
        where id = %(id)s and status = 'queued'
        returning document_id
    )
    update agentkit.documents set status = 'failed', error_code = 'queue_unavailable', error = %(sentence)s
    where id in (select document_id from ended) and status = 'queued'
"""
FIND = "select * from agentkit.jobs where id = %s and owner = %s"
# Newest first, from where the last page ended.
PAGE = """
    select * from agentkit.jobs
    where owner = %(owner)s
      and (%(document_id)s::uuid is null or document_id = %(document_id)s)
      and (%(created_at)s::timestamptz is null or (created_at, id) < (%(created_at)s, %(id)s))
    order by created_at desc, id desc
    limit %(limit)s
"""
# A document that was ready before its new ingestion still is: its passages are the earlier ones. What is being indexed
# may be there already, so it is not cancelled any more.
CANCEL = """
    with ended as (
        update agentkit.jobs
        set status = 'cancelled', finished_at = now(), holder = null, lease_until = null
        where id = %(id)s and owner = %(owner)s and status in ('queued', 'parsing', 'embedding')
        returning document_id
    )
    update agentkit.documents
    set status = case when content_hash is null then 'cancelled' else 'ready' end
    where id in (select document_id from ended) and status in ('queued', 'processing')
"""
# Only the latest work on a document that is still there can be begun again.
RETRY = """
    with again as (
        update agentkit.jobs as job
        set status = 'queued', attempts = 0, error_code = null, error = null, finished_at = null,
            holder = null, lease_until = null, deadline = now() + make_interval(secs => %(deadline_seconds)s)
        where id = %(id)s and owner = %(owner)s and status in ('failed', 'cancelled')
          and (document_id is null
               or exists (select from agentkit.documents as document
                          where document.id = job.document_id and document.owner = job.owner))
          and not exists (select from agentkit.jobs as later
                          where later.owner = job.owner and later.document_id = job.document_id
                            and later.kind = job.kind and later.number > job.number)
        returning document_id
    )
    update agentkit.documents set status = 'queued', error_code = null, error = null
    where id in (select document_id from again)
"""

log = telemetry.logger(__name__)

Statement = tuple[LiteralString, Sequence[object]]


class Fault(BaseModel):
    """Why it failed."""

    code: str
    """Stable: safe to branch on."""
    detail: str
    """A sentence for the person."""


class Job(BaseModel):
    """One piece of long work, as its row says."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    number: int
    """Later jobs have larger ones."""
    owner: UUID
    kind: str
    status: Status
    document_id: UUID | None
    progress: dict[str, Any]
    attempts: int
    error: Fault | None
    input_tokens: int
    cost_usd: Decimal
    source: dict[str, Any]
    """The file as it was read, where the job has parts."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline: datetime

    @property
    def live(self) -> bool:
        """Whether it is not over yet."""
        return self.status in LIVE

    @classmethod
    def of(cls, row: Row) -> "Job":
        """Return the job in that row."""
        error = Fault(code=row["error_code"], detail=row["error"]) if row["error_code"] else None
        return cls.model_validate({**row, "error": error})


class Envelope(BaseModel):
    """What travels through the queue."""

    version: Literal[1] = 1
    job_id: UUID
    kind: str
    request_id: str = ""
    """Of the request that asked for the work, so that both leave it in their logs."""


async def enqueue(
    caller: Caller,
    kind: str,
    *,
    document_id: UUID | None = None,
    idempotency_key: str | None = None,
    also: Sequence[Statement] = (),
) -> Job:
    """Record a job, in one transaction with the statements of `also`, and have the worker started.

    Asking again returns the first job: with the same key always (unless the queue did not take its message), for the
    same document while the job is not finished. A job of the document that has begun is begun again at its end.
    The message of a job that is still queued is sent again: the first may have been lost, and a second does no harm.

    Raises Invalid when the key was used for something else, Unavailable (`queue_unavailable`) when the queue does not
    take the message; the job is marked failed then.
    """
    facts = recorded(caller.id, kind, document_id, idempotency_key)
    statements: list[tuple[LiteralString, Parameters]] = [
        (RECORD, facts),
        *also,
        (AGAIN, facts),
        (FIND_RECORDED, facts),
    ]
    *_, found = await database.fetch_all(caller, statements)
    if not found:
        # The document's live job stood in the way and ended before it was looked for: now there is room.
        *_, found = await database.fetch_all(caller, statements)
    job = Job.of(found[0])
    if (job.kind, job.document_id) != (kind, document_id):
        raise Invalid("This Idempotency-Key was used for another request.", code="idempotency_key_reused")
    if job.status == "queued":
        await _start(caller, job)
    return job


def recorded(owner: UUID, kind: str, document_id: UUID | None, idempotency_key: str | None = None) -> dict[str, Any]:
    """Return the parameters of RECORD and FIND_RECORDED for a new job."""
    return {
        "id": uuid4(),
        "owner": owner,
        "kind": kind,
        "document_id": document_id,
        "idempotency_key": idempotency_key,
        "deadline_seconds": load(QueueSettings).jobs_deadline_seconds,
    }


async def enqueue_for(owner: UUID, kind: str, document_id: UUID, *, reason: str) -> Job:
    """Record a job of that person's document and have it started, as the service; otherwise as `enqueue`. Workers only.

    reason: what for, in a few words. Raises whatever boto3 does when the queue does not take the message: the job
    waits for maintenance then.
    """
    facts = recorded(owner, kind, document_id)
    async with database.service_transaction(reason) as connection:
        await connection.execute(RECORD, facts)
        row = await (await connection.execute(FIND_RECORDED, facts)).fetchone()
        if row is None:
            raise Conflict("The document's job has just ended.", code="job_over")
        await connection.execute(QUEUED, [document_id])
    job = Job.of(row)
    if job.status == "queued":
        await send(job)
    return job


async def find(caller: Caller, job_id: UUID) -> Job:
    """Return that person's job; raises NotFound."""
    row = await database.fetch_one(caller, FIND, [job_id, caller.id])
    return _found(row)


async def page(
    caller: Caller, cursor: str | None, limit: int, *, document_id: UUID | None = None
) -> tuple[list[Job], str | None]:
    """Return at most `limit` of that person's jobs, newest first, and where the next page begins."""
    created_at, job_id = position(cursor, UUID)
    facts = {
        "owner": caller.id,
        "document_id": document_id,
        "created_at": created_at,
        "id": job_id,
        "limit": limit + 1,
    }
    rows = await database.fetch(caller, PAGE, facts)
    more = len(rows) > limit
    found = [Job.of(row) for row in rows[:limit]]
    return found, cursor_after(found[-1].created_at, found[-1].id) if more else None


async def cancel(caller: Caller, job_id: UUID) -> Job:
    """End that person's job; a worker that is at it stops at its next beat.

    Cancelling again is harmless. Raises NotFound, Conflict (`job_over`) when it was ready or had failed before, or is
    being indexed: nothing takes long then.
    """
    _, rows = await database.fetch_all(
        caller, [(CANCEL, {"id": job_id, "owner": caller.id}), (FIND, [job_id, caller.id])]
    )
    job = _found(rows[0] if rows else None)
    if job.status != "cancelled":
        raise Conflict("The job is over, or nearly: there is nothing left to cancel.", code="job_over")
    return job


async def retry(caller: Caller, job_id: UUID) -> Job:
    """Begin that person's failed or cancelled job again, from where it broke off; a live one is left as it is.

    Raises NotFound, Conflict (`job_not_retryable`) when it was ready, its document is gone or has later work,
    Unavailable (`queue_unavailable`) when the queue does not take the message.
    """
    facts = {"id": job_id, "owner": caller.id, "deadline_seconds": load(QueueSettings).jobs_deadline_seconds}
    _, rows = await database.fetch_all(caller, [(RETRY, facts), (FIND, [job_id, caller.id])])
    job = _found(rows[0] if rows else None)
    if not job.live:
        raise Conflict(
            "Only failed or cancelled work can be tried again, while its document is there and nothing newer was asked "
            "of it.",
            code="job_not_retryable",
        )
    if job.status == "queued":
        await _start(caller, job)
    return job


async def send(job: Job, *, copies: int = 1) -> None:
    """Tell workers that the job needs hands; raises whatever boto3 does when the queue does not take the messages."""
    body = Envelope(job_id=job.id, kind=job.kind, request_id=telemetry.request_id.get()).model_dump_json()
    url = load(QueueSettings).jobs_queue_url
    telemetry.count_round_trip("queue")
    if copies == 1:
        await asyncio.to_thread(lambda: client().send_message(QueueUrl=url, MessageBody=body))
        return
    entries = [{"Id": str(index), "MessageBody": body} for index in range(min(copies, SENT_AT_ONCE))]
    await asyncio.to_thread(lambda: client().send_message_batch(QueueUrl=url, Entries=entries))  # type: ignore[arg-type]


async def send_again(envelope: Envelope, *, after_seconds: float) -> None:
    """Have a message delivered anew after that time, as if for the first time; raises as `send`."""
    url = load(QueueSettings).jobs_queue_url
    # SQS counts whole seconds, and takes a quarter of an hour at most.
    delay = max(1, min(math.ceil(after_seconds), 900))
    telemetry.count_round_trip("queue")
    await asyncio.to_thread(
        lambda: client().send_message(QueueUrl=url, MessageBody=envelope.model_dump_json(), DelaySeconds=delay)
    )


async def waiting() -> int:
    """Return about how many messages the queue holds that no worker has taken yet."""
    url = load(QueueSettings).jobs_queue_url
    telemetry.count_round_trip("queue")
    said = await asyncio.to_thread(
        lambda: client().get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    )
    return int(said["Attributes"]["ApproximateNumberOfMessages"])


@cache
def client() -> "SQSClient":
    """Return this process's client."""
    import boto3  # 475 ms of CPU that only the first use pays
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 2, "mode": "standard"},
    )
    return boto3.Session().client("sqs", config=config)


def close() -> None:
    """Let go of the client."""
    if client.cache_info().currsize:
        client().close()
    client.cache_clear()


def _found(row: Row | None) -> Job:
    if row is None:
        raise NotFound("You have no job of that id.")
    return Job.of(row)


async def _start(caller: Caller, job: Job) -> None:
    try:
        await send(job)
    except Exception as error:
        # Whatever the reason, a job that nobody will start must not look as if someone would.
        log.error("queue.refused", job_id=job.id, exc_info=error)
        sentence = "The work could not be handed to the worker; ask for it again."
        await database.fetch(caller, GIVE_UP_SENDING, {"id": job.id, "sentence": sentence})
        raise Unavailable(sentence, code="queue_unavailable") from error
