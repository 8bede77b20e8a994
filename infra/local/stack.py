"""All parts together: started side by side, watched, and stopped in order; one stack for each checkout.

    with Stack() as stack: ...      stack.environment is what a client needs; `.local/env` has it as a file

`.local/env` is there only while every part answers.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from infra.functions import ROOT
from infra.local.aws import Aws
from infra.local.embedder import Embedder
from infra.local.gateway import Gateway
from infra.local.model import Model
from infra.local.part import LOOPBACK, Part, PartFailed, accepts, free_port, write_private
from infra.local.postgres import Postgres
from infra.local.redis import Redis
from infra.local.schedule import EVERY_SECONDS
from infra.local.signin import SignIn

FOLDER = ROOT / ".local"
# The first is what people see; each is taken only while nobody else has it. Outgoing connections are given higher ones.
PORTS = {
    "gateway": 24330,
    "sign-in": 24331,
    "postgres": 24332,
    "redis": 24333,
    "model": 24334,
    "embedder": 24335,
    "aws": 24336,
}
ORIGINS = '["http://localhost:3000", "http://127.0.0.1:3000", "http://localhost:8888"]'
# A log that has grown larger makes room for a new one when the stack starts, and takes the place of the one before.
LARGEST_LOG_BYTES = 10_000_000
# What `.local/env` begins with, in this order; whatever else the functions need follows.
FOR_CLIENTS = (
    "AGENTKIT_URL",
    "SUPABASE_URL",
    "SUPABASE_PUBLISHABLE_KEY",
    "DATABASE_URL",
    "VECTOR_DATABASE_URL",
    "UPSTASH_REDIS_REST_URL",
    "UPSTASH_REDIS_REST_TOKEN",
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
    "CHAT_MODEL",
    "EMBEDDING_MODEL",
    "AWS_ENDPOINT_URL",
    "DEMO_ADA_EMAIL",
    "DEMO_ADA_PASSWORD",
    "DEMO_BOB_EMAIL",
    "DEMO_BOB_PASSWORD",
    "DEMO_ADMIN_EMAIL",
    "DEMO_ADMIN_PASSWORD",
)
# Set by whoever starts the stack, these take the place of the local model.
OWN_MODEL = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "CHAT_MODEL")


class AlreadyRunning(RuntimeError):  # noqa: N818  # reads as what is the case
    """This checkout's stack is up; the message says where."""


class Stack:
    """The parts of one checkout."""

    def __init__(
        self,
        folder: Path = FOLDER,
        *,
        parts: Sequence[Part] | None = None,
        max_receives: int = 5,
        schedule_seconds: float = EVERY_SECONDS,
    ) -> None:
        """`parts`: others than the stack's own, for tests of the stack itself.

        `max_receives`: of a job's message, before it is dead. `schedule_seconds`: between a function's turns.
        """
        self._folder = folder
        self._max_receives = max_receives
        self._schedule_seconds = schedule_seconds
        self._given = parts
        self._parts: list[Part] = []
        self._lock: IO[str] | None = None
        self._taken: list[socket.socket] = []
        # Kept until the parts have ended: a part may not outlive the thread that started it.
        self._threads = ThreadPoolExecutor(max_workers=8)
        self.environment: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        """How long each part took to start."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Return once every part answers.

        Raises AlreadyRunning when this checkout's stack is up, PartFailed when a part does not start.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self._folder)
        try:
            self._remove_environment()
            self._put_large_logs_aside()
            first = self._given if self._given is not None else self._own_parts()
            self._parts = list(first)
            for part in first:
                self.environment |= part.environment
            self._start_all(first)
            if self._given is None:
                gateway = Gateway(
                    self._folder,
                    self.environment,
                    port=self._port("gateway"),
                    schedule_seconds=self._schedule_seconds,
                )
                self._parts.append(gateway)
                self.environment |= gateway.environment
                self._start_all([gateway])
            self._write_environment()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every part, the last one started first."""
        with contextlib.ExitStack() as ending:  # each step though another fails, the last named here first
            ending.callback(self._unlock)
            # Whoever was still starting may have begun a process after it was told to stop.
            ending.callback(self._stop_parts)
            ending.callback(self._threads.shutdown)
            ending.callback(self._stop_parts)
            self._remove_environment()

    def watch(self, interval_seconds: float = 0.5) -> None:
        """Return never while all parts run; raises PartFailed, naming the one that died, when one does."""
        while (reason := self.failure()) is None:
            time.sleep(interval_seconds)
        raise PartFailed(reason)

    def failure(self) -> str | None:
        """Why a part is not running any more, or None while all run."""
        return next((reason for part in self._parts if (reason := part.failure())), None)

    def _stop_parts(self) -> None:
        with contextlib.ExitStack() as stopping:  # the last first, and each though another's stop fails
            for part in self._parts:
                stopping.callback(part.stop)

    def _unlock(self) -> None:
        self._parts = []
        while self._taken:
            self._taken.pop().close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _own_parts(self) -> list[Part]:
        folder = self._folder
        origins = os.environ.get("ALLOWED_ORIGINS", ORIGINS)
        self.environment["ALLOWED_ORIGINS"] = origins
        parts: list[Part] = [
            Postgres(folder, port=self._port("postgres")),
            Redis(folder, port=self._port("redis")),
            Embedder(folder, port=self._port("embedder")),
            Aws(
                folder,
                port=self._port("aws"),
                allowed_origins=_origins(origins),
                max_receives=self._max_receives,
                notifies=True,
            ),
            SignIn(folder, port=self._port("sign-in")),
        ]
        own = {name: os.environ[name] for name in OWN_MODEL if os.environ.get(name)}
        if "OPENAI_BASE_URL" in own or "CHAT_MODEL" in own:
            if "CHAT_MODEL" not in own:
                raise PartFailed("OPENAI_BASE_URL is set: set CHAT_MODEL as well, such as openai:the-model-it-serves.")
            self.environment |= {"OPENAI_API_KEY": "not-set", "OPENAI_BASE_URL": "https://api.openai.com/v1", **own}
        else:
            parts.append(Model(folder, port=self._port("model")))
        return parts

    def _port(self, name: str) -> int:
        """Return that part's own port, or another where someone has it: at once, however many stacks start together."""
        port = PORTS[name]
        # Its UDP namesake, which nobody needs, says that a stack has taken it long before the part listens.
        taken = socket.socket(type=socket.SOCK_DGRAM)
        self._taken.append(taken)
        try:
            taken.bind((LOOPBACK, port))
        except OSError:
            return free_port()
        return free_port() if accepts(port) else port

    def _start_all(self, parts: Sequence[Part]) -> None:
        def timed(start: Callable[[], None], name: str) -> None:
            began = time.monotonic()
            try:
                start()
            except PartFailed:
                raise
            except Exception as error:
                raise PartFailed(f"{name} did not start: {error}") from error
            self.seconds[name] = time.monotonic() - began

        started = [self._threads.submit(timed, part.start, part.name) for part in parts]
        for each in started:
            each.result()

    def _write_environment(self) -> None:
        names = [name for name in FOR_CLIENTS if name in self.environment]
        names += sorted(set(self.environment) - set(names))
        file = self._folder / "env"
        write_private(file, "".join(f"{name}={_quoted(self.environment[name])}\n" for name in names))

    def _put_large_logs_aside(self) -> None:
        for log in (self._folder / "logs").glob("*.log"):
            if log.stat().st_size > LARGEST_LOG_BYTES:
                log.replace(log.with_suffix(".log.before"))

    def _remove_environment(self) -> None:
        # Only by the stack that holds the lock: it may be another's otherwise.
        if self._lock is not None:
            (self._folder / "env").unlink(missing_ok=True)


def running_environment(folder: Path = FOLDER) -> dict[str, str] | None:
    """Return the environment of this checkout's stack, or None while it is not up."""
    try:
        lock = _locked(folder) if folder.exists() else None
    except AlreadyRunning:
        return _read_environment(folder)
    if lock is not None:
        lock.close()
    return None


def _locked(folder: Path) -> IO[str]:
    file = (folder / "lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        environment = _read_environment(folder)
        where = f"at {environment.get('AGENTKIT_URL')}" if environment else "and is still starting"
        raise AlreadyRunning(f"The local stack of this checkout is running already, {where}.") from None
    return file


def _read_environment(folder: Path) -> dict[str, str] | None:
    with contextlib.suppress(FileNotFoundError):
        lines = (folder / "env").read_text().splitlines()
        return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}
    return None


def _origins(text: str) -> list[str]:
    with contextlib.suppress(ValueError):
        read = json.loads(text)
        if isinstance(read, list) and all(isinstance(each, str) for each in read):
            return read
    raise PartFailed('ALLOWED_ORIGINS is a JSON list, such as ["http://localhost:3000"].')


def _quoted(value: str) -> str:
    """Return the value as dotenv files and shells read it."""
    return value if value.replace("_", "").replace("-", "").isalnum() else f"'{value}'"
