"""Lambda on this machine: the very handlers, in sandboxes of their own, fed with the events that Lambda sends.

A sandbox is a process that answers one invocation at a time. A function starts another when all of its are busy, up
to a limit; beyond it callers queue. Functions that stream run under `agentkit.runtime`, the others under AWS's own
runtime client. A sandbox that crashes, or takes longer than its function may, is replaced.
"""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from infra.functions import Function, declared
from infra.local.part import Process
from infra.local.runtime_api import Invocation, RuntimeApi

# More than Lambda's 10 s: the whole stack may be starting on the same two cores.
INIT_SECONDS = 60.0
WATCH_SECONDS = 0.2
# What a function's role would never hold.
NOT_FOR_FUNCTIONS = ("ADMIN_", "WORKER_", "DEMO_")


@dataclass(frozen=True)
class Limits:
    """How much a function may take."""

    sandboxes: int
    timeout_seconds: float
    waiting: int = 200
    """Callers that may queue for a sandbox."""

    @classmethod
    def of(cls, function: Function) -> Self:
        """Return those of a deployed function, with the sandboxes that a developer's machine has room for."""
        long = function.streams or not function.has_url
        return cls(sandboxes=4 if function.streams else 3, timeout_seconds=300.0 if long else 30.0)


class Throttled(Exception):  # noqa: N818  # reads as what happened
    """More callers are waiting than the function takes; Lambda answers 429."""


class Sandbox:
    """One process of a function."""

    def __init__(self, function: Function, environment: Mapping[str, str], log: Path) -> None:
        self.api = RuntimeApi()
        self.stale = False
        """Its code has changed: it answers what it has begun and is then replaced."""
        self._function = function
        self._environment = environment
        self._log = log
        self._process: Process | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process; invocations may be submitted at once."""
        address = await self.api.start()
        handler = self._function.handler
        command = [sys.executable, "-m", "agentkit.runtime"]
        if not self._function.streams:
            command = [sys.executable, "-m", "awslambdaric", handler]
        environment = {**self._environment, "AWS_LAMBDA_RUNTIME_API": address, "_HANDLER": handler}
        # A sandbox is frozen or gone whenever it is not answering: there is nothing that it could put in order.
        self._process = Process(
            f"{self._function.name} sandbox", command, log=self._log, env=environment, stop_signal=signal.SIGKILL
        )
        self._process.start(lambda: True)
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the process."""
        if self._watching is not None:
            self._watching.cancel()
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)
        await self.api.stop()

    @property
    def pid(self) -> int | None:
        """The process's id while it has one."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.failure() is None

    async def invoke(self, invocation: Invocation) -> None:
        """Have the invocation answered; returns when it has been, one way or the other."""
        self.api.submit(invocation)
        try:
            async with asyncio.timeout(INIT_SECONDS):
                await self.api.ready.wait()
            async with asyncio.timeout(invocation.timeout_seconds):
                await invocation.done.wait()
        except TimeoutError:
            seconds = invocation.timeout_seconds if self.api.ready.is_set() else INIT_SECONDS
            invocation.fail(
                {"errorType": "Sandbox.Timedout", "errorMessage": f"Task timed out after {seconds:.2f} seconds"}
            )
            self.stale = True

    async def _watch(self) -> None:
        assert self._process is not None  # noqa: S101  # started just before
        # A process that ends sets no event.
        while (failure := self._process.failure()) is None:  # noqa: ASYNC110
            await asyncio.sleep(WATCH_SECONDS)
        document = self.api.init_error or {"errorType": "Runtime.ExitError", "errorMessage": failure}
        self.api.end({**document, "log": self._process.log_tail()})


class LocalFunction:
    """A function and its sandboxes."""

    def __init__(self, function: Function, environment: Mapping[str, str], log: Path, limits: Limits) -> None:
        self.function = function
        self._environment = environment
        self._log = log
        self.limits = limits
        self._idle: list[Sandbox] = []
        self._all: set[Sandbox] = set()
        self._queue: deque[asyncio.Future[None]] = deque()
        self._serving: set[asyncio.Task[None]] = set()

    async def invoke(self, event: bytes) -> Invocation:
        """Return the invocation once its answer has begun, or has failed. Raises Throttled."""
        sandbox = await self._acquire()
        invocation = Invocation(event, self.limits.timeout_seconds)
        task = asyncio.create_task(self._serve(sandbox, invocation))
        # Held here and not by the caller: as on Lambda, an answer is made to its end also when nobody waits for it.
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        await invocation.begun.wait()
        return invocation

    async def warm(self) -> None:
        """Have one sandbox ready before anyone asks."""
        if not self._all:
            sandbox = await self._start()
            self._release(sandbox)
            await sandbox.api.ready.wait()

    def renew(self) -> None:
        """Replace every sandbox, busy ones after what they are answering."""
        for sandbox in self._all:
            sandbox.stale = True
        idle, self._idle = self._idle, []
        for sandbox in idle:
            task = asyncio.create_task(self._discard(sandbox))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def stop(self) -> None:
        """End every sandbox."""
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.gather(*(sandbox.stop() for sandbox in self._all))
        self._all.clear()

    async def _serve(self, sandbox: Sandbox, invocation: Invocation) -> None:
        await sandbox.invoke(invocation)
        if sandbox.stale or not sandbox.alive:
            await self._discard(sandbox)
            self._let_next_in()
        else:
            self._release(sandbox)

    async def _acquire(self) -> Sandbox:
        while True:
            while self._idle:
                sandbox = self._idle.pop()
                if sandbox.alive:
                    return sandbox
                await self._discard(sandbox)
            if len(self._all) < self.limits.sandboxes:
                return await self._start()
            if len(self._queue) >= self.limits.waiting:
                raise Throttled
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    # Its turn had come just as its caller left.
                    self._let_next_in()
                raise

    async def _start(self) -> Sandbox:
        sandbox = Sandbox(self.function, self._environment, self._log)
        self._all.add(sandbox)
        try:
            await sandbox.start()
        except OSError:
            await self._discard(sandbox)
            raise
        return sandbox

    async def _discard(self, sandbox: Sandbox) -> None:
        self._all.discard(sandbox)
        await sandbox.stop()

    def _release(self, sandbox: Sandbox) -> None:
        self._idle.append(sandbox)
        self._let_next_in()

    def _let_next_in(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class Lambdas:
    """All functions of the project, or those given."""

    def __init__(
        self,
        environment: Mapping[str, str],
        logs: Path,
        functions: Sequence[Function] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`limits`: for every function, in place of its own."""
        self.functions = {
            function.name: LocalFunction(
                function,
                _environment(function, environment),
                logs / f"{function.name}.log",
                limits or Limits.of(function),
            )
            for function in functions or declared()
        }

    async def invoke(self, name: str, event: bytes) -> Invocation:
        """Return the invocation once its answer has begun, or has failed; raises KeyError, Throttled."""
        return await self.functions[name].invoke(event)

    async def warm(self) -> None:
        """Start a sandbox of each function, one after another, so that first callers need not wait for it."""
        for function in self.functions.values():
            await function.warm()

    def renew(self) -> None:
        """Have every function run its code as it is now."""
        for function in self.functions.values():
            function.renew()

    async def stop(self) -> None:
        """End every sandbox."""
        await asyncio.gather(*(function.stop() for function in self.functions.values()))


def _environment(function: Function, stack: Mapping[str, str]) -> dict[str, str]:
    """Return what that function's sandboxes see: as deployed, each role with its own logins."""
    # An empty variable counts as not set; the parent's own would shine through otherwise.
    kept = {
        name: "" if name.startswith(NOT_FOR_FUNCTIONS) else value for name, value in {**os.environ, **stack}.items()
    }
    if not function.has_url:
        kept |= {
            name: stack[f"WORKER_{name}"]
            for name in ("DATABASE_URL", "VECTOR_DATABASE_URL")
            if f"WORKER_{name}" in stack
        }
    return {
        **kept,
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
        "AGENTKIT_LOCAL": "1",
        "PYTHONUNBUFFERED": "1",
    }
