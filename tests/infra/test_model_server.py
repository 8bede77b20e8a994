"""The real small model and the scripted one speak the same protocol: what is said of the one is true of the other."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from infra.local.model import Model
from tests.parts.model import ScriptedModel, looks_it_up

TOOL = {
    "type": "function",
    "function": {
        "name": "search_documents",
        "description": "Search the user's documents.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}
QUESTION = {"role": "user", "content": "When does the lease end?"}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    server = Model(tmp_path_factory.mktemp("model-part"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["scripted", "real"])
def complete(request, model):
    """Post a chat completion to each server in turn."""
    model.otherwise = looks_it_up("The lease ends in 2027.")
    server: Model | ScriptedModel = request.getfixturevalue("real") if request.param == "real" else model
    environment = server.environment
    name = environment["CHAT_MODEL"].removeprefix("openai:")

    def post(*messages, **options):
        return httpx.post(
            f"{environment['OPENAI_BASE_URL']}/chat/completions",
            json={"model": name, "messages": messages, "max_tokens": 32, **options},
            timeout=60,
        )

    return post


@pytest.fixture
def stream(complete):
    """The chunks of a streamed completion; the last line must end the stream."""

    def read(*messages, **options):
        answer = complete(*messages, stream=True, stream_options={"include_usage": True}, **options)
        assert answer.headers["content-type"].startswith("text/event-stream")
        *chunks, last = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        assert last == "[DONE]"
        return [json.loads(chunk) for chunk in chunks]

    return read


def answered(call):
    """The conversation after that call was answered."""
    return QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}, tool_answer(call)


def tool_answer(call):
    return {"role": "tool", "tool_call_id": call["id"], "content": "[1] Lease: The lease ends in 2027."}


def joined(chunks):
    """The message that the chunks' deltas add up to, as OpenAI's clients add them up."""
    text = ""
    calls: dict[int, dict[str, Any]] = {}
    for delta in (choice["delta"] for chunk in chunks for choice in chunk["choices"]):
        text += delta.get("content") or ""
        for part in delta.get("tool_calls", ()):
            call = calls.setdefault(part["index"], {"id": "", "type": "function", "function": {}})
            call["id"] = part.get("id") or call["id"]
            for name, value in part["function"].items():
                call["function"][name] = call["function"].get(name, "") + value
    return text, list(calls.values())


def usage_is_counted(usage):
    read, written = usage["prompt_tokens"], usage["completion_tokens"]
    return read > 0 and written > 0 and usage["total_tokens"] == read + written


def test_a_stream_is_made_of_chunks_of_one_completion(stream):
    chunks = stream(QUESTION)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(isinstance(chunk["created"], int) and chunk["model"] for chunk in chunks)
    *spoken, last, _ = chunks
    assert spoken[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in spoken] == [None] * len(spoken)
    assert last["choices"][0]["finish_reason"] in {"stop", "length"}


def test_the_last_chunk_counts_tokens_and_has_no_choice(stream):
    *others, last = stream(QUESTION)
    assert last["choices"] == []
    assert usage_is_counted(last["usage"])
    assert not any(chunk.get("usage") for chunk in others)


def test_a_streamed_question_becomes_a_call_and_then_an_answer(stream):
    chunks = stream(QUESTION, tools=[TOOL], tool_choice="required")
    _, (call,) = joined(chunks)
    assert call["function"]["name"] == "search_documents"
    assert set(json.loads(call["function"]["arguments"])) == {"query"}
    assert call["id"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]][-1] == "tool_calls"
    text, none = joined(stream(*answered(call), tools=[TOOL]))
    assert (bool(text.strip()), none) == (True, [])


def test_a_question_that_is_not_streamed_becomes_a_call_and_then_an_answer(complete):
    first = complete(QUESTION, tools=[TOOL], tool_choice="required").json()
    (choice,) = first["choices"]
    assert (first["object"], choice["finish_reason"]) == ("chat.completion", "tool_calls")
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "search_documents"
    assert set(json.loads(call["function"]["arguments"])) == {"query"}
    second = complete(*answered(call), tools=[TOOL]).json()
    (choice,) = second["choices"]
    assert choice["finish_reason"] in {"stop", "length"}
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].strip()
    assert usage_is_counted(first["usage"])
    assert usage_is_counted(second["usage"])
