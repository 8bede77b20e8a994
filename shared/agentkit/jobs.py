"""Long work: a row that its owner can watch, a message in SQS that starts it, and the worker's side of both.

    job = await enqueue(caller, "ingest", document_id=id, idempotency_key=key)        in a function that people call
    handler = sqs_handler({"ingest": Work(run=ingest, failed=ingest_failed)})         in the worker

SQS may deliver a message twice, late, or after the work was done; the row decides. Whoever moves it from `queued` to
`running` does the work, and a worker that died without a word is followed by the next once its time is over. The
message only names the job: what to do, and for whom, is read from the row.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, LiteralString, Protocol
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from agentkit import database, telemetry
from agentkit.auth import Caller
from agentkit.database import Parameters, Row
from agentkit.errors import Invalid, Unavailable
from agentkit.settings import QueueSettings, WorkerSettings, load

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from psycopg import AsyncConnection

CONNECT_SECONDS = 2
READ_SECONDS = 10
# A worker ends its work this long before Lambda would end the worker, so that it can still say so.
MARGIN_SECONDS = 5.0
# A job is begun only with this share of an invocation left: being cut off tells nothing of one that was given less.
LEAST_SHARE = 0.5
# How long a worker may take when nobody says (no Lambda context): Lambda's own limit.
LONGEST_SECONDS = 900.0
# An interrupted job is tried again this soon, then after three times as long each time.
FIRST_PAUSE_SECONDS = 5
LONGEST_PAUSE_SECONDS = 900
# Work that was cut off by the clock this often will not get done by another try.
CUT_OFF_AT_MOST = 2

RECORD = """
    insert into agentkit.jobs (id, owner, kind, document_id, idempotency_key)
    values (%(id)s, %(owner)s, %(kind)s, %(document_id)s, %(idempotency_key)s)
    on conflict do nothing
"""
# The job just recorded, or the earlier one that stood in its way: the same key's, or the document's live one.
FIND_RECORDED = """
    select * from agentkit.jobs
    where owner = %(owner)s
      and (id = %(id)s
           or idempotency_key = %(idempotency_key)s
           or (document_id = %(document_id)s and kind = %(kind)s and status in ('queued', 'running')))
    order by id = %(id)s desc, idempotency_key = %(idempotency_key)s desc nulls last
    limit 1
"""
# The key is given back, so that the same request can be tried again.
GIVE_UP_SENDING = """
    update agentkit.jobs
    set status = 'failed', error_code = 'queue_unavailable', error = %s, finished_at = now(), idempotency_key = null
    where id = %s and status = 'queued'
"""
FIND = "select * from agentkit.jobs where id = %s and owner = %s"

CLAIM = """
    with free as (
        select id, status from agentkit.jobs
        where id = %(id)s
          and (status = 'queued'
               or (status = 'running' and started_at < now() - make_interval(secs => %(lease_seconds)s)))
        for update
    )
    update agentkit.jobs as job
    set status = 'running', attempts = attempts + 1, started_at = now(), progress = '{}'
    from free where job.id = free.id
    returning job.*, free.status = 'running' as abandoned
"""
STATUS = "select status from agentkit.jobs where id = %s"
# Only the attempt that holds the job may change it: `attempts` tells one holder from the next.
HELD = "where id = %(id)s and status = 'running' and attempts = %(attempts)s"
PROGRESS = "update agentkit.jobs set progress = %(progress)s " + HELD
SUCCEED = "update agentkit.jobs set status = 'succeeded', finished_at = now() " + HELD
RELEASE = "update agentkit.jobs set status = 'queued' " + HELD
FAIL = (
    "update agentkit.jobs set status = 'failed', error_code = %(code)s, error = %(sentence)s, finished_at = now() "
    + HELD
)

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
    owner: UUID
    kind: str
    status: Literal["queued", "running", "succeeded", "failed"]
    document_id: UUID | None
    progress: dict[str, Any]
    attempts: int
    error: Fault | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

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


class WorkFailed(Exception):  # noqa: N818  # reads as what happened
    """The work cannot be done, now or later; `sentence` tells the person why."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Work:
    """How the worker does one kind of job."""

    run: Callable[[Job], Awaitable[None]]
    """Do it; may run again after an attempt that ended anywhere. Raises WorkFailed when trying again is no use."""
    failed: Callable[["AsyncConnection[Row]", Job, WorkFailed], Awaitable[None]]
    """Note the final failure where else it shows, in the transaction that notes it in the job."""


class LambdaContext(Protocol):
    """The part of Lambda's context that we use."""

    def get_remaining_time_in_millis(self) -> int:
        """Return how long this invocation may still take."""


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
    same document while the job is not finished.
    The message of a job that is still queued is sent again: the first may have been lost, and a second does no harm.

    Raises Invalid when the key was used for something else, Unavailable (`queue_unavailable`) when the queue does not
    take the message; the job is marked failed then.
    """
    facts = {
        "id": uuid4(),
        "owner": caller.id,
        "kind": kind,
        "document_id": document_id,
        "idempotency_key": idempotency_key,
    }
    statements: list[tuple[LiteralString, Parameters]] = [(RECORD, facts), *also, (FIND_RECORDED, facts)]
    *_, found = await database.fetch_all(caller, statements)
    if not found:
        # The document's live job stood in the way and ended before it was looked for: now there is room.
        *_, found = await database.fetch_all(caller, statements)
    job = Job.of(found[0])
    if (job.kind, job.document_id) != (kind, document_id):
        raise Invalid("This Idempotency-Key was used for another request.", code="idempotency_key_reused")
    if job.status == "queued":
        await _send(caller, job)
    return job


async def find(caller: Caller, job_id: UUID) -> Job | None:
    """Return that person's job, or None when they have none of that id."""
    row = await database.fetch_one(caller, FIND, [job_id, caller.id])
    return Job.of(row) if row else None


async def progress(job: Job, **facts: object) -> None:
    """The job's owner sees these facts as its progress, in place of earlier ones."""
    async with database.service_transaction("note a job's progress") as connection:
        await connection.execute(PROGRESS, {**_holder(job), "progress": json.dumps(facts)})


def sqs_handler(works: Mapping[str, Work]) -> Callable[[Mapping[str, Any], LambdaContext | None], dict[str, Any]]:
    """Return the worker's Lambda handler: takes an SQS event, does each record's work, names those to deliver again.

    A record's failure never touches the others. The event source mapping must have `ReportBatchItemFailures`.
    """

    def handler(event: Mapping[str, Any], context: LambdaContext | None = None) -> dict[str, Any]:
        return _loop().run_until_complete(_deliver(works, event["Records"], context))

    return handler


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
    """Let go of the client, and of the worker's event loop with its connections."""
    if client.cache_info().currsize:
        client().close()
    client.cache_clear()
    if _loop.cache_info().currsize:
        _loop().run_until_complete(database.close())
        _loop().close()
    _loop.cache_clear()


async def _send(caller: Caller, job: Job) -> None:
    body = Envelope(job_id=job.id, kind=job.kind, request_id=telemetry.request_id.get()).model_dump_json()
    url = load(QueueSettings).jobs_queue_url
    telemetry.count_round_trip("queue")
    try:
        await asyncio.to_thread(lambda: client().send_message(QueueUrl=url, MessageBody=body))
    except Exception as error:
        # Whatever the reason, a job that nobody will start must not look as if someone would.
        log.error("queue.refused", job_id=job.id, exc_info=error)
        sentence = "The work could not be handed to the worker; ask for it again."
        await database.fetch(caller, GIVE_UP_SENDING, [sentence, job.id])
        raise Unavailable(sentence, code="queue_unavailable") from error


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return the process's one event loop: connections that an invocation leaves open are bound to it."""
    return asyncio.new_event_loop()


async def _deliver(
    works: Mapping[str, Work], records: Sequence[Mapping[str, Any]], context: LambdaContext | None
) -> dict[str, Any]:
    failures = []
    # A worker lives no longer than one invocation, so a job that was started longer ago has lost its worker.
    lifetime = _remaining(context)
    for record in records:
        token = telemetry.request_id.set("")
        try:
            await _take(works, record, context, lifetime)
        except Exception as error:
            if not isinstance(error, _Again):
                log.error("message.failed", message_id=record["messageId"], exc_info=error)
            failures.append({"itemIdentifier": record["messageId"]})
            pause = error.pause_seconds if isinstance(error, _Again) else None
            await _postpone(record, pause or FIRST_PAUSE_SECONDS * 3 ** (_receives(record) - 1))
        finally:
            telemetry.request_id.reset(token)
    return {"batchItemFailures": failures}


class _Again(Exception):  # noqa: N818  # says what is wanted
    """The message is to be delivered again, after that time when it matters."""

    def __init__(self, pause_seconds: float | None = None) -> None:
        super().__init__()
        self.pause_seconds = pause_seconds


async def _take(
    works: Mapping[str, Work], record: Mapping[str, Any], context: LambdaContext | None, lifetime: float
) -> None:
    """Do what one message asks for; raises when it is to be delivered again."""
    try:
        envelope = Envelope.model_validate_json(record["body"])
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['type']}" for fault in error.errors()]
        log.error("message.unreadable", message_id=record["messageId"], faults=faults)
        raise _Again from error
    telemetry.request_id.set(envelope.request_id)
    last = _receives(record) >= load(WorkerSettings).jobs_max_receives
    # Nobody would come back to the last delivery: it is tried in whatever time there is.
    if _remaining(context) < LEAST_SHARE * lifetime and not last:
        log.info("job.postponed", job_id=envelope.job_id)
        raise _Again
    async with database.service_transaction("take a job") as connection:
        row = await (await connection.execute(CLAIM, {"id": envelope.job_id, "lease_seconds": lifetime})).fetchone()
        if row is None:
            found = await (await connection.execute(STATUS, [envelope.job_id])).fetchone()
            status = found["status"] if found else "gone"
            log.info("job.skipped", job_id=envelope.job_id, status=status)
            if status == "running":
                # Should the worker that is at it die, this message is what brings the next one.
                raise _Again(lifetime)
            return
    seconds = _remaining(context) - MARGIN_SECONDS
    await _attempt(works, Job.of(row), cut_off=row["abandoned"], seconds=seconds, last=last)


async def _postpone(record: Mapping[str, Any], seconds: float) -> None:
    """Have the message delivered again after that time; the queue's own pause is made for the longest work."""
    visible = {"ReceiptHandle": record["receiptHandle"], "VisibilityTimeout": min(int(seconds), LONGEST_PAUSE_SECONDS)}
    try:
        url = load(QueueSettings).jobs_queue_url
        await asyncio.to_thread(lambda: client().change_message_visibility(QueueUrl=url, **visible))
    except Exception as error:
        # It comes again all the same, only later.
        log.warning("message.not_postponed", message_id=record["messageId"], exc_info=error)


def _receives(record: Mapping[str, Any]) -> int:
    return int(record["attributes"]["ApproximateReceiveCount"])


def _remaining(context: LambdaContext | None) -> float:
    return context.get_remaining_time_in_millis() / 1000 if context else LONGEST_SECONDS


async def _attempt(works: Mapping[str, Work], job: Job, *, cut_off: bool, seconds: float, last: bool) -> None:
    """Work on a job that is ours; raises when its message is to be delivered again."""
    if cut_off and job.attempts > CUT_OFF_AT_MOST:
        await _fail(works, job, _took_too_long())
        return
    try:
        async with asyncio.timeout(seconds) as clock:
            await works[job.kind].run(job)
    except WorkFailed as failure:
        await _fail(works, job, failure)
    except Exception as error:
        log.warning("job.interrupted", job_id=job.id, kind=job.kind, attempts=job.attempts, exc_info=error)
        if isinstance(error, TimeoutError) and clock.expired() and job.attempts >= CUT_OFF_AT_MOST:
            await _fail(works, job, _took_too_long())
            return
        if last:
            sentence = "It did not work after several attempts; ask for it again later."
            await _fail(works, job, WorkFailed("gave_up", sentence))
        else:
            await _change(job, RELEASE)
        raise _Again from error
    else:
        await _change(job, SUCCEED)
        log.info("job.succeeded", job_id=job.id, kind=job.kind, attempts=job.attempts)


async def _change(job: Job, statement: LiteralString) -> None:
    async with database.service_transaction("move a job on") as connection:
        await connection.execute(statement, _holder(job))


async def _fail(works: Mapping[str, Work], job: Job, failure: WorkFailed) -> None:
    log.info("job.failed", job_id=job.id, kind=job.kind, attempts=job.attempts, code=failure.code)
    async with database.service_transaction("note a job's failure") as connection:
        facts = {**_holder(job), "code": failure.code, "sentence": failure.sentence}
        changed = await connection.execute(FAIL, facts)
        if changed.rowcount and job.kind in works:
            await works[job.kind].failed(connection, job, failure)


def _took_too_long() -> WorkFailed:
    return WorkFailed("took_too_long", "It took longer than we allow; try a smaller file.")


def _holder(job: Job) -> dict[str, object]:
    return {"id": job.id, "attempts": job.attempts}
