"""A piece of work that only one process may be at, wherever they run."""

import pytest

from agentkit import database
from agentkit.errors import Unavailable
from infra.local.part import LOOPBACK, free_port

pytestmark = pytest.mark.anyio


async def test_only_the_first_is_alone_until_it_is_done(postgres):
    async with database.alone("cleaning") as first:
        async with database.alone("cleaning") as second, database.alone("cooking") as of_another_kind:
            assert (first, second, of_another_kind) == (True, False, True)
        async with database.alone("cleaning") as third:
            assert third is False
    async with database.alone("cleaning") as later:
        assert later is True


async def test_who_fails_lets_the_next_one_in(postgres):
    with pytest.raises(ZeroDivisionError):
        async with database.alone("cleaning"):
            raise ZeroDivisionError
    async with database.alone("cleaning") as next_one:
        assert next_one is True


async def test_without_the_database_nobody_knows(postgres, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"postgresql://nobody:nothing@{LOOPBACK}:{free_port()}/app")
    with pytest.raises(Unavailable):
        async with database.alone("cleaning"):
            raise AssertionError
