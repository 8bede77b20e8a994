"""What our chat adds to the model: to the first token, and in CPU for each token streamed.

    python -m infra bench chat

Beside it, under the same streaming loop and over the same model: `plain_app`, what one writes by hand with LangChain
and FastAPI, without anything else that we do; `proxy_app`, which passes the model's bytes on; and the model itself.
"""

import asyncio
import statistics
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

import httpx

from tests.bench.parts import Parts, parts, question
from tests.bench.row import Row
from tests.bench.sandbox import Sandbox, sandbox
from tests.parts.model import says

APPS = {
    "chat": "functions.chat.app.handler",
    "plain": "tests.bench.plain_app.handler",
    "proxy": "tests.bench.proxy_app.handler",
}
QUESTIONS = 60
ANSWERS = 5
SENTENCE = "The lease ends on 30 September 2027, as both of them had agreed. "
TOKENS = len(says(SENTENCE * 50).deltas)
# 200 tokens a second: a fast model, each of whose tokens comes alone.
PAUSE_SECONDS = 0.005
FIRST_WORD = "Certainly"
# What it does beside streaming the answer, and the plain app does not.
BESIDES = "with sign-in, limits, history"
PLAIN = "plain app without any of these"
PROXY = "byte-passing proxy"


def run() -> list[Row]:
    """Measure both; about two minutes."""
    with parts() as up:
        return asyncio.run(_run(up))


async def _run(up: Parts) -> list[Row]:
    async with AsyncExitStack() as stack:
        apps = {
            name: await stack.enter_async_context(sandbox(handler, up.environment, up.folder))
            for name, handler in APPS.items()
        }
        return [*await _first_tokens(up, apps), *await _cpu(up, apps)]


async def _first_tokens(up: Parts, apps: Mapping[str, Sandbox]) -> list[Row]:
    up.model.otherwise = lambda _: says(FIRST_WORD)
    direct: list[float] = []
    first: dict[str, list[tuple[float, float]]] = {name: [] for name in apps}
    async with httpx.AsyncClient() as client:
        for round_ in range(QUESTIONS + 1):
            alone = await _of_model(up, client)
            measured = {name: await _of_app(app) for name, app in apps.items()}
            if round_:  # the first one loads what is loaded late
                direct.append(alone)
                for name, taken in measured.items():
                    first[name].append(taken)
    alone = statistics.median(direct) * 1000
    added = {name: statistics.median(token for _, token in taken) * 1000 - alone for name, taken in first.items()}
    after = {name: statistics.median(token - byte for byte, token in taken) * 1000 for name, taken in first.items()}
    name = "first token, after the model's own"
    first_byte = statistics.median(byte for byte, _ in first["chat"]) * 1000
    return [
        _beside_plain(name, added, QUESTIONS),
        _beside_proxy(name, added, QUESTIONS),
        Row("chat", "first byte", first_byte, "ms", QUESTIONS, alone, "the model's first token"),
        Row("chat", "first byte to first token", after["chat"], "ms", QUESTIONS, after["plain"], "plain app"),
    ]


async def _cpu(up: Parts, apps: Mapping[str, Sandbox]) -> list[Row]:
    up.model.otherwise = lambda _: says(SENTENCE * 50)
    up.model.pause_seconds = PAUSE_SECONDS
    used: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(ANSWERS):
        for name, app in apps.items():
            before = app.cpu_seconds()
            await _of_app(app)
            used[name].append(app.cpu_seconds() - before)
    per_thousand = {name: statistics.median(seconds) * 1000 / TOKENS * 1000 for name, seconds in used.items()}
    name = "CPU of 1,000 streamed tokens"
    return [_beside_plain(name, per_thousand, ANSWERS), _beside_proxy(name, per_thousand, ANSWERS)]


def _beside_plain(name: str, ms: Mapping[str, float], samples: int) -> Row:
    beside = ms["plain"], PLAIN
    return Row("chat", f"{name} ({BESIDES})", ms["chat"], "ms", samples, *beside, budget=1.0, bounds="ratio")


def _beside_proxy(name: str, ms: Mapping[str, float], samples: int) -> Row:
    return Row("chat", name, ms["chat"], "ms", samples, ms["proxy"], PROXY)


async def _of_model(up: Parts, client: httpx.AsyncClient) -> float:
    """Return the seconds to the first token of the model itself."""
    body = {"model": "any", "stream": True, "messages": [{"role": "user", "content": "When does the lease end?"}]}
    began = time.perf_counter()
    first_token = 0.0
    async with client.stream(
        "POST", f"{up.model.environment['OPENAI_BASE_URL']}/chat/completions", json=body
    ) as answer:
        async for piece in answer.aiter_raw():
            if not first_token and FIRST_WORD.encode() in piece:
                first_token = time.perf_counter() - began
    return first_token


async def _of_app(app: Sandbox) -> tuple[float, float]:
    """Return the seconds to the first byte and, where the answer begins with that word, to its first token."""
    began = time.perf_counter()
    first_byte = first_token = 0.0
    async for piece in app.pieces(question()):
        first_byte = first_byte or time.perf_counter() - began
        if not first_token and FIRST_WORD.encode() in piece:
            first_token = time.perf_counter() - began
    return first_byte, first_token
