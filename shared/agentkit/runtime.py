"""The Lambda runtime loop that streams: AWS's own Python client returns whole bodies only.

    _HANDLER=functions.chat.app.handler python -m agentkit.runtime

On a managed runtime it takes the place of AWS's loop by AWS_LAMBDA_EXEC_WRAPPER (infra/stream_wrapper). The handler
is a Mangum for HTTP events, whose app is run directly, or any `handler(event, context)` for other events.

The wire format is the Runtime API's (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html), and for
streaming that of AWS's Node client (aws/aws-lambda-nodejs-runtime-interface-client, `ResponseStream.js`): the response
is posted in chunks while it is made, begins with a JSON prelude (status, headers, cookies) and eight NUL bytes, and a
failure after the first byte travels in HTTP trailers. Of Mangum only the step from event to ASGI scope is used; the
app's lifespan is not run.
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
from collections.abc import Mapping, MutableMapping
from typing import Any

from mangum import Mangum

from agentkit.runtime_connection import Answer, Connection, Headers

HTTP_INTEGRATION = "application/vnd.awslambda.http-integration-response"
PRELUDE_END = b"\0" * 8
INVOCATION_ID = "Lambda-Runtime-Invocation-Id"
ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
ERROR_BODY = "Lambda-Runtime-Function-Error-Body"
# The Runtime API breaks at trailers of more than 4 kB.
TRAILER_BYTES = 2_048
# How long an app may take to notice that its stream is dead.
GRACE_SECONDS = 1.0

Message = MutableMapping[str, Any]


class Context:
    """What a handler is told of its invocation; the documented attributes of Lambda's Python context."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.aws_request_id = headers["lambda-runtime-aws-request-id"]
        self.invoked_function_arn = headers.get("lambda-runtime-invoked-function-arn", "")
        self.tenant_id = headers.get("lambda-runtime-aws-tenant-id")
        self.client_context = json.loads(headers.get("lambda-runtime-client-context", "null"))
        self.identity = json.loads(headers.get("lambda-runtime-cognito-identity", "null"))
        self.function_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "")
        self.function_version = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION", "")
        self.memory_limit_in_mb = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
        self.log_group_name = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME", "")
        self.log_stream_name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
        self._deadline_ms = int(headers.get("lambda-runtime-deadline-ms", 0))

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the invocation may still take."""
        return max(0, self._deadline_ms - time.time_ns() // 1_000_000)


class Invocation:
    """One event, and where its answer goes."""

    def __init__(self, connection: Connection, given: Answer) -> None:
        self.given = given
        self.id = given.headers["lambda-runtime-aws-request-id"]
        self.api = connection.api
        # Newer Runtime APIs tell attempts apart by an id that they want back.
        attempt = given.headers.get(INVOCATION_ID.lower())
        self.echo: Headers = [(INVOCATION_ID, attempt)] if attempt else []
        self._connection = connection

    async def respond(self, body: bytes) -> None:
        """Give the whole answer at once."""
        headers = [("Content-Type", "application/json"), *self.echo]
        self.note(await self._connection.call("POST", f"/invocation/{self.id}/response", body, headers))

    async def fail(self, error: BaseException) -> None:
        """Say that there is no answer; the error is logged too."""
        await _report(self._connection, f"/invocation/{self.id}/error", error, type(error).__name__, self.id, self.echo)

    def note(self, answer: Answer) -> None:
        """Log the Runtime API's refusal, if it is one."""
        if answer.status >= 400:  # noqa: PLR2004  # HTTP's failures
            self.warn(f"the Runtime API answered {answer.status} {answer.body[:200]!r}")

    def warn(self, sentence: str) -> None:
        """Log what went wrong and was survived."""
        print(f"[WARN] {self.id}: {sentence}", file=sys.stderr, flush=True)  # noqa: T201  # Lambda's log


class StreamedResponse:
    """The ASGI side of one invocation: what the app sends is posted to the Runtime API as it comes."""

    def __init__(self, invocation: Invocation, body: bytes) -> None:
        self._invocation = invocation
        self._body: bytes | None = body
        # A connection of its own: the API wants it closed after a streamed response.
        self._connection = Connection(invocation.api)
        self._head: Message = {}
        self._answer: asyncio.Task[Answer] | None = None
        self.ended = False
        """The last byte is on its way."""
        self.dead = False
        """The Runtime API takes no more: it answered early, or the connection broke."""
        self.over = asyncio.Event()
        """Set when it has ended or is dead."""

    @property
    def begun(self) -> bool:
        """Whether the first byte is on its way, so that a failure can only be told in trailers."""
        return self._answer is not None

    async def receive(self) -> Message:
        """ASGI: the request's body, then nothing until the response is over."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI: post what the app sends; raises OSError once nobody takes it, which Starlette calls a disconnect."""
        if message["type"] == "http.response.start":
            self._head = message
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if not self.begun:
            if not body and more:
                return
            await self._begin()
        if body:
            await self._post(b"%x\r\n%s\r\n" % (len(body), body))
        if not more:
            await self.end()

    async def end(self, error: BaseException | None = None) -> None:
        """Complete the response, with the failure in its trailers if there was one."""
        await self._post(b"0\r\n" + (_trailers(error, self._invocation.id) if error else b"") + b"\r\n")
        self.ended = True
        self.over.set()
        if self._answer is not None:
            with contextlib.suppress(OSError, EOFError):
                self._invocation.note(await self._answer)

    def close(self) -> None:
        """Let go of the connection."""
        if self._answer is not None:
            self._answer.cancel()
        self._connection.close()

    async def _begin(self) -> None:
        headers: Headers = [
            ("Lambda-Runtime-Function-Response-Mode", "streaming"),
            ("Trailer", ERROR_TYPE),
            ("Trailer", ERROR_BODY),
            ("Content-Type", HTTP_INTEGRATION),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "close"),
            *self._invocation.echo,
        ]
        head = await self._connection.head("POST", f"/invocation/{self._invocation.id}/response", headers)
        prelude = _prelude(self._head) + PRELUDE_END
        self._answer = asyncio.create_task(self._connection.answer())
        self._answer.add_done_callback(self._on_answer)
        await self._post(head + b"%x\r\n%s\r\n" % (len(prelude), prelude))

    async def _post(self, data: bytes) -> None:
        try:
            if self.dead:
                raise ConnectionResetError("the Runtime API takes no more of this response")
            await self._connection.send(data)
        except OSError:
            self._die()
            raise

    def _on_answer(self, answer: asyncio.Task[Answer]) -> None:
        """An answer before the end is a refusal (too large, timed out), and no answer a broken connection."""
        if not answer.cancelled() and answer.exception() is None and not self.ended:
            self._invocation.note(answer.result())
        if not self.ended:
            self._die()

    def _die(self) -> None:
        self.dead = True
        self.over.set()


async def run(api: str, handler_name: str) -> None:
    """Load the handler, then answer invocations until the sandbox ends."""
    connection = Connection(api)
    snapstart = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"
    try:
        module, _, name = handler_name.rpartition(".")
        handler = getattr(importlib.import_module(module.replace("/", ".")), name)
        if snapstart:
            await _before_snapshot()
    except BaseException as error:
        kind = "ImportModuleError" if isinstance(error, ImportError) else type(error).__name__
        await _report(connection, "/init/error", error, f"Runtime.{kind}")
        raise SystemExit(1) from error
    if snapstart:
        await _restore(connection)
    while True:
        given = await connection.call("GET", "/invocation/next")
        if given.status != 200:  # noqa: PLR2004  # anything else means that the sandbox is being ended
            raise SystemExit(f"The Runtime API answered {given.status} to /next: {given.body[:200]!r}")
        os.environ["_X_AMZN_TRACE_ID"] = given.headers.get("lambda-runtime-trace-id", "")
        await serve(handler, Invocation(connection, given))


async def serve(handler: Any, invocation: Invocation) -> None:  # noqa: ANN401  # any Lambda handler
    """Answer one invocation, whatever the handler does."""
    try:
        event, context = json.loads(invocation.given.body), Context(invocation.given.headers)
        if isinstance(handler, Mangum) and isinstance(event, dict) and "requestContext" in event:
            http = handler.infer(event, context)  # type: ignore[arg-type]  # typed for the dict of one event source
            # From 2.4 on a send to a dead stream raises OSError, which Starlette turns into ClientDisconnect.
            scope = {**http.scope, "asgi": {"version": "3.0", "spec_version": "2.4"}}
            response = StreamedResponse(invocation, http.body)
        else:
            # In a thread: a plain handler may well run an event loop of its own.
            result = await asyncio.to_thread(handler, event, context)
            await invocation.respond(json.dumps(await _settled(result)).encode())
            return
    except Exception as error:  # noqa: BLE001  # whatever it was, the Runtime API and the log are told
        await invocation.fail(error)
        return
    try:
        await _conclude(invocation, response, await _run_app(handler.app, scope, response))
    finally:
        response.close()


async def _run_app(app: Any, scope: dict[str, Any], response: StreamedResponse) -> BaseException | None:  # noqa: ANN401  # ASGI
    """Run the app to its end, or to soon after its stream died; return what it raised."""
    running = asyncio.ensure_future(app(scope, response.receive, response.send))
    watching = asyncio.ensure_future(response.over.wait())
    await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    if response.dead:
        await asyncio.wait({running}, timeout=GRACE_SECONDS)
        running.cancel()
    await asyncio.wait({running})
    return None if running.cancelled() else running.exception()


async def _conclude(invocation: Invocation, response: StreamedResponse, error: BaseException | None) -> None:
    """Tell the Runtime API and the log how the app ended, unless its response said all."""
    if response.dead:
        invocation.warn("the response stream was closed before its end")
    elif not response.begun:
        await invocation.fail(error or RuntimeError("the app sent no response"))
    elif not response.ended or error is not None:
        error = error or RuntimeError("the app ended before its response did")
        traceback.print_exception(error)
        if not response.ended:
            with contextlib.suppress(OSError):
                await response.end(error)


async def _report(
    connection: Connection, path: str, error: BaseException, kind: str, request_id: str = "", echo: Headers = ()
) -> None:
    traceback.print_exception(error)
    headers: Headers = [("Content-Type", "application/json"), (ERROR_TYPE, kind), *echo]
    await connection.call("POST", path, json.dumps(_error_document(error, request_id)).encode(), headers)


async def _before_snapshot() -> None:
    if hooks := _snapshot_hooks():
        for function, arguments, options in reversed(hooks.get_before_snapshot()):
            await _settled(function(*arguments, **options))


async def _restore(connection: Connection) -> None:
    """Let SnapStart freeze the sandbox here, without an open socket; what runs on comes from the picture."""
    connection.close()
    await connection.call("GET", "/restore/next")
    connection.close()
    try:
        if hooks := _snapshot_hooks():
            for function, arguments, options in hooks.get_after_restore():
                await _settled(function(*arguments, **options))
    except Exception as error:
        await _report(connection, "/restore/error", error, "Runtime.AfterRestoreError")
        raise SystemExit(1) from error


def _snapshot_hooks() -> Any:  # noqa: ANN401  # AWS's module, part of the managed runtimes
    # Where nobody has imported it, nobody has registered anything with it.
    return sys.modules.get("snapshot_restore_py")


async def _settled(result: Any) -> Any:  # noqa: ANN401  # what any callable returned
    return await result if inspect.isawaitable(result) else result


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
    while len(encoded := base64.b64encode(json.dumps(document).encode())) > TRAILER_BYTES:
        # The oldest calls go first: the failure itself is at the end.
        if document["stackTrace"]:
            document["stackTrace"].pop(0)
        else:
            document["errorMessage"] = document["errorMessage"][: len(document["errorMessage"]) // 2]
    return b"%s: %s\r\n%s: %s\r\n" % (ERROR_TYPE.encode(), type(error).__name__.encode(), ERROR_BODY.encode(), encoded)


def _error_document(error: BaseException, request_id: str) -> dict[str, Any]:
    return {
        "errorMessage": str(error),
        "errorType": type(error).__name__,
        "requestId": request_id,
        "stackTrace": traceback.format_tb(error.__traceback__),
    }


if __name__ == "__main__":
    asyncio.run(run(os.environ["AWS_LAMBDA_RUNTIME_API"], os.environ["_HANDLER"]))
