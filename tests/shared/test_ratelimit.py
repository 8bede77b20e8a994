"""A caller may ask so often and is told so; what is left, and when to come back, is true."""

import asyncio
from types import SimpleNamespace

import httpx
import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse

from agentkit import ratelimit, redis
from agentkit.auth import CurrentCaller
from agentkit.errors import NotFound
from agentkit.http import create_app
from agentkit.ratelimit import limit
from tests.parts.people import ADA, BOB, bearer, caller
from tests.parts.redis import redis_away

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("people")]
either = pytest.mark.usefixtures("either_redis")

app = create_app("sample")


@app.post("/sample", dependencies=[limit("sample", per_minute=3)])
async def sample(caller: CurrentCaller) -> str:
    return str(caller.id)


@app.post("/other", dependencies=[limit("other", per_minute=3)])
async def other() -> str:
    return "other"


@app.post("/missing", dependencies=[limit("missing", per_minute=3)])
async def missing() -> None:
    raise NotFound("No such thing.")


@app.post("/stream", dependencies=[limit("stream", per_minute=3)])
async def stream() -> Response:
    return StreamingResponse(iter(["piece"]))


@app.post("/broken", dependencies=[limit("broken", per_minute=3)])
async def broken() -> None:
    raise ZeroDivisionError


@pytest.fixture
async def ask():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sample.test") as client:

        async def ask(person, path="/v1/sample"):
            return await client.post(path, headers=bearer(person) if person else {})

        yield ask


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time as the limits see it: 12 seconds into a window of theirs; returns how to let it pass."""
    now = 1_800_000_000.0 + 12

    def passes(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr("upstash_ratelimit.limiter.now_ms", lambda: round(now * 1_000))
    monkeypatch.setattr(ratelimit, "time", SimpleNamespace(time=lambda: now))
    return passes


@either
async def test_each_answer_says_what_is_left_and_until_when(ask):
    for left in (2, 1, 0):
        answer = await ask(ADA)
        assert answer.status_code == 200
        assert answer.headers["RateLimit-Policy"] == '"sample";q=3;w=60'
        # The window ends 48 s from now; a moment later it no longer counts in full.
        assert answer.headers["RateLimit"] == f'"sample";r={left};t=49'
        assert "Retry-After" not in answer.headers


@either
@pytest.mark.parametrize(("route", "status"), [("missing", 404), ("stream", 200), ("broken", 500)])
async def test_an_answer_says_so_whatever_it_is(ask, route, status):
    answer = await ask(ADA, f"/v1/{route}")
    assert answer.status_code == status
    assert answer.headers.get_list("RateLimit") == [f'"{route}";r=2;t=49']


@either
async def test_one_request_too_many_is_a_429_problem_that_says_when_to_come_back(ask):
    for _ in range(3):
        await ask(ADA)
    answer = await ask(ADA)
    assert answer.status_code == 429
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "rate_limited"
    assert answer.headers["RateLimit-Policy"] == '"sample";q=3;w=60'
    assert answer.headers["RateLimit"] == '"sample";r=0;t=49'
    assert answer.headers["Retry-After"] == "49"


@either
async def test_who_comes_back_when_told_is_let_in(ask, clock):
    for _ in range(3):
        await ask(ADA)
    told = int((await ask(ADA)).headers["Retry-After"])
    clock(told)
    assert (await ask(ADA)).status_code == 200


@either
async def test_the_window_slides(ask, clock):
    for _ in range(3):
        await ask(ADA)
    # Half a window after the end of theirs, half of those three still count: floor(1.5) = 1, and 3 - 1 = 2 are left.
    clock(48 + 30)
    assert [(await ask(ADA)).status_code for _ in range(3)] == [200, 200, 429]


@either
async def test_a_refused_request_does_not_count(ask, clock):
    for _ in range(10):
        await ask(ADA)
    clock(48 + 30)
    assert (await ask(ADA)).headers["RateLimit"] == '"sample";r=1;t=31'


@either
async def test_callers_and_routes_are_counted_apart(ask):
    for _ in range(4):
        refused = await ask(ADA)
    assert refused.status_code == 429
    assert (await ask(BOB)).status_code == 200
    assert (await ask(ADA, "/v1/other")).status_code == 200


@either
async def test_of_those_who_ask_at_once_no_more_than_allowed_get_in(ask):
    answers = await asyncio.gather(*(ask(ADA) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 9


@either
async def test_a_stranger_is_not_counted_but_sent_away(ask):
    answer = await ask(None)
    assert answer.status_code == 401
    assert "RateLimit" not in answer.headers


async def test_a_request_is_one_round_trip(ask, wire):
    await ask(ADA)
    assert len(wire.requests) == 1


@either
@pytest.mark.parametrize(("scale", "allowed"), [("10", 30), ("0.5", 2), ("0.0001", 1)])
async def test_the_scale_multiplies_every_limit_and_leaves_at_least_one(ask, monkeypatch, scale, allowed):
    monkeypatch.setenv("RATE_LIMIT_SCALE", scale)
    answer = await ask(ADA)
    assert answer.status_code == 200
    assert answer.headers["RateLimit-Policy"] == f'"sample";q={allowed};w=60'


async def test_without_redis_callers_are_let_in(ask, either_redis):
    with redis_away(either_redis):
        answers = [await ask(ADA) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}
    assert "RateLimit" not in answers[0].headers


async def test_without_redis_callers_are_sent_away_where_that_was_chosen(ask, either_redis, monkeypatch):
    monkeypatch.setenv("RATE_LIMIT_FAIL", "closed")
    with redis_away(either_redis):
        answer = await ask(ADA)
    assert answer.status_code == 503
    assert answer.json()["code"] == "redis_unavailable"
    assert int(answer.headers["Retry-After"]) > 0


@either
@pytest.mark.parametrize(("choice", "status"), [("open", 200), ("closed", 503)])
async def test_a_count_that_redis_refuses_is_as_none(ask, monkeypatch, choice, status):
    monkeypatch.setenv("RATE_LIMIT_FAIL", choice)
    window = 1_800_000_000 // 60
    await redis.pipeline([["SET", f"limit:sample:{ADA.id}:{window}", "not a number"]])
    assert (await ask(ADA)).status_code == status


@either
async def test_outside_of_a_dependency_the_headers_are_returned():
    headers = await ratelimit.check("chat", caller(ADA), per_minute=20)
    assert headers == {"RateLimit-Policy": '"chat";q=20;w=60', "RateLimit": '"chat";r=19;t=49'}
