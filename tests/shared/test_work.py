"""A worker does a job's steps one after another while they are its own, and leaves the rest to another delivery."""

import asyncio
import threading
import uuid

import pytest

from agentkit import jobs, settings, telemetry, work
from agentkit.errors import Unavailable
from agentkit.work import Busy, Later, Over, WorkFailed

JOB = uuid.UUID(int=1)


class Step:
    """A claim of which everything is written down."""

    def __init__(self, said, name="step", *, error=None, attempts=1):
        self.job = Named(JOB)
        self.attempts = attempts
        self.held = True
        self._said = said
        self._name = name
        self._error = error

    async def run(self):
        self._said.append(self._name)
        if self._error:
            raise self._error

    async def beat(self):
        self._said.append("beat")
        return self.held

    async def release(self):
        self._said.append("released")

    async def forgo(self):
        self._said.append("forgone")

    async def fail(self, failure):
        self._said.append(f"failed: {failure.code}")


class Named:
    """A job, as far as a message and a log line need it."""

    def __init__(self, job_id):
        self.id = job_id
        self.kind = "count"


class Endless(Step):
    """A step that ends by being stopped."""

    async def run(self):
        self._said.append("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self._said.append("stopped")
            raise


class Remaining:
    """A Lambda context with that much time left."""

    def __init__(self, seconds):
        self.seconds = seconds

    def get_remaining_time_in_millis(self):
        return int(self.seconds * 1000)


@pytest.fixture
def said():
    """What was done, in order."""
    return []


@pytest.fixture
def queue(aws):
    """The jobs queue, as a test looks at it."""

    class Queue:
        url = aws.environment["JOBS_QUEUE_URL"]

        def send(self, body):
            aws.sqs.send_message(QueueUrl=self.url, MessageBody=body)

        def receive(self):
            """Take what is visible, as Lambda hands it over."""
            answer = aws.sqs.receive_message(
                QueueUrl=self.url, MaxNumberOfMessages=10, AttributeNames=["ApproximateReceiveCount"]
            )
            return [
                {
                    "messageId": each["MessageId"],
                    "receiptHandle": each["ReceiptHandle"],
                    "body": each["Body"],
                    "attributes": each["Attributes"],
                }
                for each in answer.get("Messages", [])
            ]

    return Queue()


@pytest.fixture
def hidden_for(monkeypatch):
    """For how long messages were hidden, a list of (message ids' count, seconds)."""
    asked = []
    real = work._hide

    async def noting(records, seconds):
        asked.append((len(records), seconds))
        await real(records, seconds)

    monkeypatch.setattr(work, "_hide", noting)
    return asked


@pytest.fixture
def deliver(aws):
    """Hand a job's messages to a worker whose claims are these, one after another; returns the ids that failed."""

    def invoke(claims, records=None, *, context=None, notice=None):
        left = iter(claims)

        async def next_step(job_id):
            assert job_id == JOB
            return next(left)

        handler = work.sqs_handler({"count": next_step}, notice=notice)
        try:
            answer = handler({"Records": records or [record()]}, context)
        finally:
            work.close()
            settings.forget()
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    return invoke


def record(name="message", *, receives=1, body=None):
    if body is None:
        body = jobs.Envelope(job_id=JOB, kind="count", request_id="from-the-browser").model_dump_json()
    attributes = {"ApproximateReceiveCount": str(receives)}
    return {"messageId": name, "receiptHandle": "gone", "body": body, "attributes": attributes}


def test_steps_are_done_until_nothing_is_left(deliver, said):
    assert deliver([Step(said, "first"), Step(said, "second"), Over("ready")]) == []
    assert said == ["first", "second"]


def test_a_job_that_is_over_is_left_alone(deliver, said):
    assert deliver([Over("cancelled")]) == []
    assert said == []


def test_the_request_that_asked_is_named_in_the_workers_log(deliver, said):
    class Telling(Step):
        async def run(self):
            self._said.append(telemetry.request_id.get())

    deliver([Telling(said), Over("ready")])
    assert said == ["from-the-browser"]


def test_work_that_cannot_be_done_fails_with_its_reason_and_its_message_is_done(deliver, said):
    step = Step(said, error=WorkFailed("too_hard", "It is too hard."))
    assert deliver([step, Over("failed")]) == []
    assert said == ["step", "failed: too_hard"]


def test_work_that_was_interrupted_is_released_and_its_message_comes_again(deliver, said):
    assert deliver([Step(said, error=ConnectionError("the model hung up"))]) == ["message"]
    assert said == ["step", "released"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(ConnectionError("the model hung up"), "gave_up", id="unknown"),
        pytest.param(
            Unavailable("The model is away.", code="embedding_unavailable"), "embedding_unavailable", id="known"
        ),
    ],
)
def test_the_last_delivery_fails_the_job_for_its_reason_and_keeps_the_message(deliver, said, aws, error, code):
    last = record(receives=aws.environment["JOBS_MAX_RECEIVES"])
    assert deliver([Step(said, error=error)], [last]) == ["message"]
    assert said == ["step", f"failed: {code}"]


@pytest.mark.parametrize("receives", [1, 3])
def test_a_job_that_others_are_at_is_looked_after_by_a_fresh_message_when_their_lease_ends(
    deliver, said, queue, aws, receives
):
    assert aws.environment["JOBS_MAX_RECEIVES"] == "3"
    assert deliver([Busy(0.2)], [record(receives=receives)]) == []
    assert queue.receive() == []
    while not (fresh := queue.receive()):
        pass
    assert fresh[0]["attributes"]["ApproximateReceiveCount"] == "1"
    envelope = jobs.Envelope.model_validate_json(fresh[0]["body"])
    assert (envelope.job_id, envelope.request_id) == (JOB, "from-the-browser")
    assert said == []


def test_a_job_that_others_are_at_comes_again_when_no_message_can_be_sent(deliver, hidden_for, monkeypatch):
    async def refused(envelope, *, after_seconds):
        raise ConnectionError("the queue is away")

    monkeypatch.setattr(jobs, "send_again", refused)
    assert deliver([Busy(42)]) == ["message"]
    assert hidden_for[-1] == (1, 42)


def test_pauses_grow_threefold(deliver, said, hidden_for):
    deliver([Step(said, error=ConnectionError())], [record(receives=1)])
    first = hidden_for[-1]
    deliver([Step(said, error=ConnectionError())], [record(receives=2)])
    assert (first, hidden_for[-1]) == ((1, 5), (1, 15))


def test_one_records_failure_does_not_touch_the_others(deliver, said):
    claims = [Step(said, "first", error=ConnectionError()), Step(said, "second"), Over("ready")]
    assert deliver(claims, [record("one"), record("two")]) == ["one"]
    assert sorted(said) == ["first", "released", "second"]


def test_the_messages_of_a_batch_are_worked_on_side_by_side_some_at_once(deliver, said):
    all_begun = asyncio.Event()

    class Meeting(Step):
        async def run(self):
            self._said.append("begun")
            if len(self._said) == work.AT_ONCE:
                all_begun.set()
            await all_begun.wait()
            assert len(self._said) == work.AT_ONCE

    # Each waits for the others of its turn; the next ones begin when these are done.
    assert (
        deliver(
            [*(Meeting(said) for _ in range(work.AT_ONCE)), *(Over("ready") for _ in range(10))],
            [record(str(number)) for number in range(10)],
        )
        == []
    )


# Time


def test_a_step_ends_before_lambda_would_end_it_and_twice_is_enough(deliver, said):
    left = Remaining(work.MARGIN_SECONDS + 0.1)
    assert deliver([Endless(said)], context=left) == ["message"]
    assert said == ["begun", "stopped", "released"]
    said.clear()
    assert deliver([Endless(said, attempts=2), Over("failed")], context=left) == []
    assert said == ["begun", "stopped", "failed: took_too_long"]


def test_what_a_long_step_leaves_of_the_time_is_not_begun_but_carried_on_by_a_fresh_message(deliver, said, queue):
    context = Remaining(105)

    class Long(Step):
        async def run(self):
            await super().run()
            context.seconds = 54

    assert deliver([Long(said, "long"), Step(said, "next")], context=context) == []
    assert said == ["long", "forgone"]
    (fresh,) = queue.receive()
    envelope = jobs.Envelope.model_validate_json(fresh["body"])
    assert (envelope.job_id, envelope.request_id) == (JOB, "from-the-browser")
    assert fresh["attributes"]["ApproximateReceiveCount"] == "1"


def test_the_last_delivery_is_tried_in_whatever_time_is_left(deliver, said, aws):
    context = Remaining(105)

    class Long(Step):
        async def run(self):
            await super().run()
            context.seconds = 54

    last = record(receives=aws.environment["JOBS_MAX_RECEIVES"])
    assert deliver([Long(said, "long"), Step(said, "next"), Over("ready")], [last], context=context) == []
    assert said == ["long", "next"]


# Leases and visibility


@pytest.fixture
def quick_lease(monkeypatch):
    """A lease of a second, beaten three times in it."""
    monkeypatch.setenv("JOBS_LEASE_SECONDS", "1")
    settings.forget()


def test_a_step_that_is_not_ours_any_more_is_stopped_at_the_next_beat(deliver, said, quick_lease):
    step = Endless(said)
    step.held = False
    assert deliver([step, Over("cancelled")]) == []
    assert said == ["begun", "beat", "stopped"]


def test_a_step_that_finds_its_lease_lost_is_no_failure(deliver, said):
    assert deliver([Step(said, error=work.LeaseLost()), Over("cancelled")]) == []
    assert said == ["step"]


def test_a_beat_that_finds_the_database_away_is_forgiven(deliver, said, quick_lease):
    class Away(Step):
        def __init__(self, said):
            super().__init__(said)
            self._tried = asyncio.Event()

        async def run(self):
            await self._tried.wait()
            # A turn more, in which a claim that was given up would be stopped.
            await asyncio.sleep(0)
            self._said.append("done")

        async def beat(self):
            self._tried.set()
            raise Unavailable("The database is away.")

    assert deliver([Away(said), Over("ready")]) == []
    assert said == ["done"]


def test_nobody_hears_of_a_claim_for_a_whole_lease_and_it_is_given_up(deliver, said, quick_lease):
    class Away(Endless):
        async def beat(self):
            raise Unavailable("The database is away.")

    assert deliver([Away(said), Over("embedding")]) == []
    assert said == ["begun", "stopped"]


def test_nothing_is_asked_of_the_queue_after_the_batch(deliver, said, monkeypatch):
    asked, answered = threading.Event(), threading.Event()
    client = jobs.client()

    def slowly(**request):
        asked.set()
        # Until the work is long done.
        answered.wait(0.2)
        answered.set()

    class AfterTheFirst(Step):
        async def run(self):
            await asyncio.to_thread(asked.wait)

    monkeypatch.setattr(client, "change_message_visibility_batch", slowly)
    assert deliver([AfterTheFirst(said), Over("ready")]) == []
    assert answered.is_set()


def test_messages_are_hidden_for_a_lease_while_they_wait_and_after_they_are_done(deliver, said, hidden_for):
    deliver([Step(said), Over("ready"), Step(said), Over("ready")], [record("one"), record("two")])
    assert hidden_for == [(2, 60)]


# Messages


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("", id="empty"),
        pytest.param("not JSON", id="no JSON"),
        pytest.param("[]", id="no object"),
        pytest.param('{"version": 1}', id="no job"),
        pytest.param('{"version": 1, "job_id": "1", "kind": "count"}', id="no id"),
        pytest.param(f'{{"version": 2, "job_id": "{JOB}", "kind": "count"}}', id="of a later version"),
        pytest.param(f'{{"version": 1, "job_id": "{JOB}", "kind": "later"}}', id="of an unknown kind"),
    ],
)
def test_a_message_that_cannot_be_read_goes_back_and_the_others_are_done(deliver, said, body):
    assert deliver([Step(said), Over("ready")], [record("unreadable", body=body), record("good")]) == ["unreadable"]
    assert said == ["step"]


def test_a_message_of_anothers_is_handed_on(deliver, said):
    async def notice(message):
        said.append(message)

    assert deliver([], [record(body='{"Records": []}')], notice=notice) == []
    assert said == [{"Records": []}]


def test_a_notice_may_ask_to_come_again(deliver, hidden_for):
    async def notice(message):
        raise Later(30)

    assert deliver([], [record(body="{}")], notice=notice) == ["message"]
    assert hidden_for[-1] == (1, 30)
