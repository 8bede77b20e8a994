"""A job whose message is dead fails, so that nobody waits for it, unless someone is at it or it was asked for again."""

import asyncio
import json
import time
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from agentkit.jobs import Envelope
from functions.maintenance.app import handler
from infra.functions import declared
from infra.local.lambdas import Lambdas, Limits
from infra.local.part import LOOPBACK, free_port
from infra.local.poller import poll
from infra.local.schedule import keep_time
from tests.parts.people import BOB

(MAINTENANCE,) = [function for function in declared() if function.name == "maintenance"]


def ahead(**time):
    return datetime.now(UTC) + timedelta(**time)


def letter(job=None, *, body=None, sent_at=None, name="dead"):
    """A message of the dead-letter queue, as Lambda hands it on: of that job, or with that body."""
    return {
        "messageId": name,
        "receiptHandle": "handle",
        "body": body if body is not None else Envelope(job_id=job, kind="ingest", request_id="req-1").model_dump_json(),
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": str(int(1000 * (sent_at or time.time()))),
            "SenderId": "the-functions",
        },
        "messageAttributes": {},
        "md5OfBody": "b1946ac92492d2347c6235b4d2611184",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:jobs-dead-letter",
        "awsRegion": "us-east-1",
    }


@pytest.fixture
def bury(worker_login):
    """Hand maintenance those letters; returns which are to be delivered again."""

    def invoke(*letters):
        answer = handler({"Records": list(letters)}, None)
        return [each["itemIdentifier"] for each in answer["batchItemFailures"]]

    return invoke


@pytest.fixture
def job_row(rows):
    """The row of a job."""
    return lambda job: rows("select * from agentkit.jobs where id = %s", [job])[0]


@pytest.fixture
def put_part(rows):
    """Put a part of a job there that someone holds, or held."""
    return lambda job, lease_until: rows(
        "insert into agentkit.job_parts (job_id, ordinal, passages, count, holder, lease_until)"
        " values (%s, 0, '[{}]', 1, %s, %s)",
        [job, uuid.uuid4(), lease_until],
    )


def test_the_job_and_its_document_fail_and_nobody_elses(bury, upload, document, job_row):
    (mine, job), (others, other_job) = upload(b"text"), upload(b"text", owner=BOB)
    assert bury(letter(job)) == []
    for row in (job_row(job), document(mine)):
        assert (row["status"], row["error_code"]) == ("failed", "gave_up")
    assert job_row(job)["error"] == "It did not work after several attempts; ask for it again later."
    assert (job_row(other_job)["status"], document(others)["status"]) == ("queued", "queued")
    before = job_row(job)
    assert bury(letter(job)) == []
    assert job_row(job) == before


@pytest.mark.parametrize(("lease", "status"), [({"minutes": 1}, "held"), ({"seconds": -1}, "failed")])
@pytest.mark.parametrize("of", ["the job", "a part of it"])
def test_a_job_is_left_to_whoever_holds_it(bury, put_job, put_part, job_row, lease, status, of):
    until = ahead(**lease)
    held = {"holder": uuid.uuid4(), "lease_until": until} if of == "the job" else {}
    job = put_job(status="embedding", **held)
    if of != "the job":
        put_part(job, until)
    assert bury(letter(job)) == []
    assert job_row(job)["status"] == ("embedding" if status == "held" else "failed")


def test_a_job_that_was_asked_for_again_later_than_its_message_was_sent_goes_on(bury, put_job, job_row):
    # Its deadline is six hours after the asking.
    asked = time.time() - 60
    job = put_job(deadline=datetime.fromtimestamp(asked, UTC) + timedelta(hours=6))
    assert bury(letter(job, sent_at=asked - 1)) == []
    assert job_row(job)["status"] == "queued"
    assert bury(letter(job, sent_at=asked + 1)) == []
    assert job_row(job)["status"] == "failed"


@pytest.mark.parametrize("status", ["ready", "failed", "cancelled"])
def test_a_job_that_is_over_stays_as_it_is(bury, put_job, job_row, status):
    job = put_job(status=status, finished_at=ahead(minutes=-1))
    before = job_row(job)
    assert bury(letter(job), letter(uuid.uuid4(), name="of no job")) == []
    assert job_row(job) == before


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("my secret diary", id="not JSON"),
        pytest.param('"my secret diary"', id="a string"),
        pytest.param('{"version": 2, "job_id": "my secret diary"}', id="another version"),
        pytest.param('{"Records": [{"eventSource": "aws:s3", "key": "my secret diary"}]}', id="the storage's"),
    ],
)
def test_a_letter_that_cannot_be_read_is_told_without_what_it_says_and_dropped(bury, put_job, job_row, caplog, body):
    job = put_job()
    assert bury(letter(body=body, sent_at=1_700_000_000, name="odd"), letter(job)) == []
    assert job_row(job)["status"] == "failed"
    (told,) = [record.facts for record in caplog.records if record.message == "dead_letter.unreadable"]
    assert (told["message_id"], told["sent_at"], told["receives"]) == ("odd", 1_700_000_000, "1")
    assert (told["bytes"], told["md5"], told["sender"]) == (
        len(body),
        "b1946ac92492d2347c6235b4d2611184",
        "the-functions",
    )
    assert told["faults"]
    assert "diary" not in json.dumps(told)


def test_a_record_that_is_none_is_named_and_the_others_are_dealt_with(bury, put_job, job_row):
    job = put_job()
    odd = letter(uuid.uuid4(), name="odd") | {"attributes": {}}
    assert bury(odd, letter(job)) == ["odd"]
    assert job_row(job)["status"] == "failed"


def test_without_the_database_every_letter_comes_again(bury, put_job, job_row, monkeypatch):
    job = put_job()
    with monkeypatch.context() as away:
        away.setenv("DATABASE_URL", f"postgresql://nobody:nothing@{LOOPBACK}:{free_port()}/app")
        assert bury(letter(job), letter(uuid.uuid4(), name="another")) == ["dead", "another"]
    assert job_row(job)["status"] == "queued"


def test_letters_are_counted(bury, put_job, capfd):
    bury(letter(put_job()), letter(body="?", name="odd"), letter(put_job(status="ready"), name="over"))
    (line,) = [json.loads(line) for line in capfd.readouterr().out.splitlines() if '"_aws"' in line]
    assert (line["DeadLetters"], line["DeadLettersUnreadable"], line["JobsGivenUp"]) == (3, 1, 1)


# As deployed


@asynccontextmanager
async def deployed(postgres, aws, folder):
    """Maintenance in sandboxes of its own, with its queue and its schedule."""
    stack = {**postgres.environment, **aws.environment}
    lambdas = Lambdas(stack, folder, [MAINTENANCE], Limits(sandboxes=2, timeout_seconds=60.0))
    sources = [
        asyncio.create_task(poll(lambdas, stack)),
        asyncio.create_task(keep_time(lambdas, every_seconds=0)),
    ]
    try:
        yield
    finally:
        for source in sources:
            source.cancel()
        await asyncio.gather(*sources, return_exceptions=True)
        await lambdas.stop()


@pytest.mark.anyio
async def test_its_queue_and_its_schedule_invoke_it_with_the_workers_login(postgres, aws, put_job, job_row, tmp_path):
    dead, late, healthy = put_job(), put_job(deadline=ahead(minutes=-1)), put_job(owner=BOB.id)
    aws.sqs.send_message(QueueUrl=aws.dead_letter_queue_url, MessageBody=letter(dead)["body"])
    async with deployed(postgres, aws, tmp_path), asyncio.timeout(60):
        while "queued" in {job_row(dead)["status"], job_row(late)["status"]}:
            await asyncio.sleep(0.05)
    assert [job_row(job)["error_code"] for job in (dead, late, healthy)] == ["gave_up", "took_too_long", None]
