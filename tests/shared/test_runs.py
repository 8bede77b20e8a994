"""A run's life in Redis: one at a time, resumed to the same answer, stopped at the next flush, never anyone else's."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkit import redis as agentkit_redis
from agentkit import runs
from agentkit.errors import Conflict
from tests.parts.people import ADA, BOB
from tests.parts.redis import redis_away

pytestmark = pytest.mark.anyio
either = pytest.mark.usefixtures("either_redis")

CHAT = "a-chat"


async def read(run):
    return "".join([frames async for frames in runs.follow(run)])


async def ask(*command):
    """What Redis says to one command."""
    (reply,) = await agentkit_redis.pipeline([command])
    return reply


async def writer_dies(run):
    """What time does to a run whose sandbox was killed: its lock expires."""
    assert await ask("DEL", run.key("live")) == 1


@pytest.fixture
def at_once(monkeypatch):
    """Redis is not left alone after a failure."""
    monkeypatch.setattr(agentkit_redis, "LEFT_ALONE_SECONDS", 0)


@either
async def test_what_was_appended_is_what_a_reader_gets():
    run = await runs.start(ADA.id, CHAT)
    await runs.append(run, ["data: 1\n\n", "data: 2\n\n"])
    await runs.append(run, [])
    await runs.append(run, ["data: “ü”\n\n"])
    await runs.finish(run, frames=["data: [DONE]\n\n"])
    assert await read(run) == "data: 1\n\ndata: 2\n\ndata: “ü”\n\ndata: [DONE]\n\n"


@either
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


@either
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=3), max_size=6))
async def test_however_an_answer_is_cut_readers_meanwhile_and_later_get_it_whole(batches):
    run = await runs.start(ADA.id, CHAT)
    meanwhile = asyncio.create_task(read(run))
    for frames in batches:
        await runs.append(run, frames)
    await runs.finish(run)
    whole = "".join("".join(frames) for frames in batches)
    assert await meanwhile == whole
    assert await read(run) == whole


@either
async def test_an_answer_of_more_entries_than_one_look_takes_is_read_whole(monkeypatch):
    monkeypatch.setattr(runs, "BATCH", 3)
    run = await runs.start(ADA.id, CHAT)
    for number in range(8):
        await runs.append(run, [f"{number},"])
    await runs.finish(run)
    assert await read(run) == "0,1,2,3,4,5,6,7,"


@either
async def test_half_a_surrogate_pair_breaks_no_run():
    run = await runs.start(ADA.id, CHAT)
    await runs.append(run, ["a\ud800b"])
    await runs.finish(run)
    assert await read(run) == "a?b"


@either
async def test_a_second_run_waits_for_the_first_to_end():
    first = await runs.start(ADA.id, CHAT)
    with pytest.raises(Conflict) as refused:
        await runs.start(ADA.id, CHAT)
    assert refused.value.code == "run_in_progress"
    await runs.finish(first)
    assert (await runs.start(ADA.id, CHAT)).id != first.id


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize("at_the_same_time", [2, 5])
async def test_of_those_who_start_at_once_exactly_one_wins(at_the_same_time):
    for attempt in range(50):
        tries = [runs.start(ADA.id, f"chat-{attempt}") for _ in range(at_the_same_time)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(outcome, runs.Run) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == at_the_same_time - 1


@pytest.mark.usefixtures("redis")
async def test_of_those_who_start_at_once_under_one_key_one_writes_and_the_others_follow_it():
    for attempt in range(20):
        started = await asyncio.gather(*(runs.start(ADA.id, f"chat-{attempt}", idempotency_key="k") for _ in range(3)))
        assert [run.repeated for run in started].count(False) == 1
        assert len({run.id for run in started}) == 1


@either
async def test_a_repeated_idempotency_key_finds_the_first_run_live_or_ended():
    first = await runs.start(ADA.id, CHAT, idempotency_key="k")
    again = await runs.start(ADA.id, CHAT, idempotency_key="k")
    assert (again.id, again.repeated, first.repeated) == (first.id, True, False)
    await runs.append(first, ["all"])
    await runs.finish(first)
    ended = await runs.start(ADA.id, CHAT, idempotency_key="k")
    assert (ended.id, ended.repeated) == (first.id, True)
    assert await read(ended) == "all"


@either
async def test_another_key_is_another_run():
    first = await runs.start(ADA.id, CHAT, idempotency_key="k")
    await runs.finish(first)
    other = await runs.start(ADA.id, CHAT, idempotency_key="l")
    assert (other.repeated, other.id == first.id) == (False, False)


@either
async def test_a_request_that_failed_before_it_said_anything_can_be_tried_again_under_its_key():
    first = await runs.start(ADA.id, CHAT, idempotency_key="k")
    await runs.finish(first, "failed")
    again = await runs.start(ADA.id, CHAT, idempotency_key="k")
    assert (again.repeated, again.id == first.id) == (False, False)


@either
async def test_an_answer_that_failed_half_way_is_what_its_key_stands_for():
    first = await runs.start(ADA.id, CHAT, idempotency_key="k")
    await runs.append(first, ["half"])
    await runs.finish(first, "failed")
    again = await runs.start(ADA.id, CHAT, idempotency_key="k")
    assert again.repeated
    assert await read(again) == "half"


@either
async def test_an_equal_chat_id_of_someone_elses_is_another_run():
    run = await runs.start(ADA.id, CHAT, idempotency_key="k")
    assert await runs.live_run(BOB.id, CHAT) is None
    assert await runs.request_stop(BOB.id, CHAT) is False
    theirs = await runs.start(BOB.id, CHAT, idempotency_key="k")
    assert (theirs.repeated, theirs.id == run.id) == (False, False)
    assert await runs.append(run, []) is False


@either
async def test_an_idempotency_key_cannot_pose_as_another_name():
    run = await runs.start(ADA.id, CHAT, idempotency_key="k")
    await runs.finish(run)
    for key in ("live", "stop", run.id, "key:k", "}:key:k", "k:"):
        other = await runs.start(ADA.id, CHAT, idempotency_key=key)
        assert (other.repeated, other.recorded) == (False, True)
        await runs.finish(other)
    assert await read(run) == ""


@either
async def test_a_stop_is_seen_at_the_next_flush_and_not_by_the_next_run():
    run = await runs.start(ADA.id, CHAT)
    assert await runs.append(run, ["a"]) is False
    assert await runs.request_stop(ADA.id, CHAT) is True
    assert await runs.append(run, []) is True
    await runs.finish(run, "stopped")
    following = await runs.start(ADA.id, CHAT)
    assert await runs.append(following, []) is False


@either
async def test_there_is_nothing_to_stop_or_resume_when_no_run_is_live():
    assert await runs.request_stop(ADA.id, CHAT) is False
    run = await runs.start(ADA.id, CHAT)
    await runs.finish(run)
    assert await runs.request_stop(ADA.id, CHAT) is False
    assert await runs.live_run(ADA.id, CHAT) is None


@either
async def test_a_reader_is_told_when_the_writer_died():
    run = await runs.start(ADA.id, CHAT)
    await runs.append(run, ["half"])
    reader = runs.follow(run)
    assert await anext(reader) == "half"
    await writer_dies(run)
    with pytest.raises(runs.Interrupted):
        await anext(reader)


@either
async def test_a_dead_writers_conversation_is_free_again_and_its_late_end_harms_nobody():
    dead = await runs.start(ADA.id, CHAT)
    await writer_dies(dead)
    following = await runs.start(ADA.id, CHAT)
    assert await runs.request_stop(ADA.id, CHAT) is True
    assert await runs.append(dead, ["late"]) is False
    await runs.finish(dead)
    live = await runs.live_run(ADA.id, CHAT)
    assert live is not None
    assert live.id == following.id
    assert await runs.append(following, []) is True


@either
async def test_a_writer_who_was_only_slow_takes_its_lock_back():
    run = await runs.start(ADA.id, CHAT)
    await writer_dies(run)
    await runs.append(run, ["still here"])
    with pytest.raises(Conflict):
        await runs.start(ADA.id, CHAT)


@either
async def test_the_lock_ends_by_itself_and_every_append_renews_it():
    run = await runs.start(ADA.id, CHAT, live_seconds=100)
    assert 95 <= await ask("TTL", run.key("live")) <= 100
    await runs.append(run, ["a"], live_seconds=1_000)
    assert 995 <= await ask("TTL", run.key("live")) <= 1_000
    assert 595 <= await ask("TTL", run.stream) <= 600


@either
async def test_a_run_that_said_nothing_ends_by_itself_too():
    run = await runs.start(ADA.id, CHAT)
    await runs.finish(run)
    assert 595 <= await ask("TTL", run.stream) <= 600


async def test_a_killed_writer_blocks_its_conversation_for_seconds_only(redis_in_memory):
    run = await runs.start(ADA.id, CHAT)
    await runs.append(run, ["half"])
    redis_in_memory.pass_time(runs.LIVE_SECONDS - 1)
    with pytest.raises(Conflict):
        await runs.start(ADA.id, CHAT)
    redis_in_memory.pass_time(1)
    await runs.start(ADA.id, CHAT)
    assert runs.LIVE_SECONDS <= 15


async def test_nothing_of_a_run_is_kept_for_ever(redis_in_memory):
    run = await runs.start(ADA.id, CHAT, idempotency_key="k")
    await runs.append(run, ["a"])
    await runs.request_stop(ADA.id, CHAT)
    await runs.finish(run)
    redis_in_memory.pass_time(runs.KEPT_SECONDS)
    keys = [run.stream, *(run.key(name) for name in ("live", "stop", "key:k"))]
    assert await ask("EXISTS", *keys) == 0


async def test_each_step_is_one_round_trip(wire):
    run = await runs.start(ADA.id, CHAT, idempotency_key="k")
    await runs.append(run, ["a", "b"])
    await runs.request_stop(ADA.id, CHAT)
    await runs.live_run(ADA.id, CHAT)
    await runs.finish(run, frames=["c"])
    assert len(wire.requests) == 5
    assert await read(run) == "abc"
    assert len(wire.requests) == 6


@either
async def test_without_redis_a_run_is_written_and_cannot_be_resumed(either_redis):
    with redis_away(either_redis):
        run = await runs.start(ADA.id, CHAT)
        assert run.recorded is False
    assert await runs.append(run, ["a"]) is False
    await runs.finish(run)
    await agentkit_redis.close()
    assert await runs.live_run(ADA.id, CHAT) is None


@pytest.mark.usefixtures("at_once")
async def test_what_redis_missed_while_it_was_away_is_appended_when_it_is_back(either_redis):
    run = await runs.start(ADA.id, CHAT)
    await runs.append(run, ["one "])
    with redis_away(either_redis):
        assert await runs.append(run, ["two "]) is False
        assert await runs.append(run, ["three "]) is False
    await runs.append(run, ["four "])
    await runs.finish(run, frames=["five"])
    assert await read(run) == "one two three four five"


@pytest.mark.usefixtures("at_once")
async def test_an_entry_whose_acknowledgement_was_lost_is_there_once(wire):
    run = await runs.start(ADA.id, CHAT)
    wire.answers_lost = True
    assert await runs.append(run, ["one "]) is False
    assert await runs.append(run, ["two "]) is False
    wire.answers_lost = False
    await runs.append(run, ["three "])
    wire.answers_lost = True
    await runs.append(run, ["four "])
    wire.answers_lost = False
    await runs.finish(run, frames=["five"])
    assert await read(run) == "one two three four five"


@either
async def test_a_stream_with_a_gap_is_never_resumed():
    run = await runs.start(ADA.id, CHAT)
    await runs.append(run, ["one"])
    await ask("DEL", run.stream)
    assert await runs.append(run, ["two"]) is False
    assert run.recorded is False
    await writer_dies(run)
    with pytest.raises(runs.Interrupted):
        await read(run)


@either
async def test_an_end_with_a_gap_before_it_is_an_interruption():
    run = await runs.start(ADA.id, CHAT)
    await runs.append(run, ["one"])
    await ask("DEL", run.stream)
    await runs.finish(run, frames=["two"])
    assert await runs.live_run(ADA.id, CHAT) is None
    with pytest.raises(runs.Interrupted):
        await read(run)


@either
async def test_redis_going_away_for_good_breaks_no_run(either_redis):
    run = await runs.start(ADA.id, CHAT)
    with redis_away(either_redis):
        assert await runs.append(run, ["a"]) is False
        assert await runs.append(run, ["b"]) is False
        await runs.finish(run)


@either
async def test_an_answer_too_long_to_keep_is_written_on_and_readers_are_told(monkeypatch):
    monkeypatch.setattr(runs, "LONGEST_CHARACTERS", 10)
    run = await runs.start(ADA.id, CHAT)
    await runs.append(run, ["0123456789"])
    reader = runs.follow(run)
    assert await anext(reader) == "0123456789"
    assert await runs.append(run, ["x"]) is False
    with pytest.raises(runs.Interrupted):
        await anext(reader)
    assert run.missing == []


async def test_a_refused_append_ends_the_recording_and_not_the_run(redis):
    run = await runs.start(ADA.id, CHAT)
    await ask("SET", run.stream, "in the way")
    assert await runs.append(run, ["a"]) is False
    assert run.recorded is False
    with pytest.raises(runs.Interrupted):
        await read(run)


async def test_what_is_sent_names_no_one_else(wire):
    run = await runs.start(ADA.id, CHAT, idempotency_key="k")
    await runs.append(run, ["a"])
    await runs.request_stop(ADA.id, CHAT)
    await runs.finish(run)
    for request in wire.requests:
        ((_, _, count, *words),) = json.loads(request.content)
        for key in words[:count]:
            assert key.startswith(f"run:{{{ADA.id}:{CHAT}}}:")
