"""The worker, given documents and their messages as `documents` and SQS leave them."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentkit import jobs, passages, settings, work
from agentkit.work import LambdaContext
from functions.worker import sandbox
from functions.worker.app import handler
from infra.local.aws import Aws
from infra.local.postgres import Postgres
from tests.parts.people import ADA, Person


@pytest.fixture
def upload(rows: Callable[..., list[dict[str, Any]]], aws: Aws) -> Callable[..., tuple[uuid.UUID, uuid.UUID]]:
    """Put a document with its file and its job there, as `documents` leaves them; returns both ids."""

    def put(
        content: bytes,
        media_type: str = "text/markdown",
        *,
        title: str = "A title",
        owner: Person = ADA,
        audience: str = "owner",
        stored: bool = True,
    ) -> tuple[uuid.UUID, uuid.UUID]:
        document, job = uuid.uuid4(), uuid.uuid4()
        key = f"{owner.id}/{document}/file"
        rows(
            "insert into agentkit.documents"
            " (id, owner, title, filename, media_type, size_bytes, audience, status, object_key)"
            " values (%s, %s, %s, 'file', %s, %s, %s, 'queued', %s)",
            [document, owner.id, title, media_type, max(1, len(content)), audience, key],
        )
        rows(
            "insert into agentkit.jobs (id, owner, kind, document_id) values (%s, %s, 'ingest', %s)",
            [job, owner.id, document],
        )
        if stored:
            aws.s3.put_object(Bucket=aws.environment["STORAGE_BUCKET"], Key=key, Body=content)
        return document, job

    return put


@pytest.fixture
def worker_login(postgres: Postgres, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process has the worker's logins."""
    monkeypatch.setenv("DATABASE_URL", postgres.environment["WORKER_DATABASE_URL"])
    monkeypatch.setenv("VECTOR_DATABASE_URL", postgres.environment["WORKER_VECTOR_DATABASE_URL"])
    settings.forget()
    passages._collection.cache_clear()
    yield
    work.close()


@pytest.fixture
def deliver(worker_login: None) -> Callable[..., int]:
    """Invoke the worker with the messages of those jobs; returns how many it wants delivered again."""

    def invoke(*job_ids: uuid.UUID, receives: int | str = 1, context: LambdaContext | None = None) -> int:
        records = [message(job_id, str(number), receives) for number, job_id in enumerate(job_ids)]
        return len(handler({"Records": records}, context)["batchItemFailures"])

    return invoke


@pytest.fixture(scope="session", autouse=True)
def readers() -> Iterator[None]:
    """What reads documents apart, kept warm from test to test."""
    yield
    sandbox.close()


@pytest.fixture
def document(rows: Callable[..., list[dict[str, Any]]]) -> Callable[[uuid.UUID], dict[str, Any]]:
    """The row of a document."""
    return lambda document_id: rows("select * from agentkit.documents where id = %s", [document_id])[0]


@pytest.fixture
def stored(rows: Callable[..., list[dict[str, Any]]]) -> Callable[[uuid.UUID], list[dict[str, Any]]]:
    """The passages of a document, in their order."""

    def ask(document_id: uuid.UUID) -> list[dict[str, Any]]:
        found = rows(
            "select * from vecs.passages where document_id = %s order by id", [document_id], database="VECTOR_"
        )
        return [row["metadata"] | {"id": row["id"]} for row in found]

    return ask


def message(job_id: uuid.UUID, name: str, receives: int | str = 1) -> dict[str, Any]:
    """One SQS record that says that the job needs hands."""
    body = jobs.Envelope(job_id=job_id, kind="ingest").model_dump_json()
    return {
        "messageId": name,
        "receiptHandle": "gone",
        "body": body,
        "attributes": {"ApproximateReceiveCount": str(receives)},
    }
