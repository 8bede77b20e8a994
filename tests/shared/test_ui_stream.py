"""An answer is streamed at once, kept, heard of when it must end, and always ended; `tests/streams` reads the bytes."""

import asyncio
from typing import Any

import pytest

from agentkit import runs, ui_stream
from agentkit.errors import Conflict
from agentkit.settings import ConfigurationError
from agentkit.ui_message import DONE, PING
from agentkit.ui_writer import StreamWriter
from tests.parts.people import ADA, BOB
from tests.parts.redis import redis_away
from tests.parts.stage import replayed

pytestmark = pytest.mark.anyio
in_memory = pytest.mark.usefixtures("redis_in_memory")


async def hello(writer):
    writer.text("Hello")


async def for_ever(writer):
    writer.text("Hello")
    await asyncio.Event().wait()


class Clock:
    """A monotonic clock that moves when told."""

    def __init__(self):
        self._now = 0.0
        self._read = asyncio.Event()

    def monotonic(self):
        self._read.set()
        return self._now

    async def passes(self, seconds):
        """Move, and return once the answer's conductor has looked at it."""
        self._now += seconds
        self._read.clear()
        await self._read.wait()


@pytest.fixture
async def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(ui_stream, "time", clock)
    return clock


@in_memory
async def test_the_first_byte_waits_for_nothing(perform):
    answer = await perform(for_ever, seconds=0)
    assert (await anext(answer.response.body_iterator)).startswith('data: {"type":"start"')
    await answer.to_the_end()


@in_memory
async def test_a_frame_is_sent_before_the_next_one_is_made(perform):
    received = asyncio.Event()

    async def one_by_one(writer):
        writer.text("one")
        await received.wait()
        writer.text("two")

    answer = await perform(one_by_one)
    await answer.until("one")
    received.set()
    assert "two" in await answer.to_the_end()


@in_memory
async def test_frames_that_wait_together_go_together(perform):
    async def a_hundred(writer):
        for _ in range(100):
            writer.text("x")

    answer = await perform(a_hundred)
    await answer.to_the_end()
    assert len(answer.sent) < 10


@in_memory
async def test_its_headers_keep_proxies_from_holding_it_back(perform):
    answer = await perform(hello, headers={"RateLimit": "x"})
    await answer.to_the_end()
    sent = answer.response.headers
    assert sent["content-type"].startswith("text/event-stream")
    assert sent["x-vercel-ai-ui-message-stream"] == "v1"
    assert sent["cache-control"] == "no-cache, no-transform"
    assert sent["x-accel-buffering"] == "no"
    assert sent["ratelimit"] == "x"


@pytest.mark.usefixtures("either_redis")
async def test_a_stop_is_heard_while_the_model_is_silent(perform):
    answer = await perform(for_ever, chat="a-chat")
    async for kept in runs.follow(answer.run):
        if "Hello" in kept:
            break
    # All is kept: from here on there is nothing to flush.
    await runs.request_stop(ADA.id, "a-chat")
    await answer.to_the_end()
    assert answer.ending == "stopped"


@in_memory
async def test_a_stop_is_heard_while_frames_are_sent(perform):
    async def chatter(writer):
        while True:
            writer.text("x")
            await asyncio.sleep(0.01)

    answer = await perform(chatter, chat="a-chat")
    await answer.until("x")
    await runs.request_stop(ADA.id, "a-chat")
    await answer.to_the_end()
    assert answer.ending == "stopped"


@in_memory
async def test_another_persons_stop_of_an_equal_chat_changes_nothing(perform):
    go_on = asyncio.Event()

    async def wait(_):
        await go_on.wait()

    answer = await perform(wait, chat="a-chat", heartbeat_seconds=0)
    assert not await runs.request_stop(BOB.id, "a-chat")
    await answer.until(PING)
    go_on.set()
    await answer.to_the_end()
    assert answer.ending == "finished"


@in_memory
async def test_an_answer_ends_itself_at_its_deadline_and_not_before(perform, clock):
    async def overstay(writer):
        await clock.passes(59)
        writer.text("just before")
        await clock.passes(1)
        writer.text("too late")

    answer = await perform(overstay, seconds=60)
    sent = await answer.to_the_end()
    assert answer.ending == "length"
    assert "just before" in sent
    assert "too late" not in sent


@in_memory
async def test_a_client_that_leaves_does_not_end_the_answer(perform):
    left = asyncio.Event()

    async def say(writer):
        writer.text("before")
        await left.wait()
        writer.text(" after")

    answer = await perform(say)
    await answer.until("before")
    await answer.leave()
    reader = asyncio.create_task(replayed(answer.run))
    left.set()
    assert (await reader).endswith(DONE)
    assert answer.ending == "finished"
    assert answer.parts == [{"type": "text", "text": "before after", "state": "done"}]


@pytest.mark.usefixtures("either_redis")
async def test_a_replay_has_every_byte_in_order(perform):
    turns = [asyncio.Event() for _ in range(3)]

    async def say(writer):
        for turn in turns:
            for count in range(100):
                writer.text(f"{count} “ü” \n")
            await turn.wait()

    answer = await perform(say)
    batches = runs.follow(answer.run)
    for turn in turns:
        await anext(batches)
        turn.set()
    sent = await answer.to_the_end()
    assert await replayed(answer.run) == sent


@in_memory
async def test_heartbeats_reach_those_who_resumed_too(perform):
    beaten = asyncio.Event()

    async def wait(writer):
        await beaten.wait()
        writer.text("Hello")

    answer = await perform(wait, heartbeat_seconds=0)
    reader: Any = ui_stream.replay(answer.run).body_iterator
    while PING not in str(await anext(reader)):
        pass
    beaten.set()
    await answer.to_the_end()


@in_memory
async def test_a_heartbeat_comes_after_ten_seconds_of_silence_and_not_before(perform, clock):
    written = []

    async def pause(writer):
        for seconds in (9, 9, 10):
            await clock.passes(seconds)
            writer.text(f"after {seconds}")
            written.append(seconds)

    sent = await (await perform(pause)).to_the_end()
    assert written == [9, 9, 10]
    assert sent.count(PING) == 1
    assert sent.index(PING) < sent.index("after 10")


@in_memory
@pytest.mark.parametrize("seconds", [60, 0], ids=["finished", "at its deadline"])
async def test_once_an_answer_has_ended_the_conversation_is_free(perform, seconds):
    answer = await perform(hello if seconds else for_ever, chat="a-chat", seconds=seconds)
    await answer.to_the_end()
    await runs.start(ADA.id, "a-chat")


@in_memory
async def test_while_an_answer_is_made_the_conversation_is_not_free(perform):
    answer = await perform(for_ever, chat="a-chat")
    with pytest.raises(Conflict):
        await perform(hello, chat="a-chat")
    await runs.request_stop(ADA.id, "a-chat")
    await answer.to_the_end()


@in_memory
async def test_an_answer_that_cannot_be_saved_is_an_error_and_frees_the_conversation(perform):
    answer = await perform(hello, chat="a-chat", fail_to_save=True)
    sent = await answer.to_the_end()
    assert "could not be saved" in sent
    assert "secret" not in sent
    assert '"finish"' not in sent
    assert sent.endswith(DONE)
    await runs.start(ADA.id, "a-chat")


@in_memory
async def test_an_answer_that_failed_and_cannot_be_saved_says_that_it_failed(perform):
    async def fail(_):
        raise ValueError("no")

    sent = await (await perform(fail, fail_to_save=True)).to_the_end()
    assert "could not be completed" in sent
    assert sent.count('"type":"error"') == 1


@in_memory
async def test_metadata_that_is_no_json_is_a_failure_and_not_a_silent_end(redis_in_memory):
    async def save(_, __):
        return {"when": object()}

    run = await runs.start(ADA.id, "a-chat")
    response = ui_stream.respond(run, hello, save, message_id="m", seconds=60)
    sent = "".join([str(piece) async for piece in response.body_iterator])
    assert '"type":"error"' in sent
    assert sent.endswith(DONE)


@in_memory
async def test_an_answer_cancelled_from_within_has_failed(perform):
    async def cancel(_):
        raise asyncio.CancelledError

    answer = await perform(cancel)
    assert '"type":"error"' in await answer.to_the_end()
    assert answer.ending == "failed"


@in_memory
async def test_an_answer_that_stumbles_over_its_stop_was_stopped(perform):
    async def stumble(_):
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("connection lost")

    answer = await perform(stumble, chat="a-chat")
    await runs.request_stop(ADA.id, "a-chat")
    assert '"type":"error"' not in await answer.to_the_end()
    assert answer.ending == "stopped"


@in_memory
async def test_an_answer_that_does_not_let_go_is_ended_without_it(perform, monkeypatch):
    monkeypatch.setattr(ui_stream, "LETTING_GO_SECONDS", 0.01)
    ended, too_late = asyncio.Event(), asyncio.Event()

    async def cling(writer):
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError:
                continue
        try:
            writer.text("too late")
        except RuntimeError:
            too_late.set()

    answer = await perform(cling, seconds=0)
    sent = await answer.to_the_end()
    ended.set()
    await too_late.wait()
    assert sent.endswith(DONE)
    assert answer.ending == "length"
    assert "too late" not in str(answer.parts)


@in_memory
async def test_what_nobody_foresaw_while_keeping_is_an_error_and_not_a_silent_end(perform, monkeypatch):
    async def refuse(*_):
        raise ConfigurationError("UPSTASH_REDIS_REST_URL: missing")

    answer = await perform(for_ever)
    monkeypatch.setattr(runs, "append", refuse)
    sent = await answer.to_the_end()
    assert '"type":"error"' in sent
    assert "UPSTASH" not in sent
    assert sent.endswith(DONE)
    assert answer.ending == "failed"


async def test_without_redis_an_answer_is_given_all_the_same(redis_in_memory, perform):
    with redis_away(redis_in_memory):
        answer = await perform(hello)
        sent = await answer.to_the_end()
    assert "Hello" in sent
    assert '"finishReason":"stop"' in sent
    assert answer.ending == "finished"


async def test_a_redis_that_leaves_in_the_middle_costs_nothing_but_the_resume(redis_in_memory, perform, clock):
    gone = asyncio.Event()

    async def say(writer):
        writer.text("before")
        await gone.wait()
        # Once it has tried to keep what was said, and looks again.
        for _ in range(2):
            await clock.passes(ui_stream.LISTEN_SECONDS)
        writer.text(" after")

    answer = await perform(say)
    await answer.until("before")
    with redis_away(redis_in_memory):
        gone.set()
        assert '"finishReason":"stop"' in await answer.to_the_end()
    assert answer.parts == [{"type": "text", "text": "before after", "state": "done"}]


async def test_a_replay_of_a_run_whose_writer_died_says_so(redis_in_memory):
    run = await runs.start(ADA.id, "a-chat")
    await runs.append(run, ['data: {"type":"start"}\n\n'])
    redis_in_memory.pass_time(runs.LIVE_SECONDS)
    sent = await replayed(run)
    assert sent.startswith('data: {"type":"start"}\n\n')
    assert "interrupted" in sent
    assert sent.endswith(DONE)


async def test_a_replay_that_loses_redis_says_so(redis_in_memory):
    run = await runs.start(ADA.id, "a-chat")
    with redis_away(redis_in_memory):
        sent = await replayed(run)
    assert '"type":"error"' in sent
    assert sent.endswith(DONE)


async def test_all_that_was_said_is_at_hand_while_it_is_written():
    writer = StreamWriter(lambda _: None)
    writer.reasoning("Hm.")
    writer.text("One ")
    writer.tool_input("call-1", "search", {})
    writer.text("two ")
    writer.text("three")
    assert writer.said == "One two three"
    writer.close()
    assert writer.said == "One two three"


async def test_an_output_of_a_call_that_was_never_made_is_passed_over():
    sent: list[str] = []
    writer = StreamWriter(sent.append)
    writer.tool_output("no-such-call", {})
    writer.tool_failure("no-such-call", "no")
    assert (sent, writer.parts) == ([], [])
