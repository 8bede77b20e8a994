"""What files can do to a reader, done on purpose: the document names the misdeed.

A misdeed that lasts opens the FIFO that it is given, and so can be seen to begin, and to end with its process.
"""

import ctypes
import errno
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from functions.worker.extract import Unreadable
from functions.worker.forks import serve

PLENTY = 3_000_000_000


def read(content, *, path=""):
    misdeed = MISDEEDS[content[:100].decode().strip()]
    return misdeed(path) if path else misdeed()


def hang(path):
    told = os.open(path, os.O_WRONLY)
    os.write(told, b"hanging")
    while True:
        signal.pause()


def spin(path):
    told = os.open(path, os.O_WRONLY)
    os.write(told, b"spinning")
    # Native code: no Python runs, and no signal handler of Python's.
    re.match(r"(a+)+$", "a" * 64 + "b")


def wait(path):
    """Until someone writes."""
    return {"said": Path(path).read_text()}


def allocate():
    return {"got": len([bytearray(1_000_000) for _ in range(0, PLENTY, 1_000_000)])}


def hide_want_of_memory():
    try:
        bytearray(PLENTY)
    except MemoryError as error:
        raise Unreadable("unreadable", "The file is damaged.") from error


def refuse():
    raise Unreadable("encrypted", "The file needs a password.")


def crash():
    ctypes.string_at(0)


def leave():
    os._exit(0)


def write(path):
    try:
        Path(path).write_bytes(b"x")
    except OSError as error:
        return {"too large": error.errno == errno.EFBIG}
    return {"written": path}


def open_files():
    try:
        opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(1_000)]
    except OSError as error:
        return {"too many": error.errno == errno.EMFILE}
    return {"opened": len(opened)}


def describe():
    return {
        "environment": dict(os.environ),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "open": len(list(Path("/dev/fd").iterdir())),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "choice": Path("/proc/self/oom_score_adj").read_text().strip() if sys.platform == "linux" else "1000",
    }


def chatter():
    for output in (1, 2):
        os.write(output, b"x" * 1_000_000)
    return {"said": "all"}


MISDEEDS: dict[str, Callable[..., Any]] = {
    "allocate": allocate,
    "abort": os.abort,
    "answer endlessly": lambda: {"text": "x" * 40_000_000},
    "answer half a character": lambda: {"text": "a\ud800b"},
    "be killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "chatter": chatter,
    "crash": crash,
    "describe": describe,
    "divide by zero": lambda: 1 // 0,
    "exit": sys.exit,
    "hang": hang,
    "hide want of memory": hide_want_of_memory,
    "leave": leave,
    "open files": open_files,
    "refuse": refuse,
    "spin": spin,
    "wait": wait,
    "write": write,
}

if __name__ == "__main__":
    serve(read)
