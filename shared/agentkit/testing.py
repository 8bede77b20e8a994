"""A Redis in memory, for the tests of an app: it keeps what the real one promises to this library, and needs nothing.

    with memory_redis() as redis:
        client.post("/v1/search", ...)       limits, cache and runs work
        redis.pass_time(60)                  every key is a minute older
        redis.away = True                    what happens without Redis

It knows the commands and scripts that this library sends, and refuses others by name. The same tests hold it and a real
Redis to the same promises.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import httpx
from upstash_ratelimit import SlidingWindow

from agentkit import redis, runs, settings

ENVIRONMENT = {"UPSTASH_REDIS_REST_URL": "http://redis.memory", "UPSTASH_REDIS_REST_TOKEN": "any"}

Entry: TypeAlias = tuple[int, list[str]]
Reply: TypeAlias = Any


class Refused(Exception):  # noqa: N818  # reads as what happened
    """What Redis says to a command that it will not run."""


@dataclass
class Value:
    """What stands under a key."""

    content: str | list[Entry]
    """A string, or a stream's entries: their places and their fields."""
    ends: float = math.inf


class MemoryRedis(httpx.AsyncBaseTransport):
    """Upstash as far as this library uses it."""

    def __init__(self) -> None:
        self.away = False
        self._values: dict[str, Value] = {}
        self._passed = 0.0

    def pass_time(self, seconds: float) -> None:
        """Let that much time pass for every key."""
        self._passed += seconds

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a pipeline as Upstash does."""
        if self.away:
            raise httpx.ConnectError("Redis is away", request=request)
        return httpx.Response(200, json=[self._item(command) for command in json.loads(await request.aread())])

    def run(self, name: str, *words: Any) -> Reply:  # noqa: ANN401  # a command's words, as JSON has them
        """Run one command; raises Refused."""
        command = self._commands.get(name.upper())
        if command is None:
            raise Refused(f"ERR unknown command '{name}' for a Redis in memory")
        return command(*(str(word) for word in words))

    def _item(self, command: list[Any]) -> dict[str, Any]:
        try:
            return {"result": self.run(*command)}
        except Refused as refusal:
            return {"error": str(refusal)}
        except (TypeError, ValueError):
            return {"error": f"ERR wrong number or kind of arguments for '{command[0]}'"}

    @cached_property
    def _commands(self) -> dict[str, Callable[..., Reply]]:
        return {
            "PING": lambda: "PONG",
            "GET": self._string,
            "SET": self._set,
            "DEL": lambda *keys: sum(self._values.pop(key, None) is not None for key in keys if self._find(key)),
            "EXISTS": lambda *keys: sum(self._find(key) is not None for key in keys),
            "EXPIRE": lambda key, seconds: self._expire(key, float(seconds)),
            "PEXPIRE": lambda key, milliseconds: self._expire(key, float(milliseconds) / 1_000),
            "TTL": self._seconds_left,
            "INCRBY": self._increase,
            "INCR": lambda key: self._increase(key, "1"),
            "XADD": self._add_entry,
            "XLEN": lambda key: len(self._stream(key)),
            "XRANGE": self._entries,
            "EVAL": self._evaluate,
        }

    @property
    def _now(self) -> float:
        return time.monotonic() + self._passed

    def _find(self, key: str) -> Value | None:
        value = self._values.get(key)
        if value is not None and value.ends <= self._now:
            del self._values[key]
            return None
        return value

    def _string(self, key: str) -> str | None:
        value = self._find(key)
        if value is None:
            return None
        if not isinstance(value.content, str):
            raise Refused("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value.content

    def _stream(self, key: str) -> list[Entry]:
        value = self._find(key)
        if value is None:
            return []
        if isinstance(value.content, str):
            raise Refused("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value.content

    def _set(self, key: str, content: str, *options: str) -> str:
        match options:
            case ():
                ends = math.inf
            case (unit, count) if unit.upper() == "EX":
                ends = self._now + float(count)
            case _:
                raise Refused("ERR syntax error")
        self._values[key] = Value(content, ends)
        return "OK"

    def _expire(self, key: str, seconds: float) -> int:
        value = self._find(key)
        if value is None:
            return 0
        value.ends = self._now + seconds
        return 1

    def _seconds_left(self, key: str) -> int:
        value = self._find(key)
        if value is None:
            return -2
        return -1 if math.isinf(value.ends) else round(value.ends - self._now)

    def _increase(self, key: str, by: str) -> int:
        try:
            increased = int(self._string(key) or "0") + int(by)
        except ValueError:
            raise Refused("ERR value is not an integer or out of range") from None
        value = self._values.setdefault(key, Value(""))
        value.content = str(increased)
        return increased

    def _add_entry(self, key: str, place: str, *fields: str) -> str:
        entries = self._stream(key)
        number = int(place.removesuffix("-0"))
        if entries and number <= entries[-1][0]:
            raise Refused("ERR The ID specified in XADD is equal or smaller than the target stream top item")
        entries.append((number, list(fields)))
        self._values.setdefault(key, Value(entries))
        return f"{number}-0"

    def _entries(self, key: str, first: str, last: str, *options: str) -> list[list[Any]]:
        after = -1 if first == "-" else int(first.removeprefix("("))
        count = int(options[1]) if options else None
        if last != "+" or not (first == "-" or first.startswith("(")):
            raise Refused("ERR a Redis in memory reads a stream to its end")
        return [[f"{number}-0", fields] for number, fields in self._stream(key) if number > after][:count]

    def _evaluate(self, script: str, count: str, *words: str) -> Reply:
        twin = SCRIPTS.get(script)
        if twin is None:
            raise Refused("ERR a Redis in memory knows this library's scripts only")
        keys, values = words[: int(count)], words[int(count) :]
        return twin(self.run, keys, values)


@contextmanager
def memory_redis() -> Iterator[MemoryRedis]:
    """Everything inside finds a Redis in memory, empty at first, whatever the environment says."""
    memory = MemoryRedis()
    outside = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    redis.use(memory)
    settings.forget()
    try:
        yield memory
    finally:
        redis.use(None)
        for name, value in outside.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        settings.forget()


# What the scripts do, in Python: a word for a word, so that they can be read side by side.
Run: TypeAlias = Callable[..., Reply]
Words: TypeAlias = tuple[str, ...]


def _start(run: Run, keys: Words, values: Words) -> list[str]:
    live_key, first_key = keys
    run_id, live_seconds, kept_seconds = values
    keyed = live_key != first_key
    if keyed and (first := run("GET", first_key)):
        return ["same", first]
    if live := run("GET", live_key):
        return ["busy", live]
    run("SET", live_key, run_id, "EX", live_seconds)
    if keyed:
        run("SET", first_key, run_id, "EX", kept_seconds)
    return ["new", run_id]


def _append(run: Run, keys: Words, values: Words) -> str:
    live_key, stop_key, stream = keys
    run_id, live_seconds, kept_seconds, place, *entries = values
    held = run("XLEN", stream)
    if held < int(place) - 1:
        return "lost"
    for number, entry in enumerate(entries[held - int(place) + 1 :], held + 1):
        run("XADD", stream, f"{number}-0", "f", entry)
    run("EXPIRE", stream, kept_seconds)
    if run("GET", live_key) in {None, run_id}:
        run("SET", live_key, run_id, "EX", live_seconds)
    return "stop" if run("GET", stop_key) == run_id else "go"


def _finish(run: Run, keys: Words, values: Words) -> str:
    live_key, stream, first_key = keys
    run_id, ended, kept_seconds, place, *entries = values
    held = run("XLEN", stream)
    if held < int(place) - 1:
        ended = "interrupted"
    else:
        for entry in entries[held - int(place) + 1 :]:
            held += 1
            run("XADD", stream, f"{held}-0", "f", entry)
    if run("GET", live_key) == run_id:
        run("DEL", live_key)
    if held == 0 and ended == "failed" and run("GET", first_key) == run_id:
        run("DEL", first_key)
    run("XADD", stream, f"{held + 1}-0", "e", ended)
    run("EXPIRE", stream, kept_seconds)
    return ended


def _stop(run: Run, keys: Words, values: Words) -> int:
    live_key, stop_key = keys
    live = run("GET", live_key)
    if not live:
        return 0
    run("SET", stop_key, live, "EX", values[0])
    return 1


def _look(run: Run, keys: Words, values: Words) -> list[Any]:
    live_key, stream = keys
    return [run("GET", live_key) or "", run("XRANGE", stream, f"({values[0]}", "+", "COUNT", values[1])]


def _count(run: Run, keys: Words, values: Words) -> int:
    current_key, previous_key = keys
    tokens, now, window, increment = (int(value) for value in values)
    current, previous = (int(run("GET", key) or 0) for key in (current_key, previous_key))
    previous = math.floor((1 - now % window / window) * previous)
    if previous + current >= tokens:
        return -1
    counted: int = run("INCRBY", current_key, increment)
    if counted == increment:
        run("PEXPIRE", current_key, window * 2 + 1_000)
    return tokens - (counted + previous)


SCRIPTS: dict[str, Callable[[Run, Words, Words], Reply]] = {
    runs.START: _start,
    runs.APPEND: _append,
    runs.FINISH: _finish,
    runs.STOP: _stop,
    runs.LOOK: _look,
    SlidingWindow.SCRIPT: _count,
}
