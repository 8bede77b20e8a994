"""Each sweep mends the one thing that is wrong, leaves everyone's healthy things alone, and finds nothing again."""

import json
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.rows import dict_row

from agentkit import passages, settings
from agentkit.jobs import Envelope
from functions.maintenance import bucket, leftovers, strays, stuck, sweeps
from functions.maintenance.app import handler
from infra.local.part import LOOPBACK, free_port
from tests.parts.people import ADA, BOB

SCHEDULED = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}
VECTOR = json.dumps([1.0] + [0.0] * 383)
UNDER_WAY = ("queued", "parsing", "embedding", "indexing")


def ago(**time):
    return datetime.now(UTC) - timedelta(**time)


def ahead(**time):
    return datetime.now(UTC) + timedelta(**time)


class Invocation:
    """Lambda's context of an invocation that has so long, each time it is asked."""

    def __init__(self, *seconds):
        self._seconds = list(seconds)

    def get_remaining_time_in_millis(self):
        return 1000 * (self._seconds.pop(0) if len(self._seconds) > 1 else self._seconds[0])


@pytest.fixture
def rows(postgres):
    """As everyone's, by one connection to each database: there are many rows to put and to compare."""
    with ExitStack() as open_ones:
        connections = {
            database: open_ones.enter_context(
                psycopg.connect(
                    postgres.environment[f"ADMIN_{database}DATABASE_URL"], autocommit=True, row_factory=dict_row
                )
            )
            for database in ("", "VECTOR_")
        }

        def query(statement, parameters=(), database=""):
            cursor = connections[database].execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

        yield query


@pytest.fixture
def put_document(rows, aws):
    """Put a document there with its file and its passages, Ada's and ready where nothing else is said."""

    def put(*, owner=ADA, file=b"12345", passages=0, **columns):
        document = uuid.uuid4()
        row = {
            "id": document,
            "owner": owner.id,
            "title": "A title",
            "filename": "file",
            "media_type": "text/plain",
            "size_bytes": 5,
            "status": "ready",
            "object_key": f"{owner.id}/{document}/file",
            "content_hash": "of-its-bytes",
            "passages": passages,
            **columns,
        }
        places = ", ".join(["%s"] * len(row))
        rows(f"insert into agentkit.documents ({', '.join(row)}) values ({places})", list(row.values()))
        if file is not None:
            aws.s3.put_object(Bucket=aws.environment["STORAGE_BUCKET"], Key=row["object_key"], Body=file)
        return document

    def put_with_passages(*, owner=ADA, passages=0, **columns):
        document = put(owner=owner, passages=passages, **columns)
        put_passages(rows, document, passages, owner=owner)
        return document

    return put_with_passages


def put_passages(rows, document, count, *, owner=ADA, job=None):
    """Put passages of that document there; for a job, among the staged ones."""
    table = "staged" if job else "passages"
    for ordinal in range(count):
        metadata = {"owner": str(owner.id), "document_id": str(document), "text": "text", "ordinal": ordinal}
        prefix = f"{job}/" if job else ""
        rows(
            f"insert into vecs.{table} (id, vec, metadata) values (%s, %s, %s)",
            [
                f"{prefix}{document}:{uuid.uuid4()}",
                VECTOR,
                json.dumps(metadata | ({"job_id": str(job)} if job else {})),
            ],
            database="VECTOR_",
        )


@pytest.fixture
def put_part(rows):
    """Put a part of a job there."""

    def put(job, ordinal=0, **columns):
        row = {"job_id": job, "ordinal": ordinal, "passages": "[{}]", "count": 1, **columns}
        places = ", ".join(["%s"] * len(row))
        rows(f"insert into agentkit.job_parts ({', '.join(row)}) values ({places})", list(row.values()))

    return put


@pytest.fixture
def everything(rows, aws):
    """Everything that is kept of documents and jobs, in the databases and in the bucket."""

    def look():
        found = {
            table: rows(f"select * from agentkit.{table} order by {key}")
            for table, key in [("documents", "id"), ("jobs", "id"), ("job_parts", "job_id, ordinal")]
        }
        for table in ("passages", "staged"):
            found[table] = rows(f"select id, metadata from vecs.{table} order by id", database="VECTOR_")
        listed = aws.s3.list_objects_v2(Bucket=aws.environment["STORAGE_BUCKET"]).get("Contents", [])
        found["objects"] = [each["Key"] for each in listed]
        return found

    return look


@pytest.fixture
def neighbours(put_document, put_job, put_part, rows, everything):
    """What is as it should be, of two people's; returns it."""
    for owner in (ADA, BOB):
        put_document(owner=owner, passages=2)
        put_document(owner=owner, status="awaiting_upload", file=None, content_hash=None)
        put_document(owner=owner, status="failed", error_code="unreadable", error="It cannot be read.")
        for status, extra in [
            ("queued", {}),
            ("parsing", {"holder": uuid.uuid4(), "lease_until": ahead(minutes=1), "updated_at": ago(hours=1)}),
            ("embedding", {"updated_at": ago(hours=1)}),
        ]:
            document = put_document(
                owner=owner, status="queued" if status == "queued" else "processing", updated_at=ago(hours=1)
            )
            job = put_job(owner=owner.id, document_id=document, status=status, **extra)
            if status == "embedding":
                put_part(job, 0, holder=uuid.uuid4(), lease_until=ahead(minutes=1))
                put_part(job, 1, done_at=ago(minutes=1))
                put_passages(rows, document, 1, owner=owner, job=job)
        for status in ("failed", "cancelled"):
            job = put_job(owner=owner.id, document_id=document, status=status, finished_at=ago(hours=23))
            put_part(job)
            put_passages(rows, document, 1, owner=owner, job=job)
        put_job(owner=owner.id, document_id=document, status="ready", finished_at=ago(days=29))
    return everything()


@pytest.fixture
def maintain_alone(worker_login, aws):
    """Run maintenance as its schedule does; returns what it has found."""

    def invoke(context=None):
        return {name: count for name, count in handler(SCHEDULED, context).items() if count}

    return invoke


@pytest.fixture
def maintain(neighbours, maintain_alone, everything):
    """Run maintenance, which changes nothing of what was as it should be."""

    def invoke(context=None):
        found = maintain_alone(context)
        after = everything()
        for kind, healthy in neighbours.items():
            assert [each for each in healthy if each not in after[kind]] == [], kind
        return found

    return invoke


@pytest.fixture
def told(aws):
    """Take the messages from the queue; returns the jobs that they are about."""

    def take():
        url = aws.environment["JOBS_QUEUE_URL"]
        messages = aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        return [Envelope.model_validate_json(message["Body"]).job_id for message in messages]

    return take


@pytest.fixture
def job_row(rows):
    """The row of a job."""
    return lambda job: rows("select * from agentkit.jobs where id = %s", [job])[0]


def test_where_nothing_is_wrong_nothing_is_found(maintain, told):
    assert maintain() == {}
    assert told() == []


# Jobs past their deadline


@pytest.mark.parametrize("status", UNDER_WAY)
def test_a_job_past_its_deadline_fails_whoever_is_at_it(maintain, put_document, put_job, job_row, document, status):
    late = put_document(status="processing", content_hash=None)
    held = {"holder": uuid.uuid4(), "lease_until": ahead(minutes=1)}
    job = put_job(document_id=late, status=status, deadline=ago(seconds=1), **held)
    assert maintain() == {"JobsOverdue": 1}
    for row in (job_row(job), document(late)):
        assert (row["status"], row["error_code"]) == ("failed", "took_too_long")
    assert job_row(job)["holder"] is None
    assert maintain() == {}


# Jobs whose message was lost


@pytest.mark.parametrize("status", UNDER_WAY)
def test_a_job_that_nobody_was_at_for_three_leases_is_sent_again_once(
    maintain, put_document, put_job, put_part, told, status
):
    lost = put_document(status="processing")
    # Three leases of 60 seconds are 180.
    broke_off = {} if status == "queued" else {"holder": uuid.uuid4(), "lease_until": ago(seconds=130)}
    job = put_job(document_id=lost, status=status, updated_at=ago(seconds=181), **broke_off)
    put_part(job, lease_until=ago(seconds=130), holder=uuid.uuid4())
    assert maintain() == {"JobsSentAgain": 1}
    assert told() == [job]
    assert maintain() == {}
    assert told() == []


def test_a_job_that_was_heard_of_within_three_leases_is_not_sent_again(maintain, put_document, put_job, told):
    put_job(document_id=put_document(status="queued"), updated_at=ago(seconds=170))
    assert maintain() == {}
    assert told() == []


def test_a_job_that_was_begun_too_often_fails_instead(maintain, put_document, put_job, document, told):
    lost = put_document(status="processing", content_hash=None)
    # The queue of the tests gives a message three deliveries.
    put_job(document_id=lost, status="parsing", attempts=3, updated_at=ago(minutes=4))
    assert maintain() == {"JobsGivenUp": 1}
    assert (document(lost)["status"], document(lost)["error_code"]) == ("failed", "gave_up")
    assert told() == []


def test_while_messages_wait_a_job_waits_twice_as_long_each_time(maintain, aws, put_document, put_job, told):
    aws.sqs.send_message(QueueUrl=aws.environment["JOBS_QUEUE_URL"], MessageBody="one of a thousand")
    # Asked for 20 minutes ago: six hours are left of it, but those.
    asked = {"deadline": ahead(hours=6) - timedelta(minutes=20)}
    put_job(document_id=put_document(status="queued"), updated_at=ago(minutes=9), **asked)
    patient = put_job(document_id=put_document(status="queued"), updated_at=ago(minutes=11), **asked)
    assert maintain() == {"JobsSentAgain": 1}
    aws.sqs.receive_message(QueueUrl=aws.environment["JOBS_QUEUE_URL"])
    assert told() == [patient]


# Documents that say they are under way


@pytest.mark.parametrize("status", ["queued", "processing"])
def test_a_document_under_way_without_a_job_is_ready_if_it_was_and_fails_otherwise(
    maintain, put_document, put_job, document, status
):
    never_ready = put_document(status=status, content_hash=None, passages=0, updated_at=ago(minutes=3))
    was_ready = put_document(status=status, passages=1, updated_at=ago(minutes=3))
    put_job(document_id=never_ready, status="cancelled", finished_at=ago(minutes=3))
    # Another's job on it is no work on it.
    put_job(owner=BOB.id, document_id=was_ready, status="queued")
    assert maintain() == {"DocumentsInterrupted": 1, "DocumentsRestored": 1}
    assert (document(was_ready)["status"], document(was_ready)["error_code"]) == ("ready", None)
    row = document(never_ready)
    assert (row["status"], row["error_code"]) == ("failed", "interrupted")
    assert maintain() == {}


def test_a_document_that_something_has_just_happened_to_is_left_alone(maintain, put_document):
    put_document(status="processing", updated_at=ago(seconds=100))
    assert maintain() == {}


# Abandoned uploads


@pytest.fixture
def put_upload(put_document):
    """Put a document there that has waited for its file for longer than a day."""

    def put(**more):
        return put_document(status="awaiting_upload", content_hash=None, created_at=ago(hours=25), **more)

    return put


def test_an_upload_that_nobody_told_of_is_ingested(maintain, put_upload, document, told, rows):
    upload = put_upload()
    assert maintain() == {"UploadsRecovered": 1}
    (job,) = rows("select * from agentkit.jobs where document_id = %s", [upload])
    assert (job["owner"], job["kind"], job["status"]) == (ADA.id, "ingest", "queued")
    assert document(upload)["status"] == "queued"
    assert told() == [job["id"]]
    assert maintain() == {}


@pytest.mark.parametrize("file", [None, b"1234"], ids=["no file", "another size"])
def test_a_document_whose_upload_never_came_is_dropped(maintain, put_upload, rows, file):
    upload = put_upload(file=file)
    assert maintain() == {"UploadsExpired": 1}
    assert rows("select * from agentkit.documents where id = %s", [upload]) == []
    assert maintain() == {}


# Passages and documents


@pytest.mark.parametrize("batch", [1, 500])
def test_passages_whose_document_is_gone_are_removed_wherever_the_run_begins(maintain, rows, monkeypatch, batch):
    monkeypatch.setattr(strays, "BATCH", batch)
    monkeypatch.setattr(strays, "REMOVED_AT_ONCE", 2)
    for owner in (ADA, ADA, BOB):
        put_passages(rows, uuid.uuid4(), 3, owner=owner)
    assert maintain() == {"PassagesOrphaned": 9}
    assert maintain() == {}


def test_passages_of_a_document_that_has_come_back_meanwhile_stay(maintain, put_document, rows, stored, monkeypatch):
    back = put_document(passages=2)
    (row,) = rows("delete from agentkit.documents where id = %s returning *", [back])
    looked: list[uuid.UUID] = []
    gone = strays._gone

    async def then_it_comes_back(ids):
        found = await gone(ids)
        if back in found and not looked:
            looked.append(back)
            places = ", ".join(["%s"] * len(row))
            rows(f"insert into agentkit.documents ({', '.join(row)}) values ({places})", list(row.values()))
        return found

    monkeypatch.setattr(strays, "_gone", then_it_comes_back)
    assert maintain() == {}
    assert looked == [back]
    assert len(stored(back)) == 2


@pytest.mark.parametrize("there", [0, 1, 3])
def test_a_document_with_other_passages_than_it_had_is_ingested_again(
    maintain, put_document, document, rows, told, there
):
    broken = put_document()
    rows("update agentkit.documents set passages = 2 where id = %s", [broken])
    put_passages(rows, broken, there)
    assert maintain() == {"DocumentsIncomplete": 1}
    row = document(broken)
    # Without its hash, its bytes do not count as known.
    assert (row["status"], row["content_hash"]) == ("queued", None)
    (job,) = rows("select * from agentkit.jobs where document_id = %s", [broken])
    assert told() == [job["id"]]
    assert maintain() == {}


def test_a_document_that_was_ingested_while_it_was_compared_is_left_alone(maintain, put_document, rows, monkeypatch):
    broken = put_document(passages=1)
    rows("update agentkit.documents set passages = 2 where id = %s", [broken])
    counts = passages.counts

    async def while_it_changes(ids):
        found = await counts(ids)
        rows("update agentkit.documents set passages = 1 where id = %s", [broken])
        return found

    monkeypatch.setattr(passages, "counts", while_it_changes)
    assert maintain() == {}


def test_one_run_has_no_more_documents_ingested_again_than_it_may(maintain, put_document, rows, monkeypatch):
    monkeypatch.setenv("MAINTENANCE_MAX_REPAIRS", "2")
    monkeypatch.setattr(strays, "BATCH", 2)
    for _ in range(3):
        rows("update agentkit.documents set passages = 1 where id = %s", [put_document()])
    assert [maintain(), maintain(), maintain()] == [{"DocumentsIncomplete": 2}, {"DocumentsIncomplete": 1}, {}]


# Files and documents


@pytest.fixture
def put_object(aws):
    """Put an object into the bucket; returns its key."""

    def put(key):
        aws.s3.put_object(Bucket=aws.environment["STORAGE_BUCKET"], Key=key, Body=b"12345")
        return key

    return put


@pytest.fixture
def objects_are_old(monkeypatch):
    """Objects need not be a day old, as none here can be."""
    monkeypatch.setenv("MAINTENANCE_GRACE_HOURS", "0")
    settings.forget()


@pytest.mark.parametrize("page", [1, 1000])
def test_an_object_that_no_document_has_is_deleted(
    maintain_alone, objects_are_old, put_object, put_document, everything, monkeypatch, page
):
    monkeypatch.setattr(bucket, "LISTED_AT_ONCE", page)
    put_document()
    put_document(owner=BOB)
    healthy = everything()["objects"]
    for owner in (ADA, ADA, BOB):
        put_object(f"{owner.id}/{uuid.uuid4()}/{uuid.uuid4().hex}-Süße Lease.pdf")
    assert maintain_alone() == {"ObjectsUnclaimed": 3}
    assert everything()["objects"] == healthy
    assert maintain_alone() == {}


def test_an_object_that_is_not_named_as_documents_are_is_nobodys_business(
    maintain_alone, objects_are_old, put_object, everything
):
    theirs = f"{ADA.id}/{uuid.uuid4()}/photo.jpg"
    for key in ("logo.png", f"{ADA.id}/avatar.png", f"backups/{uuid.uuid4()}/{uuid.uuid4()}/file", theirs):
        put_object(key)
    assert maintain_alone() == {}
    assert len(everything()["objects"]) == 4


def test_an_object_that_has_just_come_waits_for_its_document(maintain, put_object, everything):
    young = put_object(f"{ADA.id}/{uuid.uuid4()}/{uuid.uuid4().hex}-file")
    assert maintain() == {}
    assert young in everything()["objects"]


@pytest.mark.parametrize("page", [1, 1000])
def test_a_ready_document_without_its_file_is_counted(maintain, put_document, document, monkeypatch, page):
    monkeypatch.setattr(bucket, "LISTED_AT_ONCE", page)
    documents = [put_document(owner=owner, file=None) for owner in (ADA, ADA, BOB)]
    assert maintain() == {"DocumentsWithoutFile": 3}
    assert {document(each)["status"] for each in documents} == {"ready"}


# What jobs leave


@pytest.mark.parametrize(
    "over",
    [
        pytest.param({"status": "ready", "finished_at": ago(seconds=1)}, id="ready"),
        pytest.param({"status": "failed", "finished_at": ago(hours=25)}, id="failed a day ago"),
        pytest.param({"status": "cancelled", "finished_at": ago(hours=25)}, id="cancelled a day ago"),
    ],
)
def test_parts_and_staged_passages_of_a_job_that_nobody_resumes_are_removed(
    maintain, put_document, put_job, put_part, rows, everything, neighbours, monkeypatch, over
):
    monkeypatch.setattr(leftovers, "BATCH", 1)
    for _ in range(2):
        of = put_document()
        job = put_job(document_id=of, **over)
        for ordinal in range(2):
            put_part(job, ordinal)
        put_passages(rows, of, 3, job=job)
    assert maintain() == {"PartsLeftOver": 4, "StagedLeftOver": 2}
    after = everything()
    assert all(after[kind] == neighbours[kind] for kind in ("job_parts", "staged"))
    assert maintain() == {}


def test_staged_passages_of_a_job_that_is_gone_are_removed(maintain, rows):
    put_passages(rows, uuid.uuid4(), 2, owner=BOB, job=uuid.uuid4())
    assert maintain() == {"StagedLeftOver": 1}


@pytest.mark.parametrize("status", ["ready", "failed", "cancelled"])
def test_a_job_that_ended_a_month_ago_is_forgotten(maintain, put_document, put_job, rows, status):
    job = put_job(document_id=put_document(), status=status, finished_at=ago(days=31))
    assert maintain() == {"JobsForgotten": 1}
    assert rows("select * from agentkit.jobs where id = %s", [job]) == []


# The run


@pytest.fixture
def put_overdue(put_job):
    """Put a job there that is past its deadline."""
    return lambda: put_job(deadline=ago(minutes=1))


def test_a_sweep_that_fails_is_counted_and_the_others_have_their_turn(
    maintain, put_overdue, put_job, monkeypatch, caplog
):
    monkeypatch.setenv("JOBS_QUEUE_URL", f"http://{LOOPBACK}:{free_port()}/no/queue")
    put_overdue()
    put_job(status="ready", finished_at=ago(days=31))
    assert maintain() == {"JobsOverdue": 1, "JobsForgotten": 1, "SweepsFailed": 1}
    assert "maintenance.sweep_failed" in caplog.messages
    (swept,) = [record for record in caplog.records if record.message == "maintenance.swept"]
    assert swept.facts["failed"] == ["unheard"]


def test_an_invocation_that_is_nearly_over_begins_nothing_and_says_so(maintain, put_overdue, job_row, caplog):
    job = put_overdue()
    # 5 of the 34 seconds are for the end, and a batch may take 30.
    assert maintain(Invocation(34)) == {"SweepsCutShort": len(sweeps.SWEEPS)}
    assert job_row(job)["status"] == "queued"
    (swept,) = [record for record in caplog.records if record.message == "maintenance.swept"]
    assert swept.facts["cut_short"][0] == "overdue"


def test_a_sweep_ends_between_two_batches_when_the_time_is_over(maintain, put_overdue, monkeypatch):
    monkeypatch.setattr(stuck, "BATCH", 1)
    put_overdue()
    put_overdue()
    # Asked when the run begins, and before each batch.
    assert maintain(Invocation(300, 300, 10)) == {"JobsOverdue": 1, "SweepsCutShort": len(sweeps.SWEEPS)}
    assert maintain() == {"JobsOverdue": 1}


def test_a_second_run_beside_the_first_leaves(maintain, put_overdue, job_row, postgres, caplog):
    job = put_overdue()
    with psycopg.connect(postgres.environment["ADMIN_DATABASE_URL"]) as first:
        first.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [sweeps.LOCK])
        assert maintain() == {}
    assert "maintenance.busy" in caplog.messages
    assert job_row(job)["status"] == "queued"
    assert maintain() == {"JobsOverdue": 1}


def test_every_count_is_a_metric_zeros_too(maintain, put_overdue, capfd):
    put_overdue()
    maintain()
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if '"_aws"' in line]
    values = {
        metric["Name"]: line[metric["Name"]]
        for line in lines
        for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]
    }
    assert values["JobsOverdue"] == 1
    assert {name for name, value in values.items() if value == 0} >= {"SweepsFailed", "JobsSentAgain", "UploadsExpired"}
    # The neighbours' live jobs: one of each for two people.
    assert [values[f"Jobs{status}"] for status in ("Queued", "Parsing", "Embedding", "Indexing")] == [2, 2, 2, 0]


def test_the_oldest_live_job_is_told_by_when_it_was_asked_for(maintain_alone, put_job, capfd):
    # Six hours after the asking is its deadline: asked for an hour ago, and made yesterday.
    put_job(deadline=ahead(hours=5), created_at=ago(days=1))
    put_job()
    maintain_alone()
    (line,) = [json.loads(line) for line in capfd.readouterr().out.splitlines() if "OldestLiveJob" in line]
    assert 3600 <= line["OldestLiveJob"] < 3700


def test_an_event_of_another_source_is_refused(worker_login):
    with pytest.raises(ValueError, match="neither a schedule's nor a queue's"):
        handler({"source": "aws.s3"}, None)
