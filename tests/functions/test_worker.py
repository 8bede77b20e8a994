"""The worker makes documents of files: once, again, after crashes; and says why when it cannot."""

import uuid

import pytest

from agentkit import settings, storage
from infra.demo import make_pdf
from infra.local.part import free_port
from tests.parts.people import ADA, ADMIN, BOB

DEMO = make_pdf.FOLDER
# What every test here asks of the model.
pytestmark = pytest.mark.usefixtures("embedder")

HANDBOOK = (DEMO / "staff-handbook.pdf").read_bytes()
LEASE = (DEMO / "harbour-street-lease.md").read_bytes()


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
    assert (job_row["status"], job_row["error_code"], job_row["attempts"]) == ("ready", None, 1)
    assert job_row["progress"] == {
        "pages": 7,
        "pages_total": 7,
        "passages": len(found),
        "passages_total": len(found),
        "reused": 0,
    }
    assert job_row["input_tokens"] > 0


def test_markdown_has_headings_and_no_pages(upload, deliver, document, stored):
    document_id, job = upload(LEASE)
    deliver(job)
    row, found = document(document_id), stored(document_id)
    assert (row["status"], row["pages"]) == ("ready", None)
    (deposit,) = [each for each in found if "The deposit is" in each["text"]]
    assert deposit["heading"] == ["Lease of 14 Harbour Street, second floor", "4. Deposit"]
    assert deposit["page"] is None


def test_passages_are_for_whom_their_document_is(upload, deliver, stored):
    document_id, job = upload(b"# News\n\nThe canteen opens at noon.", owner=ADMIN, audience="everyone")
    deliver(job)
    assert [(each["audience"], each["owner"]) for each in stored(document_id)] == [("everyone", str(ADMIN.id))]


# Twice, and again


def test_a_message_delivered_twice_is_done_once(upload, deliver, stored, rows):
    document_id, job = upload(LEASE)
    deliver(job)
    before = stored(document_id)
    assert deliver(job, job) == 0
    assert stored(document_id) == before
    assert [row["attempts"] for row in rows("select attempts from agentkit.jobs")] == [1]


def test_a_second_ingestion_replaces_every_passage_of_the_first(upload, deliver, document, stored, rows, aws):
    document_id, job = upload(LEASE)
    deliver(job)
    assert len(stored(document_id)) > 1
    key = document(document_id)["object_key"]
    aws.s3.put_object(Bucket=aws.environment["STORAGE_BUCKET"], Key=key, Body=b"# Lease\n\nIt is over.")
    rows("update agentkit.jobs set status = 'queued'")
    deliver(job)
    assert [each["text"] for each in stored(document_id)] == ["Lease\n\nIt is over."]
    assert document(document_id)["passages"] == 1


def test_a_worker_that_died_is_followed_by_another(upload, deliver, document, stored, rows):
    document_id, job = upload(LEASE)
    rows(
        "update agentkit.jobs set status = 'embedding', attempts = 1, holder = gen_random_uuid(),"
        " lease_until = now() - interval '1 s'"
    )
    rows("update agentkit.documents set status = 'processing'")
    assert deliver(job, receives=2) == 0
    assert document(document_id)["status"] == "ready"
    assert len(stored(document_id)) == document(document_id)["passages"]


def test_a_job_that_another_worker_is_at_is_left_alone(upload, deliver, document, rows):
    document_id, job = upload(LEASE)
    rows(
        "update agentkit.jobs set status = 'parsing', attempts = 1, holder = gen_random_uuid(),"
        " lease_until = now() + interval '1 min'"
    )
    assert deliver(job, receives=2) == 0
    assert document(document_id)["status"] == "queued"
    assert [row["attempts"] for row in rows("select attempts from agentkit.jobs")] == [1]


def test_a_file_over_which_worker_after_worker_died_is_given_up(upload, deliver, document, rows, aws):
    document_id, job = upload(LEASE)
    rows(
        "update agentkit.jobs set status = 'parsing', attempts = %s, holder = gen_random_uuid(),"
        " lease_until = now() - interval '1 s'",
        [aws.environment["JOBS_MAX_RECEIVES"]],
    )
    assert deliver(job, receives=3) == 0
    row = document(document_id)
    assert (row["status"], row["error_code"]) == ("failed", "gave_up")


# Deleted meanwhile


def test_a_document_deleted_before_leaves_a_failed_job(upload, deliver, rows):
    _, job = upload(LEASE)
    rows("delete from agentkit.documents")
    assert deliver(job) == 0
    assert [row["error_code"] for row in rows("select * from agentkit.jobs")] == ["document_deleted"]


def test_passages_of_a_worker_that_died_do_not_outlive_their_document(upload, deliver, stored, rows):
    document_id, job = upload(LEASE)
    deliver(job)
    assert stored(document_id)
    # As the first worker would leave it, had it died after its last passage and before its last word.
    rows("update agentkit.jobs set status = 'indexing', finished_at = null")
    rows("delete from agentkit.documents")
    assert deliver(job, receives=2) == 0
    assert stored(document_id) == []
    assert [row["error_code"] for row in rows("select * from agentkit.jobs")] == ["document_deleted"]


# Another's document


def test_a_job_that_names_anothers_document_leaves_it_alone(upload, deliver, document, stored, rows):
    document_id, job = upload(LEASE)
    deliver(job)
    before, found = document(document_id), stored(document_id)
    rows("update agentkit.jobs set status = 'queued', owner = %s", [BOB.id])
    assert deliver(job) == 0
    assert [row["error_code"] for row in rows("select * from agentkit.jobs")] == ["document_deleted"]
    assert document(document_id) == before
    assert stored(document_id) == found


# What does not pass by itself


@pytest.mark.parametrize(
    ("content", "media_type", "code"),
    [
        pytest.param(b"%PDF-1.7 and no more", "application/pdf", "unreadable", id="damaged"),
        pytest.param(b"\x89PNG\r\n", "application/pdf", "type_unsupported", id="a PNG called PDF"),
        pytest.param(b"", "text/plain", "no_text", id="0 bytes"),
        pytest.param(b"word" * 1_250_000, "text/plain", "too_large", id="5 MB of one word"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(upload, deliver, document, stored, rows, content, media_type, code):
    document_id, job = upload(content, media_type)
    assert deliver(job) == 0
    row = document(document_id)
    assert (row["status"], row["error_code"]) == ("failed", code)
    assert row["error"].endswith(".")
    assert [(row["status"], row["error_code"]) for row in rows("select * from agentkit.jobs")] == [("failed", code)]
    assert stored(document_id) == []


def test_a_file_that_is_gone_says_so(upload, deliver, document):
    document_id, job = upload(LEASE, stored=False)
    assert deliver(job) == 0
    assert (document(document_id)["status"], document(document_id)["error_code"]) == ("failed", "file_missing")


def test_texts_of_every_script_are_stored(upload, deliver, stored):
    text = "العقد ينتهي في سبتمبر. 契約は九月に終わります。\0 Größe: 𝔘, 👩‍👩‍👧"
    document_id, job = upload(text.encode(), "text/plain")
    assert deliver(job) == 0
    assert [each["text"] for each in stored(document_id)] == [text.replace("\0", "")]


# What passes by itself


def test_an_embedding_model_out_of_reach_is_tried_again_later(upload, deliver, document, stored, rows, monkeypatch):
    document_id, job = upload(LEASE)
    with monkeypatch.context() as away:
        away.setenv("EMBEDDING_BASE_URL", f"http://127.0.0.1:{free_port()}/v1")
        assert deliver(job) == 1
    assert [row["status"] for row in rows("select * from agentkit.jobs")] == ["queued"]
    assert stored(document_id) == []
    settings.forget()
    assert deliver(job, receives=2) == 0
    assert document(document_id)["status"] == "ready"


def test_a_storage_out_of_reach_is_tried_again_later(upload, deliver, document, rows, monkeypatch):
    document_id, job = upload(LEASE)
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        assert deliver(job) == 1
    assert [row["status"] for row in rows("select * from agentkit.jobs")] == ["queued"]
    storage.close()
    assert deliver(job, receives=2) == 0
    assert document(document_id)["status"] == "ready"


def test_a_database_that_is_stopped_is_waited_for(upload, deliver, document, postgres):
    document_id, job = upload(LEASE)
    postgres.stop()
    try:
        assert deliver(job) == 1
    finally:
        postgres.resume()
    assert deliver(job, receives=2) == 0
    assert document(document_id)["status"] == "ready"


def test_what_does_not_pass_is_given_up_at_the_last_delivery(upload, deliver, document, aws, monkeypatch):
    document_id, job = upload(LEASE)
    monkeypatch.setenv("EMBEDDING_BASE_URL", f"http://127.0.0.1:{free_port()}/v1")
    # Reported all the same, so that the message is kept in the dead-letter queue for someone to look at.
    assert deliver(job, receives=aws.environment["JOBS_MAX_RECEIVES"]) == 1
    assert (document(document_id)["status"], document(document_id)["error_code"]) == ("failed", "embedding_unavailable")


def test_one_bad_file_does_not_hold_up_another(upload, deliver, document, stored):
    bad, first = upload(b"", "text/plain")
    missing = uuid.uuid4()
    good, second = upload(b"All is well.", "text/plain")
    assert deliver(first, missing, second) == 0
    assert (document(bad)["status"], document(good)["status"]) == ("failed", "ready")
