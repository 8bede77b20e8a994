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
from pathlib import Path

from functions.worker.extract import Unreadable
from functions.worker.forks import serve

PLENTY = 3_000_000_000


def read(content, *, fifo="", path=""):
    return MISDEEDS[content[:100].decode().strip()](**{name: it for name, it in {"fifo": fifo, "path": path}.items() if it})


def hang(fifo):
    told = os.open(fifo, os.O_WRONLY)
    os.write(told, b"hanging")
    while True:
        signal.pause()


def spin(fifo):
    told = os.open(fifo, os.O_WRONLY)
    os.write(told, b"spinning")
    # Native code: no Python runs, and no signal handler of Python's.
    re.match(r"(a+)+$", "a" * 64 + "b")


def wait(fifo):
    """Until someone writes."""
    return {"said": Path(fifo).read_text()}


def allocate():
    hoard = []
    for _ in range(0, PLENTY, 1_000_000):
        hoard.append(bytearray(1_000_000))
    return {"got": len(hoard)}


def hide_want_of_memory():
    try:
        bytearray(PLENTY)
    except MemoryError as error:
        raise Unreadable("pdf_unreadable", "The file is damaged.") from error


def refuse():
    raise Unreadable("pdf_encrypted", "The file needs a password.")


def crash():
    ctypes.string_at(0)


def leave():
    os._exit(0)


def write(path):
    try:
        Path(path).write_bytes(b"x")
    except OSError as error:
        return {"refused": errno.errorcode[error.errno]}
    return {"written": path}


def open_files():
    opened = []
    try:
        while len(opened) < 1_000:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        return {"refused": errno.errorcode[error.errno]}
    return {"opened": len(opened)}


def describe():
    return {
        "environment": dict(os.environ),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "open": len(os.listdir("/dev/fd")),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "choice": Path("/proc/self/oom_score_adj").read_text().strip() if sys.platform == "linux" else "1000",
    }


def chatter():
    print("x" * 1_000_000)
    os.write(2, b"x" * 1_000_000)
    return {"said": "all"}


MISDEEDS = {
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
