"""A long document is shared by workers part by part; what breaks off goes on where it was, and is not paid twice."""

import uuid

import pytest
from fpdf import FPDF

from agentkit import embeddings, jobs, settings, storage
from functions.worker import claims, ingest, sandbox
from infra.local.part import free_port
from tests.parts.embedding_model import Says
from tests.parts.people import ADA, BOB, caller

# Ten sections that each make one passage: their texts differ in length, so the scripted vectors differ too.
SECTIONS = [f"# Section {number}\n\n" + f"Clause {number} says this. " * (12 + number) for number in range(10)]
LONG = "\n\n".join(SECTIONS).encode()
COUNT = len(SECTIONS)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch, embedding_model):
    """Parts of four passages, embedded two at a time."""
    monkeypatch.setattr(ingest, "PART", 4)
    monkeypatch.setattr(ingest, "BATCH", 2)


@pytest.fixture
def job_row(rows):
    return lambda job_id: rows("select * from agentkit.jobs where id = %s", [job_id])[0]


@pytest.fixture
def parts(rows):
    """The parts of all jobs, as (passages, staged, whether done)."""

    def ask():
        found = rows("select * from agentkit.job_parts order by ordinal")
        return [(row["count"], row["staged"], row["done_at"] is not None) for row in found]

    return ask


@pytest.fixture
def waiting(aws):
    """Which jobs' messages are in the queue, one name for each message."""

    def ask():
        answer = aws.sqs.receive_message(
            QueueUrl=aws.environment["JOBS_QUEUE_URL"], MaxNumberOfMessages=10, VisibilityTimeout=0
        )
        return [jobs.Envelope.model_validate_json(each["Body"]).job_id for each in answer.get("Messages", [])]

    return ask


def texts(embedding_model):
    """Every text that was embedded, in order."""
    return [text for request in embedding_model.texts for text in request]


def section_of(text):
    """The number of the section that a passage is."""
    return int(text.split("Section ")[1].split()[0])


def test_a_long_document_is_ready_with_every_passage_once(upload, deliver, document, stored, job_row, parts):
    document_id, job = upload(LONG)
    assert deliver(job) == 0
    found = stored(document_id)
    assert [section_of(each["text"]) for each in found] == list(range(COUNT))
    assert [each["ordinal"] for each in found] == list(range(COUNT))
    row = document(document_id)
    assert (row["status"], row["passages"]) == ("ready", COUNT)
    assert (job_row(job)["status"], job_row(job)["attempts"]) == ("ready", 1)
    assert job_row(job)["progress"]["passages"] == COUNT
    assert parts() == []


def test_other_workers_are_called_to_help_with_the_other_parts(upload, deliver, waiting):
    _, job = upload(LONG)
    deliver(job)
    # 10 passages make parts of 4, 4 and 2: the first worker does one, two more are called.
    assert waiting() == [job, job]
    assert deliver(job, job) == 0


def test_a_document_that_is_one_part_calls_nobody(upload, deliver, waiting, parts):
    _, job = upload("\n\n".join(SECTIONS[:4]).encode())
    deliver(job)
    assert waiting() == []


def test_workers_called_in_vain_are_not_missed(upload, deliver, document, monkeypatch):
    document_id, job = upload(LONG)

    async def refused(job, *, copies=1):
        raise ConnectionError("the queue is away")

    monkeypatch.setattr(jobs, "send", refused)
    assert deliver(job) == 0
    assert document(document_id)["status"] == "ready"


@pytest.fixture
def break_off(monkeypatch, upload, deliver):
    """Ingest the long document until so many texts were embedded; whoever embeds more dies. Returns both ids."""

    def ingest_until(most, embedding_model):
        embed = embeddings.embed

        async def embed_some(batch):
            if len(texts(embedding_model)) + len(batch) > most:
                raise ConnectionError("the worker's machine is gone")
            return await embed(batch)

        with monkeypatch.context() as dying:
            dying.setattr(embeddings, "embed", embed_some)
            document_id, job = upload(LONG)
            assert deliver(job) == 1
        return document_id, job

    return ingest_until


def test_what_broke_off_goes_on_where_it_was(break_off, deliver, document, embedding_model, parts):
    document_id, job = break_off(6, embedding_model)
    assert parts() == [(4, 4, True), (4, 2, False), (2, 0, False)]
    assert deliver(job, receives=2) == 0
    assert document(document_id)["status"] == "ready"
    assert [section_of(text) for text in texts(embedding_model)] == list(range(COUNT))


def test_the_next_worker_takes_a_part_that_nobody_is_heard_of_at(break_off, deliver, rows, stored, embedding_model):
    document_id, job = break_off(6, embedding_model)
    rows(
        "update agentkit.job_parts set holder = gen_random_uuid(), lease_until = now() - interval '1 s'"
        " where done_at is null"
    )
    assert deliver(job, receives=2) == 0
    assert [section_of(each["text"]) for each in stored(document_id)] == list(range(COUNT))


def test_parts_that_others_are_at_are_left_to_them(break_off, deliver, rows, document, parts, embedding_model):
    document_id, job = break_off(6, embedding_model)
    rows(
        "update agentkit.job_parts set holder = gen_random_uuid(), lease_until = now() + interval '1 min'"
        " where ordinal = 2"
    )
    assert deliver(job, receives=2) == 0
    assert parts() == [(4, 4, True), (4, 4, True), (2, 0, False)]
    assert document(document_id)["status"] == "processing"
    rows("update agentkit.job_parts set lease_until = now() - interval '1 s' where ordinal = 2")
    assert deliver(job, receives=3) == 0
    assert document(document_id)["status"] == "ready"


def test_a_part_at_which_worker_after_worker_died_fails_the_job(
    break_off, deliver, rows, document, aws, embedding_model
):
    document_id, job = break_off(6, embedding_model)
    most = aws.environment["JOBS_MAX_RECEIVES"]
    rows("update agentkit.job_parts set attempts = %s where ordinal = 1", [most])
    assert deliver(job, receives=2) == 0
    assert (document(document_id)["status"], document(document_id)["error_code"]) == ("failed", "gave_up")


def test_a_retry_resumes_from_the_parts_that_are_done(
    break_off, deliver, rows, document, embedding_model, monkeypatch, aws
):
    document_id, job = break_off(6, embedding_model)
    rows("update agentkit.job_parts set attempts = %s where ordinal = 1", [aws.environment["JOBS_MAX_RECEIVES"]])
    deliver(job, receives=2)
    assert document(document_id)["status"] == "failed"
    rows("update agentkit.jobs set status = 'queued', attempts = 0, error_code = null, error = null")
    assert deliver(job) == 0
    assert document(document_id)["status"] == "ready"
    assert len(texts(embedding_model)) == COUNT


def test_a_job_that_is_cancelled_stops_at_the_next_batch(
    upload, deliver, document, stored, rows, embedding_model, monkeypatch, postgres
):
    document_id, job = upload(LONG)
    embed = embeddings.embed

    async def embed_while_it_is_cancelled(batch):
        rows("update agentkit.jobs set status = 'cancelled', holder = null, lease_until = null")
        return await embed(batch)

    monkeypatch.setattr(embeddings, "embed", embed_while_it_is_cancelled)
    assert deliver(job) == 0
    assert len(texts(embedding_model)) == 2
    assert stored(document_id) == []
    assert [row["status"] for row in rows("select status from agentkit.jobs")] == ["cancelled"]


def test_a_job_that_is_cancelled_just_as_it_is_begun_leaves_its_document_cancelled(
    upload, deliver, document, rows, monkeypatch
):
    document_id, job = upload(LONG)
    run = claims.JobClaim.run

    async def cancelled_before(self):
        rows("update agentkit.jobs set status = 'cancelled', holder = null, lease_until = null")
        rows("update agentkit.documents set status = 'cancelled'")
        await run(self)

    monkeypatch.setattr(claims.JobClaim, "run", cancelled_before)
    assert deliver(job) == 0
    assert document(document_id)["status"] == "cancelled"


def test_pages_are_counted_with_their_parts(upload, deliver, monkeypatch, job_row, rows):
    book = FPDF()
    book.set_font("Helvetica", size=11)
    # A line that most pages have would be taken for a running title.
    for word in ("apple", "birch", "cedar", "daisy", "elder", "fern", "grass", "holly", "iris"):
        book.add_page()
        book.multi_cell(0, 6, f"The {word} grows here. " * 12)
    _, job = upload(bytes(book.output()), "application/pdf")
    seen = []
    note = claims.PartClaim.note

    async def note_and_look(self, *arguments, **facts):
        await note(self, *arguments, **facts)
        (row,) = rows("select progress from agentkit.jobs")
        seen.append((row["progress"]["pages"], row["progress"]["pages_total"]))

    monkeypatch.setattr(claims.PartClaim, "note", note_and_look)
    deliver(job)
    # Nine pages of a passage each make parts of 4, 4 and 1; a part's pages count when the last of it is staged.
    assert seen == [(0, 9), (4, 9), (4, 9), (8, 9), (9, 9)]
    assert job_row(job)["progress"]["pages"] == 9


@pytest.mark.parametrize("sections", [pytest.param(10, id="in parts"), pytest.param(3, id="whole")])
def test_a_deleted_document_ends_its_job_and_leaves_no_passages(upload, deliver, stored, rows, monkeypatch, sections):
    document_id, job = upload("\n\n".join(SECTIONS[:sections]).encode())
    embed = embeddings.embed

    async def embed_while_it_is_deleted(batch):
        rows("delete from agentkit.documents")
        return await embed(batch)

    monkeypatch.setattr(embeddings, "embed", embed_while_it_is_deleted)
    assert deliver(job) == 0
    assert stored(document_id) == []
    assert [row["error_code"] for row in rows("select * from agentkit.jobs")] == ["document_deleted"]
    assert rows("select * from vecs.staged", database="VECTOR_") == []


def test_a_job_past_its_deadline_is_failed_and_not_begun(upload, deliver, document, rows, embedding_model):
    document_id, job = upload(LONG)
    rows("update agentkit.jobs set deadline = now() - interval '1 s'")
    assert deliver(job) == 0
    assert (document(document_id)["status"], document(document_id)["error_code"]) == ("failed", "took_too_long")
    assert texts(embedding_model) == []


class Ending:
    """A Lambda context whose invocation is at its end as soon as it has begun."""

    def __init__(self):
        self._left = iter([60_000])

    def get_remaining_time_in_millis(self):
        return next(self._left, 6_000)


def test_a_part_that_is_only_handed_on_by_worker_after_worker_is_not_given_up(
    break_off, deliver, document, aws, embedding_model
):
    document_id, job = break_off(6, embedding_model)
    for _ in range(int(aws.environment["JOBS_MAX_RECEIVES"]) + 1):
        assert deliver(job, context=Ending()) == 0
    assert document(document_id)["status"] == "processing"
    assert deliver(job) == 0
    assert document(document_id)["status"] == "ready"


def test_a_document_that_is_only_handed_on_by_worker_after_worker_is_not_given_up(
    upload, deliver, document, aws, job_row
):
    document_id, job = upload(LONG)
    for _ in range(int(aws.environment["JOBS_MAX_RECEIVES"]) + 1):
        assert deliver(job, context=Ending()) == 0
    assert (job_row(job)["status"], job_row(job)["attempts"]) == ("queued", 0)
    assert deliver(job) == 0
    assert document(document_id)["status"] == "ready"


def test_an_outage_that_many_workers_meet_at_once_does_not_fail_the_job(
    break_off, deliver, document, embedding_model, monkeypatch
):
    document_id, job = break_off(6, embedding_model)
    with monkeypatch.context() as away:
        away.setenv("EMBEDDING_BASE_URL", f"http://127.0.0.1:{free_port()}/v1")
        settings.forget()
        # Those that get a part fail with it; the others are to look again later.
        assert deliver(*[job] * 10) > 0
    settings.forget()
    assert document(document_id)["status"] == "processing"
    assert deliver(job, receives=2) == 0
    assert document(document_id)["status"] == "ready"


# The file becomes another


@pytest.fixture
def replace_file(document, aws):
    """Put another file in the place of the document's."""

    def put(document_id, content):
        key = document(document_id)["object_key"]
        aws.s3.put_object(Bucket=aws.environment["STORAGE_BUCKET"], Key=key, Body=content)

    return put


def test_a_file_that_is_replaced_meanwhile_is_read_again(
    upload, deliver, document, stored, replace_file, monkeypatch, embedding_model
):
    document_id, job = upload(LONG)
    later = "\n\n".join(SECTIONS[:7]).encode()
    note = claims.PartClaim.note

    async def note_and_replace(self, *arguments, **facts):
        monkeypatch.setattr(claims.PartClaim, "note", note)
        await note(self, *arguments, **facts)
        replace_file(document_id, later)

    monkeypatch.setattr(claims.PartClaim, "note", note_and_replace)
    assert deliver(job) == 0
    assert [section_of(each["text"]) for each in stored(document_id)] == list(range(7))
    assert document(document_id)["passages"] == 7


def test_a_short_file_that_is_replaced_while_it_is_read_and_asked_for_again_is_read_again(
    upload, deliver, document, stored, replace_file, monkeypatch, job_row
):
    document_id, job = upload(SECTIONS[0].encode())
    ada = caller(ADA)
    read = sandbox.read_apart

    async def read_and_replace(*arguments, **facts):
        monkeypatch.setattr(sandbox, "read_apart", read)
        reading = await read(*arguments, **facts)
        replace_file(document_id, SECTIONS[1].encode())
        assert (await jobs.enqueue(ada, "ingest", document_id=document_id)).id == job
        return reading

    monkeypatch.setattr(sandbox, "read_apart", read_and_replace)
    assert deliver(job) == 0
    assert [section_of(each["text"]) for each in stored(document_id)] == [1]
    assert (document(document_id)["status"], document(document_id)["size_bytes"]) == ("ready", len(SECTIONS[1]))
    assert (job_row(job)["status"], job_row(job)["attempts"], job_row(job)["source"]) == ("ready", 1, {})


def test_a_bad_file_that_is_replaced_while_it_is_read_and_asked_for_again_is_read_again(
    upload, deliver, document, stored, replace_file, monkeypatch, job_row
):
    document_id, job = upload(b"", "text/plain")
    ada = caller(ADA)
    read = sandbox.read_apart
    first_deadline = job_row(job)["deadline"]

    async def replace_and_read(*arguments, **facts):
        monkeypatch.setattr(sandbox, "read_apart", read)
        replace_file(document_id, SECTIONS[1].encode())
        await jobs.enqueue(ada, "ingest", document_id=document_id)
        return await read(*arguments, **facts)

    monkeypatch.setattr(sandbox, "read_apart", replace_and_read)
    assert deliver(job) == 0
    assert (document(document_id)["status"], job_row(job)["status"]) == ("ready", "ready")
    assert len(stored(document_id)) == 1
    # By which a message of its first time is known as one, should it come to the dead letters.
    assert job_row(job)["deadline"] > first_deadline


def test_a_file_that_is_gone_meanwhile_says_so(upload, deliver, document, aws, monkeypatch):
    document_id, job = upload(LONG)
    head = storage.head

    async def head_of_nothing(key):
        aws.s3.delete_object(Bucket=aws.environment["STORAGE_BUCKET"], Key=key)
        return await head(key)

    monkeypatch.setattr(storage, "head", head_of_nothing)
    assert deliver(job) == 0
    assert (document(document_id)["status"], document(document_id)["error_code"]) == ("failed", "file_missing")


# The same again


@pytest.fixture
def again(rows, deliver):
    """Ingest that document another time, by a job of its own."""

    def ingest_again(document_id):
        job = uuid.uuid4()
        rows(
            "insert into agentkit.jobs (id, owner, kind, document_id) values (%s, %s, 'ingest', %s)",
            [job, ADA.id, document_id],
        )
        assert deliver(job) == 0
        return job

    return ingest_again


@pytest.mark.parametrize("sections", [pytest.param(10, id="in parts"), pytest.param(3, id="whole")])
def test_the_same_bytes_again_cost_nothing(upload, deliver, stored, again, job_row, embedding_model, sections):
    document_id, job = upload("\n\n".join(SECTIONS[:sections]).encode())
    deliver(job)
    before = stored(document_id)
    embedding_model.asked.clear()
    later = job_row(again(document_id))
    assert texts(embedding_model) == []
    assert stored(document_id) == before
    assert (later["status"], later["input_tokens"], later["cost_usd"]) == ("ready", 0, 0)
    assert later["progress"]["reused"] == sections


def test_the_same_file_under_another_name_costs_nothing(upload, deliver, stored, embedding_model):
    _, job = upload(LONG)
    deliver(job)
    embedding_model.asked.clear()
    copy, job = upload(LONG)
    deliver(job)
    assert len(stored(copy)) == COUNT
    assert texts(embedding_model) == []


def test_anothers_same_file_is_embedded_anew(upload, deliver, embedding_model):
    _, job = upload(LONG)
    deliver(job)
    embedding_model.asked.clear()
    _, job = upload(LONG, owner=BOB)
    deliver(job)
    assert len(texts(embedding_model)) == COUNT


def test_a_changed_file_costs_its_changes(upload, deliver, stored, replace_file, again, embedding_model, job_row):
    document_id, job = upload(LONG)
    deliver(job)
    embedding_model.asked.clear()
    changed = [*SECTIONS]
    changed[3] = "# Section 3\n\n" + "It has been rewritten, from its first word to its last. " * 5
    changed.insert(0, "# Section 99\n\n" + "A preface that was not there before, of some length. " * 5)
    replace_file(document_id, "\n\n".join(changed).encode())
    job = again(document_id)
    assert sorted(section_of(text) for text in texts(embedding_model)) == [3, 99]
    assert [section_of(each["text"]) for each in stored(document_id)] == [99, *range(COUNT)]
    assert job_row(job)["progress"]["reused"] == COUNT - 1


def test_other_sizes_of_passages_make_the_same_bytes_anew(
    upload, deliver, again, document, monkeypatch, embedding_model
):
    document_id, job = upload(LONG)
    deliver(job)
    embedding_model.asked.clear()
    monkeypatch.setenv("PASSAGE_CHARACTERS", "400")
    settings.forget()
    again(document_id)
    assert document(document_id)["passages"] > COUNT
    assert texts(embedding_model) != []


def test_an_earlier_job_that_wakes_up_late_changes_nothing(upload, deliver, stored, replace_file, again, rows):
    document_id, job = upload(LONG)
    deliver(job)
    replace_file(document_id, "\n\n".join(SECTIONS[:2]).encode())
    again(document_id)
    rows("update agentkit.jobs set status = 'queued', attempts = 0 where id = %s", [job])
    rows("update agentkit.documents set content_hash = 'of another file'")
    deliver(job)
    assert [row["error_code"] for row in rows("select * from agentkit.jobs where id = %s", [job])] == ["superseded"]
    assert [section_of(each["text"]) for each in stored(document_id)] == [0, 1]


# What it takes


def test_tokens_and_cost_are_noted_in_the_job_and_the_usage(
    upload, deliver, job_row, rows, embedding_model, monkeypatch
):
    monkeypatch.setenv("EMBEDDING_PRICE", "20")
    settings.forget()
    _, job = upload(LONG)
    deliver(job)
    # The model says nothing of tokens: one for every four characters, each request's rounded by itself.
    tokens = job_row(job)["input_tokens"]
    assert tokens == pytest.approx(sum(map(len, texts(embedding_model))) / 4, abs=len(embedding_model.asked))
    assert float(job_row(job)["cost_usd"]) == pytest.approx(tokens * 20 / 1_000_000, abs=1e-5)
    (usage,) = rows(
        "select sum(input_tokens) as tokens, min(function) as function, min(model) as model from agentkit.usage_events"
    )
    assert (usage["tokens"], usage["function"], usage["model"]) == (tokens, "worker", "small")


@pytest.mark.parametrize("limit", ["USER_MAX_PASSAGES"])
def test_nobody_may_keep_more_than_their_share(upload, deliver, document, stored, monkeypatch, limit):
    first, job = upload("\n\n".join(SECTIONS[:3]).encode())
    deliver(job)
    monkeypatch.setenv(limit, "9")
    settings.forget()
    second, job = upload("\n\n".join(SECTIONS[:7]).encode(), title="Another")
    assert deliver(job) == 0
    assert (document(second)["status"], document(second)["error_code"]) == ("failed", "quota_exceeded")
    assert stored(second) == []
    assert len(stored(first)) == 3


def test_a_model_that_is_busy_for_a_while_is_waited_for(upload, deliver, document, embedding_model):
    document_id, job = upload(LONG)
    embedding_model.answers += [Says(429, b"{}"), Says(429, b"{}")]
    assert deliver(job) == 0
    assert document(document_id)["status"] == "ready"


def test_its_owner_watches_the_passages_grow(upload, deliver, monkeypatch, embedding_model, rows):
    _, job = upload(LONG)
    seen = []
    embed = embeddings.embed

    async def embed_and_look(batch):
        (row,) = rows("select * from agentkit.jobs")
        seen.append((row["status"], row["progress"]["passages"], row["progress"]["passages_total"]))
        return await embed(batch)

    monkeypatch.setattr(embeddings, "embed", embed_and_look)
    deliver(job)
    assert seen == [("embedding", done, COUNT) for done in (0, 2, 4, 6, 8)]
