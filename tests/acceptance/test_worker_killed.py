"""Workers are killed while they ingest, and what they depend on fails: nothing is lost, doubled, or left hanging."""

import asyncio
import contextlib
import os
import random
import signal
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio.to_thread
import pytest

from agentkit import jobs
from infra.functions import declared
from infra.local.aws import BUCKET, Aws
from infra.local.lambdas import Lambdas, Limits, Sandbox
from infra.local.part import LOOPBACK, free_port
from infra.local.poller import poll
from tests.parts.embedding_model import EmbeddingModel, Says
from tests.parts.people import ADA

pytestmark = pytest.mark.anyio

WORKER = next(function for function in declared() if function.name == "worker")
DOCUMENTS, KILLS, LONG_ONES = 30, 20, 3
# Longer than this a run that works does not take, on the slowest of machines.
PATIENCE_SECONDS = 240


def text_of(sections: int) -> bytes:
    """A document of so many sections, each of which makes one passage."""
    return "\n\n".join(f"# Section {each}\n\n" + f"Clause {each} says this. " * 12 for each in range(sections)).encode()


@dataclass
class Workshop:
    """The worker's sandboxes as Lambda keeps them, fed from a real queue."""

    aws: Aws
    lambdas: Lambdas
    rows: Callable
    expected: dict[uuid.UUID, int] = field(default_factory=dict)
    """Of each document, how many passages it has."""

    async def upload(self, sections: int, *, messages: int = 1) -> uuid.UUID:
        """Leave a document, its file, its job and the job's message, as `documents` does."""
        document, job = uuid.uuid4(), uuid.uuid4()
        key, content = f"{ADA.id}/{document}/file", text_of(sections)
        await anyio.to_thread.run_sync(lambda: self.aws.s3.put_object(Bucket=BUCKET, Key=key, Body=content))
        self.rows(
            "insert into agentkit.documents (id, owner, title, filename, media_type, size_bytes, status, object_key)"
            " values (%s, %s, %s, 'file.md', 'text/markdown', %s, 'queued', %s)",
            [document, ADA.id, f"Document {len(self.expected)}", len(content), key],
        )
        self.rows(
            "insert into agentkit.jobs (id, owner, kind, document_id) values (%s, %s, 'ingest', %s)",
            [job, ADA.id, document],
        )
        body = jobs.Envelope(job_id=job, kind="ingest").model_dump_json()
        url = self.aws.environment["JOBS_QUEUE_URL"]
        for _ in range(messages):
            await anyio.to_thread.run_sync(lambda: self.aws.sqs.send_message(QueueUrl=url, MessageBody=body))
        self.expected[document] = sections
        return document

    def busy(self) -> list[Sandbox]:
        """Return the sandboxes that have begun to work on a batch."""
        function = self.lambdas.functions["worker"]
        return [each for each in function._all - set(function._idle) if each.api.ready.is_set() and each.alive]

    async def kill(self, moments: random.Random, model: EmbeddingModel) -> None:
        """Kill a worker with SIGKILL, at some moment of its work."""
        while True:
            if busy := self.busy():
                victim = moments.choice(busy)
                # By what is being done, not by the clock alone: a new worker's first second goes by in imports.
                asked = len(model.asked) + moments.randrange(4)
                while len(model.asked) < asked and victim in self.busy():
                    await asyncio.sleep(0.01)
                await asyncio.sleep(moments.uniform(0, 1.25 * model.seconds))
                if victim in self.busy() and victim.pid:
                    os.kill(victim.pid, signal.SIGKILL)
                    return
            assert await self.statuses() != {"ready"}, "everything was done before the last kill"
            await asyncio.sleep(0.01)

    async def statuses(self) -> set[str]:
        """Return the states that the documents are in."""
        found = await anyio.to_thread.run_sync(lambda: self.rows("select distinct status from agentkit.documents"))
        return {row["status"] for row in found}

    async def all_over(self) -> None:
        """Return once no document is waited for."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.statuses() & {"queued", "processing"}:
                await asyncio.sleep(0.1)

    def check_that_each_passage_is_there_once(self) -> int:
        """Return how many passages there are, all as they should be."""
        found = self.rows("select document_id, metadata from vecs.passages order by id", database="VECTOR_")
        for document, count in self.expected.items():
            its_own = [row["metadata"] for row in found if row["document_id"] == document]
            assert [each["ordinal"] for each in its_own] == list(range(count))
            assert [each["heading"] for each in its_own] == [[f"Section {number}"] for number in range(count)]
        assert len(found) == sum(self.expected.values())
        return len(found)


@pytest.fixture
def lease_seconds():
    """Short, so that whoever is killed is followed soon."""
    return 2


@pytest.fixture
async def workshop(postgres, rows, embedding_model, tmp_path, monkeypatch, lease_seconds):
    """Two sandboxes of the worker, and all that they need but Redis, which has stopped."""
    aws = Aws(tmp_path, max_receives=KILLS + 5, visibility_seconds=5)
    aws.start()
    for name, value in aws.environment.items():
        monkeypatch.setenv(name, value)
    environment = {
        **os.environ,
        **postgres.environment,
        **aws.environment,
        "JOBS_LEASE_SECONDS": str(lease_seconds),
        # Nothing listens there.
        "UPSTASH_REDIS_REST_URL": f"http://{LOOPBACK}:{free_port()}",
        "UPSTASH_REDIS_REST_TOKEN": "none",
    }
    lambdas = Lambdas(environment, tmp_path / "logs", [WORKER], Limits(sandboxes=2, timeout_seconds=120))
    polling = asyncio.create_task(poll(lambdas, environment))
    try:
        yield Workshop(aws, lambdas, rows)
    finally:
        polling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await polling
        await lambdas.stop()
        aws.stop()
        jobs.close()


async def test_twenty_killed_workers_lose_no_document_and_double_no_passage(workshop, embedding_model, capsys):
    embedding_model.seconds = 0.2
    moments = random.Random(20)  # noqa: S311  # moments, not secrets
    for number in range(DOCUMENTS):
        await workshop.upload(150 if number < LONG_ONES else moments.randint(2, 60))
    for _ in range(KILLS):
        await workshop.kill(moments, embedding_model)
    await workshop.all_over()
    assert await workshop.statuses() == {"ready"}
    passages = workshop.check_that_each_passage_is_there_once()
    embedded = sum(map(len, embedding_model.texts))
    with capsys.disabled():
        print(  # noqa: T201  # what was counted, for whoever reads the run
            f"\n{KILLS} workers killed: {DOCUMENTS} of {DOCUMENTS} documents ready, {passages:,} of"
            f" {sum(workshop.expected.values()):,} passages, each once; {embedded - passages:,} were embedded twice."
        )
    assert embedded > passages, "no worker was killed in the middle of embedding"
    assert {row["status"] for row in workshop.rows("select status from agentkit.jobs")} == {"ready"}
    assert workshop.rows("select * from agentkit.job_parts") == []


# What it depends on fails


async def begun(workshop):
    """Wait until the first passages have their vectors."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not workshop.rows("select * from vecs.staged limit 1", database="VECTOR_"):
            await asyncio.sleep(0.02)


async def test_a_database_that_is_restarted_meanwhile_is_waited_for(workshop, postgres, embedding_model):
    embedding_model.seconds = 0.2
    for sections in (150, 3, 5, 8):
        await workshop.upload(sections)
    await begun(workshop)
    # On this thread: a part ends with the thread that started it.
    postgres.stop()
    postgres.resume()
    await workshop.all_over()
    assert await workshop.statuses() == {"ready"}
    workshop.check_that_each_passage_is_there_once()


async def test_redis_is_not_missed(workshop):
    await workshop.upload(5)
    await workshop.all_over()
    assert await workshop.statuses() == {"ready"}
    workshop.check_that_each_passage_is_there_once()


async def test_an_embedding_model_that_refuses_for_a_while_is_waited_for(workshop, embedding_model):
    # More than one worker's tries in a row: some messages go back to the queue.
    embedding_model.answers += [Says(429, b"{}", {"Retry-After": "1"}) for _ in range(8)]
    for sections in (150, 3, 5):
        await workshop.upload(sections)
    await workshop.all_over()
    assert await workshop.statuses() == {"ready"}
    workshop.check_that_each_passage_is_there_once()


async def test_a_file_deleted_meanwhile_fails_its_document_and_no_other(workshop, embedding_model):
    # Long enough for the file to go between the first vectors and the last.
    embedding_model.seconds = 1.0
    lost = await workshop.upload(150)
    await workshop.upload(5)
    await begun(workshop)
    await anyio.to_thread.run_sync(lambda: workshop.aws.s3.delete_object(Bucket=BUCKET, Key=f"{ADA.id}/{lost}/file"))
    await workshop.all_over()
    (row,) = workshop.rows("select status, error_code from agentkit.documents where id = %s", [lost])
    assert (row["status"], row["error_code"]) == ("failed", "file_missing")
    del workshop.expected[lost]
    workshop.check_that_each_passage_is_there_once()
    assert await workshop.statuses() == {"failed", "ready"}


# Nobody is killed: on a machine that stands still for two seconds, none is to be taken for dead.
@pytest.mark.parametrize("lease_seconds", [60])
async def test_messages_that_come_three_times_are_done_once(workshop, embedding_model):
    embedding_model.seconds = 0.1
    for sections in (150, 3, 5, 8, 13):
        await workshop.upload(sections, messages=3)
    await workshop.all_over()
    assert await workshop.statuses() == {"ready"}
    passages = workshop.check_that_each_passage_is_there_once()
    assert sum(map(len, embedding_model.texts)) == passages
