"""A job is recorded once, started by a message, and its owner can watch it, end it and begin it again."""

import asyncio
import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from agentkit import database, jobs, settings, telemetry
from agentkit.errors import Conflict, Invalid, NotFound, Unavailable
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
    rows("update agentkit.jobs set status = 'embedding'")
    enqueue(document_id=document)
    assert len(messages()) == 1


def test_a_job_that_ends_just_as_it_is_asked_for_again_is_followed_by_a_new_one(postgres, messages, rows):
    document = uuid.uuid4()
    first = enqueue(document_id=document)
    rows("update agentkit.jobs set status = 'embedding'")
    # Comes after the new job was turned away by the running one, and before that one is looked for.
    its_end = "update agentkit.jobs set status = 'ready' where status = 'embedding'"
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
    with pytest.raises(NotFound):
        in_a_loop(jobs.find(caller(BOB), job.id))


def test_jobs_are_listed_newest_first_page_by_page_for_their_owner_alone(postgres, aws, rows):
    made = [enqueue() for _ in range(3)]
    enqueue(BOB)
    for minute, job in enumerate(made):
        rows("update agentkit.jobs set created_at = %s where id = %s", [f"2026-11-25 12:0{minute}", job.id])
    first, cursor = in_a_loop(jobs.page(caller(ADA), None, 2))
    second, end = in_a_loop(jobs.page(caller(ADA), cursor, 2))
    assert [job.id for job in first + second] == [made[2].id, made[1].id, made[0].id]
    assert end is None


def test_the_jobs_of_one_document_can_be_listed(postgres, aws):
    document = uuid.uuid4()
    job = enqueue(document_id=document)
    enqueue()
    found, _ = in_a_loop(jobs.page(caller(ADA), None, 20, document_id=document))
    assert [each.id for each in found] == [job.id]


# Ending it


@pytest.fixture
def document(rows):
    """Make a document of Ada's in that state; returns its id."""

    def make(status="queued", *, content_hash=None, owner=ADA):
        document_id = uuid.uuid4()
        rows(
            "insert into agentkit.documents"
            " (id, owner, title, filename, media_type, size_bytes, status, object_key, content_hash)"
            " values (%(id)s, %(owner)s, 'Lease', 'lease.md', 'text/markdown', 5, %(status)s, %(key)s, %(hash)s)",
            {"id": document_id, "owner": owner.id, "status": status, "key": str(document_id), "hash": content_hash},
        )
        return document_id

    return make


def status_of(rows, table, row_id):
    (row,) = rows(f"select status from agentkit.{table} where id = %s", [row_id])
    return row["status"]


@pytest.mark.parametrize("status", ["queued", "parsing", "embedding"])
def test_live_work_is_cancelled_with_its_document(postgres, aws, rows, document, status):
    document_id = document("processing")
    job = enqueue(document_id=document_id)
    rows("update agentkit.jobs set status = %s, holder = gen_random_uuid()", [status])
    ended = in_a_loop(jobs.cancel(caller(ADA), job.id))
    assert (ended.status, status_of(rows, "documents", document_id)) == ("cancelled", "cancelled")
    assert ended.finished_at is not None
    assert [row["holder"] for row in rows("select holder from agentkit.jobs")] == [None]


def test_a_document_that_was_ready_before_stays_ready_when_its_new_ingestion_is_cancelled(
    postgres, aws, rows, document
):
    document_id = document("processing", content_hash="of the earlier file")
    job = enqueue(document_id=document_id)
    in_a_loop(jobs.cancel(caller(ADA), job.id))
    assert status_of(rows, "documents", document_id) == "ready"


def test_cancelling_twice_is_harmless(postgres, aws, document):
    job = enqueue(document_id=document())
    first = in_a_loop(jobs.cancel(caller(ADA), job.id))
    assert in_a_loop(jobs.cancel(caller(ADA), job.id)) == first


@pytest.mark.parametrize("status", ["indexing", "ready", "failed"])
def test_work_that_is_over_or_nearly_is_not_cancelled(postgres, aws, rows, document, status):
    job = enqueue(document_id=document("processing"))
    rows("update agentkit.jobs set status = %s", [status])
    with pytest.raises(Conflict) as caught:
        in_a_loop(jobs.cancel(caller(ADA), job.id))
    assert caught.value.code == "job_over"
    assert status_of(rows, "jobs", job.id) == status


def test_nobody_cancels_or_retries_anothers_work(postgres, aws, rows, document):
    job = enqueue(document_id=document())
    for act in (jobs.cancel, jobs.retry):
        with pytest.raises(NotFound):
            in_a_loop(act(caller(BOB), job.id))
    assert status_of(rows, "jobs", job.id) == "queued"


# Beginning it again


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_work_that_failed_or_was_cancelled_is_begun_again_by_a_message(postgres, rows, messages, document, status):
    document_id = document(status)
    job = enqueue(document_id=document_id)
    rows(
        "update agentkit.jobs set status = %s, attempts = 5, error_code = 'gave_up', error = 'It did not work.',"
        " finished_at = now(), deadline = now() - interval '1 h'",
        [status],
    )
    again = in_a_loop(jobs.retry(caller(ADA), job.id))
    assert (again.id, again.status, again.attempts, again.error) == (job.id, "queued", 0, None)
    assert again.finished_at is None
    assert rows("select deadline > now() + interval '5 h' as later from agentkit.jobs") == [{"later": True}]
    assert status_of(rows, "documents", document_id) == "queued"
    assert len(messages()) == 2


def test_work_that_is_under_way_is_left_as_it_is(postgres, rows, messages, document):
    job = enqueue(document_id=document())
    rows("update agentkit.jobs set status = 'embedding', attempts = 1")
    assert in_a_loop(jobs.retry(caller(ADA), job.id)).attempts == 1
    assert len(messages()) == 1


def test_work_that_is_done_cannot_be_tried_again(postgres, aws, rows, document):
    job = enqueue(document_id=document("ready"))
    rows("update agentkit.jobs set status = 'ready'")
    with pytest.raises(Conflict) as caught:
        in_a_loop(jobs.retry(caller(ADA), job.id))
    assert caught.value.code == "job_not_retryable"


def test_work_on_a_document_that_is_gone_cannot_be_tried_again(postgres, aws, rows, document):
    job = enqueue(document_id=document("failed"))
    rows("update agentkit.jobs set status = 'failed'")
    rows("delete from agentkit.documents")
    with pytest.raises(Conflict):
        in_a_loop(jobs.retry(caller(ADA), job.id))
    assert status_of(rows, "jobs", job.id) == "failed"


def test_earlier_work_on_a_document_cannot_be_tried_again(postgres, aws, rows, document):
    document_id = document("failed")
    earlier = enqueue(document_id=document_id)
    rows("update agentkit.jobs set status = 'failed'")
    enqueue(document_id=document_id)
    rows("update agentkit.jobs set status = 'failed'")
    with pytest.raises(Conflict):
        in_a_loop(jobs.retry(caller(ADA), earlier.id))
    assert status_of(rows, "jobs", earlier.id) == "failed"


def test_a_queue_out_of_reach_fails_what_was_to_begin_again(postgres, aws, rows, document, monkeypatch):
    document_id = document("failed")
    job = enqueue(document_id=document_id)
    rows("update agentkit.jobs set status = 'failed'")
    jobs.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable):
        in_a_loop(jobs.retry(caller(ADA), job.id))
    assert status_of(rows, "jobs", job.id) == "failed"
    assert status_of(rows, "documents", document_id) == "failed"


# As the service


def test_the_service_starts_work_for_an_owner(postgres, messages, rows, document, monkeypatch):
    document_id = document("ready")
    monkeypatch.setenv("DATABASE_URL", postgres.environment["WORKER_DATABASE_URL"])
    settings.forget()
    job = in_a_loop(jobs.enqueue_for(ADA.id, "ingest", document_id, reason="test"))
    assert (job.owner, job.status) == (ADA.id, "queued")
    assert status_of(rows, "documents", document_id) == "queued"
    assert in_a_loop(jobs.enqueue_for(ADA.id, "ingest", document_id, reason="test")).id == job.id
    assert {json.loads(message["body"])["job_id"] for message in messages()} == {str(job.id)}


def test_the_functions_own_login_cannot_start_work_for_others(postgres, aws, rows, document):
    document_id = document("ready")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        in_a_loop(jobs.enqueue_for(ADA.id, "ingest", document_id, reason="test"))
    assert rows("select * from agentkit.jobs") == []
