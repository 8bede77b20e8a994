"""The real Redis behind Upstash's REST protocol, one for the whole run; and the one in memory, held to the same."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx
import pytest
import redis as redis_py

from agentkit import redis as agentkit_redis
from agentkit.testing import MemoryRedis, memory_redis
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
def upstash(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> Redis:
    """An empty Redis that the served functions find."""
    for name, value in redis_server.environment.items():
        monkeypatch.setenv(name, value)
    with raw(redis_server) as connection:
        connection.flushall()
    return redis_server


@pytest.fixture
async def redis(upstash: Redis) -> AsyncIterator[Redis]:
    """The same for functions that the test itself calls: their connections end with it."""
    yield upstash
    await agentkit_redis.close()


@pytest.fixture
async def redis_in_memory() -> AsyncIterator[MemoryRedis]:
    """An empty Redis in memory that the functions find."""
    with memory_redis() as memory:
        yield memory
        await agentkit_redis.close()


@pytest.fixture(params=["redis", "redis_in_memory"])
def either_redis(request: pytest.FixtureRequest) -> Redis | MemoryRedis:
    """Each in turn: what a test says of the one must be true of the other."""
    either: Redis | MemoryRedis = request.getfixturevalue(request.param)
    return either


@contextmanager
def redis_away(server: Redis | MemoryRedis) -> Iterator[None]:
    """Redis cannot be reached inside, and is back after it, with what it held."""
    if isinstance(server, MemoryRedis):
        server.away = True
        yield
        server.away = False
        return
    server.server.stop()
    try:
        yield
    finally:
        server.start_server()


def raw(server: Redis) -> "redis_py.Redis":
    """A client of the Redis protocol itself, to look behind the facade."""
    return redis_py.Redis(host=LOOPBACK, port=server.server_port, decode_responses=True, single_connection_client=True)


class Wire(httpx.AsyncBaseTransport):
    """The network to Redis, watched, and able to lose answers."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answers_lost = False
        self._network = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry a request there; its answer may not come back."""
        self.requests.append(request)
        answer = await self._network.handle_async_request(request)
        if self.answers_lost:
            await answer.aread()
            raise httpx.ReadError("the answer was lost", request=request)
        return answer

    async def aclose(self) -> None:
        """End its connections."""
        await self._network.aclose()


@pytest.fixture
async def wire(redis: Redis) -> AsyncIterator[Wire]:
    """The network between the functions and the real Redis."""
    wire = Wire()
    agentkit_redis.use(wire)
    yield wire
    await agentkit_redis.close()
    agentkit_redis.use(None)
