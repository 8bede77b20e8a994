"""A run's life as a browser sees it: begun at once, one at a time, resumed, stopped, ended before its deadline."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.parts.chat import eventually, kept
from tests.parts.distance import Distance, distance_to
from tests.parts.model import calls, says
from tests.parts.people import ADA, BOB
from tests.parts.redis import raw, redis_away

pytestmark = pytest.mark.usefixtures("upstash", "postgres", "embedder")

HALF = says("The lease ends in 2027.", hold_after=2)  # "The lease", then it waits
REST = " ends in 2027."


# The beginning


def test_the_answer_has_begun_before_the_model_says_anything(chat, model):
    model.will(says("Hello.", hold_after=0))
    answer = chat.begin("Hi.")
    assert answer.response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    answer.until("start")
    model.wait_until_held()
    assert answer.text == ""
    model.let_go()
    assert answer.to_the_end().text == "Hello."


def test_whoever_reloads_before_the_model_says_anything_finds_the_question(chat, model, rows):
    model.will(says("Hello.", hold_after=0))
    answer = chat.begin("Hi.", chat="a-chat")
    model.wait_until_held()
    found = eventually(lambda: kept(rows))  # it is on its way beside the model's work
    assert found == [("user", "Hi.", None)]
    model.let_go()
    answer.to_the_end()


@pytest.fixture
def far(chat, upstash, postgres, portal, monkeypatch) -> Iterator[list[Distance]]:
    """Redis and Postgres are far away from the function."""
    with ExitStack() as stack:
        from_redis, from_postgres = (
            stack.enter_context(portal.wrap_async_context_manager(distance_to(part.port)))
            for part in (upstash, postgres)
        )
        monkeypatch.setenv("UPSTASH_REDIS_REST_URL", f"http://127.0.0.1:{from_redis.port}")
        for name in ("DATABASE_URL", "VECTOR_DATABASE_URL"):
            url = postgres.environment[name].replace(f":{postgres.port}/", f":{from_postgres.port}/")
            monkeypatch.setenv(name, url)
        yield [from_redis, from_postgres]


def test_the_first_byte_waits_once_for_redis_and_once_for_postgres_side_by_side(chat, model, far):
    model.otherwise = lambda _: says("Hello.")
    chat.ask("So that connections are open.")
    begun = threading.Event()
    # Redis is asked once, for the limit and for the run; Postgres for the history. Either answer comes back only once
    # both have been asked for; and no third does before the answer has begun.
    together = asyncio.Barrier(2)
    first = iter(range(2))

    async def before_answering() -> None:
        if next(first, None) is not None:
            await together.wait()
        else:
            await asyncio.to_thread(begun.wait)

    for part in far:
        part.before_answering = before_answering
    answer = chat.begin("Hi.")
    answer.until("start")
    begun.set()
    # Had Redis been given up, nothing would be known of the limit.
    assert "ratelimit" in answer.response.headers
    assert answer.to_the_end().text == "Hello."


# One at a time


def test_a_second_question_while_an_answer_is_written_is_refused(chat, model):
    model.will(HALF)
    answer = chat.begin("Hi.", chat="a-chat")
    answer.until_said("The lease")
    refused = chat.begin("And?", chat="a-chat")
    assert refused.problem == (409, "run_in_progress")
    assert "ratelimit" in refused.response.headers
    model.let_go()
    assert answer.to_the_end().text == "The lease" + REST
    assert len(model.asked) == 1


def test_another_chat_and_another_persons_equal_chat_are_not_in_the_way(chat, model):
    model.will(HALF, says("Hello."), says("Hello, Bob."))
    answer = chat.begin("Hi.", chat="a-chat")
    answer.until_said("The lease")
    assert chat.ask("Hi.", chat="b-chat").text == "Hello."
    assert chat.ask("Hi.", chat="a-chat", person=BOB).text == "Hello, Bob."
    model.let_go()
    answer.to_the_end()


def test_the_conversation_goes_on_after_an_answer(chat, model):
    model.will(says("One."), says("Two."))
    assert [chat.ask("Hi.", chat="a-chat").text for _ in range(2)] == ["One.", "Two."]


def test_a_repeated_key_returns_the_first_ones_stream(chat, model, rows):
    model.will(HALF)
    key = {"Idempotency-Key": "once"}
    first = chat.begin("Hi.", chat="a-chat", message_id="q1", headers=key)
    first.until_said("The lease")
    second = chat.begin("Hi.", chat="a-chat", message_id="q1", headers=key)
    second.until_said("The lease")
    model.let_go()
    assert second.to_the_end().bytes == first.to_the_end().bytes
    third = chat.ask("Hi.", chat="a-chat", message_id="q1", headers=key)
    assert third.bytes == first.bytes
    assert len(model.asked) == 1
    assert len(kept(rows)) == 2


def test_anothers_equal_key_is_another_question(chat, model):
    model.will(says("Hello, Ada."), says("Hello, Bob."))
    key = {"Idempotency-Key": "once"}
    said = [chat.ask("Hi.", chat="a-chat", person=person, headers=key).text for person in (ADA, BOB)]
    assert said == ["Hello, Ada.", "Hello, Bob."]


def test_a_key_of_other_than_visible_characters_is_refused(chat, model):
    assert chat.begin("Hi.", headers={"Idempotency-Key": "a b"}).problem == (422, "invalid")


# Coming back


def test_an_answer_that_is_resumed_in_the_middle_is_the_whole_one(chat, model, ai_sdk):
    model.will(HALF)
    first = chat.begin("Hi.", chat="a-chat")
    first.until_said("The lease")
    second = chat.resume("a-chat")
    assert second.response.status_code == 200
    second.until_said("The lease")
    model.let_go()
    assert second.to_the_end().bytes == first.to_the_end().bytes
    whole, resumed = ai_sdk.read(first.bytes), ai_sdk.read(second.bytes, resume=True)
    assert resumed.message == whole.message
    assert resumed.parts[-1]["text"] == "The lease" + REST


def test_whoever_leaves_finds_the_whole_answer_kept(chat, model, rows):
    model.will(HALF)
    answer = chat.begin("Hi.", chat="a-chat")
    answer.until_said("The lease")
    answer.response.close()
    returned = chat.resume("a-chat")
    model.let_go()
    assert returned.to_the_end().text == "The lease" + REST
    assert kept(rows) == [("user", "Hi.", None), ("assistant", "The lease" + REST, "finished")]


def test_there_is_nothing_to_resume_before_after_or_for_someone_else(chat, model):
    model.will(HALF)
    assert chat.resume("a-chat").response.status_code == 204
    answer = chat.begin("Hi.", chat="a-chat")
    answer.until_said("The lease")
    assert chat.resume("a-chat", person=BOB).response.status_code == 204
    model.let_go()
    answer.to_the_end()
    assert chat.resume("a-chat").response.status_code == 204


@pytest.mark.parametrize("chat_id", ["..%2f", "a%20b", "x" * 65])
def test_what_is_no_chat_id_is_neither_resumed_nor_stopped(chat, chat_id):
    assert chat.resume(chat_id).response.status_code in {404, 422}
    assert chat.http.post(f"/v1/chat/{chat_id}/stop").status_code in {401, 404, 422}


# Moving on: Redis, which lets a conversation have one answer at a time, was away when it was asked


def test_an_answer_that_is_late_takes_nothing_newer_away(chat, model, rows, redis_server):
    model.will(HALF, says("Yes."))
    with redis_away(redis_server):
        late = chat.begin("Hi.", chat="a-chat")
        late.until_said("The lease")
        eventually(lambda: kept(rows))
        chat.ask("Sure?", chat="a-chat")
        model.let_go()
        late.to_the_end()
    assert kept(rows) == [("user", "Hi.", None), ("user", "Sure?", None), ("assistant", "Yes.", "finished")]
    assert len(rows("select * from agentkit.usage_events")) == 2


def test_an_answer_that_is_late_takes_no_newer_one_to_the_same_question_away(chat, model, rows, redis_server):
    model.will(HALF, says("Yes."))
    with redis_away(redis_server):
        late = chat.begin("Hi.", chat="a-chat", message_id="q1")
        late.until_said("The lease")
        eventually(lambda: kept(rows))
        chat.ask("Hi.", chat="a-chat", message_id="q1")
        model.let_go()
        late.to_the_end()
    assert ("assistant", "Yes.", "finished") in kept(rows)


def test_a_conversation_that_is_deleted_during_an_answer_stays_deleted(chat, model, rows):
    model.will(HALF)
    answer = chat.begin("Hi.", chat="a-chat")
    answer.until_said("The lease")
    eventually(lambda: kept(rows))
    rows("delete from agentkit.conversations")
    model.let_go()
    answer.to_the_end()
    assert answer.only("finish")["messageMetadata"]["status"] == "finished"
    assert kept(rows) == rows("select * from agentkit.conversations") == []
    assert len(rows("select * from agentkit.usage_events")) == 1


def test_a_kept_answer_says_when_its_conversation_was_last_used(chat, model, rows):
    model.will(HALF)
    answer = chat.begin("Hi.", chat="a-chat")
    answer.until_said("The lease")
    (asked,) = eventually(lambda: rows("select updated_at from agentkit.conversations"))
    model.let_go()
    answer.to_the_end()
    (answered,) = rows("select updated_at from agentkit.conversations")
    assert answered["updated_at"] > asked["updated_at"]


# Stopping


def test_a_stopped_answer_ends_is_kept_and_is_marked(chat, model, rows, ai_sdk):
    model.will(HALF)
    answer = chat.begin("Hi.", chat="a-chat")
    answer.until_said("The lease")
    assert chat.stop("a-chat") is True
    answer.to_the_end()
    model.wait_until_left()
    assert [chunk["type"] for chunk in answer.chunks[-2:]] == ["message-metadata", "abort"]
    assert ai_sdk.read(answer.bytes).message["metadata"]["status"] == "stopped"
    assert kept(rows) == [("user", "Hi.", None), ("assistant", "The lease", "stopped")]


def test_what_was_said_before_a_stop_is_counted_too(chat, model, rows):
    # The search says that it read 11 tokens and wrote 7; the answer, of 9 characters by then, never comes to say it.
    model.will(calls("search_documents", text="I look.", query="lease"), HALF)
    answer = chat.begin("When does the lease end?", chat="a-chat")
    answer.until_said("The lease")
    chat.stop("a-chat")
    used = answer.to_the_end().only("message-metadata")["messageMetadata"]["usage"]
    # Estimated at 4 characters to a token: the question that it read, of 24, and those 9.
    read, written = 11 + 24 // 4, 7 + 9 // 4
    assert used == {
        "inputTokens": read,
        "outputTokens": written,
        "totalTokens": read + written,
        "estimated": True,
    }
    (event,) = rows("select input_tokens, output_tokens from agentkit.usage_events")
    assert (event["input_tokens"], event["output_tokens"]) == (read, written)


def test_an_answer_can_be_stopped_before_the_model_says_anything(chat, model, rows):
    model.will(says("Hello.", hold_after=0))
    answer = chat.begin("Hi.", chat="a-chat")
    model.wait_until_held()
    assert chat.stop("a-chat") is True
    answer.to_the_end()
    model.wait_until_left()
    assert answer.all("abort")
    assert kept(rows) == [("user", "Hi.", None), ("assistant", "", "stopped")]


def test_the_conversation_goes_on_after_a_stop_and_the_model_reads_what_was_said(chat, model):
    model.will(HALF, says("Yes."))
    answer = chat.begin("Hi.", chat="a-chat")
    answer.until_said("The lease")
    chat.stop("a-chat")
    answer.to_the_end()
    assert chat.ask("Sure?", chat="a-chat").text == "Yes."
    assert [each["content"] for each in model.asked[-1]["messages"][1:]] == ["Hi.", "The lease", "Sure?"]


def test_nobody_stops_anothers_answer(chat, model):
    model.will(HALF)
    answer = chat.begin("Hi.", chat="a-chat")
    answer.until_said("The lease")
    assert chat.stop("a-chat", person=BOB) is False
    assert chat.stop("b-chat") is False
    model.let_go()
    assert answer.to_the_end().only("finish")["messageMetadata"]["status"] == "finished"


# The deadline


def test_an_answer_ends_by_itself_before_the_platform_ends_it(chat, model, sandbox, rows):
    sandbox.seconds_left = 9.0  # of which 8 are for the ending
    model.will(HALF)
    answer = chat.ask("Hi.", chat="a-chat")
    assert answer.only("data-continue")["data"] == {"reason": "deadline"}
    assert answer.only("finish")["finishReason"] == "length"
    assert kept(rows) == [("user", "Hi.", None), ("assistant", "The lease", "length")]
    model.wait_until_left()


# The limit


def test_over_the_limit_a_question_is_refused_and_says_when_to_ask_again(chat, model, monkeypatch, rows):
    monkeypatch.setenv("RATE_LIMIT_SCALE", "0.1")  # of 20 a minute
    model.otherwise = lambda _: says("Hello.")
    headers = [chat.ask("Hi.").response.headers for _ in range(2)]
    assert [each["ratelimit-policy"] for each in headers] == ['"chat";q=2;w=60'] * 2
    assert [each["ratelimit"].partition(";t=")[0] for each in headers] == ['"chat";r=1', '"chat";r=0']
    refused = chat.begin("Hi.", chat="a-chat")
    assert refused.problem == (429, "rate_limited")
    assert 1 <= int(refused.response.headers["retry-after"]) <= 60
    assert len(model.asked) == 2


def test_a_question_over_the_limit_leaves_its_chat_free(chat, model, monkeypatch, upstash):
    monkeypatch.setenv("RATE_LIMIT_SCALE", "0.05")  # one a minute
    model.otherwise = lambda _: says("Hello.")
    chat.ask("Hi.", chat="a-chat")
    key = {"Idempotency-Key": "again"}
    assert chat.begin("Hi.", chat="a-chat", headers=key).problem == (429, "rate_limited")
    with raw(upstash) as connection:
        for name in connection.scan_iter("limit:*"):
            connection.delete(name)  # a minute has passed
    assert chat.ask("Hi.", chat="a-chat", headers=key).text == "Hello."
