"""From what an agent does to what `useChat` reads: a stream that always ends as the protocol wants it.

    async def answer(writer: StreamWriter) -> None:                                 says what happens as it happens
        writer.text("Hello")

    async def save(writer: StreamWriter, ending: Ending) -> dict[str, Any]: ...     keeps it, returns its metadata

    return respond(run, answer, save, message_id=..., seconds=...)

Every byte goes to the client at once. The same bytes are kept in the run's Redis stream in batches, by the same round
trip that hears of a stop. The answer is made by a task of its own, so it is completed and saved also when the client
has gone. It ends in one of four ways: finished, stopped by the user, cut at its deadline (`finishReason: length` and a
`data-continue` part), failed (open parts are closed, then an `error` chunk with a safe sentence).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Literal

from fastapi.responses import StreamingResponse

from agentkit import runs, telemetry
from agentkit.errors import Problem
from agentkit.runs import Run
from agentkit.ui_message import DONE, PING, STREAM_HEADERS, frame, storable, storable_json
from agentkit.ui_writer import StreamWriter

# How often Redis gets what was sent, and how often a silent run asks whether it should stop.
FLUSH_SECONDS = 0.1
LISTEN_SECONDS = 0.2
HEARTBEAT_SECONDS = 10.0
# How long an answer that is told to end may take to let go of what it holds.
LETTING_GO_SECONDS = 1.0

FAILED = "The answer could not be completed."

Ending = Literal["finished", "stopped", "length", "failed"]

log = telemetry.logger(__name__)
# asyncio keeps only weak references to tasks; a run must not vanish because its client did.
_conducting: set[asyncio.Task[None]] = set()


Answer = Callable[[StreamWriter], Coroutine[Any, Any, Literal["length"] | None]]
_Making = asyncio.Task[Literal["length"] | None]
Save = Callable[[StreamWriter, Ending], Coroutine[Any, Any, dict[str, Any]]]


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

    answer: writes it; returns "length" when the model's output limit cut it off.
    save: keeps it, however it ended, and returns the metadata that the client gets.
    seconds: how long the answer may take before it is ended with `finishReason: length`.
    """
    conductor = _Conductor(run, time.monotonic() + seconds, heartbeat_seconds)
    conductor.writer.start(message_id)
    task = asyncio.create_task(conductor.conduct(answer, save))
    _conducting.add(task)
    task.add_done_callback(_conducting.discard)
    return _stream(conductor.frames(), headers)


def replay(run: Run, *, headers: dict[str, str] | None = None) -> StreamingResponse:
    """Return the response that repeats what a run has sent and follows it to its end."""

    async def frames() -> AsyncIterator[str]:
        try:
            async for kept in runs.follow(run):
                yield kept
        except runs.Interrupted:
            yield _error("The answer was interrupted; ask again.") + DONE
        except Problem as problem:
            yield _error(_sentence(problem, problem.detail)) + DONE

    return _stream(frames(), headers)


def _stream(frames: AsyncIterator[str], headers: dict[str, str] | None) -> StreamingResponse:
    return StreamingResponse(frames, media_type="text/event-stream", headers={**STREAM_HEADERS, **(headers or {})})


class _Conductor:
    """Runs one answer to its end: bytes out, batches to Redis, heartbeats, stop, deadline."""

    def __init__(self, run: Run, deadline: float, heartbeat_seconds: float) -> None:
        self.writer = StreamWriter(self._send)
        self._run = run
        self._deadline = deadline
        self._heartbeat_seconds = heartbeat_seconds
        self._outlet: asyncio.Queue[str | None] = asyncio.Queue()
        self._client_gone = False
        self._unkept: list[str] = []
        self._last_sent = self._last_kept = time.monotonic()

    async def frames(self) -> AsyncIterator[str]:
        """Yield what is sent, as soon as it is; frames that wait for the client together go together."""
        try:
            while (piece := await self._outlet.get()) is not None:
                pieces = [piece]
                while not self._outlet.empty() and (piece := self._outlet.get_nowait()) is not None:
                    pieces.append(piece)
                yield "".join(pieces)
                if piece is None:
                    return
        finally:
            self._client_gone = True

    async def conduct(self, answer: Answer, save: Save) -> None:
        """Make the answer, end its stream, and let the conversation go, whatever happens."""
        state: runs.State = "failed"
        making = asyncio.create_task(answer(self.writer))
        try:
            ending, sentence = await self._ending(making)
            if ending == "length":
                too_late = time.monotonic() >= self._deadline
                self.writer.data("continue", {"reason": "deadline" if too_late else "output_limit"})
            self.writer.close()
            try:
                last = _last(ending, storable_json(await save(self.writer, ending)))
            except Exception as error:  # noqa: BLE001  # told to the log and to the user
                sentence = sentence or _sentence(error, "The answer could not be saved.")
            if sentence is None:
                state = "stopped" if ending == "stopped" else "finished"
                self._send(last)
            else:
                self._send(_error(sentence))
        finally:
            making.cancel()
            self._send(DONE)
            try:
                await runs.finish(self._run, state, self._unkept)
            finally:
                self._outlet.put_nowait(None)

    async def _ending(self, making: "_Making") -> tuple[Ending, str | None]:
        """Return how the making of the answer ended, and the sentence for the user when it failed."""
        try:
            asked = await self._asked_to_end(making)
        except Exception as error:  # noqa: BLE001  # told to the log and to the user
            return "failed", _sentence(error, FAILED)
        if asked is not None:
            making.cancel()
            await asyncio.wait({making}, timeout=LETTING_GO_SECONDS)
            if not making.done():
                log.error("stream.does_not_let_go", ending=asked)
                return asked, None
        failure = asyncio.CancelledError() if making.cancelled() else making.exception()
        if failure is None:
            return making.result() or "finished", None
        if asked is None:
            return "failed", _sentence(failure, FAILED)
        if not making.cancelled():
            # That it stumbled over being told to end is nothing that the user needs to hear.
            log.warning("stream.stumbled", ending=asked, exc_info=failure)
        return asked, None

    async def _asked_to_end(self, making: "_Making") -> Ending | None:
        """Return once the answer is made, or why it must end before."""
        while not making.done():
            await asyncio.wait({making}, timeout=FLUSH_SECONDS)
            if not making.done() and (asked := await self._look_around()):
                return asked
        return None

    async def _look_around(self) -> Ending | None:
        """Keep what was sent, sound the heartbeat when it is due, and say whether the answer must end now."""
        now = time.monotonic()
        if now >= self._deadline:
            return "length"
        if now - self._last_sent >= self._heartbeat_seconds:
            self._send(PING)
        if self._unkept or now - self._last_kept >= LISTEN_SECONDS:
            frames, self._unkept = self._unkept, []
            self._last_kept = now
            if await runs.append(self._run, frames):
                return "stopped"
        return None

    def _send(self, piece: str) -> None:
        self._unkept.append(piece)
        self._last_sent = time.monotonic()
        if not self._client_gone:
            self._outlet.put_nowait(piece)


def _last(ending: Ending, metadata: dict[str, Any]) -> str:
    """Return the frames that end an answer which did not fail."""
    if ending == "stopped":
        return frame({"type": "message-metadata", "messageMetadata": metadata}) + frame({"type": "abort"})
    reason: Literal["length", "stop"] = "length" if ending == "length" else "stop"
    return frame({"type": "finish", "finishReason": reason, "messageMetadata": metadata})


def _error(sentence: str) -> str:
    return frame({"type": "error", "errorText": storable(sentence)})


def _sentence(error: BaseException, otherwise: str) -> str:
    """Return what the user is told of a failure, and tell the log the rest."""
    request = telemetry.request_id.get()
    if isinstance(error, Problem):
        log.warning("stream.failed", code=error.code, exc_info=error)
        return f"{error.detail} (request {request})"
    log.error("stream.failed", exc_info=error)
    return f"{otherwise} (request {request})"
