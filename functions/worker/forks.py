"""Processes that each read one document and may only take so much: the side that `sandbox` starts and speaks to.

The process imports the readers once and never looks into a document. For each it is handed two sockets, and forks. The
child takes the request from the first, lowers its own limits, and writes its answer there as JSON. On the second the
process says that the child has begun and, at the end, how it ended; when the other side hangs up there, the child is
killed. When whoever started it is gone, it kills its children and ends.
"""

import ctypes
import gc
import json
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from functions.worker.extract import Unreadable

Json = dict[str, Any]
Read = Callable[..., Json]
"""Takes a document's bytes, and the request's facts by name; what it returns is the answer."""

# Each may take the memory that a document may: ten hostile ones at once would be the end of the worker.
AT_ONCE = 2
# A request: how long its facts are, how long the document is; then both.
REQUEST = struct.Struct("!IQ")
# Told when a child has begun.
BEGUN = b"!"
# Told when it has ended: the status that `wait` knows, the most memory that was resident, seconds of the processor.
ENDED = struct.Struct("!iQd")
# An answer that says why there is no text. FAILED is an error that no reader means to raise.
UNREADABLE, FAILED = "unreadable", "failed"
TOO_MUCH_MEMORY = ("too_large", "The file takes more memory to read than a document may.")

# Of this process and of each child: sockets, and modules and fonts that are loaded late.
OPEN_FILES = 32
TRACEBACK_CHARACTERS = 8_000
# From linux/prctl.h.
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Child:
    """A process that reads one document."""

    pid: int
    watch: socket.socket
    """Hung up by the worker when nobody waits any more."""
    life: int
    """A pipe that ends when the process does."""


def serve(read: Read) -> None:
    """Fork a reader for each document that is handed in, until standard input, a socket, says that no other comes."""
    control = socket.socket(fileno=os.dup(0))
    library = ctypes.CDLL(None)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    # What was imported is never garbage; a child that looked for some would copy every page it shares.
    gc.collect()
    gc.freeze()
    children: list[Child] = []
    asked = True
    while asked:
        signs = {sign: child for child in children for sign in (child.watch, child.life)}
        ready, _, _ = select.select([*signs, *([control] if len(children) < AT_ONCE else [])], [], [])
        for child in {signs[sign].pid: signs[sign] for sign in ready if sign is not control}.values():
            _end(child)
            children.remove(child)
        if control in ready:
            asked = _accept(control, children, read, library)
    for child in children:
        _end(child)


def _accept(control: socket.socket, children: list[Child], read: Read, library: ctypes.CDLL) -> bool:
    """Fork a child for the next document; returns False when there will be none."""
    _, files, _, _ = socket.recv_fds(control, 1, 2)
    if not files:
        return False
    work, watch = (socket.socket(fileno=file) for file in files)
    life, death = os.pipe()
    parent = os.getpid()
    if not (pid := os.fork()):
        _become_reader(work.fileno(), death, parent, read, library)
    work.close()
    os.close(death)
    children.append(Child(pid, watch, life))
    with suppress(OSError):
        watch.send(BEGUN)
    return True


def _end(child: Child) -> None:
    """Leave nothing of a child, and tell how it ended to whoever still listens."""
    # One that ended by itself keeps its status.
    os.kill(child.pid, signal.SIGKILL)
    _, status, used = os.wait4(child.pid, 0)
    os.close(child.life)
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with child.watch, suppress(OSError):
        child.watch.send(ENDED.pack(status, peak, used.ru_utime + used.ru_stime))


def _become_reader(work: int, death: int, parent: int, read: Read, library: ctypes.CDLL) -> NoReturn:
    """Answer the one request, and end: with 0 when all of the answer was given."""
    status = 1
    try:
        if sys.platform == "linux":
            library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            # No other child's sockets are this one's, and what a library prints about a file is nobody's log.
            os.dup2(work, 0)
            os.dup2(1, 2)
            os.dup2(death, 3)
            os.closerange(4, OPEN_FILES)
            _answer(socket.socket(fileno=0), read)
            status = 0
    finally:
        os._exit(status)


def _answer(work: socket.socket, read: Read) -> None:
    with work.makefile("rb") as request:
        facts_bytes, content_bytes = REQUEST.unpack(request.read(REQUEST.size))
        facts = json.loads(request.read(facts_bytes))
        _limit(memory_bytes=facts.pop("memory_bytes"), seconds=facts.pop("seconds"))
        try:
            answer = _encoded(read(request.read(content_bytes), **facts))
        except Exception as error:  # noqa: BLE001  # a file can make a reader fail in any way there is
            if _is_for_want_of_memory(error):
                answer = _encoded({UNREADABLE: TOO_MUCH_MEMORY})
            elif isinstance(error, Unreadable):
                answer = _encoded({UNREADABLE: (error.code, error.sentence)})
            else:
                answer = _encoded({FAILED: traceback.format_exc()[-TRACEBACK_CHARACTERS:]})
    work.sendall(answer)


def _encoded(answer: Json) -> bytes:
    return json.dumps(answer, ensure_ascii=False).encode(errors="replace")


def _limit(*, memory_bytes: int, seconds: float) -> None:
    """Lower what this process may take, for good."""
    processor = math.ceil(seconds)
    limits = {
        resource.RLIMIT_CPU: processor,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + memory_bytes
        # Should the machine's own memory end first, this process goes and not the worker.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    for limit, most in limits.items():
        resource.setrlimit(limit, (most, most))


def _is_for_want_of_memory(error: BaseException | None) -> bool:
    """Say whether that is the reason, under whatever other error."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None
