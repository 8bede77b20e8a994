"""Postgres as the caller: identity ends with the transaction, a read is one round trip, failures are told apart."""

import asyncio
import sys
from contextlib import suppress

import anyio
import psycopg
import pytest

from agentkit import database, settings, telemetry
from agentkit.errors import Forbidden, Invalid, Unavailable
from tests.parts.distance import distance_to
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
    link = next(link for (which, *_), link in database._links.items() if which is database.Database.APP)
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


async def running_in(server, statement):
    """Return once the server is at work on that statement."""
    url = server.environment["ADMIN_DATABASE_URL"]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while True:
            cursor = await connection.execute(
                "select from pg_stat_activity where state = 'active' and query = %s and pid <> pg_backend_pid()",
                [statement],
            )
            if await cursor.fetchone() is not None:
                return
            await asyncio.sleep(0.01)


async def test_a_query_whose_request_was_cancelled_ends_at_the_server_too(postgres):
    running = asyncio.create_task(database.fetch(caller(ADA), "select pg_sleep(600)"))
    await running_in(postgres, "select pg_sleep(600)")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with psycopg.connect(postgres.environment["ADMIN_DATABASE_URL"]) as connection:
        left = connection.execute("select from pg_stat_activity where state = 'active' and query like '%sleep(600)'")
        assert left.fetchall() == []


async def write_and_read_as_ada(conversation):
    async with database.transaction(caller(ADA)) as connection:
        await connection.execute(
            "insert into agentkit.conversations (owner, id, title) values (%s, %s, 'One')", [ADA.id, conversation]
        )
        await connection.execute("select * from agentkit.conversations")
        await connection.execute("no statement at all")


async def read_as_ada(_):
    await database.fetch_all(caller(ADA), [("select auth.uid()", ()), ("select pg_sleep(0.001)", ())])


@pytest.mark.parametrize("work", [read_as_ada, write_and_read_as_ada])
@pytest.mark.parametrize("cancellations", [1, 2])
async def test_a_request_cancelled_at_any_moment_leaves_nothing_to_the_next_person(work, cancellations):
    for moment in range(40):
        running = asyncio.create_task(work(f"c{moment}"))
        await asyncio.sleep(moment * 0.0003)  # before it connects, while it waits, after it is done
        for _ in range(cancellations):
            running.cancel()
            await asyncio.sleep(0)
        with suppress(asyncio.CancelledError, psycopg.errors.SyntaxError):
            await running
        row = await database.fetch_one(
            caller(BOB), "select auth.uid() as id, (select count(*) from agentkit.conversations) as visible"
        )
        assert row == {"id": BOB.id, "visible": 0}
        assert await identity_left_on_the_connection() == NOBODY
    assert await database.fetch(caller(ADA), "select id from agentkit.conversations") == []  # nothing half done


async def test_tasks_take_turns_on_the_connection_and_each_sees_its_own():
    people = [ADA, BOB] * 10
    answers = await asyncio.gather(
        *(database.fetch(caller(person), "select auth.uid() as id, pg_backend_pid() as pid") for person in people)
    )
    assert [row["id"] for (row,) in answers] == [person.id for person in people]
    assert len({row["pid"] for (row,) in answers}) == 1


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


async def test_a_row_that_a_policy_refuses_is_a_403():
    insert = "insert into agentkit.conversations (owner, id) values (%s, 'hers')"
    with pytest.raises(Forbidden):
        await database.fetch(caller(BOB), insert, [ADA.id])


async def test_the_functions_login_cannot_become_the_service():
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with database.service_transaction("look at everything"):
            pass


async def test_the_workers_login_can(postgres, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", postgres.environment["WORKER_DATABASE_URL"])
    async with database.service_transaction("ingest a document") as connection:
        cursor = await connection.execute("select current_user as role, current_setting('application_name') as name")
        assert await cursor.fetchone() == {"role": "agentkit_service", "name": "agentkit: ingest a document"}


async def test_statements_of_the_service_that_depend_on_nothing_are_one_round_trip(postgres, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", postgres.environment["WORKER_DATABASE_URL"])
    who = "select current_user as role, current_setting('application_name') as name"
    await database.service_fetch_all("connect", [])
    with telemetry.counting_round_trips() as counted:
        found = await database.service_fetch_all("stage passages", [(who, ()), ("select %s as two", [2])])
    assert found == [[{"role": "agentkit_service", "name": "agentkit: stage passages"}], [{"two": 2}]]
    assert counted == {"postgres": 1}


async def test_work_that_nobody_waits_for_may_have_a_limit_of_its_own(postgres, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", postgres.environment["WORKER_DATABASE_URL"])
    monkeypatch.setattr(database, "TIME_LIMIT_SECONDS", 0)
    async with database.service_transaction("take one's time", seconds=60) as connection:
        await connection.execute("select 1")
    with pytest.raises(Unavailable):
        async with database.service_transaction("be quick"):
            pass


async def test_a_value_that_postgres_cannot_store_is_the_requests_fault():
    for value in ("a\0b", "half \ud83d of a pair"):
        with pytest.raises(Invalid):
            await database.fetch(caller(ADA), "select %s::text", [value])
    assert await database.fetch(caller(ADA), "select %s::text as t", ["😀"]) == [{"t": "😀"}]


@pytest.mark.parametrize("value", ["'; drop table agentkit.documents; --", "%s", "\\'", "مرحبا", "x" * 100_000])
async def test_a_value_is_only_ever_a_value(value):
    assert await database.fetch(caller(ADA), "select %s::text as t", [value]) == [{"t": value}]
    assert await database.fetch(caller(ADA), "select * from agentkit.documents where title = %s", [value]) == []


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


async def test_a_server_that_is_back_is_found_again(monkeypatch, postgres):
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:x@127.0.0.1:1/app")
    with pytest.raises(Unavailable):
        await database.fetch(caller(ADA), "select 1")
    monkeypatch.setenv("DATABASE_URL", postgres.environment["DATABASE_URL"])
    settings.forget()
    assert await database.fetch(caller(ADA), "select 1 as one") == [{"one": 1}]


@pytest.fixture
async def far(postgres, monkeypatch):
    """The server, from afar; the connection is open."""
    async with distance_to(postgres.port) as distance:
        url = postgres.environment["DATABASE_URL"].replace(f":{postgres.port}/", f":{distance.port}/")
        monkeypatch.setenv("DATABASE_URL", url)
        await database.ping(database.Database.APP)
        distance.round_trips = 0
        yield distance
        await database.close()


async def test_a_guarded_read_is_one_round_trip(far):
    with telemetry.counting_round_trips() as counted:
        await database.fetch(caller(ADA), "select * from agentkit.documents where title = %s", ["x" * 10_000])
    assert (far.round_trips, counted["postgres"]) == (1, 1)


async def test_several_independent_statements_are_one_round_trip(far):
    await database.fetch_all(caller(ADA), [("select generate_series(1, 5000)", ())] * 5)
    assert far.round_trips == 1


async def test_a_transaction_is_one_round_trip_for_identity_one_for_each_statement_and_one_to_commit(far):
    with telemetry.counting_round_trips() as counted:
        async with database.transaction(caller(ADA)) as connection:
            await connection.execute("select 1")
            await connection.execute("select 2")
    assert far.round_trips == 1 + 2 + 1
    assert counted["postgres"] == 2  # what the module itself waited for: identity and commit


async def test_a_connection_that_has_rested_long_is_asked_first_and_replaced_when_it_is_dead(far, monkeypatch):
    monkeypatch.setattr(database, "RESTED_SECONDS", 0)
    monkeypatch.setattr(database, "PROBE_TIMEOUT_SECONDS", 1)
    pid = "select pg_backend_pid() as pid"
    first = await database.fetch_one(caller(ADA), pid)
    assert far.round_trips == 2
    assert await database.fetch_one(caller(ADA), pid) == first
    far.swallows = True
    asking = asyncio.create_task(database.fetch_one(caller(ADA), pid))
    await far.swallowed.wait()
    far.swallows = False
    assert await asking != first


async def test_the_wait_for_ones_turn_is_within_the_limit(monkeypatch):
    async with database.transaction(caller(ADA)):
        monkeypatch.setattr(database, "TIME_LIMIT_SECONDS", 0.05)
        with pytest.raises(Unavailable) as refused:
            await database.fetch(caller(BOB), "select 1")
    assert refused.value.code == "database_timeout"


async def test_a_network_that_swallows_everything_is_a_503_in_time(far, monkeypatch):
    monkeypatch.setattr(database, "TIME_LIMIT_SECONDS", 0.2)
    far.swallows = True
    async with asyncio.timeout(30):  # that a hang is told as one
        with pytest.raises(Unavailable) as refused:
            await database.fetch(caller(ADA), "select 1")
    assert refused.value.code == "database_timeout"
    far.swallows = False
    monkeypatch.setattr(database, "TIME_LIMIT_SECONDS", 15.0)
    assert await database.fetch_one(caller(BOB), "select auth.uid() as id") == {"id": BOB.id}


async def test_psycopg_is_imported_on_first_use_only():
    code = "import sys, agentkit.database; print([name for name in sys.modules if 'psycopg' in name])"
    done = await anyio.run_process([sys.executable, "-c", code])
    assert done.stdout == b"[]\n"
