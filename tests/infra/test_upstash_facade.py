"""The local Upstash: Upstash's own clients work on it unchanged, and its faults are an HTTP service's faults."""

import base64
import os
import signal

import httpx
import pytest
import upstash_ratelimit
import upstash_ratelimit.asyncio
import upstash_redis
import upstash_redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from upstash_redis.errors import UpstashError

from infra.local.part import PartFailed, accepts
from infra.local.redis import Redis
from tests.parts.redis import raw


@pytest.fixture(scope="module")
def server(redis_server):
    with raw(redis_server) as connection:
        connection.flushall()
    return redis_server


@pytest.fixture
def address(server):
    return {
        "url": server.environment["UPSTASH_REDIS_REST_URL"],
        "token": server.environment["UPSTASH_REDIS_REST_TOKEN"],
    }


@pytest.fixture
def client(address):
    with upstash_redis.Redis(**address, rest_retries=0) as client:
        client.flushdb()
        yield client


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(
        base_url=server.environment["UPSTASH_REDIS_REST_URL"],
        headers={"Authorization": f"Bearer {server.environment['UPSTASH_REDIS_REST_TOKEN']}"},
        timeout=30,
    ) as http:
        yield http


@pytest.fixture
def post(http):
    def post(path, body, **headers):
        return http.post(path, json=body, headers=headers)

    return post


def test_the_sync_client_works_unchanged(client):
    assert client.ping() == "PONG"
    assert client.set("a", 'é"x\n\0', ex=60) is True
    assert client.get("a") == 'é"x\n\0'
    assert client.get("none") is None
    assert not client.set("a", "1", nx=True)
    assert client.mget("a", "none") == ['é"x\n\0', None]
    assert client.incr("n") == 1
    assert client.hset("h", values={"x": 1, "y": {"z": 2}}) == 2
    assert client.hgetall("h") == {"x": "1", "y": '{"z": 2}'}
    assert client.zadd("z", {"m": 1.5}) == 1
    assert client.zrange("z", 0, -1, withscores=True) == [("m", 1.5)]
    assert client.type("h") == "hash"
    assert 55 <= client.ttl("a") <= 60


@pytest.mark.anyio
async def test_the_async_client_works_unchanged(address):
    async with upstash_redis.asyncio.Redis(**address, rest_retries=0) as client:
        await client.set("a", "é")
        pipeline = client.pipeline()
        pipeline.get("a")
        pipeline.incr("counted")
        assert await pipeline.exec() == ["é", 1]


@pytest.mark.parametrize("encoding", ["base64", None])
def test_streams_work_in_either_encoding(address, encoding):
    with upstash_redis.Redis(**address, rest_encoding=encoding, rest_retries=0) as client:
        client.delete("s")
        client.execute(["XADD", "s", "1-0", "f", "“ü”"])
        assert client.execute(["XRANGE", "s", "-", "+"]) == [["1-0", ["f", "“ü”"]]]
        assert client.execute(["XREAD", "STREAMS", "s", "0"]) == [["s", [["1-0", ["f", "“ü”"]]]]]


def test_a_value_that_only_looks_like_an_acknowledgement_stays_itself(client):
    client.set("a", "OK")
    assert client.get("a") == "OK"


def test_an_acknowledgement_is_plain_in_either_encoding(post):
    assert post("/", ["SET", "a", "x"], **{"Upstash-Encoding": "base64"}).json() == {"result": "OK"}


def test_base64_carries_bytes_that_are_no_text(server, post):
    with raw(server) as connection:
        connection.set("bytes", b"\xff\x00\xfe")
    answer = post("/", ["GET", "bytes"], **{"Upstash-Encoding": "base64"}).json()
    assert base64.b64decode(answer["result"]) == b"\xff\x00\xfe"


def test_scripts_run_by_their_text_and_by_their_hash(client):
    assert client.eval("return {KEYS[1], ARGV[1], 7, false}", ["k"], ["v"]) == ["k", "v", 7, None]
    digest = client.script_load("#!lua flags=allow-key-locking\nreturn 7")
    assert client.evalsha(digest) == 7
    with pytest.raises(UpstashError, match=r"^NOSCRIPT "):
        client.evalsha("0" * 40)


def test_a_scripts_own_error_is_told(client):
    with pytest.raises(UpstashError, match="my words"):
        client.eval("return redis.error_reply('ERR my words')")


def test_each_item_of_a_pipeline_has_its_own_fate(post):
    answer = post("/pipeline", [["SET", "a", "x"], ["INCR", "a"], ["BLPOP", "a", "1"], [], ["GET", "a"]])
    assert answer.status_code == 200
    done, wrong, blocking, empty, read = answer.json()
    assert (done, read) == ({"result": "OK"}, {"result": "x"})
    assert wrong == {"error": "ERR value is not an integer or out of range"}
    assert blocking == {"error": "ERR Command is not available: 'BLPOP'"}
    assert empty == {"error": "ERR failed to parse command"}


def test_a_transaction_runs_whole(client):
    transaction = client.multi()
    transaction.set("k", "v")
    transaction.get("k")
    transaction.incr("n")
    assert transaction.exec() == [True, "v", 1]


def test_a_malformed_command_keeps_the_whole_transaction_from_running(post):
    answer = post("/multi-exec", [["SET", "transacted", "x"], ["GET"]])
    assert answer.status_code == 400
    assert "error" in answer.json()
    assert post("/", ["EXISTS", "transacted"]).json() == {"result": 0}


@pytest.mark.parametrize(
    "command",
    [
        *(["BLPOP", "k", 0], ["brpop", "k", 0], ["BRPOPLPUSH", "k", "l", 0], ["BLMOVE", "k", "l", "LEFT", "LEFT", 0]),
        *(["BZPOPMIN", "k", 0], ["BZPOPMAX", "k", 0], ["XREAD", "BLOCK", 0, "STREAMS", "k", "$"]),
        *(["XREADGROUP", "GROUP", "g", "c", "block", "0", "STREAMS", "k", ">"], ["WAIT", 1, 0]),
        *(["SUBSCRIBE", "k"], ["MONITOR"], ["MULTI"], ["EXEC"], ["WATCH", "k"]),
    ],
    ids=lambda command: command[0],
)
def test_what_needs_a_connection_of_its_own_is_refused(post, command):
    answer = post("/", command)
    assert answer.status_code == 400
    assert "not available" in answer.json()["error"]


@pytest.mark.parametrize("name", ["", " ", "\0", "GET a", "no-such-command", "ß", 7, None, [], {}])
def test_what_is_no_command_is_refused_and_spoils_nothing(post, name):
    assert post("/", [name, "a"]).status_code == 400
    (refused, pong) = post("/pipeline", [[name], ["PING"]]).json()
    assert refused["error"].startswith("ERR ")
    assert pong == {"result": "PONG"}


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Basic abc"])
def test_without_the_token_nothing_runs(post, header):
    for path, body in (("/", ["SET", "a", "stolen"]), ("/pipeline", [["SET", "a", "stolen"]])):
        answer = post(path, body, Authorization=header)
        assert answer.status_code == 401
        assert answer.json()["error"].startswith("WRONGPASS")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=6,
)
# Words that lead somewhere, beside any others; none that would stop the server.
words = st.sampled_from(["GET", "SET", "EVAL", "SCRIPT", "LOAD", "XREAD", "XADD", "a", "*", "1"]) | json_values


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["/", "/pipeline", "/multi-exec"]), json_values | st.lists(words) | st.lists(st.lists(words)))
def test_whatever_is_sent_is_answered(http, path, body):
    answer = http.post(path, json=body)
    assert answer.status_code in {200, 400}
    assert isinstance(answer.json(), list | dict)


LIMITERS = [
    upstash_ratelimit.FixedWindow(3, 60),
    upstash_ratelimit.SlidingWindow(3, 60),
    upstash_ratelimit.TokenBucket(3, 1, 60),
]


@pytest.mark.parametrize("limiter", LIMITERS, ids=lambda limiter: type(limiter).__name__)
def test_the_rate_limiter_works_unchanged(client, limiter):
    limit = upstash_ratelimit.Ratelimit(redis=client, limiter=limiter, prefix=type(limiter).__name__)
    assert [limit.limit("someone").allowed for _ in range(5)] == [True, True, True, False, False]
    assert limit.get_remaining("someone-else") == 3


@pytest.mark.anyio
@pytest.mark.parametrize("limiter", LIMITERS, ids=lambda limiter: type(limiter).__name__)
async def test_the_async_rate_limiter_works_unchanged(address, limiter):
    async with upstash_redis.asyncio.Redis(**address, rest_retries=0) as client:
        limit = upstash_ratelimit.asyncio.Ratelimit(
            redis=client, limiter=limiter, prefix=f"async{type(limiter).__name__}"
        )
        assert [(await limit.limit("someone")).allowed for _ in range(5)] == [True, True, True, False, False]


@pytest.fixture
def own(tmp_path):
    """A Redis of the test's own, to be maltreated."""
    part = Redis(tmp_path)
    part.start()
    yield part
    part.stop()


def ask(part, *command, give_up_after_seconds=30):
    return httpx.post(
        part.environment["UPSTASH_REDIS_REST_URL"],
        json=command,
        headers={"Authorization": f"Bearer {part.environment['UPSTASH_REDIS_REST_TOKEN']}"},
        timeout=give_up_after_seconds,
    )


def test_without_its_redis_the_facade_says_so_at_once_and_recovers_with_it(own):
    ask(own, "SET", "a", "kept")
    own.server.stop()
    for _ in range(2):
        answer = ask(own, "GET", "a")
        assert answer.status_code == 503
        assert "out of reach" in answer.json()["error"]
    reason = own.failure()
    assert reason is not None
    assert reason.startswith("redis-server")
    own.start_server()
    assert own.failure() is None
    assert ask(own, "GET", "a").json() == {"result": "kept"}


def test_a_redis_that_hangs_hangs_and_breaks_nothing(own):
    ask(own, "SET", "a", "kept")
    os.kill(own.server.pid, signal.SIGSTOP)
    with pytest.raises(httpx.ReadTimeout):
        ask(own, "GET", "a", give_up_after_seconds=1)
    os.kill(own.server.pid, signal.SIGCONT)
    assert ask(own, "GET", "a").json() == {"result": "kept"}


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_what_was_written_is_there_after_the_next_start_under_the_same_token(own, tmp_path, ending):
    ask(own, "SET", "a", "kept")
    token = own.environment["UPSTASH_REDIS_REST_TOKEN"]
    os.kill(own.server.pid, ending)
    own.stop()
    following = Redis(tmp_path)
    assert following.environment["UPSTASH_REDIS_REST_TOKEN"] == token
    following.start()
    assert ask(following, "GET", "a").json() == {"result": "kept"}
    following.stop()


def test_stopped_it_leaves_nothing_that_answers(tmp_path):
    part = Redis(tmp_path)
    part.start()
    part.stop()
    assert not accepts(part.port)
    assert not accepts(part.server_port)
    part.stop()


def test_a_redis_that_cannot_start_is_named(tmp_path):
    part = Redis(tmp_path)
    (part.folder / "appendonly.aof").write_text("not an append-only file")
    with pytest.raises(PartFailed, match=r"^redis-server ended"):
        part.start()
    part.stop()
