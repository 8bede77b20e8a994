"""A job is recorded once, started by a message, done by one worker at a time, and never left hanging."""

import asyncio
import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentkit import database, jobs, settings, telemetry
from agentkit.errors import Invalid, Unavailable
from agentkit.jobs import Work, WorkFailed
from infra.local.part import free_port
from tests.parts.people import ADA, BOB, caller


def in_a_loop(work):
    """Run a coroutine as one request of a function does; `asyncio.run` would drop the loop that Mangum has set."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(database.close())
        loop.close()


def enqueue(person=ADA, kind="count", **options):
    return in_a_loop(jobs.enqueue(caller(person), kind, **options))


@pytest.fixture
def messages(aws):
    """The messages in the queue, as Lambda hands them over."""

    def receive():
        answer = aws.sqs.receive_message(
            QueueUrl=aws.environment["JOBS_QUEUE_URL"],
            MaxNumberOfMessages=10,
            VisibilityTimeout=0,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        return [
            {
                "messageId": each["MessageId"],
                "receiptHandle": each["ReceiptHandle"],
                "body": each["Body"],
                "attributes": each["Attributes"],
            }
            for each in answer.get("Messages", [])
        ]

    return receive


class Counting:
    """Work that notes what it was asked to do, and does as told."""

    def __init__(self):
        self.done = []
        self.failed = []
        self.request_ids = []
        self.error = None

    async def run(self, job):
        self.done.append(job.id)
        self.request_ids.append(telemetry.request_id.get())
        if self.error:
            raise self.error

    async def note(self, connection, job, failure):
        await connection.execute("select 1")
        self.failed.append((job.id, failure.code))


@pytest.fixture
def counting():
    return Counting()


@pytest.fixture
def work(postgres, aws, counting, monkeypatch):
    """Hand records to a worker that counts; returns the ids to be delivered again."""

    def invoke(records, context=None):
        with monkeypatch.context() as worker:
            worker.setenv("DATABASE_URL", postgres.environment["WORKER_DATABASE_URL"])
            settings.forget()
            handler = jobs.sqs_handler({"count": Work(run=counting.run, failed=counting.note)})
            failures = handler({"Records": records}, context)["batchItemFailures"]
            jobs.close()
        settings.forget()
        return [failure["itemIdentifier"] for failure in failures]

    return invoke


def record(job_id, *, kind="count", receives=1, body=None):
    if body is None:
        body = jobs.Envelope(job_id=job_id, kind=kind).model_dump_json()
    attributes = {"ApproximateReceiveCount": str(receives)}
    return {"messageId": f"message of {job_id}", "receiptHandle": "gone", "body": body, "attributes": attributes}


class Remaining:
    """A Lambda context with that much time left."""

    def __init__(self, seconds):
        self.seconds = seconds

    def get_remaining_time_in_millis(self):
        return int(self.seconds * 1000)


# Asking for work


def test_the_message_names_the_job_and_the_request(postgres, messages):
    token = telemetry.request_id.set("from-the-browser")
    try:
        job = enqueue()
    finally:
        telemetry.request_id.reset(token)
    (message,) = messages()
    assert json.loads(message["body"]) == {
        "version": 1,
        "job_id": str(job.id),
        "kind": "count",
        "request_id": "from-the-browser",
    }


def test_the_same_key_finds_the_same_job_for_its_owner_alone(postgres, aws):
    first, second = enqueue(idempotency_key="once"), enqueue(idempotency_key="once")
    assert first.id == second.id
    assert enqueue(BOB, idempotency_key="once").id != first.id
    assert enqueue(idempotency_key="twice").id != first.id


def test_a_key_of_other_work_is_refused(postgres, aws):
    enqueue(idempotency_key="once")
    with pytest.raises(Invalid) as caught:
        enqueue(kind="other", idempotency_key="once")
    assert caught.value.code == "idempotency_key_reused"


def test_a_document_has_one_live_job_of_a_kind(postgres, aws, rows):
    document = uuid.uuid4()
    first = enqueue(document_id=document)
    assert enqueue(document_id=document).id == first.id
    assert enqueue(document_id=document, kind="other").id != first.id
    rows("update agentkit.jobs set status = 'failed'")
    assert enqueue(document_id=document).id != first.id


def test_requests_at_the_same_moment_make_one_job(postgres, aws, rows):
    document = uuid.uuid4()
    with ThreadPoolExecutor(8) as requests:
        found = list(requests.map(lambda _: enqueue(document_id=document).id, range(8)))
    assert len(set(found)) == 1
    assert len(rows("select * from agentkit.jobs")) == 1


def test_a_job_that_still_waits_is_sent_again(postgres, messages):
    document = uuid.uuid4()
    enqueue(document_id=document)
    enqueue(document_id=document)
    assert len({message["body"] for message in messages()}) == 1
    assert len(messages()) == 2


def test_a_job_that_is_under_way_is_not_sent_again(postgres, messages, rows):
    document = uuid.uuid4()
    enqueue(document_id=document)
    rows("update agentkit.jobs set status = 'running'")
    enqueue(document_id=document)
    assert len(messages()) == 1


def test_a_job_that_ends_just_as_it_is_asked_for_again_is_followed_by_a_new_one(postgres, messages, rows):
    document = uuid.uuid4()
    first = enqueue(document_id=document)
    rows("update agentkit.jobs set status = 'running'")
    # Comes after the new job was turned away by the running one, and before that one is looked for.
    its_end = "update agentkit.jobs set status = 'succeeded' where status = 'running'"
    second = enqueue(document_id=document, also=[(its_end, [])])
    assert second.id != first.id
    assert str(second.id) in {json.loads(message["body"])["job_id"] for message in messages()}


def test_what_is_recorded_with_a_job_is_undone_with_it(postgres, aws, rows):
    with pytest.raises(Invalid):
        enqueue(also=[("select 1 / 0", [])])
    assert rows("select * from agentkit.jobs") == []


def test_a_queue_out_of_reach_fails_the_job_and_says_so(postgres, aws, rows, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable) as caught:
        enqueue()
    assert caught.value.code == "queue_unavailable"
    assert [(row["status"], row["error_code"]) for row in rows("select * from agentkit.jobs")] == [
        ("failed", "queue_unavailable")
    ]


def test_the_same_key_works_once_the_queue_is_back(postgres, messages, monkeypatch):
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free_port()}")
        with pytest.raises(Unavailable):
            enqueue(idempotency_key="once")
    jobs.close()
    job = enqueue(idempotency_key="once")
    assert job.status == "queued"
    assert [json.loads(message["body"])["job_id"] for message in messages()] == [str(job.id)]


def test_a_job_is_found_by_its_owner_alone(postgres, aws):
    job = enqueue()
    assert in_a_loop(jobs.find(caller(ADA), job.id)) == job
    assert in_a_loop(jobs.find(caller(BOB), job.id)) is None


# Doing it


def test_work_is_done_and_its_job_succeeds(work, counting, messages, rows):
    job = enqueue()
    assert work(messages()) == []
    assert counting.done == [job.id]
    (row,) = rows("select * from agentkit.jobs")
    assert (row["status"], row["attempts"]) == ("succeeded", 1)
    assert row["created_at"] <= row["started_at"] <= row["finished_at"]


def test_the_request_that_asked_is_named_in_the_workers_log(work, counting, messages):
    token = telemetry.request_id.set("from-the-browser")
    enqueue()
    telemetry.request_id.reset(token)
    work(messages())
    assert counting.request_ids == ["from-the-browser"]


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_a_job_that_is_over_is_not_done_again(work, counting, rows, status):
    job = enqueue()
    rows("update agentkit.jobs set status = %s", [status])
    assert work([record(job.id)]) == []
    assert counting.done == []


def test_a_job_that_is_not_there_is_not_asked_for_again(work, counting, aws):
    assert work([record(uuid.uuid4())]) == []
    assert counting.done == []


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("", id="empty"),
        pytest.param("not JSON", id="no JSON"),
        pytest.param("[]", id="no object"),
        pytest.param('{"version": 1}', id="no job"),
        pytest.param('{"version": 1, "job_id": "1", "kind": "count"}', id="no id"),
        pytest.param(f'{{"version": 2, "job_id": "{uuid.UUID(int=1)}", "kind": "count"}}', id="of a later version"),
    ],
)
def test_a_message_that_cannot_be_read_goes_back_and_the_others_are_done(work, counting, aws, body):
    job = enqueue()
    assert work([record("unreadable", body=body), record(job.id)]) == ["message of unreadable"]
    assert counting.done == [job.id]


def test_work_of_an_unknown_kind_waits_for_a_worker_that_knows_it(work, rows, aws):
    job = enqueue(kind="later")
    assert work([record(job.id, kind="later")]) == [f"message of {job.id}"]
    assert [row["status"] for row in rows("select * from agentkit.jobs")] == ["queued"]


def test_work_that_cannot_be_done_fails_with_its_reason(work, counting, rows, aws):
    job = enqueue()
    counting.error = WorkFailed("too_hard", "It is too hard.")
    assert work([record(job.id)]) == []
    (row,) = rows("select * from agentkit.jobs")
    assert (row["status"], row["error_code"], row["error"]) == ("failed", "too_hard", "It is too hard.")
    assert counting.failed == [(job.id, "too_hard")]


def test_work_that_was_interrupted_is_queued_again(work, counting, rows, aws):
    job = enqueue()
    counting.error = ConnectionError("the model hung up")
    assert work([record(job.id)]) == [f"message of {job.id}"]
    assert [row["status"] for row in rows("select * from agentkit.jobs")] == ["queued"]
    assert counting.failed == []
    counting.error = None
    assert work([record(job.id, receives=2)]) == []
    assert [(row["status"], row["attempts"]) for row in rows("select * from agentkit.jobs")] == [("succeeded", 2)]


@pytest.fixture
def hidden(aws):
    """How many messages are hidden for now."""

    def ask():
        name = "ApproximateNumberOfMessagesNotVisible"
        answer = aws.sqs.get_queue_attributes(QueueUrl=aws.environment["JOBS_QUEUE_URL"], AttributeNames=[name])
        return int(answer["Attributes"][name])

    return ask


def test_the_worker_itself_says_when_interrupted_work_is_tried_again(work, counting, messages, hidden):
    enqueue()
    received = messages()
    assert hidden() == 0
    counting.error = ConnectionError("the model hung up")
    work(received)
    assert hidden() == 1


def test_a_message_about_a_job_that_another_worker_is_at_waits_until_that_one_must_be_over(
    work, messages, hidden, rows
):
    enqueue()
    rows("update agentkit.jobs set status = 'running', attempts = 1, started_at = now()")
    received = messages()
    assert hidden() == 0
    work(received, Remaining(60))
    assert hidden() == 1


def test_the_last_delivery_fails_the_job_and_keeps_the_message(work, counting, rows, aws):
    job = enqueue()
    counting.error = ConnectionError("the model hung up")
    assert work([record(job.id, receives=aws.environment["JOBS_MAX_RECEIVES"])]) == [f"message of {job.id}"]
    assert [(row["status"], row["error_code"]) for row in rows("select * from agentkit.jobs")] == [
        ("failed", "gave_up")
    ]
    assert counting.failed == [(job.id, "gave_up")]


def test_a_failure_that_cannot_be_noted_everywhere_is_noted_nowhere(work, counting, rows, aws, monkeypatch):
    job = enqueue()
    counting.error = WorkFailed("too_hard", "It is too hard.")

    async def broken(connection, job, failure):
        await connection.execute("select 1 / 0")

    monkeypatch.setattr(counting, "note", broken)
    assert work([record(job.id)]) == [f"message of {job.id}"]
    assert [row["status"] for row in rows("select * from agentkit.jobs")] == ["running"]


def test_work_ends_itself_before_lambda_would_and_twice_is_enough(work, counting, rows, aws, monkeypatch):
    job = enqueue()

    async def endless(job):
        await asyncio.Event().wait()

    monkeypatch.setattr(counting, "run", endless)
    left = Remaining(jobs.MARGIN_SECONDS + 0.1)
    assert work([record(job.id)], left) == [f"message of {job.id}"]
    assert [row["status"] for row in rows("select * from agentkit.jobs")] == ["queued"]
    assert work([record(job.id, receives=2)], left) == []
    assert [row["error_code"] for row in rows("select * from agentkit.jobs")] == ["took_too_long"]


@pytest.fixture
def long_first(postgres, aws, counting, monkeypatch):
    """Two jobs, and a context in which the first leaves less than half of the time to the second."""
    first, second = enqueue(), enqueue()
    context = Remaining(90)

    async def run(job):
        counting.done.append(job.id)
        context.seconds = 44

    monkeypatch.setattr(counting, "run", run)
    return first, second, context


def test_a_job_is_not_begun_in_what_a_long_one_left_of_the_time(work, counting, rows, long_first):
    first, second, context = long_first
    assert work([record(first.id), record(second.id)], context) == [f"message of {second.id}"]
    assert counting.done == [first.id]
    (row,) = rows("select * from agentkit.jobs where id = %s", [second.id])
    assert (row["status"], row["attempts"]) == ("queued", 0)


def test_the_last_delivery_is_tried_in_whatever_time_is_left(work, counting, long_first, aws):
    first, second, context = long_first
    last = record(second.id, receives=aws.environment["JOBS_MAX_RECEIVES"])
    assert work([record(first.id), last], context) == []
    assert counting.done == [first.id, second.id]


def test_a_job_is_another_workers_for_one_invocation(work, counting, rows, aws):
    job = enqueue()
    rows("update agentkit.jobs set status = 'running', attempts = 1, started_at = now() - interval '60 s'")
    assert work([record(job.id)], Remaining(90)) == [f"message of {job.id}"]
    assert counting.done == []
    assert work([record(job.id)], Remaining(30)) == []
    assert counting.done == [job.id]


def test_a_worker_that_lost_its_job_cannot_change_it(work, counting, rows, aws, monkeypatch):
    job = enqueue()

    async def overtaken(job):
        rows("update agentkit.jobs set attempts = attempts + 1")
        await jobs.progress(job, done=1)

    monkeypatch.setattr(counting, "run", overtaken)
    work([record(job.id)])
    assert [(row["status"], row["progress"]) for row in rows("select * from agentkit.jobs")] == [("running", {})]


def test_its_owner_sees_the_progress(work, counting, aws, monkeypatch):
    job = enqueue()

    async def half(job):
        await jobs.progress(job, passages=5, passages_total=10)

    monkeypatch.setattr(counting, "run", half)
    work([record(job.id)])
    assert in_a_loop(jobs.find(caller(ADA), job.id)).progress == {"passages": 5, "passages_total": 10}


def test_the_functions_own_login_cannot_do_the_workers_work(postgres, aws, counting, rows):
    job = enqueue()
    handler = jobs.sqs_handler({"count": Work(run=counting.run, failed=counting.note)})
    assert len(handler({"Records": [record(job.id)]}, None)["batchItemFailures"]) == 1
    assert counting.done == []
    assert [row["status"] for row in rows("select * from agentkit.jobs")] == ["queued"]
