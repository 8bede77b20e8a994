"""The dead-letter queue: a job whose message was delivered too often is failed, so that nobody waits for it.

A job that someone is at is left to them: should they die, `stuck.unheard` follows.
"""

from collections.abc import Mapping
from typing import Any, Literal

from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from pydantic import ValidationError

from agentkit import database, telemetry, work
from agentkit.jobs import Envelope, Job
from agentkit.settings import QueueSettings, load
from agentkit.work import GAVE_UP

# Locked, so that nobody begins a step of it meanwhile. A message that is older than the asking for the job is of an
# earlier time that the job failed in; its own is another.
FIND = """
    select job.*,
           coalesce(lease_until > now(), false) or exists (
               select from agentkit.job_parts as part
               where part.job_id = job.id and part.done_at is null and part.lease_until > now()
           ) as held,
           deadline - make_interval(secs => %(deadline_seconds)s) > to_timestamp(%(sent_at)s) as asked_later
    from agentkit.jobs as job where id = %(id)s for update
"""

Outcome = Literal["failed", "held", "asked_later", "over", "gone", "unreadable"]

log = telemetry.logger(__name__)


def take(event: Mapping[str, Any]) -> dict[str, Any]:
    """Deal with each record of an SQS event, and name those to deliver again: the database was out of reach."""
    outcomes: list[Outcome] = []

    def bury(record: SQSRecord) -> None:
        outcomes.append(work.run(_bury(record)))

    answer = work.each_record(event, bury)
    counts = {
        "DeadLetters": len(event["Records"]),
        "DeadLettersUnreadable": outcomes.count("unreadable"),
        "JobsGivenUp": outcomes.count("failed"),
    }
    telemetry.emit_metrics("maintenance", {name: (count, "Count") for name, count in counts.items()})
    return answer


async def _bury(record: SQSRecord) -> Outcome:
    try:
        envelope = Envelope.model_validate_json(record.body)
    except ValidationError as error:
        _tell_unreadable(record, error)
        return "unreadable"
    token = telemetry.request_id.set(envelope.request_id)
    try:
        outcome = await _give_up(envelope, sent_at=_sent_at(record))
        log.info("dead_letter.taken", job_id=envelope.job_id, kind=envelope.kind, outcome=outcome)
    except Exception as error:
        log.error("dead_letter.failed", job_id=envelope.job_id, message_id=record.message_id, exc_info=error)
        raise
    finally:
        telemetry.request_id.reset(token)
    return outcome


async def _give_up(envelope: Envelope, *, sent_at: float) -> Outcome:
    facts = {
        "id": envelope.job_id,
        "sent_at": sent_at,
        "deadline_seconds": load(QueueSettings).jobs_deadline_seconds,
    }
    async with database.service_transaction("take a dead letter") as connection:
        row = await (await connection.execute(FIND, facts)).fetchone()
        if row is None:
            return "gone"
        job = Job.of(row)
        if not job.live:
            return "over"
        if row["held"]:
            return "held"
        if row["asked_later"]:
            return "asked_later"
        await work.fail(connection, job, GAVE_UP, holder=None)
    return "failed"


def _tell_unreadable(record: SQSRecord, error: ValidationError) -> None:
    # Everything but the body, which may be anybody's.
    log.error(
        "dead_letter.unreadable",
        message_id=record.message_id,
        sent_at=_sent_at(record),
        receives=record.attributes.approximate_receive_count,
        sender=record.attributes.sender_id,
        bytes=len(record.body.encode()),
        md5=record.md5_of_body,
        faults=work.faults(error),
    )


def _sent_at(record: SQSRecord) -> float:
    """Return when the message was first sent, in seconds since 1970."""
    return int(record.attributes.sent_timestamp) / 1000
