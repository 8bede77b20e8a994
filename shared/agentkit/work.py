"""The worker's side of a job: messages in, one claimed step after another, until nothing is left to do.

    handler = sqs_handler({"ingest": steps.next_step})

A step is claimed in Postgres, for a time (a lease) that a heartbeat extends while the step runs; the heartbeat also
keeps the queue from handing the message to someone else. A worker that dies stops beating: its message comes again
within the lease's time, and whoever gets it claims the same step. A step whose job was cancelled, or whose lease was
lost, is stopped at the next beat.

What passes by itself (a database, the storage, the embedding model out of reach) is left to the message's next
delivery; what does not raises WorkFailed. When the invocation's time is nearly over, a fresh message carries the work
on, so that only failures count towards the dead-letter queue.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from pydantic import ValidationError

from agentkit import database, jobs, telemetry
from agentkit.database import Row
from agentkit.errors import Problem
from agentkit.jobs import Envelope, Job
from agentkit.settings import QueueSettings, WorkerSettings, load

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from mypy_boto3_sqs.type_defs import ChangeMessageVisibilityBatchRequestEntryTypeDef
    from psycopg import AsyncConnection

# A worker ends its step this long before Lambda would end the worker, so that it can still say so.
MARGIN_SECONDS = 5.0
# A step is begun only with this share of an invocation left: being cut off tells nothing of one that was given less.
LEAST_SHARE = 0.5
# How long a worker may take when nobody says (no Lambda context): Lambda's own limit.
LONGEST_SECONDS = 900.0
# An interrupted job is tried again this soon, then after three times as long each time.
FIRST_PAUSE_SECONDS = 5
LONGEST_PAUSE_SECONDS = 900
# Messages of a batch that are worked on side by side: most of a short job's time is waiting.
AT_ONCE = 4
# Of blocking libraries (boto3, vecs, name resolution), at most.
THREADS = 32
# Beats in the time of a lease: two may be lost.
BEATS = 3
# A step that was cut off by the clock this often will not get done by another try.
CUT_OFF_AT_MOST = 2

# A job that is live fails, and its document with it; only for whoever holds a step of it, when a holder is named.
FAIL = """
    with ended as (
        update agentkit.jobs as job
        set status = 'failed', error_code = %(code)s, error = %(sentence)s, finished_at = now(),
            holder = null, lease_until = null
        where id = %(id)s and status in ('queued', 'parsing', 'embedding', 'indexing')
          and (%(holder)s::uuid is null or holder = %(holder)s
               or exists (select from agentkit.job_parts as part
                          where part.job_id = job.id and part.holder = %(holder)s and part.done_at is null))
        returning document_id, owner
    )
    update agentkit.documents as document
    set status = 'failed', error_code = %(code)s, error = %(sentence)s
    from ended where document.id = ended.document_id and document.owner = ended.owner
"""

log = telemetry.logger(__name__)


class WorkFailed(Exception):  # noqa: N818  # reads as what happened
    """The work cannot be done, now or later; `sentence` tells the person why."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence


GAVE_UP = WorkFailed("gave_up", "It did not work after several attempts; ask for it again later.")
TOOK_TOO_LONG = WorkFailed("took_too_long", "It took longer than we allow; try a smaller file.")


class Claim(Protocol):
    """A step of a job that is ours for now."""

    @property
    def job(self) -> Job:
        """The job, as it was when it was claimed."""

    @property
    def attempts(self) -> int:
        """How often the step was begun, this time included."""

    async def run(self) -> None:
        """Do it; may run again after an attempt that ended anywhere. Raises WorkFailed when another is no use."""

    async def beat(self) -> bool:
        """Hold it for another lease; False when it is not ours any more."""

    async def release(self) -> None:
        """Let the next worker have it at once."""

    async def forgo(self) -> None:
        """Let the next worker have it as if it had not been claimed."""

    async def fail(self, failure: WorkFailed) -> None:
        """Fail the job, if the step is still ours."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Other workers are at all that is left."""

    seconds: float
    """When the first of their leases ends, unless they are heard of again."""


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing is left to do."""

    status: str


NextStep = Callable[[UUID], Awaitable[Claim | Busy | Over]]
"""Claims what is to be done next on that job."""
Notice = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Takes a message that is none of ours, such as the storage's. Raises Later when it should come again."""


class Later(Exception):  # noqa: N818  # says what is wanted
    """The message is to be delivered again, after that time when it matters."""

    def __init__(self, pause_seconds: float | None = None) -> None:
        super().__init__()
        self.pause_seconds = pause_seconds


class LeaseLost(Exception):  # noqa: N818  # reads as what happened
    """Someone else has the step, or its job is over: whoever was at it stops."""


class LambdaContext(Protocol):
    """The part of Lambda's context that we use."""

    def get_remaining_time_in_millis(self) -> int:
        """Return how long this invocation may still take."""


class Clock:
    """What is left of an invocation."""

    def __init__(self, context: LambdaContext | None) -> None:
        self._context = context
        self._began = time.monotonic()
        self._whole = self.left

    @property
    def left(self) -> float:
        """Seconds for work, the end's margin taken off."""
        if self._context is None:
            return LONGEST_SECONDS - (time.monotonic() - self._began) - MARGIN_SECONDS
        return self._context.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS

    @property
    def short(self) -> bool:
        """Whether a step begun now would get too little."""
        return self.left < LEAST_SHARE * self._whole


def sqs_handler(
    works: Mapping[str, NextStep], *, notice: Notice | None = None
) -> Callable[[Mapping[str, Any], LambdaContext | None], dict[str, Any]]:
    """Return the worker's Lambda handler: takes an SQS event, does each record's work, names those to deliver again.

    A record's failure never touches the others. The event source mapping must have `ReportBatchItemFailures`.
    """

    def handler(event: Mapping[str, Any], context: LambdaContext | None = None) -> dict[str, Any]:
        from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

        batch = _Batch(works, notice, Clock(context), [SQSRecord(dict(each)) for each in event["Records"]])
        run(batch.work())
        return each_record(event, batch.settle)

    return handler


def each_record(event: Mapping[str, Any], take: "Callable[[SQSRecord], None]") -> dict[str, Any]:
    """Have each record of an SQS event taken, and return the answer that names those for which that raised."""
    # It loads botocore, which a start without work does without.
    from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response

    if not event["Records"]:
        # Powertools takes it for an event of another kind.
        return {"batchItemFailures": []}
    processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)
    return dict(process_partial_response(event=event, record_handler=take, processor=processor))  # type: ignore[arg-type]


async def fail(connection: "AsyncConnection[Row]", job: Job, failure: WorkFailed, *, holder: UUID | None) -> None:
    """Fail a live job and its document; passages of an earlier ingestion stay.

    holder: the claim by which the job is ours, so that nothing happens once it is not; None from outside of any.
    """
    log.info("job.failed", job_id=job.id, kind=job.kind, attempts=job.attempts, code=failure.code)
    facts = {"id": job.id, "code": failure.code, "sentence": failure.sentence, "holder": holder}
    await connection.execute(FAIL, facts)


def faults(error: ValidationError) -> list[str]:
    """Return what is wrong with a message and where, without a word of what it says."""
    return [f"{'.'.join(map(str, fault['loc']))}: {fault['type']}" for fault in error.errors()]


def run(work: Awaitable[Any]) -> Any:  # noqa: ANN401  # whatever the work returns
    """Run to its end on the process's one event loop: connections that an invocation leaves open are bound to it."""
    return _loop().run_until_complete(work)


def close() -> None:
    """Let go of the worker's event loop with its connections, and of the queue's client."""
    jobs.close()
    if _loop.cache_info().currsize:
        _loop().run_until_complete(database.close())
        _loop().run_until_complete(_loop().shutdown_default_executor())
        _loop().close()
    _loop.cache_clear()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    # Python's own limit follows the processors. A name server or a database that does not answer keeps its thread, and
    # must not keep the others from theirs.
    loop.set_default_executor(ThreadPoolExecutor(THREADS))
    return loop


class _Batch:
    """The records of one invocation; none is handed to another worker while this one lives, unless it has failed."""

    def __init__(
        self, works: Mapping[str, NextStep], notice: Notice | None, clock: Clock, records: Sequence["SQSRecord"]
    ) -> None:
        self._works = works
        self._notice = notice
        self._clock = clock
        self._hidden = {record.message_id: record for record in records}
        self._hiding = asyncio.Lock()
        self._failures: dict[str, Exception] = {}

    async def work(self) -> None:
        """Do what the messages ask for, some side by side."""
        turns = asyncio.Semaphore(AT_ONCE)
        beats = asyncio.create_task(self._keep_hidden())
        try:
            await asyncio.gather(*(self._take(record, turns) for record in list(self._hidden.values())))
        finally:
            # Not while it asks the queue: its thread would go on after the batch.
            async with self._hiding:
                beats.cancel()
            await asyncio.gather(beats, return_exceptions=True)

    def settle(self, record: "SQSRecord") -> None:
        """Raise what one message has failed with."""
        if failure := self._failures.get(record.message_id):
            raise failure

    async def _take(self, record: "SQSRecord", turns: asyncio.Semaphore) -> None:
        async with turns:
            try:
                await self._work(record)
            except Exception as error:
                if not isinstance(error, Later):
                    log.error("message.failed", message_id=record.message_id, exc_info=error)
                self._failures[record.message_id] = error
                pause = error.pause_seconds if isinstance(error, Later) else None
                async with self._hiding:
                    del self._hidden[record.message_id]
                    await _hide([record], _growing(record) if pause is None else pause)

    async def _work(self, record: "SQSRecord") -> None:
        envelope = await self._envelope(record)
        if envelope is None:
            return
        telemetry.request_id.set(envelope.request_id)
        next_step = self._works.get(envelope.kind)
        if next_step is None:
            log.error("message.unknown_kind", message_id=record.message_id, kind=envelope.kind)
            raise Later
        last = _receives(record) >= load(WorkerSettings).jobs_max_receives
        while True:
            claim = await next_step(envelope.job_id)
            if isinstance(claim, Over):
                log.info("job.left", job_id=envelope.job_id, status=claim.status)
                return
            if isinstance(claim, Busy):
                log.info("job.busy", job_id=envelope.job_id, seconds=claim.seconds)
                await self._look_again(envelope, claim.seconds)
                return
            if self._clock.short and not last:
                await self._carry_on(claim)
                return
            await self._step(claim, last=last)

    async def _envelope(self, record: "SQSRecord") -> Envelope | None:
        """Return what a message of ours says; None for another's, which is done."""
        try:
            return Envelope.model_validate_json(record.body)
        except ValidationError as error:
            try:
                said = json.loads(record.body)
            except ValueError:
                said = None
            if self._notice is not None and isinstance(said, dict) and "job_id" not in said:
                await self._notice(said)
                return None
            log.error("message.unreadable", message_id=record.message_id, faults=faults(error))
            raise Later from error

    async def _look_again(self, envelope: Envelope, seconds: float) -> None:
        """Have someone look after those who are at the job; a message of its own, as waiting is no failed delivery."""
        try:
            await jobs.send_again(envelope, after_seconds=seconds)
        except Exception as error:
            log.warning("queue.refused", job_id=envelope.job_id, exc_info=error)
            raise Later(seconds) from error

    async def _carry_on(self, claim: Claim) -> None:
        """Hand the job to a fresh message, with a whole invocation's time."""
        log.info("job.carried_on", job_id=claim.job.id)
        await claim.forgo()
        try:
            await jobs.send(claim.job)
        except Exception as error:
            log.warning("queue.refused", job_id=claim.job.id, exc_info=error)
            raise Later(0) from error

    async def _step(self, claim: Claim, *, last: bool) -> None:
        job = claim.job
        clock = asyncio.timeout(self._clock.left)
        try:
            async with clock:
                await _while_held(claim)
        except WorkFailed as failure:
            await claim.fail(failure)
        except LeaseLost:
            log.info("job.lost", job_id=job.id, kind=job.kind)
        except Exception as error:
            log.warning("job.interrupted", job_id=job.id, kind=job.kind, attempts=claim.attempts, exc_info=error)
            if isinstance(error, TimeoutError) and clock.expired() and claim.attempts >= CUT_OFF_AT_MOST:
                await claim.fail(TOOK_TOO_LONG)
                return
            if last:
                await claim.fail(_gave_up(error))
            else:
                await claim.release()
            # The last time too: so it ends in the dead-letter queue, where someone sees it.
            raise Later from error

    async def _keep_hidden(self) -> None:
        """Keep every message from other workers, for another lease's time again and again, until cancelled."""
        seconds = load(WorkerSettings).jobs_lease_seconds
        while True:
            async with self._hiding:
                await _hide(list(self._hidden.values()), seconds)
            await asyncio.sleep(seconds / BEATS)


async def _while_held(claim: Claim) -> None:
    """Run the step as long as the claim is ours; raises LeaseLost when it is not any more."""
    body = asyncio.ensure_future(claim.run())
    beats = asyncio.create_task(_beats(claim))
    try:
        await asyncio.wait({body, beats}, return_when=asyncio.FIRST_COMPLETED)
        if not body.done():
            raise LeaseLost
        await body
    finally:
        for task in (body, beats):
            task.cancel()
        await asyncio.gather(body, beats, return_exceptions=True)


async def _beats(claim: Claim) -> None:
    """Return when the claim is not ours any more, or nobody can say so for a lease's time."""
    lease = load(WorkerSettings).jobs_lease_seconds
    held_until = time.monotonic() + lease
    while time.monotonic() < held_until:
        await asyncio.sleep(lease / BEATS)
        try:
            if not await claim.beat():
                return
            held_until = time.monotonic() + lease
        except Problem as problem:
            log.warning("job.beat_missed", job_id=claim.job.id, exc_info=problem)


async def _hide(records: Sequence["SQSRecord"], seconds: float) -> None:
    """Have the messages delivered no sooner than that; a queue that does not answer is left alone."""
    visible = max(0, min(round(seconds), LONGEST_PAUSE_SECONDS))
    url = load(QueueSettings).jobs_queue_url

    def change(some: Sequence["SQSRecord"]) -> None:
        entries: list[ChangeMessageVisibilityBatchRequestEntryTypeDef] = [
            {"Id": str(index), "ReceiptHandle": record.receipt_handle, "VisibilityTimeout": visible}
            for index, record in enumerate(some)
        ]
        jobs.client().change_message_visibility_batch(QueueUrl=url, Entries=entries)

    for first in range(0, len(records), jobs.SENT_AT_ONCE):
        try:
            await asyncio.to_thread(change, records[first : first + jobs.SENT_AT_ONCE])
        except Exception as error:
            # They come again all the same, only at another time.
            log.warning("message.not_hidden", exc_info=error)


def _growing(record: "SQSRecord") -> float:
    return float(FIRST_PAUSE_SECONDS * 3 ** (_receives(record) - 1))


def _receives(record: "SQSRecord") -> int:
    return int(record.attributes.approximate_receive_count)


def _gave_up(error: Exception) -> WorkFailed:
    """Return what the last failure means to the person."""
    if isinstance(error, Problem) and error.code != Problem.code:
        return WorkFailed(error.code, f"{error.detail} It was tried several times; ask for it again later.")
    return GAVE_UP
