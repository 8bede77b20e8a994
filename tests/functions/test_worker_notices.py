"""A file that the bucket tells of is ingested without being asked for, and once, whoever else asks."""

import asyncio
import json
import uuid

import pytest

from agentkit import database, jobs, work
from agentkit.work import Later
from functions.worker import notices
from infra.local.aws import QUEUE
from tests.parts.people import ADA, BOB, caller

NOTES = f"{ADA.id}/My notes.md"
CAME = "2026-11-25T10:15:00+00:00"
EARLIER, AFTER = "2026-11-25 10:14", "2026-11-25 10:16"


@pytest.fixture
def hear(worker_login):
    """Take a message; returns in how many seconds it is to come again, or None."""

    def take(message):
        try:
            work.run(notices.uploaded(message))
        except Later as later:
            return later.pause_seconds
        return None

    return take


@pytest.fixture
def store(aws):
    """Put a file into the bucket; returns its ETag."""

    def put(key, content=b"The lease ends on 30 September 2027."):
        answer = aws.s3.put_object(Bucket=aws.environment["STORAGE_BUCKET"], Key=key, Body=content)
        return answer["ETag"].strip('"')

    return put


@pytest.fixture
def document(rows, store):
    """Put a document of Ada's with its file there; returns its key and the file's ETag."""

    def put(status="awaiting_upload", **columns):
        document_id = uuid.uuid4()
        key = f"{ADA.id}/{document_id}/lease.pdf"
        row = {
            "id": document_id,
            "owner": ADA.id,
            "title": "Lease",
            "filename": "lease.pdf",
            "media_type": "application/pdf",
            "size_bytes": 5,
            "status": status,
            "object_key": key,
            **columns,
        }
        rows(
            f"insert into agentkit.documents ({', '.join(row)}) values ({', '.join(['%s'] * len(row))})",
            list(row.values()),
        )
        return key, store(key)

    return put


@pytest.fixture
def jobs_of(rows):
    """The jobs there are, by their status."""
    return lambda: [row["status"] for row in rows("select status from agentkit.jobs order by number")]


def forwarded(key, etag=None, **changes):
    said = {"bucket": "documents", "key": key, "size_bytes": 36, "etag": etag, "at": CAME}
    return {"version": 1, "uploaded": {**said, **changes}}


def s3(*keys, event="ObjectCreated:Put", bucket="documents"):
    """S3's event of those keys, as its documentation has it."""
    return {
        "Records": [
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "awsRegion": "us-east-1",
                "eventTime": "2026-11-25T10:15:00.000Z",
                "eventName": event,
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
                    "object": {"key": key, "size": 36, "eTag": "d41d8cd98f00b204", "sequencer": "0055AED6DCD90281E5"},
                },
            }
            for key in keys
        ]
    }


def told(aws):
    """The messages in the queue."""
    answer = aws.sqs.receive_message(QueueUrl=aws.environment["JOBS_QUEUE_URL"], MaxNumberOfMessages=10)
    return [json.loads(message["Body"]) for message in answer.get("Messages", [])]


# A document's file


def test_what_the_bucket_itself_says_has_the_file_ingested(hear, document, rows, aws):
    arn = aws.sqs.get_queue_attributes(QueueUrl=aws.environment["JOBS_QUEUE_URL"], AttributeNames=["QueueArn"])
    aws.s3.put_bucket_notification_configuration(
        Bucket=aws.environment["STORAGE_BUCKET"],
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": arn["Attributes"]["QueueArn"], "Events": ["s3:ObjectCreated:*"]}]
        },
    )
    document()
    messages = told(aws)
    # The bucket says once that it will, then that there is a file.
    assert [message.get("Event") for message in messages] == ["s3:TestEvent", None]
    for message in messages:
        assert hear(message) is None
    (row,) = rows("select status, size_bytes from agentkit.documents")
    # 36 characters of ASCII, where 5 bytes had been announced.
    assert (row["status"], row["size_bytes"]) == ("queued", 36)
    (job,) = rows("select * from agentkit.jobs")
    assert [message["job_id"] for message in told(aws)] == [str(job["id"])]
    assert QUEUE in arn["Attributes"]["QueueArn"]


def test_what_the_webhook_says_has_the_file_ingested(hear, document, jobs_of):
    key, etag = document()
    assert hear(forwarded(key, etag)) is None
    assert jobs_of() == ["queued"]


def test_the_queues_handler_takes_such_word(document, jobs_of, worker_login):
    from functions.worker.app import handler

    key, _ = document()
    record = {
        "messageId": "m1",
        "receiptHandle": "r1",
        "body": json.dumps(s3(key)),
        "attributes": {"ApproximateReceiveCount": "1"},
        "eventSource": "aws:sqs",
    }
    assert handler({"Records": [record]}, None) == {"batchItemFailures": []}
    assert jobs_of() == ["queued"]


def test_word_that_comes_twice_or_beside_the_clients_own_request_makes_one_job(hear, document, rows, jobs_of):
    key, etag = document()
    hear(forwarded(key, etag))
    hear(s3(key))
    (row,) = rows("select id from agentkit.documents")

    async def ask():
        try:
            return await jobs.enqueue(caller(ADA), "ingest", document_id=row["id"])
        finally:
            await database.close()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask())
    loop.close()
    hear(forwarded(key, etag))
    assert jobs_of() == ["queued"]


def test_a_file_that_was_ingested_already_is_left(hear, document, rows, jobs_of):
    key, etag = document("ready")
    rows("update agentkit.documents set etag = %s", [etag])
    assert hear(forwarded(key, etag)) is None
    assert jobs_of() == []


def test_a_newer_file_is_ingested(hear, document, rows, jobs_of):
    key, etag = document("ready", etag="an earlier file's")
    assert hear(forwarded(key, etag)) is None
    assert jobs_of() == ["queued"]


@pytest.mark.parametrize(
    ("status", "read", "seconds"),
    [
        pytest.param("queued", None, None, id="it will be read"),
        pytest.param("parsing", None, 30, id="nobody knows which file is being read"),
        pytest.param("embedding", "this", None, id="it is being ingested"),
        pytest.param("embedding", "another", 30, id="another file is being ingested"),
    ],
)
def test_while_the_document_is_being_ingested_it_depends(hear, document, rows, put_job, jobs_of, status, read, seconds):
    key, etag = document("processing")
    (row,) = rows("select id from agentkit.documents")
    source = {"etag": etag if read == "this" else read} if read else {}
    put_job(document_id=row["id"], status=status, source=json.dumps(source))
    assert hear(forwarded(key, etag)) == seconds
    assert jobs_of() == [status]


@pytest.mark.parametrize(
    ("status", "columns", "again"),
    [
        pytest.param("failed", {"started_at": EARLIER, "finished_at": AFTER}, True, id="failed on an earlier file"),
        pytest.param("failed", {"started_at": AFTER, "finished_at": AFTER}, False, id="failed on this file"),
        pytest.param("cancelled", {"finished_at": EARLIER}, True, id="ended before it came"),
        pytest.param("cancelled", {"finished_at": AFTER}, False, id="ended by its owner since"),
    ],
)
def test_what_failed_on_the_file_or_was_ended_since_is_not_begun_again(
    hear, document, rows, put_job, jobs_of, status, columns, again
):
    key, etag = document(status)
    (row,) = rows("select id from agentkit.documents")
    put_job(document_id=row["id"], status=status, **columns)
    assert hear(forwarded(key, etag)) is None
    assert jobs_of() == [status, *["queued"] * again]


def test_what_the_worker_itself_has_fetched_is_left(hear, document, jobs_of):
    key, etag = document("failed", source_url="https://example.com/")
    assert hear(forwarded(key, etag)) is None
    assert jobs_of() == []


def test_a_file_that_is_gone_by_then_is_left(hear, document, jobs_of, aws):
    key, etag = document()
    aws.s3.delete_object(Bucket=aws.environment["STORAGE_BUCKET"], Key=key)
    assert hear(forwarded(key, etag)) is None
    assert jobs_of() == []


# A file in someone's folder


@pytest.mark.parametrize(
    "message", [forwarded(NOTES), s3(f"{ADA.id}/My+notes.md"), s3(f"{ADA.id}/My%20notes.md")], ids=["ours", "+", "%20"]
)
def test_a_file_in_a_persons_folder_becomes_their_document(hear, store, rows, jobs_of, message):
    store(NOTES)
    assert hear(message) is None
    assert hear(message) is None
    (row,) = rows("select * from agentkit.documents")
    assert (row["owner"], row["title"], row["filename"]) == (ADA.id, "My notes", "My notes.md")
    assert (row["size_bytes"], row["object_key"], row["status"]) == (36, NOTES, "queued")
    assert jobs_of() == ["queued"]


@pytest.mark.parametrize("key", [f"{ADA.id}/taxes/2026/lease.pdf", f"{ADA.id}/{'x' * 400}.md", f"{ADA.id}/.md"])
def test_whatever_it_is_called_it_becomes_a_document(hear, store, rows, key):
    store(key)
    hear(forwarded(key))
    (row,) = rows("select * from agentkit.documents")
    assert row["object_key"] == key
    assert row["title"] in key


def test_who_may_keep_no_more_gets_no_more(hear, store, rows, jobs_of, monkeypatch):
    monkeypatch.setenv("USER_MAX_DOCUMENTS", "1")
    keys = [f"{ADA.id}/a.md", f"{ADA.id}/b.md", f"{BOB.id}/a.md"]
    for key in keys:
        store(key)
        assert hear(forwarded(key)) is None
    assert [row["object_key"] for row in rows("select object_key from agentkit.documents order by owner")] == [
        keys[0],
        keys[2],
    ]
    assert jobs_of() == ["queued", "queued"]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("lease.pdf", id="in no folder"),
        pytest.param("public/lease.pdf", id="in no person's folder"),
        pytest.param(f"{ADA.id}/{uuid.UUID(int=7)}/lease.pdf", id="of a document that was deleted"),
        pytest.param(f"{ADA.id}/", id="a folder"),
    ],
)
def test_a_file_that_is_nobodys_is_left(hear, store, rows, key):
    store(key)
    assert hear(forwarded(key)) is None
    assert rows("select * from agentkit.documents") == []


def test_an_empty_file_is_left(hear, store, rows):
    store(f"{ADA.id}/.emptyFolderPlaceholder", b"")
    assert hear(forwarded(f"{ADA.id}/.emptyFolderPlaceholder")) is None
    assert rows("select * from agentkit.documents") == []


# Other messages


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "documents"}, id="a test"),
        pytest.param(s3(NOTES, event="ObjectRemoved:Delete"), id="a deletion"),
        pytest.param(s3(NOTES, bucket="avatars"), id="another bucket, says S3"),
        pytest.param(forwarded(NOTES, bucket="avatars"), id="another bucket, says the webhook"),
    ],
)
def test_what_is_no_upload_to_our_bucket_changes_nothing(hear, store, rows, message):
    store(NOTES)
    assert hear(message) is None
    assert rows("select * from agentkit.documents") == []


def test_of_several_files_each_is_seen_to_though_one_must_wait(hear, document, store, rows, put_job, jobs_of):
    key, _ = document("processing")
    (row,) = rows("select id from agentkit.documents")
    put_job(document_id=row["id"], status="parsing")
    store(NOTES)
    assert hear(s3(key, NOTES)) == 30
    assert jobs_of() == ["parsing", "queued"]


@pytest.mark.parametrize(
    "message", [{}, {"version": 2, "uploaded": {}}, {"Records": [{}]}, {"uploaded": None}, {"Records": 1}]
)
def test_a_message_that_nobody_understands_is_kept_for_someone_to_see(worker_login, message):
    with pytest.raises(Later):
        work.run(notices.uploaded(message))
