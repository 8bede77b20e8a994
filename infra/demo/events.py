"""A job followed to its end by the server-sent events that tell of it, as a page does."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

# The stream has a heartbeat every ten seconds.
SILENCE_SECONDS = 30.0

Watch = Callable[[dict[str, Any]], None]
"""Gets the job's state at each event and heartbeat; what it raises ends the following."""


@dataclass(frozen=True, slots=True)
class Followed:
    """A job that is ready, and what was told of it before."""

    job: dict[str, Any]
    told: list[dict[str, Any]]
    """Its states as events of progress told them."""


def follow(http: httpx.Client, job_id: str, filename: str, watch: Watch) -> Followed:
    """Return once the job is ready, asking again whenever a stream ends before that.

    Raises RuntimeError, naming the file, when the job has ended otherwise or cannot be seen any more.
    """
    told: list[dict[str, Any]] = []
    state: dict[str, Any] = {}
    while True:
        for name, data in _stream(http, job_id):
            if name == "error":
                raise RuntimeError(f"{filename} cannot be followed any more: {data['detail']}")
            state = data or state
            if name == "progress":
                told.append(state)
            watch(state)
            if name == "done" and state["status"] == "ready":
                return Followed(state, told)
            if name == "done":
                raise RuntimeError(f"{filename}: {state['error']['detail'] if state['error'] else 'it was cancelled.'}")
            if name == "continue":
                break
        else:
            raise RuntimeError(f"{filename}: its job's events broke off.")


def _stream(http: httpx.Client, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    path = f"/v1/jobs/{job_id}/events"
    with http.stream("GET", path, timeout=SILENCE_SECONDS) as response:
        if response.is_error:
            response.read()
            raise RuntimeError(f"GET {path} answered {response.status_code}: {response.text}")
        yield from _events(response.iter_lines())


def _events(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each event's name and data; a heartbeat, which is a comment, has neither."""
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)
        elif line.startswith(":"):
            yield "", {}
