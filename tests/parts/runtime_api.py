"""A Lambda Runtime API that records, with one sandbox at it; and a gate by which a test paces a sample's stream."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from infra.functions import ROOT
from infra.local.part import LOOPBACK, Process
from infra.local.runtime_api import PRELUDE_END, FunctionFailed, Invocation, RuntimeApi

LONGEST_SECONDS = 30.0
"""What an invocation is told that it may take."""
PATIENCE_SECONDS = 120.0
"""When a test gives up; a busy machine is slow."""


@dataclass(frozen=True)
class Answered:
    """A whole answer, as the Runtime API received it."""

    body: bytes
    headers: dict[str, str]
    trailers: dict[str, str]
    failure: dict[str, Any] | None
    """What the function reported, or what the Runtime API refused."""

    @property
    def prelude(self) -> dict[str, Any]:
        """The streamed answer's status, headers and cookies."""
        return dict(json.loads(self.body.partition(PRELUDE_END)[0]))

    @property
    def streamed(self) -> bytes:
        """What follows the prelude."""
        return self.body.partition(PRELUDE_END)[2]

    @property
    def json(self) -> Any:
        """The answer of a buffered function."""
        return json.loads(self.body)

    @property
    def trailing_error(self) -> dict[str, Any]:
        """The failure after the first byte, from its trailer."""
        return dict(json.loads(base64.b64decode(self.trailers["lambda-runtime-function-error-body"])))


class Sandbox:
    """A process of a function, invoked by the test."""

    def __init__(self, portal: BlockingPortal, process: Process, api: RuntimeApi) -> None:
        self.api = api
        self._portal = portal
        self.process = process

    def send(self, event: object, **options: Any) -> Invocation:
        """Submit an event, without waiting for the answer."""
        return self.send_raw(json.dumps(event).encode(), **options)

    def send_raw(self, event: bytes, **options: Any) -> Invocation:
        """Submit these bytes as an event."""
        invocation = Invocation(event, LONGEST_SECONDS, **options)
        self._portal.call(self.api.submit, invocation)
        return invocation

    def pieces(self, invocation: Invocation) -> Callable[[], bytes]:
        """Return a function that waits for the answer's next piece: what one write of the sandbox carried."""
        iterator: AsyncIterator[bytes] = aiter(invocation.pieces())

        async def following() -> bytes:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await anext(iterator)

        return lambda: self._portal.call(following)

    def answer(self, invocation: Invocation) -> Answered:
        """Wait for the answer's end."""

        async def collect() -> bytes:
            pieces = []
            with contextlib.suppress(FunctionFailed):
                # A sandbox that has ended answers nothing, and nobody else would say so.
                async with asyncio.timeout(PATIENCE_SECONDS):
                    async for piece in invocation.pieces():
                        pieces.append(piece)  # noqa: PERF401  # kept also when the answer breaks off
            return b"".join(pieces)

        body = self._portal.call(collect)
        return Answered(body, invocation.headers, invocation.trailers, invocation.failure)

    def call(self, event: object, **options: Any) -> Answered:
        """Have the event answered."""
        return self.answer(self.send(event, **options))

    def hang_up(self) -> None:
        """Break the sandbox's connections."""
        self._portal.call(self.api.hang_up)

    def wait_for_end(self) -> int:
        """Wait until the process has ended, and return its status."""
        assert self.process.pid is not None
        return os.waitstatus_to_exitcode(os.waitpid(self.process.pid, 0)[1])


Start = Callable[..., Sandbox]


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """An event loop in a thread of its own, for servers that tests talk to."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="session")
def start_sandbox(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a sandbox of a handler: under our streaming loop, or under AWS's own client."""
    folder = tmp_path_factory.mktemp("sandboxes")
    stopping: list[Callable[[], object]] = []

    def start(
        handler: str,
        *,
        aws: bool = False,
        python: str | Path = sys.executable,
        environment: dict[str, str] | None = None,
    ) -> Sandbox:
        api = RuntimeApi()
        address = portal.call(api.start)
        command: Sequence[str | Path] = [python, "-m", "agentkit.runtime"]
        if aws:
            command = [python, "-m", "awslambdaric", handler]
        process = Process(
            handler,
            command,
            log=folder / f"{len(stopping)}.log",
            env={
                "AWS_LAMBDA_RUNTIME_API": address,
                "_HANDLER": handler,
                "AWS_LAMBDA_FUNCTION_NAME": "sample",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
                "PYTHONPATH": str(ROOT),
                **(environment or {}),
            },
            stop_signal=signal.SIGKILL,
        )
        process.start(lambda: True)
        stopping.extend([process.stop, lambda: portal.call(api.stop)])
        return Sandbox(portal, process, api)

    yield start
    for stop in stopping:
        stop()


@pytest.fixture(scope="session")
def streaming(start_sandbox: Start) -> Sandbox:
    """The streaming sample, under our loop."""
    return start_sandbox("tests.shared.samples.stream.handler")


class Gate:
    """Where a sample's stream asks whether it may go on."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self._listener.settimeout(LONGEST_SECONDS)
        self.port: int = self._listener.getsockname()[1]
        self._stream: socket.socket | None = None

    def say(self, *words: str) -> None:
        """Let the stream send one piece (`more`), `fail` or `end`."""
        if self._stream is None:
            self._stream, _ = self._listener.accept()
        self._stream.sendall("".join(f"{word}\n" for word in words).encode())

    def say_once_asked(self, *words: str) -> None:
        """Say it when the stream comes to the gate, and meanwhile let the test go on to wait for the stream."""
        threading.Thread(target=self.say, args=words, daemon=True).start()

    def wait_until_left(self) -> None:
        """Wait until the stream asks no more."""
        assert self._stream is not None
        self._stream.settimeout(LONGEST_SECONDS)
        assert self._stream.recv(1) == b""

    def close(self) -> None:
        """Stop listening; a stream that still asks ends."""
        if self._stream is not None:
            self._stream.close()
        self._listener.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate for one stream."""
    gate = Gate()
    yield gate
    gate.close()


def url_event(
    path: str,
    query: str = "",
    *,
    method: str = "GET",
    body: str | bytes | None = None,
    cookies: Sequence[str] = (),
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A function URL's event (https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html)."""
    domain = "abcdefg.lambda-url.eu-central-1.on.aws"
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": domain, "x-forwarded-proto": "https", "x-forwarded-port": "443", **(headers or {})},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abcdefg",
            "domainName": domain,
            "domainPrefix": "abcdefg",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.9",
                "userAgent": "test",
            },
            "requestId": "e1506fd5-9e7b-434f-bd42-4f8fa224b599",
            "routeKey": "$default",
            "stage": "$default",
            "time": "12/Mar/2020:19:03:58 +0000",
            "timeEpoch": 1583348638390,
        },
        "isBase64Encoded": isinstance(body, bytes),
    }
    if cookies:
        event["cookies"] = list(cookies)
    if body is not None:
        event["body"] = base64.b64encode(body).decode() if isinstance(body, bytes) else body
    return event
