"""A job is shown to its owner as it is, and ended and begun again by them alone."""

import json
import uuid

import pytest
from psycopg.types.json import Jsonb

from functions.jobs.app import app
from infra.local.part import free_port
from tests.parts.people import ADA, ADMIN, BOB, bearer
from tests.parts.redis import raw, redis_away

JOB = uuid.UUID("11111111-1111-4111-8111-111111111111")
DOCUMENT = uuid.UUID("22222222-2222-4222-8222-222222222222")


@pytest.fixture
def client(postgres, people, upstash, aws, serve):
    return serve(app)


@pytest.fixture
def put(put_job):
    """Put a job of Ada's there."""

    def put(**columns):
        known = {"id": JOB, "document_id": DOCUMENT, "created_at": "2026-11-01", "deadline": "2026-11-02"}
        return put_job(**{**known, **columns})

    return put


@pytest.fixture
def ask(client):
    """Make a request as a person: `ask(ADA)` for the job as it is."""

    def ask(person, method="GET", path=f"/{JOB}", **options):
        return client.request(method, f"/v1/jobs{path}", headers=bearer(person), **options)

    return ask


def problem(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


# Seeing it


def test_its_owner_sees_a_job_under_way_and_nothing_of_how_it_is_done(ask, put):
    put(
        status="embedding",
        started_at="2026-11-01 12:00",
        attempts=1,
        progress=Jsonb({"passages": 64, "passages_total": 96, "reused": 3, "unknown": 1}),
        input_tokens=12_000,
        cost_usd="0.00024",
        holder=uuid.uuid4(),
        source=Jsonb({"etag": "abc"}),
        idempotency_key="once",
    )
    answer = ask(ADA)
    assert answer.status_code == 200
    assert answer.json() == {
        "id": str(JOB),
        "kind": "ingest",
        "status": "embedding",
        "document_id": str(DOCUMENT),
        "progress": {"pages": None, "pages_total": None, "passages": 64, "passages_total": 96, "reused": 3},
        "attempts": 1,
        "error": None,
        "input_tokens": 12_000,
        "cost_usd": 0.00024,
        "created_at": "2026-11-01T00:00:00Z",
        "started_at": "2026-11-01T12:00:00Z",
        "finished_at": None,
        "deadline": "2026-11-02T00:00:00Z",
    }
    assert "RateLimit" in answer.headers


def test_a_failed_job_says_why(ask, put):
    put(status="failed", error_code="no_text", error="No text was found.", finished_at="2026-11-03")
    answer = ask(ADA).json()
    assert (answer["status"], answer["finished_at"]) == ("failed", "2026-11-03T00:00:00Z")
    assert answer["error"] == {"code": "no_text", "detail": "No text was found."}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry")],
    ids=["see", "follow", "cancel", "retry"],
)
@pytest.mark.parametrize("person", [BOB, ADMIN], ids=["another", "an admin"])
def test_anothers_job_is_not_found_and_stays_as_it_is(ask, put, rows, person, method, path):
    put()
    before = rows("select * from agentkit.jobs")
    assert problem(ask(person, method, f"/{JOB}{path}")) == (404, "not_found")
    assert rows("select * from agentkit.jobs") == before


def test_a_job_that_is_not_there_is_not_found(ask):
    assert problem(ask(ADA)) == (404, "not_found")


@pytest.mark.parametrize("path", ["/1", "/1/events", "?document_id=1"])
def test_what_is_no_id_is_refused(ask, path):
    assert problem(ask(ADA, path=path)) == (422, "invalid")


def test_jobs_are_listed_newest_first_in_pages(ask, put):
    oldest, middle, newest = (put(id=uuid.uuid4(), created_at=f"2026-11-0{day}", document_id=None) for day in (1, 2, 3))
    first = ask(ADA, path="?limit=2").json()
    assert [job["id"] for job in first["items"]] == [str(newest), str(middle)]
    last = ask(ADA, path=f"?limit=2&cursor={first['next_cursor']}").json()
    assert [job["id"] for job in last["items"]] == [str(oldest)]
    assert last["next_cursor"] is None


def test_a_list_may_be_of_one_document_and_holds_nothing_of_anothers(ask, put):
    put(id=uuid.uuid4(), document_id=uuid.uuid4())
    put()
    assert [job["id"] for job in ask(ADA, path=f"?document_id={DOCUMENT}").json()["items"]] == [str(JOB)]
    assert ask(BOB, path="").json() == {"items": [], "next_cursor": None}


def test_without_redis_a_job_is_still_shown(ask, put, redis_server):
    put()
    with redis_away(redis_server):
        assert ask(ADA).status_code == 200


def test_without_postgres_it_says_when_to_try_again(ask, put, postgres):
    put()
    postgres.stop()
    try:
        answer = ask(ADA)
    finally:
        postgres.resume()
    assert problem(answer) == (503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert ask(ADA).status_code == 200


def test_who_asks_too_often_is_told_when_to_come_back(ask, put, redis_server, monkeypatch):
    put()
    with raw(redis_server) as connection:
        connection.flushall()
    # 300 a minute, of which one in 300 is left.
    monkeypatch.setenv("RATE_LIMIT_SCALE", str(1 / 300))
    answers = [ask(ADA) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert int(answers[1].headers["Retry-After"]) > 0


def test_nobody_is_served_without_signing_in(client):
    for path in ("", f"/{JOB}", f"/{JOB}/events"):
        assert problem(client.get(f"/v1/jobs{path}")) == (401, "token_missing")


# A word in it


def test_its_owner_ends_a_job_and_ends_it_again(ask, put):
    put(status="embedding")
    for _ in range(2):
        answer = ask(ADA, "POST", f"/{JOB}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert ask(ADA).json()["finished_at"] is not None


@pytest.mark.parametrize("status", ["indexing", "ready", "failed"])
def test_what_is_over_or_nearly_cannot_be_ended(ask, put, status):
    put(status=status)
    assert problem(ask(ADA, "POST", f"/{JOB}/cancel")) == (409, "job_over")


@pytest.fixture
def document(rows):
    """The job's document."""
    rows(
        "insert into agentkit.documents (id, owner, title, filename, media_type, size_bytes, status, object_key)"
        " values (%s, %s, 'Lease', 'lease.pdf', 'application/pdf', 5, 'failed', 'key')",
        [DOCUMENT, ADA.id],
    )


def test_a_failed_job_is_begun_again(ask, put, document, aws):
    put(status="failed", error_code="no_text", error="No text was found.", attempts=5)
    answer = ask(ADA, "POST", f"/{JOB}/retry")
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["attempts"], answer.json()["error"]) == ("queued", 0, None)
    (message,) = aws.sqs.receive_message(QueueUrl=aws.environment["JOBS_QUEUE_URL"])["Messages"]
    assert json.loads(message["Body"])["job_id"] == str(JOB)


def test_a_job_that_was_done_cannot_be_begun_again(ask, put, document):
    put(status="ready")
    assert problem(ask(ADA, "POST", f"/{JOB}/retry")) == (409, "job_not_retryable")


def test_a_queue_out_of_reach_leaves_a_failed_job_that_says_so(ask, put, document, monkeypatch):
    put(status="failed")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free_port()}")
    assert problem(ask(ADA, "POST", f"/{JOB}/retry")) == (503, "queue_unavailable")
    assert (ask(ADA).json()["status"], ask(ADA).json()["error"]["code"]) == ("failed", "queue_unavailable")
