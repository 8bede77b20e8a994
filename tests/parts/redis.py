"""The real Redis behind Upstash's REST protocol, one for the whole run."""

from collections.abc import AsyncIterator, Iterator

import pytest
import redis as redis_py

from agentkit import redis as agentkit_redis
from infra.local.part import LOOPBACK
from infra.local.redis import Redis


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A running Redis; ask for `redis` instead, unless the test stops it."""
    server = Redis(tmp_path_factory.mktemp("redis-part"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def redis(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Redis]:
    """An empty Redis that the functions find; their connections end with the test."""
    for name, value in redis_server.environment.items():
        monkeypatch.setenv(name, value)
    raw(redis_server).flushall()
    yield redis_server
    await agentkit_redis.close()


def raw(server: Redis) -> "redis_py.Redis":
    """A client of the Redis protocol itself, to look behind the facade."""
    return redis_py.Redis(host=LOOPBACK, port=server.server_port, decode_responses=True, single_connection_client=True)
