"""Reading a document apart: in a process of its own, with limits, so that no file can harm the worker.

    reading = await read_apart(content, announced="application/pdf", filename="lease.pdf", title="Lease", sizes=sizes)

An archive bomb, an entity that expands to gigabytes, a crash in native code or a pattern that never ends is one failure
of one document: `too_large`, `took_too_long` or `unreadable`. A process that has imported the readers stays warm and is
forked for each document, which costs a few milliseconds; it never sees the worker's keys and secrets. What comes back
is JSON of a bounded size.
"""

import asyncio
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from agentkit import telemetry
from agentkit.settings import ParseSettings, load
from functions.worker.chunk import Passage, Sizes
from functions.worker.extract import Unreadable
from functions.worker.forks import BEGUN, ENDED, FAILED, REQUEST, TOO_MUCH_MEMORY, UNREADABLE, Json

# Four million characters, overlaps and headings, at up to four bytes each.
ANSWER_BYTES = 32_000_000
RECEIVED_BYTES = 262_144
# Of the environment, what a Python may need to find its own libraries and modules.
INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
# How native code ends that gets no memory.
WITHOUT_MEMORY = {signal.SIGABRT, signal.SIGTRAP, signal.SIGILL}

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a document says."""

    media_type: str
    title: str | None
    """What it calls itself, if it does."""
    pages: int | None
    passages: list[Passage]


class ReadersGone(RuntimeError):  # noqa: N818  # reads as what happened
    """The process that forks the readers died; the document may be read by the next, at another try."""


class Sandbox:
    """A process that has imported the readers and is forked for each document: started when first needed."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    async def answer(self, content: bytes, **facts: object) -> Json:
        """Return what the module reads in that document.

        Raises Unreadable when it cannot, or takes too much; ReadersGone. Cancelled, the reading ends at once.
        """
        limits = load(ParseSettings)
        facts |= {"memory_bytes": limits.parse_memory_bytes, "seconds": limits.parse_seconds}
        loop = asyncio.get_running_loop()
        with self._reader() as (work, watch):
            # While the readers are imported, or read other documents, this one's time does not run.
            if await loop.sock_recv(watch, len(BEGUN)) != BEGUN:
                raise ReadersGone
            try:
                async with asyncio.timeout(limits.parse_seconds):
                    await _send(work, content, facts)
                    answer = await _received(work)
                    ended = await loop.sock_recv(watch, ENDED.size)
            except TimeoutError:
                log.info("document.given_up", seconds=limits.parse_seconds)
                raise _took_too_long() from None
        if len(ended) != ENDED.size:
            raise ReadersGone
        status, peak_bytes, processor_seconds = ENDED.unpack(ended)
        code = os.waitstatus_to_exitcode(status)
        processor_seconds = round(processor_seconds, 3)
        log.info("document.read", exit=code, peak_bytes=peak_bytes, processor_seconds=processor_seconds)
        if code == 0:
            return _judged(answer)
        raise _why(-code, late=processor_seconds >= limits.parse_seconds)

    def close(self) -> None:
        """End the process, and what it has forked."""
        if self._control is not None and self._process is not None:
            self._control.close()
            self._process.wait()
            self._control = self._process = None

    @contextmanager
    def _reader(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Have a process forked; gives the socket that it reads and writes, and one that tells of it.

        It is killed when the second is closed.
        """
        with ExitStack() as ours, ExitStack() as theirs:
            pairs = [socket.socketpair() for _ in range(2)]
            for our, their in pairs:
                ours.enter_context(our).setblocking(False)
                theirs.enter_context(their)
            handed = [their.fileno() for _, their in pairs]
            try:
                socket.send_fds(self._started(), [BEGUN], handed)
            except ConnectionError:
                self.close()
                socket.send_fds(self._started(), [BEGUN], handed)
            theirs.close()
            yield pairs[0][0], pairs[1][0]

    def _started(self) -> socket.socket:
        if self._control is None:
            self._control, theirs = socket.socketpair()
            path = os.pathsep.join(str(Path(folder).resolve()) for folder in sys.path)
            environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603  # this project's own module
                    [sys.executable, "-P", "-m", self._module],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=environment | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
                    # A Ctrl-C in a terminal is for the worker, whose end it notices.
                    start_new_session=True,
                )
        return self._control


_readers = Sandbox("functions.worker.reader")
# At the end of the interpreter it would warn of a process that it leaves behind.
atexit.register(_readers.close)


async def read_apart(content: bytes, *, announced: str, filename: str, title: str, sizes: Sizes) -> Reading:
    """Return a document's text in passages, read in a process of its own.

    Raises Unreadable with the reader's own code, or `too_large`, `took_too_long`, `unreadable` when the process ran
    into its limits (PARSE_MEMORY_BYTES, PARSE_SECONDS) or crashed. Cancelled, it kills the process.
    """
    found = await _readers.answer(content, announced=announced, filename=filename, title=title, sizes=asdict(sizes))
    headings = [tuple(path) for path in found["headings"]]
    passages = [
        Passage(text, start, end, page, headings[heading]) for text, start, end, page, heading in found["passages"]
    ]
    return Reading(found["media_type"], found["title"], found["pages"], passages)


def close() -> None:
    """End the process that is kept warm; the next document starts another."""
    _readers.close()


async def _send(work: socket.socket, content: bytes, facts: dict[str, object]) -> None:
    loop = asyncio.get_running_loop()
    encoded = json.dumps(facts).encode()
    # A process that died does not listen; how it ended says why.
    with suppress(ConnectionError):
        await loop.sock_sendall(work, REQUEST.pack(len(encoded), len(content)) + encoded)
        await loop.sock_sendall(work, content)


async def _received(work: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    answer = bytearray()
    with suppress(ConnectionError):
        while part := await loop.sock_recv(work, RECEIVED_BYTES):
            answer += part
            if len(answer) > ANSWER_BYTES:
                raise Unreadable("too_large", "The file has more text than we take.")
    return bytes(answer)


def _judged(received: bytes) -> Json:
    try:
        answer: Json = json.loads(received)
    except ValueError as error:
        # A library that calls exit() leaves half an answer, or none.
        raise _crashed() from error
    if FAILED in answer:
        log.error("document.reader_failed", traceback=answer[FAILED])
        raise _crashed()
    if UNREADABLE in answer:
        raise Unreadable(*answer[UNREADABLE])
    return answer


def _why(number: int, *, late: bool) -> Unreadable:
    """Return what it means that a reader ended by that signal."""
    if number == signal.SIGXCPU or late:
        return _took_too_long()
    # SIGKILL is the kernel's, when the machine itself has no memory left.
    if number in WITHOUT_MEMORY | {signal.SIGKILL}:
        return Unreadable(*TOO_MUCH_MEMORY)
    return _crashed()


def _took_too_long() -> Unreadable:
    return Unreadable("took_too_long", "The file takes longer to read than a document may.")


def _crashed() -> Unreadable:
    return Unreadable("unreadable", "The file cannot be read: it is damaged, or made in a way that we do not know.")
