"""A run's life in Redis: one at a time, resumed to the same answer, stopped at the next flush, never anyone else's."""

import asyncio

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkit import redis as agentkit_redis
from agentkit import runs
from agentkit.errors import Conflict
from tests.parts.people import ADA, BOB
from tests.parts.redis import raw

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("redis")]

CHAT = "a-chat"


async def read(run):
    return "".join([frames async for frames in runs.follow(run)])


async def test_what_was_appended_is_what_a_reader_gets():
    run = await runs.start(ADA.id, CHAT)
    await runs.append(run, ["data: 1\n\n", "data: 2\n\n"])
    await runs.append(run, [])
    await runs.append(run, ["data: “ü”\n\n"])
    await runs.finish(run)
    assert await read(run) == "data: 1\n\ndata: 2\n\ndata: “ü”\n\n"


async def test_a_reader_who_comes_in_the_middle_gets_the_whole_answer():
    run = await runs.start(ADA.id, CHAT)
    await runs.append(run, ["one "])
    live = await runs.live_run(ADA.id, CHAT)
    assert live is not None
    reader = runs.follow(live)
    assert await anext(reader) == "one "
    await runs.append(run, ["two "])
    assert await anext(reader) == "two "
    await runs.append(run, ["three"])
    await runs.finish(run)
    assert [frames async for frames in reader] == ["three"]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=3), max_size=6))
async def test_however_an_answer_is_cut_it_is_read_whole(batches):
    run = await runs.start(ADA.id, CHAT)
    for frames in batches:
        await runs.append(run, frames)
    await runs.finish(run)
    assert await read(run) == "".join("".join(frames) for frames in batches)


async def test_a_second_run_waits_for_the_first_to_end():
    first = await runs.start(ADA.id, CHAT)
    with pytest.raises(Conflict) as refused:
        await runs.start(ADA.id, CHAT)
    assert refused.value.code == "run_in_progress"
    await runs.finish(first)
    assert (await runs.start(ADA.id, CHAT)).id != first.id


async def test_of_many_who_start_at_once_one_wins():
    for attempt in range(10):
        tries = [runs.start(ADA.id, f"chat-{attempt}") for _ in range(5)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(outcome, runs.Run) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 4


async def test_a_repeated_idempotency_key_finds_the_first_run_live_or_ended():
    first = await runs.start(ADA.id, CHAT, idempotency_key="k")
    again = await runs.start(ADA.id, CHAT, idempotency_key="k")
    assert (again.id, again.repeated, first.repeated) == (first.id, True, False)
    await runs.append(first, ["all"])
    await runs.finish(first)
    ended = await runs.start(ADA.id, CHAT, idempotency_key="k")
    assert (ended.id, ended.repeated) == (first.id, True)
    assert await read(ended) == "all"


async def test_an_equal_chat_id_of_someone_elses_is_another_run():
    run = await runs.start(ADA.id, CHAT, idempotency_key="k")
    assert await runs.live_run(BOB.id, CHAT) is None
    assert await runs.request_stop(BOB.id, CHAT) is False
    theirs = await runs.start(BOB.id, CHAT, idempotency_key="k")
    assert (theirs.repeated, theirs.id == run.id) == (False, False)
    assert await runs.append(run, []) is False


async def test_a_stop_is_seen_at_the_next_flush_and_not_by_the_next_run():
    run = await runs.start(ADA.id, CHAT)
    assert await runs.append(run, ["a"]) is False
    assert await runs.request_stop(ADA.id, CHAT) is True
    assert await runs.append(run, []) is True
    await runs.finish(run, "stopped")
    following = await runs.start(ADA.id, CHAT)
    assert await runs.append(following, []) is False


async def test_there_is_nothing_to_stop_or_resume_when_no_run_is_live():
    assert await runs.request_stop(ADA.id, CHAT) is False
    run = await runs.start(ADA.id, CHAT)
    await runs.finish(run)
    assert await runs.request_stop(ADA.id, CHAT) is False
    assert await runs.live_run(ADA.id, CHAT) is None


def writer_dies(redis, run):
    """What time does to a run whose sandbox was killed: its lock expires."""
    raw(redis).delete(runs._key(run.owner, run.conversation_id, "live"))


async def test_a_reader_is_told_when_the_writer_died(redis):
    run = await runs.start(ADA.id, CHAT)
    await runs.append(run, ["half"])
    reader = runs.follow(run)
    assert await anext(reader) == "half"
    writer_dies(redis, run)
    with pytest.raises(runs.Interrupted):
        await anext(reader)


async def test_a_dead_writers_conversation_is_free_again_and_its_late_end_harms_nobody(redis):
    dead = await runs.start(ADA.id, CHAT)
    writer_dies(redis, dead)
    following = await runs.start(ADA.id, CHAT)
    await runs.finish(dead)
    live = await runs.live_run(ADA.id, CHAT)
    assert live is not None
    assert live.id == following.id


async def test_the_lock_ends_by_itself_and_every_append_renews_it(redis):
    run = await runs.start(ADA.id, CHAT, live_seconds=100)
    key = runs._key(ADA.id, CHAT, "live")
    assert 95 <= raw(redis).ttl(key) <= 100
    await runs.append(run, ["a"], live_seconds=1_000)
    assert 995 <= raw(redis).ttl(key) <= 1_000
    assert 595 <= raw(redis).ttl(run.stream) <= 600


async def test_each_step_is_one_round_trip():
    sent = []

    async def count(request: httpx.Request) -> None:
        sent.append(request.url.path)

    agentkit_redis._http(asyncio.get_running_loop()).event_hooks["request"].append(count)
    run = await runs.start(ADA.id, CHAT, idempotency_key="k")
    await runs.append(run, ["a"])
    await runs.request_stop(ADA.id, CHAT)
    await runs.finish(run)
    assert sent == ["/pipeline"] * 4


@pytest.fixture
def redis_away(redis):
    redis.server.stop()
    yield
    redis.start_server()


async def test_without_redis_a_run_is_written_and_cannot_be_resumed(redis_away):
    run = await runs.start(ADA.id, CHAT)
    assert run.recorded is False
    assert await runs.append(run, ["a"]) is False
    await runs.finish(run)


async def test_a_run_survives_redis_going_away_under_it(redis):
    run = await runs.start(ADA.id, CHAT)
    redis.server.stop()
    try:
        assert await runs.append(run, ["a"]) is False
        assert run.recorded is False
        await runs.finish(run)
    finally:
        redis.start_server()
