"""Postgres as the caller: identity ends with the transaction, a read is one round trip, failures are told apart."""

import asyncio

import psycopg
import pytest

from agentkit import database
from agentkit.errors import Invalid, Unavailable
from tests.parts.people import ADA, BOB, caller

pytestmark = pytest.mark.anyio

WHO = "select current_user as role, nullif(current_setting('request.jwt.claims', true), '') as claims"


@pytest.fixture(autouse=True)
async def connections(postgres):
    yield
    await database.close()


async def test_a_statement_runs_as_the_person_and_not_as_the_login():
    assert await database.fetch_one(caller(ADA), "select auth.uid() as id, current_user as role") == {
        "id": ADA.id,
        "role": "authenticated",
    }


async def test_the_next_person_on_the_same_connection_inherits_nothing():
    pids = set()
    for person in (ADA, BOB, ADA):
        row = await database.fetch_one(caller(person), "select auth.uid() as id, pg_backend_pid() as pid")
        assert row is not None
        assert row["id"] == person.id
        pids.add(row["pid"])
    assert len(pids) == 1  # it was one connection


async def identity_left_on_the_connection() -> dict[str, object]:
    """What the connection says of itself outside any transaction of ours."""
    link = next(link for (which, _), link in database._links.items() if which is database.Database.APP)
    assert link.connection is not None
    cursor = await link.connection.execute(WHO)
    row = await cursor.fetchone()
    assert row is not None
    return row


NOBODY = {"role": "agentkit_functions", "claims": None}


async def test_identity_ends_with_the_transaction():
    await database.fetch(caller(ADA), "select 1")
    assert await identity_left_on_the_connection() == NOBODY


async def test_identity_ends_when_a_statement_fails():
    with pytest.raises(psycopg.errors.UndefinedTable):
        await database.fetch(caller(ADA), "select * from no_such_table")
    assert await identity_left_on_the_connection() == NOBODY


async def test_identity_ends_when_the_body_of_a_transaction_raises():
    with pytest.raises(RuntimeError):
        async with database.transaction(caller(ADA)):
            raise RuntimeError
    assert await identity_left_on_the_connection() == NOBODY


async def test_a_cancelled_request_leaves_nothing_to_the_next_person():
    running = asyncio.create_task(database.fetch(caller(ADA), "select pg_sleep(60)"))
    while not any(link.connection for link in database._links.values()):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)  # let the statement reach the server; earlier or later, what follows must hold
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await database.fetch_one(caller(BOB), "select auth.uid() as id") == {"id": BOB.id}


async def test_a_transaction_is_rolled_back_when_its_body_raises():
    with pytest.raises(RuntimeError):
        async with database.transaction(caller(ADA)) as connection:
            await connection.execute(
                "insert into agentkit.conversations (owner, id, title) values (%s, 'c1', 'One')", [ADA.id]
            )
            raise RuntimeError
    assert await database.fetch(caller(ADA), "select id from agentkit.conversations") == []


async def test_statements_fetched_together_take_effect_together_or_not_at_all():
    insert = "insert into agentkit.conversations (owner, id, title) values (%s, %s, 'One')"
    with pytest.raises(psycopg.errors.CheckViolation):
        await database.fetch_all(caller(ADA), [(insert, [ADA.id, "good"]), (insert, [ADA.id, "not good"])])
    assert await database.fetch(caller(ADA), "select id from agentkit.conversations") == []


async def test_the_functions_login_cannot_become_the_service():
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with database.service_transaction("look at everything"):
            pass


async def test_the_workers_login_can(postgres, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", postgres.environment["WORKER_DATABASE_URL"])
    async with database.service_transaction("ingest a document") as connection:
        cursor = await connection.execute("select current_user as role, current_setting('application_name') as name")
        assert await cursor.fetchone() == {"role": "agentkit_service", "name": "agentkit: ingest a document"}


async def test_a_value_that_postgres_cannot_store_is_the_requests_fault():
    with pytest.raises(Invalid):
        await database.fetch(caller(ADA), "select %s::text", ["a\0b"])


async def test_a_statement_over_its_time_is_a_503(monkeypatch):
    monkeypatch.setattr(database, "AS_CALLER", database.AS_CALLER.replace("10s", "50ms"))
    with pytest.raises(Unavailable) as refused:
        await database.fetch(caller(ADA), "select pg_sleep(5)")
    assert refused.value.code == "database_timeout"


async def test_a_connection_that_the_server_closed_is_replaced_without_a_failure(postgres):
    await database.fetch(caller(ADA), "select 1")
    with psycopg.connect(postgres.environment["ADMIN_DATABASE_URL"], autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'agentkit_functions'"
        )
    assert await database.fetch(caller(ADA), "select 1 as one") == [{"one": 1}]


async def test_no_server_is_a_503_with_a_time_to_try_again(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:x@127.0.0.1:1/app")
    with pytest.raises(Unavailable) as refused:
        await database.fetch(caller(ADA), "select 1")
    assert refused.value.code == "database_unavailable"
    assert refused.value.headers == {"Retry-After": "5"}
