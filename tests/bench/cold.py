"""Cold starts: what importing a light function costs, and how soon a new sandbox of the chat is of use.

    python -m infra bench cold

Every start is compared with that of the least FastAPI app on Mangum (`bare_app`), under the same streaming loop. Starts
take turns, so that a busy machine hurts all alike; bytecode is compiled before.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time

from infra.functions import ROOT, declared
from tests.bench.parts import Parts, parts, question
from tests.bench.row import Row
from tests.bench.sandbox import sandbox
from tests.parts.model import Json, Reply, says
from tests.parts.runtime_api import url_event

LIGHT = {function.name for function in declared() if function.has_url and set(function.extras) <= {"aws"}}
BARE = "tests.bench.bare_app"
IMPORTS = 9
STARTS = 7


def run() -> list[Row]:
    """Measure imports, then starts; about a minute."""
    with parts() as up:
        return [*_imports(), *asyncio.run(_starts(up))]


def _imports() -> list[Row]:
    modules = {name: f"functions.{name}.app" for name in sorted(LIGHT)}
    seconds: dict[str, list[float]] = {module: [] for module in (BARE, *modules.values())}
    for round_ in range(IMPORTS + 1):
        for module, taken in seconds.items():
            used = _import_cpu_seconds(module)
            if round_:  # the first one compiles
                taken.append(used)
    bare = min(seconds[BARE])
    return [
        Row(
            "cold",
            f"import CPU of {name}, min",
            min(seconds[module]) * 1000,
            "ms",
            IMPORTS,
            bare * 1000,
            "bare FastAPI + Mangum",
            budget=2.0,
            bounds="ratio",
            aim=1.6,
        )
        for name, module in modules.items()
    ]


def _import_cpu_seconds(module: str) -> float:
    """Return the CPU time, user's and system's, of an interpreter that imports that module and ends."""
    process = subprocess.Popen([sys.executable, "-c", f"import {module}"], cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"importing {module} ended with status {process.returncode}")
    return used.ru_utime + used.ru_stime


async def _starts(up: Parts) -> list[Row]:
    bare, chat, model = [], [], []
    for round_ in range(STARTS + 1):
        first_byte = await _bare_start(up)
        answered, asked = await _chat_start(up)
        if round_:
            bare.append(first_byte)
            chat.append(answered)
            model.append(asked)
    against = statistics.median(bare) * 1000, "bare app's first byte"
    return [
        Row(
            "cold",
            "chat: process start to first byte",
            statistics.median(chat) * 1000,
            "ms",
            STARTS,
            *against,
            budget=2.5,
            bounds="ratio",
        ),
        Row(
            "cold",
            "chat: process start to the model being asked",
            statistics.median(model) * 1000,
            "ms",
            STARTS,
            *against,
            budget=7.0,
            bounds="ratio",
            aim=5.0,
        ),
    ]


async def _bare_start(up: Parts) -> float:
    async with sandbox(f"{BARE}.handler", up.environment, up.folder) as started:
        pieces = started.pieces(url_event("/"))
        await anext(pieces)
        first_byte = time.perf_counter()
        async for _ in pieces:
            pass
    return first_byte - started.began


async def _chat_start(up: Parts) -> tuple[float, float]:
    """Return the seconds to the first byte of a real answer, and to the first request at the model."""
    asked: list[float] = []

    def answer(_: Json) -> Reply:
        asked.append(time.perf_counter())
        return says("The lease ends on 30 September 2027.")

    up.model.otherwise = answer
    async with sandbox("functions.chat.app.handler", up.environment, up.folder) as started:
        pieces = started.pieces(question())
        await anext(pieces)
        first_byte = time.perf_counter()
        async for _ in pieces:
            pass
    return first_byte - started.began, asked[0] - started.began
