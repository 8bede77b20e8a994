"""A Lambda Runtime API for one sandbox: hands out invocations and takes their answers, as they are streamed.

The protocol is https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html; AWS's own clients speak to it unchanged.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import h11

from infra.local.part import LOOPBACK

PREFIX = "/2018-06-01/runtime"
PRELUDE_END = b"\0" * 8
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
LARGEST_BUFFERED_BYTES = 6_291_556
LARGEST_STREAMED_BYTES = 200 << 20
FUNCTION_ARN = "arn:aws:lambda:eu-central-1:000000000000:function:local"


class FunctionFailed(Exception):  # noqa: N818  # reads as what happened
    """The function reported an error, ended, or took too long; `document` says what Lambda would."""

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__(document.get("errorMessage", "the function failed"))
        self.document = document


@dataclass
class Invocation:
    """One event, and the answer to it as it comes."""

    event: bytes
    timeout_seconds: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    headers: dict[str, str] = field(default_factory=dict)
    """Of the request by which the function answers."""
    trailers: dict[str, str] = field(default_factory=dict)
    """Where a failure after the first byte is told."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the answer begins, or has failed."""
    done: asyncio.Event = field(default_factory=asyncio.Event)
    failure: dict[str, Any] | None = None
    largest_bytes: int = LARGEST_STREAMED_BYTES
    """An answer over that is refused while it comes."""
    _pieces: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)

    @property
    def streamed(self) -> bool:
        """Whether the answer comes in pieces, behind a prelude."""
        return self.headers.get("lambda-runtime-function-response-mode") == "streaming"

    def fail(self, document: dict[str, Any]) -> None:
        """End it with a failure, unless it has ended."""
        if not self.done.is_set():
            self.failure = document
            self.end()

    def take(self, piece: bytes) -> None:
        """Take in a piece of the answer."""
        self._pieces.put_nowait(piece)

    def end(self) -> None:
        """The answer is complete."""
        self.begun.set()
        self.done.set()
        self._pieces.put_nowait(None)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the answer as it comes; raises FunctionFailed where it breaks off."""
        while (piece := await self._pieces.get()) is not None:
            yield piece
        if self.failure is not None:
            raise FunctionFailed(self.failure)

    async def payload(self) -> bytes:
        """Return the whole answer."""
        return b"".join([piece async for piece in self.pieces()])


class RuntimeApi:
    """The server that a sandbox's AWS_LAMBDA_RUNTIME_API names."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[Invocation] = asyncio.Queue()
        self.current: dict[str, Invocation] = {}
        self.ended: dict[str, Any] | None = None
        """Why there is no sandbox to answer any more."""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.ready = asyncio.Event()
        """Set when the sandbox has asked for its first invocation, or has ended without."""
        self.init_error: dict[str, Any] | None = None
        """What the sandbox said of its failure to start, or to go on from a snapshot."""
        self.restores = 0
        """How often the sandbox said that it may be frozen."""

    async def start(self) -> str:
        """Listen, and return `host:port`."""
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0, limit=1 << 20)
        return f"{LOOPBACK}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening and drop the sandbox's connections."""
        if self._server is not None:
            self._server.close()
        await self.hang_up()

    async def hang_up(self) -> None:
        """Drop the sandbox's connections in the middle of whatever they carry; it may connect anew."""
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def submit(self, invocation: Invocation) -> None:
        """Hand an invocation to the sandbox when it asks for the next one."""
        if self.ended is not None:
            invocation.fail(self.ended)
        else:
            self.waiting.put_nowait(invocation)

    def end(self, document: dict[str, Any]) -> None:
        """The sandbox is no more: whatever it was to answer, now or later, fails with that document."""
        self.ended = document
        self.ready.set()
        for invocation in self.current.values():
            invocation.fail(document)
        while not self.waiting.empty():
            self.waiting.get_nowait().fail(document)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio runs this in one
        self._connections.add(task)
        try:
            await _Exchange(self, reader, writer).run()
        except asyncio.CancelledError:
            writer.transport.abort()
        except (OSError, h11.RemoteProtocolError):
            # The sandbox has gone; what it left unanswered is told by whoever watches it.
            pass
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


class _Exchange:
    """One connection of a sandbox."""

    def __init__(self, api: RuntimeApi, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._api = api
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)

    async def run(self) -> None:
        """Answer requests until the sandbox hangs up."""
        while True:
            request = await self._event()
            if not isinstance(request, h11.Request):
                return
            headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
            path = request.target.decode().removeprefix(PREFIX)
            await self._answer(request.method.decode(), path, headers)
            if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is h11.MUST_CLOSE:
                return
            self._http.start_next_cycle()

    async def _answer(self, method: str, path: str, headers: dict[str, str]) -> None:
        match method, path.strip("/").split("/"):
            case "GET", ["invocation", "next"]:
                await self._drained()
                await self._hand_out()
            case "GET", ["restore", "next"]:
                await self._drained()
                self._api.restores += 1
                await self._reply(200, b"")
            case "POST", ["invocation", request_id, "response"] if request_id in self._api.current:
                await self._take_response(self._api.current[request_id], headers)
            case "POST", ["invocation", request_id, "error"] if request_id in self._api.current:
                document = json.loads(await self._drained())
                invocation = self._api.current.pop(request_id)
                invocation.headers = headers
                invocation.fail(document)
                await self._reply(202, b'{"status":"OK"}')
            case "POST", ["init" | "restore", "error"]:
                self._api.init_error = json.loads(await self._drained())
                await self._reply(202, b'{"status":"OK"}')
            case _:
                await self._drained()
                await self._reply(404, b'{"errorMessage":"unknown path or request id","errorType":"InvalidRequestID"}')

    async def _hand_out(self) -> None:
        self._api.ready.set()
        # Who asks for the next one has given up what it had.
        for left in self._api.current.values():
            left.fail({"errorType": "Runtime.TruncatedResponse", "errorMessage": "the answer broke off"})
        self._api.current.clear()
        invocation = await self._api.waiting.get()
        self._api.current[invocation.id] = invocation
        deadline_ms = int((time.time() + invocation.timeout_seconds) * 1000)
        await self._reply(
            200,
            invocation.event,
            {
                "Lambda-Runtime-Aws-Request-Id": invocation.id,
                "Lambda-Runtime-Invocation-Id": f"attempt-{invocation.id}",
                "Lambda-Runtime-Deadline-Ms": str(deadline_ms),
                "Lambda-Runtime-Invoked-Function-Arn": FUNCTION_ARN,
                "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
            },
        )

    async def _take_response(self, invocation: Invocation, headers: dict[str, str]) -> None:
        invocation.headers = headers
        invocation.begun.set()
        largest = invocation.largest_bytes
        if not invocation.streamed:
            largest = min(largest, LARGEST_BUFFERED_BYTES)
        taken = 0
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise ConnectionError
            taken += len(event.data)
            if taken > largest:
                await self._refuse(invocation, largest)
                raise ConnectionError
            invocation.take(bytes(event.data))
        invocation.trailers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        self._api.current.pop(invocation.id, None)
        if kind := invocation.trailers.get("lambda-runtime-function-error-type"):
            invocation.fail({"errorType": kind, "errorMessage": "the function failed while it answered"})
        invocation.end()
        await self._reply(202, b'{"status":"OK"}')

    async def _refuse(self, invocation: Invocation, largest: int) -> None:
        """Answer 413 before the end of what the sandbox sends, and let it hang up."""
        sentence = f"Response payload size exceeded maximum allowed payload size ({largest} bytes)."
        document = {"errorType": "Function.ResponseSizeTooLarge", "errorMessage": sentence}
        self._api.current.pop(invocation.id)
        invocation.fail(document)
        await self._reply(413, json.dumps(document).encode(), {"Connection": "close"})
        # A reset would take the answer away from under a sandbox that has not read it.
        while await self._reader.read(1 << 16):
            pass

    async def _drained(self) -> bytes:
        body = b""
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise ConnectionError
            body += bytes(event.data)
        return body

    async def _event(self) -> Any:  # noqa: ANN401  # one of h11's events
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(1 << 16))
        return event

    async def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        for part in (
            h11.Response(status_code=status, headers=list(fields.items())),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self._writer.write(self._http.send(part) or b"")
        await self._writer.drain()
