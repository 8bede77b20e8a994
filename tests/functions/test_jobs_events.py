"""Who follows a job is told how it stands, of each change, and how it ended; and the stream always ends."""

import asyncio
import json
import threading
import uuid
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
from psycopg.types.json import Jsonb

from agentkit.errors import Unavailable
from functions.jobs import app as jobs_app
from functions.jobs import events
from functions.jobs.app import app
from functions.jobs.events import State
from tests.parts.people import ADA, bearer

JOB = uuid.UUID("11111111-1111-4111-8111-111111111111")


class Stream:
    """A stream of server-sent events, read one by one."""

    def __init__(self, response):
        self.response = response
        self._lines = response.iter_lines()

    def block(self):
        """The lines up to the next empty one, by their fields; a comment's is empty. None at the stream's end."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if not line:
                return fields
            name, _, value = line.partition(": ") if not line.startswith(":") else ("", "", line)
            fields[name] = value
        assert fields == {}, "the stream ended in the middle of an event"
        return None

    def next(self):
        """The next event's name and data, without the heartbeats; None at the stream's end."""
        while (fields := self.block()) is not None:
            if fields.get("event"):
                return fields["event"], json.loads(fields["data"])
        return None

    def rest(self):
        """The events up to the end."""
        return list(iter(self.next, None))


@pytest.fixture
def follow(postgres, people, upstash, serve):
    """Follow the job from here to its end, or as far as the test reads."""

    @contextmanager
    def follow(served=app):
        with serve(served).stream("GET", f"/v1/jobs/{JOB}/events", headers=bearer(ADA)) as response:
            assert response.status_code == 200
            yield Stream(response)

    return follow


@pytest.fixture
def put(put_job):
    """Put the job there."""
    return partial(put_job, id=JOB)


@pytest.fixture
def change(rows):
    """Change the job: `change(status="ready")`."""

    def change(**columns):
        rows(f"update agentkit.jobs set {', '.join(f'{name} = %s' for name in columns)}", list(columns.values()))

    return change


@pytest.fixture
def hurried(monkeypatch):
    """Look all the time."""
    monkeypatch.setattr(events, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(events, "LONGEST_PAUSE_SECONDS", 0.01)


def test_how_it_stands_comes_at_once_then_each_change_and_the_end_last(follow, put, change):
    put(status="queued")
    with follow() as stream:
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        name, state = stream.next()
        assert (name, state["status"], state["id"]) == ("progress", "queued", str(JOB))
        change(status="embedding", progress=Jsonb({"passages": 0, "passages_total": 96}))
        name, state = stream.next()
        assert (name, state["status"], state["progress"]["passages"]) == ("progress", "embedding", 0)
        change(progress=Jsonb({"passages": 64, "passages_total": 96}))
        assert stream.next()[1]["progress"]["passages"] == 64
        change(status="ready")
        name, state = stream.next()
        assert (name, state["status"]) == ("done", "ready")
        assert stream.rest() == []


def test_an_event_has_the_state_that_asking_would_give(follow, put, serve):
    put(status="parsing")
    with follow() as stream:
        assert stream.next() == ("progress", serve(app).get(f"/v1/jobs/{JOB}", headers=bearer(ADA)).json())


@pytest.mark.parametrize("status", ["ready", "failed", "cancelled"])
def test_a_job_that_is_over_is_told_at_once(follow, put, status):
    put(status=status, error_code="no_text" if status == "failed" else None, error="No text was found.")
    with follow() as stream:
        ((name, state),) = stream.rest()
    assert (name, state["status"]) == ("done", status)
    assert (state["error"] or {}).get("code") == ("no_text" if status == "failed" else None)


def test_a_heartbeat_that_changes_nothing_for_its_owner_is_no_event(follow, put, change, hurried):
    put(status="embedding")
    with follow() as stream:
        assert stream.next()[0] == "progress"
        change(lease_until="2026-11-25")
        change(status="ready")
        assert [name for name, _ in stream.rest()] == ["done"]


def test_an_events_id_is_that_of_its_state(follow, put):
    put(status="embedding")
    ids = []
    for _ in range(2):
        with follow() as stream:
            ids.append(stream.block()["id"])
    assert ids[0] == ids[1] != ""


def test_a_silent_stream_gives_a_sign_of_life(follow, put, monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.01)
    put()
    with follow() as stream:
        assert stream.block()["event"] == "progress"
        assert stream.block() == {"": ": ping"}


def test_after_its_longest_time_it_asks_to_be_asked_again(follow, put, monkeypatch):
    monkeypatch.setattr(jobs_app, "LONGEST_SECONDS", 0.05)
    put(status="embedding")
    with follow() as stream:
        (_, state), last = stream.rest()
    assert last == ("continue", state)


def test_lambdas_deadline_is_not_waited_for(follow, put):
    # 3 s and a tenth are left, of which the ending takes 3: one second is the least that anyone gets.
    context = SimpleNamespace(get_remaining_time_in_millis=lambda: 3_100, aws_request_id="request-1")

    async def in_lambda(scope, receive, send):
        await app({**scope, "aws.context": context}, receive, send)

    put(status="embedding")
    with follow(in_lambda) as stream:
        assert [name for name, _ in stream.rest()] == ["progress", "continue"]


def test_a_database_that_is_away_for_a_moment_only_delays_the_next_change(follow, put, change, postgres, monkeypatch):
    monkeypatch.setattr(events, "TRIES", 1_000)
    put(status="embedding")
    with follow() as stream:
        assert stream.next()[0] == "progress"
        postgres.stop()
        postgres.resume()
        change(status="ready")
        assert [name for name, _ in stream.rest()] == ["done"]


def test_a_database_that_stays_away_is_told_and_ends_it(follow, put, postgres, hurried):
    put(status="embedding")
    with follow() as stream:
        assert stream.next()[0] == "progress"
        postgres.stop()
        try:
            ((name, problem),) = stream.rest()
        finally:
            postgres.resume()
    assert (name, problem["status"], problem["code"]) == ("error", 503, "database_unavailable")
    assert problem["request_id"] == stream.response.headers["x-request-id"]


def test_a_job_that_vanishes_is_told_and_ends_it(follow, put, rows, hurried):
    put(status="embedding")
    with follow() as stream:
        assert stream.next()[0] == "progress"
        rows("delete from agentkit.jobs")
        ((name, problem),) = stream.rest()
    assert (name, problem["status"], problem["code"]) == ("error", 404, "not_found")


def test_a_client_that_leaves_ends_the_looking(follow, put, monkeypatch):
    ended = threading.Event()
    watch = events._watch

    async def watched(*arguments):
        try:
            await watch(*arguments)
        finally:
            ended.set()

    monkeypatch.setattr(events, "_watch", watched)
    put(status="embedding")
    with follow() as stream:
        assert stream.next()[0] == "progress"
    assert ended.wait(30)


# Its pace, without a server


def told(*found):
    """The events of a job that is found so, look after look."""
    looks = iter(found)

    async def look():
        state = next(looks)
        if isinstance(state, Exception):
            raise state
        return state

    async def collect():
        return [event async for event in events.follow(State("{}", over=False), look, seconds=300)]

    # `asyncio.run` would drop the loop that Mangum has set.
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(collect())
    finally:
        loop.close()


def test_looks_grow_rarer_while_nothing_changes_and_begin_anew_at_a_change(monkeypatch):
    pauses = []

    async def note(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(events, "_pause", note)
    same, changed = State("{}", over=False), State('{"a": 1}', over=False)
    told(*[same] * 6, changed, changed, State("{}", over=True))
    # 0.3 s, half as much again each time, and never more than 2.
    assert pauses == pytest.approx([0.3, 0.45, 0.675, 1.0125, 1.51875, 2.0, 2.0, 0.3, 0.45])


def test_a_failure_of_ours_is_told_without_its_reason(monkeypatch):
    monkeypatch.setattr(events, "FIRST_PAUSE_SECONDS", 0.0)
    last = told(RuntimeError("a secret"))[-1]
    assert last.startswith("event: error\n")
    assert json.loads(last.split("data: ")[1])["code"] == "internal_error"
    assert "secret" not in last


def test_a_database_that_comes_back_is_given_its_tries_anew(monkeypatch):
    async def no_pause(_):
        pass

    monkeypatch.setattr(events, "_pause", no_pause)
    away = [Unavailable("away")] * (events.TRIES - 1)
    last = told(*away, State("{}", over=False), *away, State("{}", over=True))[-1]
    assert last.startswith("event: done\n")
