"""A value is computed once while it is kept; another tenant, version or question is another value."""

import uuid

import pytest

from agentkit import redis
from agentkit.cache import EVERYONE, Key, get_or_compute
from tests.parts.people import ADA, BOB
from tests.parts.redis import redis_away

pytestmark = pytest.mark.anyio
either = pytest.mark.usefixtures("either_redis")

KEY = Key("summary", tenant=ADA.id, version="1", parts=("a text",))


@pytest.fixture
def computed():
    """A computation that counts itself; each value differs from the last."""

    class Computed:
        times = 0

        async def __call__(self):
            self.times += 1
            return {"number": self.times, "text": "“ü”", "nothing": None, "list": [1, 2.5, True]}

    return Computed()


@either
async def test_a_value_is_computed_once_and_comes_back_as_it_was(computed):
    first = await get_or_compute(KEY, computed, ttl_seconds=60)
    again = await get_or_compute(KEY, computed, ttl_seconds=60)
    assert again == first == {"number": 1, "text": "“ü”", "nothing": None, "list": [1, 2.5, True]}
    assert computed.times == 1


@either
async def test_nothing_is_a_value_too():
    times = 0

    async def nothing():
        nonlocal times
        times += 1

    for _ in range(2):
        assert await get_or_compute(KEY, nothing, ttl_seconds=60) is None
    assert times == 1


@either
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Key("summary", tenant=BOB.id, version="1", parts=("a text",)), id="tenant"),
        pytest.param(Key("summary", tenant=EVERYONE, version="1", parts=("a text",)), id="everyone"),
        pytest.param(Key("summary", tenant=ADA.id, version="2", parts=("a text",)), id="version"),
        pytest.param(Key("title", tenant=ADA.id, version="1", parts=("a text",)), id="kind"),
        pytest.param(Key("summary", tenant=ADA.id, version="1", parts=("another",)), id="parts"),
        pytest.param(Key("summary", tenant=ADA.id, version="1", parts=("a", " text")), id="parts cut elsewhere"),
        pytest.param(Key("summary", tenant=ADA.id, version="1"), id="no parts"),
    ],
)
async def test_another_key_is_another_value(computed, other):
    assert (await get_or_compute(KEY, computed, ttl_seconds=60))["number"] == 1
    assert (await get_or_compute(other, computed, ttl_seconds=60))["number"] == 2


@either
async def test_keys_that_are_equal_share_a_value(computed):
    same = Key("summary", tenant=uuid.UUID(str(ADA.id)), version="1", parts=("a text",))
    assert await get_or_compute(KEY, computed, ttl_seconds=60) == await get_or_compute(same, computed, ttl_seconds=60)


def test_what_a_value_is_made_from_is_not_readable_in_its_key():
    assert "a text" not in str(KEY)


async def test_a_value_ends_by_itself(computed, redis_in_memory):
    await get_or_compute(KEY, computed, ttl_seconds=60)
    redis_in_memory.pass_time(59)
    assert (await get_or_compute(KEY, computed, ttl_seconds=60))["number"] == 1
    redis_in_memory.pass_time(1)
    assert (await get_or_compute(KEY, computed, ttl_seconds=60))["number"] == 2


@pytest.mark.usefixtures("redis")
async def test_a_real_redis_is_told_when_a_value_ends(computed):
    await get_or_compute(KEY, computed, ttl_seconds=60)
    (seconds,) = await redis.pipeline([["TTL", str(KEY)]])
    assert 55 <= seconds <= 60


async def test_without_redis_values_are_computed(computed, either_redis):
    with redis_away(either_redis):
        assert (await get_or_compute(KEY, computed, ttl_seconds=60))["number"] == 1
        assert (await get_or_compute(KEY, computed, ttl_seconds=60))["number"] == 2


async def test_a_value_that_was_computed_is_returned_although_redis_has_gone_meanwhile(redis_in_memory):
    async def computes_while_redis_goes():
        redis_in_memory.away = True
        return "value"

    assert await get_or_compute(KEY, computes_while_redis_goes, ttl_seconds=60) == "value"


@either
async def test_what_is_not_ours_is_overwritten(computed):
    await redis.pipeline([["SET", str(KEY), "{not JSON"]])
    assert (await get_or_compute(KEY, computed, ttl_seconds=60))["number"] == 1
    assert (await get_or_compute(KEY, computed, ttl_seconds=60))["number"] == 1


@either
async def test_a_key_of_another_type_is_no_obstacle(computed):
    await redis.pipeline([["XADD", str(KEY), "1-0", "f", "x"]])
    assert (await get_or_compute(KEY, computed, ttl_seconds=60))["number"] == 1


@either
async def test_a_computation_that_fails_leaves_nothing(computed):
    async def fails():
        raise LookupError("no such document")

    with pytest.raises(LookupError):
        await get_or_compute(KEY, fails, ttl_seconds=60)
    assert (await get_or_compute(KEY, computed, ttl_seconds=60))["number"] == 1


async def test_a_hit_is_one_round_trip_and_a_miss_two(computed, wire):
    await get_or_compute(KEY, computed, ttl_seconds=60)
    assert len(wire.requests) == 2
    await get_or_compute(KEY, computed, ttl_seconds=60)
    assert len(wire.requests) == 3
