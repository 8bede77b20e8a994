"""Chat: streamed, cited answers over the caller's own documents, in the AI SDK's UI message stream.

    POST /v1/chat               what `useChat` sends -> stream      20 a minute for each caller
    GET  /v1/chat/{id}/stream   resume: replay and follow the live answer; 204 when there is none
    POST /v1/chat/{id}/stop     end the live answer; what was said is kept, marked `stopped`

The history is the server's own: of what the client sends only the user's last message is read. One answer at a time
in a conversation (409 `run_in_progress`); a repeated `Idempotency-Key` returns the first one's stream. Before the
first byte it waits for Redis once and for Postgres once, side by side; the model's libraries load after it.
"""

import asyncio
import uuid
from typing import Annotated, Any, Literal

from fastapi import Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from agentkit import llm, ratelimit, runs, telemetry, ui_stream
from agentkit.auth import Caller, CurrentCaller
from agentkit.http import IdempotencyKey, add_headers, create_app, lambda_handler, seconds_left
from agentkit.ratelimit import limit
from agentkit.settings import ModelSettings, load
from agentkit.ui_message import CHAT_ID, ChatRequest
from agentkit.ui_stream import Ending
from agentkit.ui_writer import StreamWriter
from functions.chat import agent, history

PER_MINUTE = 20
# Where no platform sets a deadline, and what saving and ending need of one that does.
LONGEST_SECONDS = 300.0
ENDING_SECONDS = 8.0
# Of those: one is the answer's to let go of what it holds, one is Redis's.
SAVING_SECONDS = 5.0

ChatId = Annotated[str, Path(pattern=CHAT_ID, description="The chat's id, as `useChat` has it.")]

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The UI message stream, version 1.", "content": {"text/event-stream": {}}}
}

app = create_app("chat")
log = telemetry.logger(__name__)


class Stopped(BaseModel):
    """Whether there was an answer to stop."""

    stopped: bool


@app.post("/chat", response_class=StreamingResponse, responses=STREAM)
async def chat(
    body: ChatRequest, caller: CurrentCaller, request: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """Answer the last message of a conversation, streamed."""
    run, turns = await _begin(body, caller, idempotency_key, request)
    if run.repeated:
        return ui_stream.replay(run)
    answer_id = uuid.uuid4().hex
    usage = llm.Usage()
    # Beside the model's work, and whatever comes of that: a reload finds the question from the beginning.
    asking = asyncio.create_task(history.ask(caller, body.id, body.question))

    async def answer(writer: StreamWriter) -> Literal["length"] | None:
        return await agent.answer(body.question.text, turns, caller, writer, usage)

    async def save(writer: StreamWriter, ending: Ending) -> dict[str, Any]:
        async with asyncio.timeout(SAVING_SECONDS):
            await _make_sure_of(asking, body, caller)
            return await _save(body, caller, writer, ending, answer_id, usage)

    seconds = seconds_left(request, ending_seconds=ENDING_SECONDS, otherwise=LONGEST_SECONDS)
    return ui_stream.respond(run, answer, save, message_id=answer_id, seconds=seconds)


@app.get(
    "/chat/{chat_id}/stream",
    response_class=StreamingResponse,
    responses={**STREAM, 204: {"description": "No answer is being written."}},
    dependencies=[limit("chat-resume", per_minute=60)],
)
async def resume(chat_id: ChatId, caller: CurrentCaller) -> Response:
    """Replay the answer that is being written, and follow it."""
    run = await runs.live_run(caller.id, chat_id)
    return Response(status_code=204) if run is None else ui_stream.replay(run)


@app.post("/chat/{chat_id}/stop", dependencies=[limit("chat-stop", per_minute=60)])
async def stop(chat_id: ChatId, caller: CurrentCaller) -> Stopped:
    """Ask the answer that is being written to end; it does within a fraction of a second, and is kept."""
    return Stopped(stopped=await runs.request_stop(caller.id, chat_id))


async def _begin(
    body: ChatRequest, caller: Caller, idempotency_key: str | None, request: Request
) -> tuple[runs.Run, list[history.Turn]]:
    """Start the run, count the request and read the history, side by side; let go of the run if one of them fails."""
    run, headers, turns = await asyncio.gather(
        runs.start(caller.id, body.id, idempotency_key=idempotency_key),
        ratelimit.check("chat", caller, per_minute=PER_MINUTE),
        history.read(caller, body.id, body.question),
        return_exceptions=True,
    )
    if isinstance(headers, dict):
        add_headers(request, headers)
    failures = [outcome for outcome in (headers, run, turns) if isinstance(outcome, BaseException)]
    if failures:
        if isinstance(run, runs.Run) and not run.repeated:
            await runs.finish(run, "failed")
        raise failures[0]
    return run, turns  # type: ignore[return-value]  # the failures were raised


async def _make_sure_of(asking: asyncio.Task[None], body: ChatRequest, caller: Caller) -> None:
    """Wait until the question is kept; if that has failed, keep it now: the database may be back."""
    try:
        await asking
    except Exception as error:  # tried once more, and what that raises is told to the user
        log.warning("chat.question_not_kept", exc_info=error)
        await history.ask(caller, body.id, body.question)


async def _save(
    body: ChatRequest, caller: Caller, writer: StreamWriter, ending: Ending, answer_id: str, usage: llm.Usage
) -> dict[str, Any]:
    """Keep the answer and what it cost; return the answer's metadata."""
    if uncounted := writer.said[usage.counted_characters :]:
        usage.estimate(body.question.text, uncounted)
    model = usage.model or load(ModelSettings).chat_model
    metadata = {
        "status": ending,
        "model": model,
        "usage": {
            "inputTokens": usage.input_tokens,
            "outputTokens": usage.output_tokens,
            "totalTokens": usage.input_tokens + usage.output_tokens,
            **({"estimated": True} if usage.estimated else {}),
        },
    }
    await history.write(
        caller,
        body.id,
        body.question,
        answer_id=answer_id,
        # An answer that failed before it said anything leaves the question alone.
        parts=writer.parts if writer.said or ending != "failed" else [],
        metadata=metadata,
        model=model,
        usage=usage,
    )
    return metadata


handler = lambda_handler(app)
