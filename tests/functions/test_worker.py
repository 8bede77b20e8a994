"""The worker makes documents of files: once, again, after crashes; and says why when it cannot."""

import uuid

import psycopg
import pytest
from psycopg.rows import dict_row

from agentkit import jobs, passages
from functions.worker.app import handler
from infra.demo import make_pdf
from tests.parts.people import ADA

DEMO = make_pdf.FOLDER
HANDBOOK = (DEMO / "staff-handbook.pdf").read_bytes()
LEASE = (DEMO / "harbour-street-lease.md").read_bytes()


@pytest.fixture
def rows(postgres):
    """Ask the databases as their owner: `rows(query, parameters)`, `rows(query, database="VECTOR_")`."""

    def ask(query, parameters=(), database=""):
        url = postgres.environment[f"ADMIN_{database}DATABASE_URL"]
        with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    return ask


@pytest.fixture
def upload(rows, aws):
    """Put a document with its file and its job there, as `documents` leaves them; returns both ids."""

    def put(content, media_type="text/markdown", *, title="A title", owner=ADA, audience="owner", stored=True):
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
def deliver(postgres, aws, embedder, monkeypatch):
    """Invoke the worker with the messages of those jobs; returns how many it wants delivered again."""
    monkeypatch.setenv("DATABASE_URL", postgres.environment["WORKER_DATABASE_URL"])
    monkeypatch.setenv("VECTOR_DATABASE_URL", postgres.environment["WORKER_VECTOR_DATABASE_URL"])
    passages._collection.cache_clear()

    def invoke(*job_ids, receives=1):
        records = [
            {
                "messageId": str(number),
                "body": jobs.Envelope(job_id=job_id, kind="ingest").model_dump_json(),
                "attributes": {"ApproximateReceiveCount": str(receives)},
            }
            for number, job_id in enumerate(job_ids)
        ]
        return len(handler({"Records": records}, None)["batchItemFailures"])

    return invoke


@pytest.fixture
def document(rows):
    """The row of a document."""
    return lambda document_id: rows("select * from agentkit.documents where id = %s", [document_id])[0]


@pytest.fixture
def stored(rows):
    """The passages of a document, in their order."""

    def ask(document_id):
        found = rows(
            "select * from vecs.passages where document_id = %s order by id", [document_id], database="VECTOR_"
        )
        return [row["metadata"] | {"id": row["id"]} for row in found]

    return ask


def test_a_pdf_becomes_passages_with_its_pages_and_headings(upload, deliver, document, stored, rows):
    document_id, job = upload(HANDBOOK, "application/pdf", title="Staff handbook")
    assert deliver(job) == 0
    row, found = document(document_id), stored(document_id)
    assert (row["status"], row["pages"], row["passages"]) == ("ready", 7, len(found))
    (leave,) = [each for each in found if "28 days of paid annual leave" in each["text"]]
    assert leave["page"] == 3
    assert leave["heading"] == ["Tidewell Instruments: Staff Handbook", "2. Leave", "2.1 Annual leave"]
    assert (leave["title"], leave["owner"], leave["audience"]) == ("Staff handbook", str(ADA.id), "owner")
    assert {each["id"] for each in found} == {f"{document_id}:{number:05d}" for number in range(len(found))}
    (job_row,) = rows("select * from agentkit.jobs")
    assert (job_row["status"], job_row["error_code"], job_row["attempts"]) == ("succeeded", None, 1)
    assert job_row["progress"] == {"passages": len(found), "passages_total": len(found)}
