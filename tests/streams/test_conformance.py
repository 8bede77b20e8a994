"""What we send is what `useChat` understands: every kind of answer, read by the AI SDK's own client."""

import asyncio
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkit import runs, telemetry
from agentkit.errors import Unavailable
from agentkit.ui_message import DONE, PING, frame
from agentkit.ui_writer import StreamWriter
from tests.parts.people import ADA
from tests.parts.stage import MESSAGE_ID, METADATA, replayed

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("redis_in_memory")]

GOLDEN = Path(__file__).parent / "golden"


async def look_it_up(writer):
    """An answer with one of everything."""
    writer.start_step()
    writer.reasoning("It is in the ")
    writer.reasoning("lease.")
    writer.tool_input("call-1", "search_documents", {"query": "end of the lease"})
    writer.tool_output("call-1", [{"title": "Lease", "page": 2}])
    writer.source_document("doc-1", "Lease", "text/plain")
    writer.start_step()
    writer.text("The lease ends ")
    writer.text("on 30 September — “2027”.\n")
    writer.data("citation", {"quote": "30 September", "page": 2})
    writer.data("progress", {"done": 1}, part_id="p")
    writer.data("progress", {"done": 2}, part_id="p")
    writer.data("notice", "only seen", transient=True)


LOOKED_UP = [
    {"type": "step-start"},
    {"type": "reasoning", "id": "reasoning-1", "text": "It is in the lease.", "state": "done"},
    {
        "type": "tool-search_documents",
        "toolCallId": "call-1",
        "state": "output-available",
        "input": {"query": "end of the lease"},
        "output": [{"title": "Lease", "page": 2}],
    },
    {"type": "source-document", "sourceId": "doc-1", "mediaType": "text/plain", "title": "Lease"},
    {"type": "step-start"},
    {"type": "text", "text": "The lease ends on 30 September — “2027”.\n", "state": "done"},
    {"type": "data-citation", "data": {"quote": "30 September", "page": 2}},
    {"type": "data-progress", "id": "p", "data": {"done": 2}},
]


async def test_an_answer_with_one_of_everything_arrives_whole(ai_sdk, perform):
    answer = await perform(look_it_up)
    read = ai_sdk.read(await answer.to_the_end())
    assert read.errors == ()
    assert read.message == {
        "id": MESSAGE_ID,
        "role": "assistant",
        "parts": LOOKED_UP,
        "metadata": {"status": "finished", **METADATA},
    }


async def test_its_bytes_are_the_golden_ones(perform):
    answer = await perform(look_it_up)
    assert await answer.to_the_end() == (GOLDEN / "one_of_everything.sse").read_text()


async def test_what_is_saved_is_what_the_client_has(ai_sdk, perform):
    answer = await perform(look_it_up)
    assert ai_sdk.read(await answer.to_the_end()).parts == answer.parts == LOOKED_UP


async def test_a_failure_before_the_first_token_is_an_error_with_a_safe_sentence(ai_sdk, perform):
    async def fail(_):
        raise OSError("secret-host:5432 is down")

    telemetry.request_id.set("req-12345678")
    sent = await (await perform(fail)).to_the_end()
    read = ai_sdk.read(sent)
    assert read.errors == ("The answer could not be completed. (request req-12345678)",)
    assert "secret" not in sent
    assert sent.endswith(DONE)


async def test_a_failure_in_the_middle_closes_what_is_open_and_keeps_what_was_said(ai_sdk, perform):
    async def fail(writer):
        writer.start_step()
        writer.text("The lease")
        writer.tool_input("call-1", "search_documents", {"query": "x"})
        writer.text("And")
        raise Unavailable("The model does not answer just now.")

    telemetry.request_id.set("req-12345678")
    answer = await perform(fail)
    read = ai_sdk.read(await answer.to_the_end())
    assert read.errors == ("The model does not answer just now. (request req-12345678)",)
    assert (
        read.parts
        == answer.parts
        == [
            {"type": "step-start"},
            {"type": "text", "text": "The lease", "state": "done"},
            {
                "type": "tool-search_documents",
                "toolCallId": "call-1",
                "state": "output-error",
                "input": {"query": "x"},
                "errorText": "Interrupted.",
            },
            {"type": "text", "text": "And", "state": "done"},
        ]
    )


async def test_a_failed_tool_says_so(ai_sdk, perform):
    async def search(writer):
        writer.tool_input("call-1", "search_documents", {"query": "x"})
        writer.tool_failure("call-1", "The tool could not be used.")

    answer = await perform(search)
    (part,) = ai_sdk.read(await answer.to_the_end()).parts
    assert (part["state"], part["errorText"]) == ("output-error", "The tool could not be used.")


async def test_a_stopped_answer_keeps_what_was_said_and_is_marked(ai_sdk, perform):
    async def go_on_for_ever(writer):
        writer.text("The lease")
        await asyncio.Event().wait()

    answer = await perform(go_on_for_ever, chat="a-chat")
    await answer.until("lease")
    assert await runs.request_stop(ADA.id, "a-chat")
    sent = await answer.to_the_end()
    read = ai_sdk.read(sent)
    assert read.errors == ()
    assert read.message["metadata"]["status"] == "stopped"
    assert read.parts == answer.parts == [{"type": "text", "text": "The lease", "state": "done"}]
    assert frame({"type": "abort"}) in sent


async def test_an_answer_at_its_deadline_can_be_continued(ai_sdk, perform):
    async def go_on_for_ever(writer):
        writer.text("The lease")
        await asyncio.Event().wait()

    answer = await perform(go_on_for_ever, seconds=0)
    sent = await answer.to_the_end()
    assert (
        ai_sdk.read(sent).parts
        == answer.parts
        == [
            {"type": "text", "text": "The lease", "state": "done"},
            {"type": "data-continue", "data": {"reason": "deadline"}},
        ]
    )
    assert '"finishReason":"length"' in sent


async def test_heartbeats_are_not_part_of_an_answer(ai_sdk, perform):
    beaten = asyncio.Event()

    async def wait(writer):
        writer.text("Hel")
        await beaten.wait()
        writer.text("lo")

    answer = await perform(wait, heartbeat_seconds=0)
    await answer.until(PING)
    beaten.set()
    assert ai_sdk.read(await answer.to_the_end()).parts == [{"type": "text", "text": "Hello", "state": "done"}]


async def test_an_answer_that_is_resumed_in_the_middle_is_the_whole_one(ai_sdk, perform):
    resumed = asyncio.Event()

    async def say(writer):
        writer.start_step()
        writer.text("The lease")
        await resumed.wait()
        writer.text(" ends.")

    answer = await perform(say)
    await answer.until("lease")
    live = await runs.live_run(ADA.id, answer.run.conversation_id)
    assert live is not None
    reader = asyncio.create_task(replayed(live))
    resumed.set()
    whole = await answer.to_the_end()
    assert await reader == whole
    assert ai_sdk.read(await replayed(live), resume=True).message == ai_sdk.read(whole).message


async def test_a_model_cannot_end_the_stream_by_what_it_calls_a_tool_with(ai_sdk, perform):
    async def search(writer):
        writer.tool_input("call-1", "search", {"__proto__": {"a": 1}, "constructor": {"prototype": 1}, "query": "x"})

    read = ai_sdk.read(await (await perform(search)).to_the_end())
    assert read.errors == ()
    assert read.parts[0]["input"] == {"constructor": {}, "query": "x"}


async def test_no_live_answer_is_nothing_to_resume(ai_sdk):
    read = ai_sdk.read("", status=204, resume=True)
    assert (read.message, read.errors, read.failure) == (None, (), None)


async def test_the_check_itself_refuses_what_the_protocol_does_not_know(ai_sdk):
    assert ai_sdk.read('data: {"type":"no-such-chunk"}\n\n').errors
    assert ai_sdk.read(frame({"type": "text-delta", "id": "1", "delta": "x"})).errors


TEXTS = st.text(st.characters(), max_size=12)  # halves of surrogate pairs and NUL included
# Numbers that JavaScript has too, and some that JSON has not.
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf])
# What the client's parser takes for an attack on JavaScript's objects.
SUSPECT = st.sampled_from(["__proto__", "constructor", "prototype"])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | SUSPECT, inner, max_size=3),
    max_leaves=5,
)
CALLS = st.sampled_from(["call-1", "call-2", "call-3"])
NAMES = st.sampled_from(["citation", "unsupported"])
MOMENTS = st.one_of(
    st.tuples(st.just("start_step")),
    st.tuples(st.just("end_step")),
    st.tuples(st.sampled_from(["text", "reasoning"]), TEXTS),
    st.tuples(st.just("tool_output"), CALLS, JSON),
    st.tuples(st.just("tool_failure"), CALLS, TEXTS),
    st.tuples(st.just("source_document"), TEXTS, TEXTS, st.just("text/plain")),
    st.tuples(st.just("data"), NAMES, JSON),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MOMENTS, max_size=12), st.lists(st.tuples(CALLS, JSON), max_size=3, unique_by=lambda call: call[0]))
async def test_whatever_happens_in_whatever_order_client_and_server_have_the_same_message(ai_sdk, moments, calls):
    sent: list[str] = []
    writer = StreamWriter(sent.append)
    writer.start(MESSAGE_ID)
    for place, moment in enumerate(moments):
        name, *values = moment
        getattr(writer, name)(*values)
        if place < len(calls):
            writer.tool_input(calls[place][0], "search", calls[place][1])
    writer.close()
    finish = frame({"type": "finish", "finishReason": "stop", "messageMetadata": {}})
    read = ai_sdk.read("".join(sent) + finish + DONE)
    assert read.errors == ()
    assert read.parts == writer.parts
