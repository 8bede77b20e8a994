"""The Redis in memory, as an app's own tests use it; that it keeps what Redis promises is held where that is said."""

import asyncio
import os

import pytest
from fastapi.testclient import TestClient

from agentkit import redis, settings
from agentkit.http import create_app
from agentkit.ratelimit import limit
from agentkit.testing import memory_redis
from tests.parts.people import ADA, bearer

app = create_app("sample")


@app.get("/sample", dependencies=[limit("sample", per_minute=1)])
async def sample() -> str:
    return "answer"


def ask(*commands):
    return asyncio.run(redis.pipeline(commands))


@pytest.mark.usefixtures("people")
def test_an_apps_own_tests_need_no_server():
    with memory_redis() as memory, TestClient(app) as client:
        assert client.get("/v1/sample", headers=bearer(ADA)).status_code == 200
        assert client.get("/v1/sample", headers=bearer(ADA)).status_code == 429
        memory.away = True
        assert client.get("/v1/sample", headers=bearer(ADA)).status_code == 200


def test_each_one_is_empty():
    for _ in range(2):
        with memory_redis():
            assert ask(["INCR", "n"]) == [1]


def test_outside_everything_is_as_before(monkeypatch):
    monkeypatch.setenv("UPSTASH_REDIS_REST_URL", "https://before.test")
    monkeypatch.delenv("UPSTASH_REDIS_REST_TOKEN", raising=False)
    with pytest.raises(ZeroDivisionError), memory_redis():
        assert os.environ["UPSTASH_REDIS_REST_TOKEN"]
        raise ZeroDivisionError
    assert os.environ["UPSTASH_REDIS_REST_URL"] == "https://before.test"
    assert "UPSTASH_REDIS_REST_TOKEN" not in os.environ
    with pytest.raises(settings.ConfigurationError, match="UPSTASH_REDIS_REST_TOKEN"):
        ask(["PING"])


def test_what_it_does_not_know_it_refuses_by_name():
    with memory_redis():
        unknown, script, option = ask(["ZADD", "z", 1, "m"], ["EVAL", "return 1", 0], ["SET", "a", "x", "NX"])
    assert unknown == redis.CommandError("ERR unknown command 'ZADD' for a Redis in memory")
    assert "scripts" in script.message
    assert option == redis.CommandError("ERR syntax error")


def test_time_passes_when_it_is_told_to():
    with memory_redis() as memory:
        ask(["SET", "a", "x", "EX", 60], ["SET", "b", "x"])
        memory.pass_time(60)
        assert ask(["GET", "a"], ["TTL", "a"], ["GET", "b"], ["TTL", "b"]) == [None, -2, "x", -1]
