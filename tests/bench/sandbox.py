"""One sandbox under the streaming loop, asked and timed: who answers, when the bytes came, what it cost."""

import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.functions import ROOT
from infra.local.part import Process
from infra.local.runtime_api import PRELUDE_END, Invocation, RuntimeApi

LONGEST_SECONDS = 120.0


@dataclass
class Sandbox:
    """A process that answers one event at a time."""

    api: RuntimeApi
    process: Process
    began: float
    """When it was started, by `time.perf_counter`."""

    def cpu_seconds(self) -> float:
        """Return what the process has used so far."""
        used = psutil.Process(self.process.pid).cpu_times()
        return float(used.user + used.system)

    async def pieces(self, event: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """Yield the answer's body as it comes, from its first byte on; raises RuntimeError unless it is a success."""
        invocation = Invocation(json.dumps(event).encode(), LONGEST_SECONDS)
        self.api.submit(invocation)
        head = b""
        pieces = invocation.pieces()
        async for piece in pieces:
            head += piece
            prelude, end, body = head.partition(PRELUDE_END)
            if end:
                break
        status = json.loads(prelude)["statusCode"]
        if status != 200:
            rest = b"".join([piece async for piece in pieces])
            raise RuntimeError(f"{self.process.name} answered {status}: {(body + rest)!r}")
        if body:
            yield body
        async for piece in pieces:
            yield piece


@asynccontextmanager
async def sandbox(handler: str, environment: Mapping[str, str], folder: Path) -> AsyncIterator[Sandbox]:
    """Start a sandbox of that handler; it has ended when the block has."""
    api = RuntimeApi()
    address = await api.start()
    process = Process(
        handler,
        [sys.executable, "-m", "agentkit.runtime"],
        log=folder / f"{handler}.log",
        env={
            **environment,
            "AWS_LAMBDA_RUNTIME_API": address,
            "_HANDLER": handler,
            "AWS_LAMBDA_FUNCTION_NAME": "bench",
            "PYTHONPATH": str(ROOT),
        },
        stop_signal=signal.SIGKILL,
    )
    began = time.perf_counter()
    process.start(lambda: True)
    try:
        yield Sandbox(api, process, began)
    finally:
        process.stop()
        await api.stop()
