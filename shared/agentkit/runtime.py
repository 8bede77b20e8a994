"""The Lambda runtime loop that streams: AWS's own Python client returns whole bodies only.

    _HANDLER=functions.chat.app.handler python -m agentkit.runtime

On a managed runtime it takes the place of AWS's loop by AWS_LAMBDA_EXEC_WRAPPER (infra/stream_wrapper). The handler
is a Mangum for HTTP events, whose app is run directly, or any `handler(event, context)` for other events.

The wire format is the Runtime API's (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html), and for
streaming that of AWS's Node client (aws/aws-lambda-nodejs-runtime-interface-client, `ResponseStream.js`): the response
is posted in chunks while it is made, begins with a JSON prelude (status, headers, cookies) and eight NUL bytes, and a
failure after the first byte travels in HTTP trailers. Of Mangum only the step from event to ASGI scope is used.
"""

import asyncio
import base64
import contextlib
import importlib
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from mangum import Mangum

VERSION = "/2018-06-01/runtime"
USER_AGENT = f"agentkit-runtime CPython/{sys.version_info.major}.{sys.version_info.minor}"
HTTP_INTEGRATION = "application/vnd.awslambda.http-integration-response"
PRELUDE_END = b"\0" * 8
INVOCATION_ID = "Lambda-Runtime-Invocation-Id"
ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
ERROR_BODY = "Lambda-Runtime-Function-Error-Body"
# The Runtime API breaks at trailers of more than 4 kB.
TRAILER_BYTES = 2_048
# Function URL events may be 6 MB, base64 included.
LARGEST_HEAD = 1 << 20
# How long an app may take to notice that its stream is dead.
GRACE_SECONDS = 1.0

Headers = Iterable[tuple[str, str | int]]
Message = MutableMapping[str, Any]


class Context:
    """What a handler is told of its invocation; the documented attributes of Lambda's Python context."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.aws_request_id = headers.get("lambda-runtime-aws-request-id", "")
        self.invoked_function_arn = headers.get("lambda-runtime-invoked-function-arn", "")
        self.tenant_id = headers.get("lambda-runtime-aws-tenant-id")
        self.client_context = json.loads(headers.get("lambda-runtime-client-context", "null"))
        self.identity = json.loads(headers.get("lambda-runtime-cognito-identity", "null"))
        self.function_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "")
        self.function_version = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION", "")
        self.memory_limit_in_mb = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "0"))
        self.log_group_name = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME", "")
        self.log_stream_name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
        self._deadline_ms = int(headers.get("lambda-runtime-deadline-ms", 0))

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the invocation may still take."""
        return max(0, self._deadline_ms - time.time_ns() // 1_000_000)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the Runtime API said."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One HTTP/1.1 connection to the Runtime API; no client library, as it is loaded at every cold start."""

    def __init__(self, api: str) -> None:
        self._api = api
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, method: str, path: str, body: bytes = b"", headers: Headers = ()) -> Answer:
        """Make one request; one that finds its kept connection dead is made again on a new one, if it may be."""
        for last_try in (self._writer is None or method != "GET", True):
            try:
                length: Headers = [("Content-Length", len(body))] if method == "POST" else []
                await self.send_head(method, path, [*headers, *length])
                await self.send(body)
                return await self.answer()
            except (OSError, asyncio.IncompleteReadError):
                self.close()
                if last_try:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    async def send_head(self, method: str, path: str, headers: Headers) -> None:
        """Send a request's first lines, connecting first if need be."""
        if self._writer is None:
            host, _, port = self._api.partition(":")
            self._reader, self._writer = await asyncio.open_connection(host, int(port or 80), limit=LARGEST_HEAD)
        lines = [f"{method} {VERSION}{path} HTTP/1.1", f"Host: {self._api}", f"User-Agent: {USER_AGENT}"]
        lines += [f"{name}: {value}" for name, value in headers]
        self._writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def send(self, data: bytes) -> None:
        """Send bytes, waiting while the other side takes no more."""
        assert self._writer is not None  # noqa: S101  # send_head has connected
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> Answer:
        """Read the answer to what was sent."""
        assert self._reader is not None  # noqa: S101  # send_head has connected
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = await self._chunked_body()
        else:
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(first.split()[1]), headers, body)

    async def _chunked_body(self) -> bytes:
        assert self._reader is not None  # noqa: S101  # asked for by `answer`
        body = b""
        while size := int((await self._reader.readline()).partition(b";")[0], 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
        while (await self._reader.readline()).strip():
            pass
        return body

    def close(self) -> None:
        """Let go of the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class StreamedResponse:
    """The ASGI side of one invocation: what the app sends is posted to the Runtime API as it comes."""

    def __init__(self, api: str, request_id: str, body: bytes, echo: Headers) -> None:
        self._path = f"/invocation/{request_id}/response"
        self._request_id = request_id
        self._body: bytes | None = body
        self._echo = echo
        self._connection = Connection(api)
        self._head: Message | None = None
        self._answer: asyncio.Task[Answer] | None = None
        self.ended = False
        self.dead = asyncio.Event()
        """Set when the Runtime API takes no more: it answered early, or the connection broke."""

    @property
    def begun(self) -> bool:
        """Whether the first byte is on its way, so that a failure can only be told in trailers."""
        return self._answer is not None

    async def receive(self) -> Message:
        """ASGI: the request's body, then nothing until the stream is dead."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.dead.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI: post what the app sends; raises OSError once nobody takes it, which Starlette calls a disconnect."""
        if self.dead.is_set():
            raise OSError("the response stream was closed by the Runtime API")
        if message["type"] == "http.response.start":
            self._head = message
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if not self.begun:
            if not body and more:
                return
            await self._begin()
        if body:
            await self._send_chunk(body)
        if not more:
            await self.end()

    async def end(self, error: BaseException | None = None) -> None:
        """Complete the response, with the failure in its trailers if there was one."""
        if self.ended:
            return
        self.ended = True
        await self._connection.send(b"0\r\n" + (_trailers(error, self._request_id) if error else b"") + b"\r\n")
        assert self._answer is not None  # noqa: S101  # only a begun response is ended
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            answer = await self._answer
            if answer.status >= 400:  # noqa: PLR2004  # HTTP's failures
                _warn(f"{self._request_id}: the Runtime API answered {answer.status} {answer.body[:200]!r}")
        self._connection.close()

    def abandon(self) -> None:
        """Let go of a dead stream."""
        if self._answer is not None and not self._answer.cancel() and not self._answer.cancelled():
            self._answer.exception()  # seen, so that asyncio does not complain of it
        self._connection.close()

    async def _begin(self) -> None:
        assert self._head is not None  # noqa: S101  # ASGI: the start comes before the body
        # A connection of its own: the API wants it closed after a streamed response.
        await self._connection.send_head(
            "POST",
            self._path,
            [
                ("Lambda-Runtime-Function-Response-Mode", "streaming"),
                ("Trailer", ERROR_TYPE),
                ("Trailer", ERROR_BODY),
                ("Content-Type", HTTP_INTEGRATION),
                ("Transfer-Encoding", "chunked"),
                ("Connection", "close"),
                *self._echo,
            ],
        )
        self._answer = asyncio.create_task(self._connection.answer())
        # An answer before the end is a refusal (too large, timed out), and no answer a broken connection.
        self._answer.add_done_callback(lambda _: None if self.ended else self.dead.set())
        await self._send_chunk(_prelude(self._head) + PRELUDE_END)

    async def _send_chunk(self, data: bytes) -> None:
        try:
            await self._connection.send(b"%x\r\n%s\r\n" % (len(data), data))
        except OSError:
            self.dead.set()
            raise


async def serve(api: str, handler: Any, keep: Connection, answer: Answer) -> None:  # noqa: ANN401  # any Lambda handler
    """Answer one invocation, whatever the handler does."""
    request_id = answer.headers["lambda-runtime-aws-request-id"]
    # Newer Runtime APIs tell attempts apart by an id that they want back.
    invocation = answer.headers.get(INVOCATION_ID.lower())
    echo: Headers = [(INVOCATION_ID, invocation)] if invocation else []
    context = Context(answer.headers)
    os.environ["_X_AMZN_TRACE_ID"] = answer.headers.get("lambda-runtime-trace-id", "")
    try:
        event = json.loads(answer.body)
        if isinstance(handler, Mangum) and isinstance(event, dict) and "requestContext" in event:
            inferred = handler.infer(event, context)
            response = StreamedResponse(api, request_id, inferred.body, echo)
            await _serve_http(handler.app, inferred.scope, response, keep, request_id, echo)
            return
        result = handler(event, context)
        if inspect.isawaitable(result):
            result = await result
        body = json.dumps(result).encode()
    except Exception as error:  # noqa: BLE001  # whatever it was, the Runtime API and the log are told
        await _report(keep, f"/invocation/{request_id}/error", error, echo, request_id)
        return
    await keep.call("POST", f"/invocation/{request_id}/response", body, [("Content-Type", "application/json"), *echo])


async def run(api: str, handler_name: str) -> None:
    """Load the handler, then answer invocations until the sandbox ends."""
    keep = Connection(api)
    try:
        module, _, name = handler_name.rpartition(".")
        handler = getattr(importlib.import_module(module.replace("/", ".")), name)
    except BaseException as error:
        kind = "Runtime.ImportModuleError" if isinstance(error, ImportError) else f"Runtime.{type(error).__name__}"
        await _report(keep, "/init/error", error, [], "", kind=kind)
        raise SystemExit(1) from error
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        await _snapshot(keep)
    while True:
        answer = await keep.call("GET", "/invocation/next")
        if answer.status != 200:  # noqa: PLR2004
            raise SystemExit(f"The Runtime API answered {answer.status} to /next: {answer.body[:200]!r}")
        await serve(api, handler, keep, answer)


async def _serve_http(
    app: Any,  # noqa: ANN401  # an ASGI app
    scope: Mapping[str, Any],
    response: StreamedResponse,
    keep: Connection,
    request_id: str,
    echo: Headers,
) -> None:
    # From 2.4 on a send to a dead stream raises OSError, which Starlette turns into ClientDisconnect.
    error = await _run_app(app, {**scope, "asgi": {"version": "3.0", "spec_version": "2.4"}}, response)
    if response.dead.is_set() and not response.ended:
        _warn(f"{request_id}: the response stream was closed before its end")
        response.abandon()
    elif not response.begun:
        error = error or RuntimeError("the app sent no response")
        await _report(keep, f"/invocation/{request_id}/error", error, echo, request_id)
    elif not response.ended:
        error = error or RuntimeError("the app ended before its response did")
        traceback.print_exception(error)
        with contextlib.suppress(OSError):
            await response.end(error)
    elif error is not None:
        # After the response was complete: for the log alone.
        traceback.print_exception(error)


async def _run_app(app: Any, scope: dict[str, Any], response: StreamedResponse) -> BaseException | None:  # noqa: ANN401
    """Run the app to its end, or to soon after its stream died; return what it raised."""
    running = asyncio.ensure_future(app(scope, response.receive, response.send))
    watching = asyncio.ensure_future(response.dead.wait())
    await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        await asyncio.wait({running}, timeout=GRACE_SECONDS)
        running.cancel()
        await asyncio.wait({running})
    watching.cancel()
    return None if running.cancelled() else running.exception()


async def _report(
    keep: Connection, path: str, error: BaseException, echo: Headers, request_id: str, *, kind: str | None = None
) -> None:
    traceback.print_exception(error)
    document = _error_document(error, request_id)
    headers: Headers = [("Content-Type", "application/json"), (ERROR_TYPE, kind or type(error).__name__), *echo]
    await keep.call("POST", path, json.dumps(document).encode(), headers)


async def _snapshot(keep: Connection) -> None:
    """Let SnapStart freeze the sandbox here: hooks before, no open socket in the picture, hooks after."""
    from snapshot_restore_py import get_after_restore, get_before_snapshot

    for function, arguments, options in reversed(get_before_snapshot()):
        await _maybe(function(*arguments, **options))
    keep.close()
    await keep.call("GET", "/restore/next")
    keep.close()
    for function, arguments, options in get_after_restore():
        await _maybe(function(*arguments, **options))


async def _maybe(result: Awaitable[Any] | Any) -> None:  # noqa: ANN401  # a hook may be async
    if inspect.isawaitable(result):
        await result


def _prelude(head: Message) -> bytes:
    headers: dict[str, str] = {}
    cookies = []
    for raw_name, raw_value in head.get("headers", ()):
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == "set-cookie":
            cookies.append(value)
        else:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    prelude: dict[str, Any] = {"statusCode": head["status"], "headers": headers}
    if cookies:
        prelude["cookies"] = cookies
    return json.dumps(prelude, separators=(",", ":")).encode()


def _trailers(error: BaseException, request_id: str) -> bytes:
    document = _error_document(error, request_id)
    document["errorMessage"] = document["errorMessage"][:500]
    # The oldest calls go first: the failure itself is at the end.
    while len(json.dumps(document)) > TRAILER_BYTES and document["stackTrace"]:
        document["stackTrace"].pop(0)
    encoded = base64.b64encode(json.dumps(document).encode()).decode()
    return f"{ERROR_TYPE}: {type(error).__name__}\r\n{ERROR_BODY}: {encoded}\r\n".encode()


def _error_document(error: BaseException, request_id: str) -> dict[str, Any]:
    return {
        "errorMessage": str(error),
        "errorType": type(error).__name__,
        "requestId": request_id,
        "stackTrace": traceback.format_tb(error.__traceback__),
    }


def _warn(line: str) -> None:
    print(f"[WARN] {line}", file=sys.stderr, flush=True)  # noqa: T201  # Lambda's log


if __name__ == "__main__":
    asyncio.run(run(os.environ["AWS_LAMBDA_RUNTIME_API"], os.environ["_HANDLER"]))
