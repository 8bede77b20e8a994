"""The local model: a very small one that calls tools, answers from what they found, and comes to an end."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from infra.local.model import Model
from infra.local.model_prompt import LONGEST_STRING, PROMPT_CHARACTERS, fitted, flattened

SEARCH: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search_documents",
        "description": "Search the user's documents for passages that answer a question.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
SYSTEM: dict[str, Any] = {"role": "system", "content": "You answer questions about the user's documents."}
QUESTION: dict[str, Any] = {"role": "user", "content": "How long is the notice period after probation?"}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "search_documents", "arguments": '{"query": "notice period"}'},
}
PASSAGES = (
    "<passage>\n[1] Staff handbook, page 7: After probation, the notice period is eight weeks for both sides. It rises "
    "to twelve weeks after five years of service.\n</passage>\n"
    "<passage>\n[2] Staff handbook, page 2: Salaries are paid on the 25th of each month.\n</passage>"
)
FOUND: list[dict[str, Any]] = [
    SYSTEM,
    QUESTION,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": PASSAGES},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Model(tmp_path_factory.mktemp("model-part"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def post(server):
    with httpx.Client(base_url=server.environment["OPENAI_BASE_URL"], timeout=120) as client:
        yield lambda **options: client.post("/chat/completions", **options)


@pytest.fixture(scope="module")
def ask(post):
    """Ask for a completion; the choice and the usage."""

    def ask(messages, **options):
        answer = post(json={"model": "smollm2-135m-instruct", "messages": messages, **options})
        assert answer.status_code == 200, answer.text
        said = answer.json()
        (choice,) = said["choices"]
        return choice, said["usage"]

    return ask


def stream(post, messages, **options):
    """A streamed completion's chunks."""
    answer = post(json={"messages": messages, "stream": True, **options})
    assert answer.status_code == 200, answer.text
    *chunks, last = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert last == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def called(choice):
    (call,) = choice["message"]["tool_calls"]
    return call["function"]["name"], json.loads(call["function"]["arguments"])


def by_name(name):
    return {"type": "function", "function": {"name": name}}


def test_a_required_tool_is_called_with_its_arguments(ask):
    choice, _ = ask([SYSTEM, QUESTION], tools=[SEARCH], tool_choice="required")
    name, arguments = called(choice)
    assert (choice["finish_reason"], name) == ("tool_calls", "search_documents")
    assert "notice" in arguments["query"].lower()


@pytest.mark.parametrize("name", ["search_documents", "weather"])
def test_the_tool_that_was_named_is_called(ask, name):
    choice, _ = ask([SYSTEM, QUESTION], tools=[SEARCH, WEATHER], tool_choice=by_name(name))
    assert called(choice)[0] == name


def test_left_to_itself_it_calls_a_tool_or_answers(ask):
    choice, _ = ask([SYSTEM, QUESTION], tools=[SEARCH])
    if choice["finish_reason"] == "tool_calls":
        assert called(choice)[0] == "search_documents"
    else:
        assert choice["message"]["content"]


@pytest.mark.parametrize("options", [{"tools": [SEARCH], "tool_choice": "none"}, {"tools": []}, {}])
def test_without_a_choice_of_tools_it_answers(ask, options):
    choice, _ = ask([SYSTEM, QUESTION], max_tokens=8, **options)
    assert choice["message"]["content"].strip()
    assert not choice["message"].get("tool_calls")


def test_an_answer_from_what_was_found_is_streamed_in_pieces_and_ends_by_itself(post):
    chunks = stream(post, FOUND, tools=[SEARCH])
    pieces = [
        choice["delta"]["content"] for chunk in chunks for choice in chunk["choices"] if choice["delta"].get("content")
    ]
    assert len(pieces) > 5
    assert "eight weeks" in "".join(pieces)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    # Nobody asked for its usage.
    assert not any(chunk.get("usage") for chunk in chunks)


def test_an_answer_is_one_paragraph_without_the_passages_fences(ask):
    choice, _ = ask(FOUND, tools=[SEARCH])
    assert choice["finish_reason"] == "stop"
    assert "\n\n" not in choice["message"]["content"]
    assert "passage>" not in choice["message"]["content"]


def test_an_answer_that_reaches_its_limit_says_so(ask):
    choice, usage = ask(FOUND, tools=[SEARCH], max_tokens=3)
    assert choice["finish_reason"] == "length"
    assert usage["completion_tokens"] == 3


def test_it_ends_where_it_is_told_to(ask):
    choice, _ = ask(FOUND, tools=[SEARCH], stop=["eight"])
    assert choice["finish_reason"] == "stop"
    assert "eight" not in choice["message"]["content"]


def test_it_does_not_repeat_what_it_has_just_written(ask):
    line = "The tenant reports faults to the landlord and the landlord repairs them within ten working days. "
    question = {"role": "user", "content": "Repeat the rule about faults five times."}
    messages = [SYSTEM, question, *FOUND[2:3], {"role": "tool", "tool_call_id": "call_1", "content": line * 8}]
    choice, _ = ask(messages, tools=[SEARCH])
    words = choice["message"]["content"].split()
    sequences = [tuple(words[at : at + 12]) for at in range(len(words) - 11)]
    assert len(sequences) == len(set(sequences))


def test_tokens_are_counted(ask):
    _, short = ask([QUESTION], max_tokens=4)
    _, long = ask([{**QUESTION, "content": QUESTION["content"] * 20}], max_tokens=4)
    assert long["prompt_tokens"] > short["prompt_tokens"] + 19 * 5  # each repetition is more than five words
    for usage in (short, long):
        assert usage["completion_tokens"] <= 4
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_stream_counts_its_tokens_when_asked_to(post):
    options = {"tools": [SEARCH], "tool_choice": "required", "stream_options": {"include_usage": True}}
    for messages in ([QUESTION], FOUND):
        *_, last = stream(post, messages, **options)
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] > last["usage"]["completion_tokens"] > 0


def test_what_is_longer_than_its_window_is_cut_and_not_refused(ask):
    # Over a token a character: what fits in English does not, and is cut again.
    choice, usage = ask([SYSTEM, {"role": "user", "content": "契約はいつ終わりますか。" * 2_000}], max_tokens=4)
    assert 0 < usage["prompt_tokens"] <= 4_096
    assert choice["finish_reason"] in {"stop", "length"}


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([SYSTEM, {"role": "user", "content": "word " * 20_000 + QUESTION["content"]}], id="question"),
        pytest.param([{**SYSTEM, "content": "rule " * 20_000}, QUESTION], id="system prompt"),
        pytest.param([SYSTEM, *[QUESTION, {"role": "assistant", "content": "Yes. " * 50}] * 200, QUESTION], id="turns"),
        pytest.param([*FOUND[:3], {**FOUND[3], "content": PASSAGES * 200}], id="what was found"),
    ],
)
def test_of_what_is_too_long_the_question_is_kept(messages):
    kept = fitted(flattened(messages), PROMPT_CHARACTERS)
    assert sum(len(each["content"]) for each in kept) <= PROMPT_CHARACTERS
    assert kept[0]["content"].startswith(messages[0]["content"][:20])
    assert kept[-1]["content"].endswith(QUESTION["content"])
    assert len(kept[-1]["content"]) >= len(QUESTION["content"])


def test_the_best_passage_is_read_last():
    *_, asked = flattened(FOUND)
    assert asked["content"].startswith("[2] Staff handbook, page 2")
    assert asked["content"].endswith(f"five years of service.\n\nQuestion: {QUESTION['content']}")


@pytest.mark.parametrize(
    ("body", "about"),
    [
        pytest.param(b"no json", None, id="no JSON"),
        pytest.param(b"[]", None, id="no object"),
        pytest.param(b"{}", "messages", id="no messages"),
        pytest.param(b'{"messages": []}', "messages", id="empty messages"),
        pytest.param(b'{"messages": "hello"}', "messages", id="messages are a text"),
        pytest.param(b'{"messages": ["hello"]}', "messages.0", id="a message is a text"),
        pytest.param(b'{"messages": [{"role": "user"}], "max_tokens": -1}', "max_tokens", id="tokens below one"),
        pytest.param(b'{"messages": [{"role": "user"}], "temperature": "hot"}', "temperature", id="temperature"),
        pytest.param(b'{"messages": [{"role": "user"}], "tools": [{}]}', "tools.0.function", id="a tool of nothing"),
        pytest.param(
            json.dumps({"messages": [QUESTION], "tools": [SEARCH], "tool_choice": by_name("other")}).encode(),
            None,
            id="an unknown tool is chosen",
        ),
        pytest.param(b"\xff\xfe", None, id="no UTF-8"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_in_openais_form(post, body, about):
    answer = post(content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == about
    assert error["message"]
    assert error["code"] is None


def test_what_the_model_itself_refuses_is_passed_on_before_a_stream_begins(post):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing of the kind"}}}
    for streamed in (True, False):
        answer = post(json={"messages": [QUESTION], "stream": streamed, "response_format": schema})
        assert 400 <= answer.status_code < 600
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param({"type": "string"}, id="text"),
        pytest.param({"anyOf": [{"type": "string"}, {"type": "null"}]}, id="one of several"),
        pytest.param({"type": ["string", "null"]}, id="several types"),
    ],
)
def test_every_string_of_a_call_has_an_end(ask, kind):
    parameters = {"type": "object", "properties": {"novel": kind}, "required": ["novel"]}
    tool = {"type": "function", "function": {"name": "write", "description": "Write.", "parameters": parameters}}
    question = {"role": "user", "content": "Write a novel of many thousand words."}
    choice, _ = ask([question], tools=[tool], tool_choice="required")
    assert len(called(choice)[1]["novel"] or "") <= LONGEST_STRING


def test_requests_at_once_each_get_their_own_answer(ask):
    """More than it has places for: the others wait their turn."""
    names = ["weather", "search", "translate", "remind"]
    tools = [{"type": "function", "function": {**WEATHER["function"], "name": name}} for name in names]
    with ThreadPoolExecutor() as pool:
        choices = list(pool.map(lambda name: ask([QUESTION], tools=tools, tool_choice=by_name(name))[0], names))
    assert [called(choice)[0] for choice in choices] == names


def test_one_stream_after_another_is_answered(post):
    # llama.cpp may hang up after a stream: whoever asked again on the same connection would be refused.
    for _ in range(8):
        assert stream(post, [QUESTION], max_tokens=4)


def test_the_models_are_listed(server):
    listed = httpx.get(f"{server.environment['OPENAI_BASE_URL']}/models").json()["data"]
    assert [f"openai:{model['id']}" for model in listed] == [server.environment["CHAT_MODEL"]]
