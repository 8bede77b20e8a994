"""The queue's messages reach the worker as Lambda would bring them, and leave the queue when they are done."""

import asyncio
import hashlib
import json
from contextlib import asynccontextmanager

import pytest

from infra.functions import ROOT
from infra.local import poller
from infra.local.aws import Aws
from infra.local.lambdas import Lambdas, Limits
from infra.local.poller import poll
from tests.parts.gateway import Sample

pytestmark = pytest.mark.anyio

WORKER = Sample("worker", queue="jobs")


class Queue:
    """The jobs' queue, and what its worker has seen."""

    def __init__(self, aws, seen):
        self.aws = aws
        self.seen = seen
        self.go = seen.with_name("go")
        """What waits goes on once that is there."""
        self.url = aws.environment["JOBS_QUEUE_URL"]

    def send(self, *bodies, **options):
        return [
            self.aws.sqs.send_message(QueueUrl=self.url, MessageBody=json.dumps(body), **options)["MessageId"]
            for body in bodies
        ]

    def come_again_at_once(self):
        """A message that was received and not deleted is visible again."""
        self.aws.sqs.set_queue_attributes(QueueUrl=self.url, Attributes={"VisibilityTimeout": "0"})

    def events(self):
        return [json.loads(line) for line in self.seen.read_text().splitlines()] if self.seen.exists() else []

    def tried(self, message):
        records = [record for event in self.events() for record in event["Records"]]
        return [record["messageId"] for record in records].count(message)

    def left(self, url=None):
        """How many messages it holds, those included that are being worked on."""
        return sum(self.waiting_and_taken(url))

    def waiting_and_taken(self, url=None):
        """How many messages anyone may receive, and how many someone has."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        said = self.aws.sqs.get_queue_attributes(QueueUrl=url or self.url, AttributeNames=names)["Attributes"]
        return tuple(int(said[name]) for name in names)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """An empty queue answers at once: a test's end waits for what is being asked."""
    monkeypatch.setattr(poller, "WAIT_SECONDS", 0)


@pytest.fixture
def queue(aws, tmp_path):
    return Queue(aws, tmp_path / "seen")


@asynccontextmanager
async def polling(queue, function=WORKER, *, sandboxes=1):
    """The poller at work, with the sample worker behind it."""
    stack = {
        "PYTHONPATH": str(ROOT),
        "SEEN": str(queue.seen),
        "GO": str(queue.go),
        **queue.aws.environment,
    }
    lambdas = Lambdas(stack, queue.seen.parent, [function], Limits(sandboxes=sandboxes, timeout_seconds=30.0))
    polls = asyncio.create_task(poll(lambdas, stack))
    try:
        yield
    finally:
        polls.cancel()
        await asyncio.gather(polls, return_exceptions=True)
        await lambdas.stop()


async def until(holds):
    """Return once that is so."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.02)


async def test_a_message_that_is_done_leaves_the_queue(queue):
    async with polling(queue):
        queue.send("do", "do")
        await until(lambda: queue.left() == 0)
    assert sum(len(event["Records"]) for event in queue.events()) == 2


async def test_of_a_batch_only_what_failed_stays_and_comes_again(queue):
    queue.come_again_at_once()
    done, failed = queue.send("do", "fail")
    async with polling(queue):
        await until(lambda: queue.tried(failed) > 1)
    assert queue.tried(done) == 1
    assert queue.left() + queue.left(queue.aws.dead_letter_queue_url) == 1


@pytest.mark.parametrize("end", ["crash", "raise"])
async def test_a_worker_that_breaks_leaves_the_whole_batch_and_another_goes_on(queue, end):
    batch = queue.send("do", end)
    async with polling(queue):
        await until(lambda: queue.tried(batch[1]) == 1)
        (after,) = queue.send("do")
        await until(lambda: queue.tried(after) == 1 and queue.left() == 2)
    assert [queue.tried(message) for message in batch] == [1, 1]


# https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html, "Success and failure conditions"
@pytest.mark.parametrize(
    ("answer", "left"),
    [
        pytest.param({}, 0, id="an empty answer is a success"),
        pytest.param(None, 0, id="null is a success"),
        pytest.param({"batchItemFailures": []}, 0, id="no failures are a success"),
        pytest.param({"batchItemFailures": None}, 0, id="null failures are a success"),
        pytest.param({"batchItemFailures": [{"itemIdentifier": ""}]}, 1, id="an empty id is a failure"),
        pytest.param({"batchItemFailures": [{"itemIdentifier": None}]}, 1, id="a null id is a failure"),
        pytest.param({"batchItemFailures": [{"itemId": "x"}]}, 1, id="another key is a failure"),
        pytest.param({"batchItemFailures": [{"itemIdentifier": "x"}]}, 1, id="an unknown id is a failure"),
    ],
)
async def test_the_workers_answer_is_read_as_lambda_reads_it(queue, answer, left):
    (message,) = queue.send({"answer": answer})
    async with polling(queue):
        await until(lambda: queue.tried(message) == 1)
        # The next one is brought when this one's answer was dealt with.
        (after,) = queue.send("do")
        await until(lambda: queue.tried(after) == 1 and queue.left() == left)


async def test_a_record_is_what_lambda_sends(queue):
    # https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html, "Example standard queue message event"
    attributes = {
        "kind": {"DataType": "String", "StringValue": "ingest"},
        "seal": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    }
    (message,) = queue.send("do", MessageAttributes=attributes)
    async with polling(queue):
        await until(lambda: queue.left() == 0)
    ((record,),) = [event["Records"] for event in queue.events()]
    assert record.pop("receiptHandle")
    counted = record.pop("attributes")
    assert record == {
        "messageId": message,
        "body": '"do"',
        "messageAttributes": {
            "kind": {
                "stringValue": "ingest",
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": "String",
            },
            "seal": {
                "binaryValue": "AP8=",
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": "Binary",
            },
        },
        "md5OfBody": hashlib.md5(b'"do"', usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:jobs",
        "awsRegion": "us-east-1",
    }
    assert counted.keys() >= {
        "ApproximateReceiveCount",
        "SentTimestamp",
        "SenderId",
        "ApproximateFirstReceiveTimestamp",
    }
    assert counted["ApproximateReceiveCount"] == "1"


async def test_as_many_batches_are_worked_on_as_there_are_sandboxes_and_the_rest_stays_in_the_queue(queue):
    async with polling(queue, sandboxes=2):
        for taken in (1, 2):
            queue.send("wait")
            await until(lambda taken=taken: len(queue.events()) == taken)
        queue.send("do")
        assert queue.waiting_and_taken() == (1, 2)
        queue.go.touch()
        await until(lambda: queue.left() == 0)


async def test_dead_letters_are_brought_to_the_function_of_their_queue(queue):
    queue.send("do")
    dead = queue.aws.dead_letter_queue_url
    queue.aws.sqs.send_message(QueueUrl=dead, MessageBody='"do"')
    async with polling(queue, Sample("worker", queue="dead-letter")):
        await until(lambda: queue.left(dead) == 0)
    ((record,),) = [event["Records"] for event in queue.events()]
    assert record["eventSourceARN"].endswith(":jobs-dead-letter")
    assert queue.left() == 1


async def test_a_message_that_never_succeeds_goes_to_the_dead_letter_queue(queue):
    queue.come_again_at_once()
    (message,) = queue.send("fail")
    async with polling(queue):
        await until(lambda: queue.left(queue.aws.dead_letter_queue_url) == 1)
    assert queue.tried(message) == int(queue.aws.environment["JOBS_MAX_RECEIVES"])
    assert queue.left() == 0


async def test_a_queue_that_is_away_is_asked_again(tmp_path, monkeypatch, caplog):
    server = Aws(tmp_path)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    queue = Queue(server, tmp_path / "seen")
    async with polling(queue):
        await until(lambda: "queue.unavailable" in caplog.text)
        try:
            await asyncio.to_thread(server.start)
            (message,) = queue.send("do")
            await until(lambda: queue.tried(message) == 1 and queue.left() == 0)
        finally:
            await asyncio.to_thread(server.stop)


async def test_a_stack_without_a_queue_polls_nothing(tmp_path):
    await poll(Lambdas({}, tmp_path, [WORKER]), {})
