"""A part of the local stack: a child process on loopback, started, waited for, watched, stopped by its own pid.

Each part's module has a class that is a `Server`, or holds a `Process` or two, and says what a client needs to reach
it (`environment`).
"""

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

LOOPBACK = "127.0.0.1"
# Above them, outgoing connections are given theirs: one of those might be taken before its server has started.
NAMED_PORTS = range(20_000, 32_768)
PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.02
STOP_SECONDS = 10.0


class PartFailed(RuntimeError):  # noqa: N818  # reads as what happened
    """A part did not start, or died; the message names it and ends with the last lines of its log."""


class Part(Protocol):
    """What the stack asks of each of its parts."""

    name: str

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which clients find this part; known before it starts."""

    def start(self) -> None:
        """Return once it answers; raise PartFailed when it does not."""

    def stop(self) -> None:
        """End it and wait for its end; does nothing when it is not running."""

    def failure(self) -> str | None:
        """Why it is not running any more, or None while it runs."""


def free_port() -> int:
    """Return a loopback port that is free just now, and that the kernel gives to nobody who does not name it."""
    for port in random.SystemRandom().sample(NAMED_PORTS, len(NAMED_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise PartFailed(f"No loopback port from {NAMED_PORTS.start} to {NAMED_PORTS.stop - 1} is free.")


def accepts(port: int) -> bool:
    """Say whether something listens on that loopback port."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def write_private(file: Path, text: str) -> None:
    """Write a file that nobody else may read, and that is whole from the first moment that it is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f"{file.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600)
    scratch.write_text(text)
    scratch.replace(file)


class Server:
    """A part that is one of our own modules, serving one port in a process of its own."""

    name: str

    def __init__(
        self, module: str, *arguments: str | Path, port: int | None, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        """`arguments`: what the module is given after its port."""
        self.port = port or free_port()
        self._process = Process(self.name, [sys.executable, "-m", module, str(self.port), *arguments], log=log, env=env)

    def start(self) -> None:
        """Return once it answers."""
        self._process.start(lambda: accepts(self.port))

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def failure(self) -> str | None:
        """Why it is not running any more, or None while it runs."""
        return self._process.failure()


class Process:
    """A child process with a log file, that cannot outlive its parent (on Linux)."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self._command = [str(word) for word in command]
        self._log = log
        self._env = {**os.environ, **(env or {})}
        self._user = user
        self._stop_signal = stop_signal
        self._child: subprocess.Popen[bytes] | None = None
        self._began_at = 0  # in the log, which goes on over the child's lives

    @property
    def pid(self) -> int | None:
        """The child's process id while it has one."""
        return self._child.pid if self._child else None

    def start(self, answers: Callable[[], bool], *, within_seconds: float = 30.0) -> None:
        """Start the child and return once `answers()` is true.

        Raises PartFailed when it ends first or takes too long.
        """
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._began_at = log.tell()
            self._child = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal reaches us alone; we stop the parts in order.
                start_new_session=True,
                preexec_fn=self._die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # only prctl
                user=self._user,
                extra_groups=[] if self._user else None,
                # Another user's process must not start in a folder that they may not enter.
                cwd="/" if self._user else None,
            )
        deadline = time.monotonic() + within_seconds
        while not answers():
            if reason := self.failure():
                raise PartFailed(reason)
            if time.monotonic() > deadline:
                self.stop()
                raise PartFailed(f"{self.name} did not answer within {within_seconds:g} s.\n{self.log_tail()}")
            time.sleep(POLL_SECONDS)

    def _die_with_parent(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, self._stop_signal)

    def stop(self) -> None:
        """End the child by its own signal, by SIGKILL after 10 s, and wait for its end."""
        child, self._child = self._child, None
        if child is None or child.poll() is not None:
            return
        child.send_signal(self._stop_signal)
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def failure(self) -> str | None:
        """Return why the child is not running, or None while it runs."""
        if self._child is None:
            return f"{self.name} is not running."
        code = self._child.poll()
        return None if code is None else f"{self.name} ended with status {code}.\n{self.log_tail()}"

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of what the child printed, and none of what an earlier one did."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(self._began_at)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
