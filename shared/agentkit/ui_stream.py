"""From what an agent does to what `useChat` reads: a stream that always ends as the protocol wants it.

    async def answer(writer: StreamWriter) -> None:          what happens meanwhile, written as it happens
        writer.text("Hello")

    async def save(ending: Ending) -> dict[str, Any]: ...    keeps the answer, returns its metadata

    return respond(run, answer, save, message_id=..., seconds=...)

Every byte goes to the client at once. The same bytes are kept in the run's Redis stream in batches, by the same round
trip that hears of a stop. The answer is made by a task of its own, so it is completed and saved also when the client
has gone. It ends in one of four ways: finished, stopped by the user, cut at its deadline (`finishReason: length` and a
`data-continue` part), failed (open parts are closed, then an `error` chunk with a safe sentence).
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi.responses import StreamingResponse

from agentkit import runs, telemetry
from agentkit.errors import Problem
from agentkit.runs import Run
from agentkit.ui_message import (
    DONE,
    PING,
    STREAM_HEADERS,
    Chunk,
    Data,
    FinishReason,
    SourceDocument,
    frame,
)

FLUSH_SECONDS = 0.2
HEARTBEAT_SECONDS = 10.0

Ending = Literal["finished", "stopped", "length", "failed"]

log = telemetry.logger(__name__)
# asyncio keeps only weak references to tasks; a run must not vanish because its client did.
_conducting: set[asyncio.Task[None]] = set()


@dataclass
class StreamWriter:
    """Chunks in the protocol's order, whatever order things happen in; open parts are known, so all can be closed."""

    send: Callable[[str], None]
    """Takes each frame as soon as it is written."""
    parts: list[dict[str, Any]] = field(default_factory=list)
    """The answer so far as an AI SDK message's parts, to be saved."""
    _text: dict[str, Any] | None = None
    _text_id: str = ""
    _pending_tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    _in_step: bool = False

    @property
    def said(self) -> str:
        """All text so far."""
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    def write(self, chunk: Chunk) -> None:
        """Send one chunk as it is."""
        self.send(frame(chunk))

    def start(self, message_id: str) -> None:
        """Begin the answer."""
        self.write({"type": "start", "messageId": message_id})

    def start_step(self) -> None:
        """Begin a call of the model; one that is open is ended first."""
        self.end_step()
        self._in_step = True
        self.parts.append({"type": "step-start"})
        self.write({"type": "start-step"})

    def end_step(self) -> None:
        """End the model's call, with its text."""
        self.end_text()
        if self._in_step:
            self._in_step = False
            self.write({"type": "finish-step"})

    def text(self, delta: str) -> None:
        """Add to the text, opening a part when none is open."""
        if not delta:
            return
        if self._text is None:
            self._text_id = uuid.uuid4().hex[:12]
            self._text = {"type": "text", "text": "", "state": "done"}
            self.parts.append(self._text)
            self.write({"type": "text-start", "id": self._text_id})
        self._text["text"] += delta
        self.write({"type": "text-delta", "id": self._text_id, "delta": delta})

    def end_text(self) -> None:
        """Close the text part, if one is open."""
        if self._text is not None:
            self._text = None
            self.write({"type": "text-end", "id": self._text_id})

    def tool_input(self, call_id: str, name: str, arguments: Any) -> None:  # noqa: ANN401  # JSON
        """Say that the model calls a tool."""
        self.end_text()
        part = {"type": f"tool-{name}", "toolCallId": call_id, "state": "input-available", "input": arguments}
        self._pending_tools[call_id] = part
        self.parts.append(part)
        self.write({"type": "tool-input-start", "toolCallId": call_id, "toolName": name})
        self.write({"type": "tool-input-available", "toolCallId": call_id, "toolName": name, "input": arguments})

    def tool_output(self, call_id: str, output: Any) -> None:  # noqa: ANN401  # JSON
        """Say what the tool answered."""
        part = self._pending_tools.pop(call_id, None)
        if part is not None:
            part.update(state="output-available", output=output)
            self.write({"type": "tool-output-available", "toolCallId": call_id, "output": output})

    def tool_failure(self, call_id: str, sentence: str) -> None:
        """Say that the tool failed."""
        part = self._pending_tools.pop(call_id, None)
        if part is not None:
            part.update(state="output-error", errorText=sentence)
            self.write({"type": "tool-output-error", "toolCallId": call_id, "errorText": sentence})

    def source_document(self, source_id: str, title: str, media_type: str) -> None:
        """Name a document that the answer draws on."""
        chunk: SourceDocument = {
            "type": "source-document",
            "sourceId": source_id,
            "mediaType": media_type,
            "title": title,
        }
        self.parts.append({**chunk})
        self.write(chunk)

    def data(self, name: str, value: Any, *, part_id: str | None = None) -> None:  # noqa: ANN401  # JSON
        """Send a part of ours."""
        chunk: Data = {"type": f"data-{name}", "data": value}
        if part_id is not None:
            chunk["id"] = part_id
        self.parts.append({**chunk})
        self.write(chunk)

    def close_parts(self) -> None:
        """Close whatever is open; a tool that has not answered is said to have been interrupted."""
        for call_id in list(self._pending_tools):
            self.tool_failure(call_id, "Interrupted.")
        self.end_step()

    def finish(self, reason: FinishReason, metadata: dict[str, Any]) -> None:
        """Complete the answer."""
        self.write({"type": "finish", "finishReason": reason, "messageMetadata": metadata})

    def abort(self, metadata: dict[str, Any]) -> None:
        """End an answer that was stopped."""
        self.write({"type": "message-metadata", "messageMetadata": metadata})
        self.write({"type": "abort"})

    def fail(self, sentence: str) -> None:
        """End an answer that failed; the sentence is for the user."""
        self.write({"type": "error", "errorText": sentence})


Answer = Callable[[StreamWriter], Awaitable[None]]
Save = Callable[[StreamWriter, Ending], Awaitable[dict[str, Any]]]


def respond(
    run: Run,
    answer: Answer,
    save: Save,
    *,
    message_id: str,
    seconds: float,
    headers: dict[str, str] | None = None,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> StreamingResponse:
    """Return the response that streams the answer; its first byte does not wait for anything.

    answer: writes it. save: keeps it, however it ended, and returns the metadata that the client gets.
    seconds: how long the answer may take before it is ended with `finishReason: length`.
    """
    outlet: asyncio.Queue[str | None] = asyncio.Queue()
    conductor = _Conductor(run, outlet, time.monotonic() + seconds, heartbeat_seconds)
    conductor.writer.start(message_id)
    task = asyncio.create_task(conductor.conduct(answer, save))
    _conducting.add(task)
    task.add_done_callback(_conducting.discard)

    async def body() -> AsyncIterator[str]:
        while (piece := await outlet.get()) is not None:
            yield piece

    return StreamingResponse(body(), media_type="text/event-stream", headers={**STREAM_HEADERS, **(headers or {})})


def replay(run: Run, *, headers: dict[str, str] | None = None) -> StreamingResponse:
    """Return the response that repeats what a run has sent and follows it to its end."""

    async def body() -> AsyncIterator[str]:
        try:
            async for frames in runs.follow(run):
                yield frames
        except runs.Interrupted:
            yield frame({"type": "error", "errorText": "The answer was interrupted; ask again."}) + DONE
        except Problem as problem:
            yield frame({"type": "error", "errorText": problem.detail}) + DONE

    return StreamingResponse(body(), media_type="text/event-stream", headers={**STREAM_HEADERS, **(headers or {})})


class _Conductor:
    """Runs one answer to its end: bytes out, batches to Redis, heartbeats, stop, deadline."""

    def __init__(self, run: Run, outlet: asyncio.Queue[str | None], deadline: float, heartbeat_seconds: float) -> None:
        self.writer = StreamWriter(self._send)
        self._run = run
        self._outlet = outlet
        self._deadline = deadline
        self._heartbeat_seconds = heartbeat_seconds
        self._unkept: list[str] = []
        self._last_sent = time.monotonic()

    async def conduct(self, answer: Answer, save: Save) -> None:
        """Make the answer, end its stream, and let the conversation go, whatever happens."""
        state: runs.State = "failed"
        try:
            ending, sentence = await self._made(answer)
            state = "finished" if ending == "length" else ending
            self.writer.close_parts()
            if ending == "length":
                self.writer.data("continue", {"reason": "deadline"})
            try:
                metadata = await save(self.writer, ending)
            except Exception as error:  # noqa: BLE001  # told to the log and to the user just below
                state, sentence = "failed", _sentence(error, "The answer could not be saved.")
            self._end(ending, metadata if sentence is None else {}, sentence)
        finally:
            self._send(DONE)
            await runs.append(self._run, self._unkept)
            await runs.finish(self._run, state)
            self._outlet.put_nowait(None)

    def _send(self, piece: str) -> None:
        self._unkept.append(piece)
        self._last_sent = time.monotonic()
        self._outlet.put_nowait(piece)

    async def _made(self, answer: Answer) -> tuple[Ending, str | None]:
        """Return how the making of the answer ended, and the sentence for the user when it failed."""
        making = asyncio.ensure_future(answer(self.writer))
        ending: Ending = "finished"
        while not making.done():
            await asyncio.wait({making}, timeout=FLUSH_SECONDS)
            if making.done():
                break
            if time.monotonic() - self._last_sent >= self._heartbeat_seconds:
                self._send(PING)
            frames, self._unkept = self._unkept, []
            if await runs.append(self._run, frames):
                ending = "stopped"
            elif time.monotonic() >= self._deadline:
                ending = "length"
            if ending != "finished":
                making.cancel()
                await asyncio.wait({making})
        if making.cancelled():
            return ending, None
        error = making.exception()
        if error is not None:
            return "failed", _sentence(error, "The answer could not be completed.")
        return "finished", None

    def _end(self, ending: Ending, metadata: dict[str, Any], sentence: str | None) -> None:
        if sentence is not None:
            self.writer.fail(sentence)
        elif ending == "stopped":
            self.writer.abort(metadata)
        else:
            self.writer.finish("length" if ending == "length" else "stop", metadata)


def _sentence(error: BaseException, otherwise: str) -> str:
    """Return what the user is told of a failure, and tell the log the rest."""
    request = telemetry.request_id.get()
    if isinstance(error, Problem):
        log.warning("stream.failed", code=error.code, exc_info=error)
        return f"{error.detail} (request {request})"
    log.error("stream.failed", exc_info=error)
    return f"{otherwise} (request {request})"
