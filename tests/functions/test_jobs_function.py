"""A job is shown to its owner as it is, and to nobody else."""

import uuid

import psycopg
import pytest
from fastapi.testclient import TestClient

from agentkit import database, redis
from functions.jobs.app import app
from tests.parts.people import ADA, ADMIN, BOB, bearer
from tests.parts.redis import raw, redis_away

JOB = uuid.UUID("11111111-1111-4111-8111-111111111111")
DOCUMENT = uuid.UUID("22222222-2222-4222-8222-222222222222")


@pytest.fixture
def client(postgres, people, redis_server, monkeypatch):
    for name, value in redis_server.environment.items():
        monkeypatch.setenv(name, value)
    with TestClient(app) as client:
        yield client
        assert client.portal is not None
        client.portal.call(database.close)
        client.portal.call(redis.close)


@pytest.fixture
def job(postgres):
    """Put a job of Ada's there."""

    def put(**columns):
        row = {
            "id": JOB,
            "owner": ADA.id,
            "kind": "ingest",
            "document_id": DOCUMENT,
            "created_at": "2026-11-01",
            **columns,
        }
        with psycopg.connect(postgres.environment["ADMIN_DATABASE_URL"]) as connection:
            connection.execute(
                f"insert into agentkit.jobs ({', '.join(row)}) values ({', '.join(['%s'] * len(row))})".encode(),
                list(row.values()),
            )

    return put


def ask(client, person, job_id=JOB):
    return client.get(f"/v1/jobs/{job_id}", headers=bearer(person))


def test_its_owner_sees_a_job_under_way(client, job):
    job(status="running", started_at="2026-11-02", attempts=1, progress='{"passages": 64, "passages_total": 96}')
    answer = ask(client, ADA)
    assert answer.status_code == 200
    assert answer.json() == {
        "id": str(JOB),
        "kind": "ingest",
        "status": "running",
        "document_id": str(DOCUMENT),
        "progress": {"passages": 64, "passages_total": 96},
        "error": None,
        "created_at": "2026-11-01T00:00:00Z",
        "started_at": "2026-11-02T00:00:00Z",
        "finished_at": None,
    }
    assert "RateLimit" in answer.headers


def test_a_failed_job_says_why(client, job):
    job(status="failed", error_code="no_text", error="No text was found.", finished_at="2026-11-03")
    answer = ask(client, ADA).json()
    assert (answer["status"], answer["finished_at"]) == ("failed", "2026-11-03T00:00:00Z")
    assert answer["error"] == {"code": "no_text", "detail": "No text was found."}


@pytest.mark.parametrize("person", [BOB, ADMIN], ids=["another", "an admin"])
def test_anothers_job_is_not_found(client, job, person):
    job()
    answer = ask(client, person)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_job_that_is_not_there_is_not_found(client):
    assert ask(client, ADA).status_code == 404


def test_what_is_no_id_is_refused(client):
    answer = ask(client, ADA, "1")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


def test_without_redis_a_job_is_still_shown(client, job, redis_server):
    job()
    with redis_away(redis_server):
        assert ask(client, ADA).status_code == 200


def test_without_postgres_it_says_when_to_try_again(client, job, postgres):
    job()
    postgres.stop()
    try:
        answer = ask(client, ADA)
    finally:
        postgres.resume()
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert ask(client, ADA).status_code == 200


def test_who_asks_too_often_is_told_when_to_come_back(client, job, redis_server, monkeypatch):
    job()
    with raw(redis_server) as connection:
        connection.flushall()
    # 300 a minute, of which one in 300 is left.
    monkeypatch.setenv("RATE_LIMIT_SCALE", str(1 / 300))
    answers = [ask(client, ADA) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert int(answers[1].headers["Retry-After"]) > 0


def test_nobody_is_served_without_signing_in(client):
    assert client.get(f"/v1/jobs/{JOB}").json()["code"] == "token_missing"
