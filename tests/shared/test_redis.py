"""Redis never keeps anyone waiting: replies as they are, refusals each in its place, an end within the limit."""

import asyncio
import json
import logging

import httpx
import pytest
from upstash_redis.errors import UpstashError

from agentkit import redis, telemetry
from infra.local.part import LOOPBACK, free_port
from tests.parts.redis import redis_away

pytestmark = pytest.mark.anyio
either = pytest.mark.usefixtures("either_redis")

TOKEN = "the-token-that-nobody-may-read"


@pytest.fixture
def at(monkeypatch):
    """Let the functions find Redis at that address."""

    def found_at(url):
        monkeypatch.setenv("UPSTASH_REDIS_REST_URL", url)
        monkeypatch.setenv("UPSTASH_REDIS_REST_TOKEN", TOKEN)

    return found_at


@pytest.fixture
async def answering(at):
    """Let an Upstash of the test's own answer; returns the requests that it got."""
    at("https://upstash.test/")
    requests = []

    def answer_with(answer):
        def answered(request):
            requests.append(request)
            return answer

        redis.use(httpx.MockTransport(answered))
        return requests

    yield answer_with
    await redis.close()
    redis.use(None)


@pytest.fixture
async def silent(at, monkeypatch):
    """A Redis that accepts connections and never says a word; returns the connections that it got."""
    monkeypatch.setattr(redis, "TIME_LIMIT_SECONDS", 0.05)
    accepted = []
    server = await asyncio.start_server(lambda _, writer: accepted.append(writer), LOOPBACK)
    at(f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}")
    yield accepted
    await redis.close()
    for writer in accepted:
        writer.close()
    server.close()


@either
async def test_replies_come_in_order_as_redis_sent_them():
    replies = await redis.pipeline(
        [["SET", "a", "“ü” \n\t\0 🜁"], ["GET", "a"], ["GET", "none"], ["INCR", "n"], ["INCRBY", "n", 41]]
    )
    assert replies == ["OK", "“ü” \n\t\0 🜁", None, 1, 42]


@either
async def test_what_is_asked_side_by_side_travels_together_and_each_gets_its_own_replies():
    with telemetry.counting_round_trips() as round_trips:
        replies = await asyncio.gather(
            redis.pipeline([["SET", "a", "x"], ["GET", "a"]]),
            redis.client().incrby("n", 42),
            redis.pipeline([["INCR", "a"]]),
        )
    assert replies[:2] == [["OK", "x"], 42]
    assert isinstance(replies[2][0], redis.CommandError)
    assert round_trips == {"redis": 1}
    assert await redis.pipeline([["GET", "n"]]) == ["42"]


@either
async def test_a_refused_command_hides_no_other():
    first, refused, last = await redis.pipeline([["SET", "a", "x"], ["INCR", "a"], ["GET", "a"]])
    assert (first, last) == ("OK", "x")
    assert refused == redis.CommandError("ERR value is not an integer or out of range")


@either
async def test_commands_of_the_wrong_shape_are_refused_by_redis():
    for reply in await redis.pipeline([["GET"], ["EXPIRE", "a", "soon"], ["NO-SUCH-COMMAND"], ["EVAL", "x", "y"]]):
        assert isinstance(reply, redis.CommandError)


@pytest.mark.usefixtures("redis")
async def test_the_typed_client_speaks_as_upstash_does():
    client = redis.client()
    assert await client.set("a", "1", ex=60)
    assert await client.get("a") == "1"
    assert await client.hset("h", values={"x": 1, "y": 2.5}) == 2
    assert await client.hgetall("h") == {"x": "1", "y": "2.5"}
    assert await client.zadd("z", {"m": 1.5}) == 1
    assert await client.zrange("z", 0, -1, withscores=True) == [("m", 1.5)]
    await client.set("word", "x")
    with pytest.raises(UpstashError, match="not an integer"):
        await client.incr("word")


async def test_a_typed_command_is_one_round_trip_under_the_same_limits(wire):
    with telemetry.counting_round_trips() as counted:
        await redis.client().get("a")
    assert counted == {"redis": 1}
    assert len(wire.requests) == 1


async def test_a_silent_redis_is_given_up_at_the_limit_and_then_left_alone(silent):
    with telemetry.counting_round_trips() as counted:
        async with asyncio.timeout(30):  # that a hang is told as one
            for _ in range(5):
                with pytest.raises(redis.RedisUnavailable):
                    await redis.pipeline([["PING"]])
    assert len(silent) == 1
    assert counted == {"redis": 1}


def test_nobody_waits_longer_than_a_second():
    assert redis.TIME_LIMIT_SECONDS <= 1 < redis.LEFT_ALONE_SECONDS


async def test_those_who_wait_at_the_same_time_wait_once(silent):
    outcomes = await asyncio.gather(*(redis.pipeline([["PING"]]) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [redis.RedisUnavailable] * 3
    assert len(silent) == 1


@either
async def test_one_who_leaves_takes_nothing_from_those_who_asked_with_them():
    leaving, staying = (asyncio.create_task(redis.pipeline([["INCR", "n"]])) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == [2]
    assert leaving.cancelled()


async def test_the_limit_is_on_the_whole_answer_and_not_on_each_of_its_bytes(at, monkeypatch):
    monkeypatch.setattr(redis, "TIME_LIMIT_SECONDS", 0.1)
    gave_up = asyncio.Event()

    async def drip(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.01)
        gave_up.set()

    server = await asyncio.start_server(drip, LOOPBACK)
    at(f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(redis.RedisUnavailable):
        await redis.pipeline([["PING"]])
    await gave_up.wait()
    server.close()
    await redis.close()


async def test_redis_is_asked_again_after_a_moment(silent, monkeypatch):
    monkeypatch.setattr(redis, "LEFT_ALONE_SECONDS", 0)
    for _ in range(2):
        with pytest.raises(redis.RedisUnavailable):
            await redis.pipeline([["PING"]])
    assert len(silent) == 2


async def test_a_redis_that_is_back_answers_again(either_redis, monkeypatch):
    monkeypatch.setattr(redis, "LEFT_ALONE_SECONDS", 0)
    assert await redis.pipeline([["SET", "a", "kept"]]) == ["OK"]
    with redis_away(either_redis), pytest.raises(redis.RedisUnavailable):
        await redis.pipeline([["PING"]])
    assert await redis.pipeline([["GET", "a"]]) == ["kept"]


async def test_nobody_listening_is_unavailable(at):
    at(f"http://{LOOPBACK}:{free_port()}")
    with pytest.raises(redis.RedisUnavailable) as raised:
        await redis.pipeline([["PING"]])
    await redis.close()
    assert (raised.value.status, raised.value.code) == (503, "redis_unavailable")
    assert int(raised.value.headers["Retry-After"]) > 0
    assert LOOPBACK not in raised.value.detail


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(500, text="<html>"), id="an error page"),
        pytest.param(httpx.Response(503, json={"error": "ERR away"}), id="out of service"),
        pytest.param(httpx.Response(429, json={"error": "ERR max requests limit exceeded"}), id="quota used up"),
        pytest.param(httpx.Response(401, json={"error": "WRONGPASS"}), id="a wrong token"),
        pytest.param(httpx.Response(302, headers={"Location": "https://elsewhere.test"}), id="a redirection"),
        pytest.param(httpx.Response(200, text="<html>"), id="not JSON"),
        pytest.param(httpx.Response(200, content=b"\xff\xfe"), id="not text"),
        pytest.param(httpx.Response(200, json={"result": "PONG"}), id="not a list"),
        pytest.param(httpx.Response(200, json=[]), id="too few replies"),
        pytest.param(httpx.Response(200, json=[{"result": 1}, {"result": 2}]), id="too many replies"),
        pytest.param(httpx.Response(200, json=["PONG"]), id="not a reply"),
        pytest.param(httpx.Response(200, json=[{}]), id="an empty reply"),
    ],
)
async def test_whatever_answers_in_redis_place_is_not_believed_and_asked_once(answering, answer):
    requests = answering(answer)
    with pytest.raises(redis.RedisUnavailable):
        await redis.pipeline([["PING"]])
    assert len(requests) == 1


async def test_a_request_that_upstash_refuses_whole_is_no_outage(answering):
    requests = answering(httpx.Response(413, json={"error": "ERR max request size exceeded"}))
    replies = await redis.pipeline([["SET", "a", "very long"], ["GET", "a"]])
    assert all(isinstance(reply, redis.CommandError) and "max request size" in reply.message for reply in replies)
    await redis.pipeline([["PING"]])
    assert len(requests) == 2


async def test_what_is_too_large_is_refused_alone(at):
    at("https://upstash.test/")

    def answered(request):
        commands = json.loads(request.content)
        large = any("x" * 1_000 in word for command in commands for word in command)
        return httpx.Response(413 if large else 200, json=[{"result": command[-1]} for command in commands])

    redis.use(httpx.MockTransport(answered))
    try:
        large, small = await asyncio.gather(
            redis.pipeline([["ECHO", "x" * 1_000]]), redis.pipeline([["ECHO", "a"], ["ECHO", "b"]])
        )
    finally:
        await redis.close()
        redis.use(None)
    assert [type(reply) for reply in large] == [redis.CommandError]
    assert small == ["a", "b"]


async def test_a_request_carries_the_token_and_nothing_else_of_ours(answering):
    requests = answering(httpx.Response(200, json=[{"result": "PONG"}]))
    await redis.pipeline([["PING"]])
    (request,) = requests
    assert (request.method, str(request.url)) == ("POST", "https://upstash.test/pipeline")
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert json.loads(request.content) == [["PING"]]
    assert not [name for name in request.headers if "telemetry" in name]


async def test_a_caller_who_goes_away_is_no_outage(silent, monkeypatch):
    monkeypatch.setattr(redis, "TIME_LIMIT_SECONDS", 60)
    asking = asyncio.create_task(redis.pipeline([["PING"]]))
    while not silent:
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    monkeypatch.setattr(redis, "TIME_LIMIT_SECONDS", 0.05)
    with pytest.raises(redis.RedisUnavailable):
        await redis.pipeline([["PING"]])
    assert len(silent) == 2


async def test_the_log_says_why_without_the_token(answering, caplog):
    answering(httpx.Response(500))
    with caplog.at_level(logging.DEBUG, "agentkit"), pytest.raises(redis.RedisUnavailable):
        await redis.pipeline([["SET", "a", "what a person wrote"]])
    said = "".join(telemetry.JsonFormatter().format(record) for record in caplog.records)
    assert "redis.unavailable" in said
    assert "500" in said
    assert TOKEN not in said
    assert "what a person wrote" not in said


def test_each_event_loop_has_connections_of_its_own(redis_server, monkeypatch):
    for name, value in redis_server.environment.items():
        monkeypatch.setenv(name, value)

    async def once():
        replies = await redis.pipeline([["PING"]])
        await redis.close()
        return replies

    assert [asyncio.run(once()) for _ in range(2)] == [["PONG"], ["PONG"]]
