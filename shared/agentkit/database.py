"""Postgres as the caller: every statement runs as that person, under row-level security, or as a named service.

    rows = await fetch(caller, "select id, title from agentkit.documents where id = %s", [id])
    async with transaction(caller) as connection: ...            dependent statements
    async with service_transaction("ingest a document") as connection: ...

Identity is set inside the transaction (`set_config(…, true)`), so it ends with it and a pooled connection carries
nothing over; Supavisor's transaction mode works, as no statement is prepared by name. A guarded read is one network
round trip: begin, identity, query and commit travel together in a pipeline.

The functions' login owns nothing, cannot bypass row-level security and cannot become the service.
"""

import asyncio
import json
import select
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, LiteralString

from agentkit import telemetry
from agentkit.auth import Caller
from agentkit.errors import Invalid, Problem, Unavailable
from agentkit.settings import DatabaseSettings, load

if TYPE_CHECKING:
    from psycopg import AsyncConnection

CONNECT_TIMEOUT_SECONDS = 5
STATEMENT_TIMEOUT = "10s"
# A caller waits at most this long in all, also when the network swallows packets.
TIME_LIMIT_SECONDS = 15.0

AS_CALLER = (
    "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true),"
    f" set_config('statement_timeout', '{STATEMENT_TIMEOUT}', true)"
)
AS_SERVICE = (
    "select set_config('role', 'agentkit_service', true), set_config('request.jwt.claims', '', true),"
    " set_config('application_name', %s, true)"
)

Row = dict[str, Any]
Parameters = Sequence[object] | Mapping[str, object]

log = telemetry.logger(__name__)


class Database(Enum):
    """Which of the two databases."""

    APP = "app"
    """Documents, conversations, jobs, usage."""
    VECTORS = "vectors"
    """Passages."""


@dataclass
class _Link:
    """The sandbox's one connection to a database; a sandbox answers one request, its tasks take turns."""

    connection: "AsyncConnection[Row] | None" = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


_links: dict[tuple[Database, asyncio.AbstractEventLoop], _Link] = {}


async def fetch(
    caller: Caller, query: LiteralString, parameters: Parameters = (), *, database: Database = Database.APP
) -> list[Row]:
    """Run one statement as that person and return its rows; one round trip.

    Raises Unavailable when Postgres is out of reach or too slow, Invalid when it cannot store a value.
    """
    (rows,) = await fetch_all(caller, [(query, parameters)], database=database)
    return rows


async def fetch_one(
    caller: Caller, query: LiteralString, parameters: Parameters = (), *, database: Database = Database.APP
) -> Row | None:
    """Return the first row, or None when there is none; otherwise as `fetch`."""
    rows = await fetch(caller, query, parameters, database=database)
    return rows[0] if rows else None


async def fetch_all(
    caller: Caller,
    statements: Sequence[tuple[LiteralString, Parameters]],
    *,
    database: Database = Database.APP,
) -> list[list[Row]]:
    """Run independent statements as that person, in order, in one transaction and one round trip; rows of each.

    All of them take effect or none does.
    """
    async with _turn(database) as link, _recovering(link):
        connection = await _connected(database, link)
        async with connection.pipeline():
            await connection.execute("begin")
            await connection.execute(AS_CALLER, [json.dumps(caller.claims)])
            cursors = [await connection.execute(query, parameters) for query, parameters in statements]
            await connection.execute("commit")
            telemetry.count_round_trip("postgres")
        return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]


@asynccontextmanager
async def transaction(caller: Caller, *, database: Database = Database.APP) -> AsyncIterator["AsyncConnection[Row]"]:
    """Run several dependent statements as that person; committed at the end, rolled back when the body raises."""
    async with _transaction(database, AS_CALLER, json.dumps(caller.claims)) as connection:
        yield connection


@asynccontextmanager
async def service_transaction(
    reason: str, *, database: Database = Database.APP
) -> AsyncIterator["AsyncConnection[Row]"]:
    """Run statements as the service, which sees every person's rows; only the worker's login may.

    reason: what for, in a few words; Postgres shows it as the connection's name meanwhile.
    """
    async with _transaction(database, AS_SERVICE, f"agentkit: {reason}"[:63]) as connection:
        yield connection


async def ping(database: Database) -> None:
    """Return when that database answers; raises Unavailable when it does not."""
    async with _turn(database) as link, _recovering(link):
        connection = await _connected(database, link)
        telemetry.count_round_trip("postgres")
        await connection.execute("select 1")


async def close() -> None:
    """Let go of this event loop's connections."""
    loop = asyncio.get_running_loop()
    for key in [key for key in _links if key[1] is loop]:
        link = _links.pop(key)
        if link.connection is not None:
            await link.connection.close()


@asynccontextmanager
async def _transaction(
    database: Database, identity: LiteralString, value: str
) -> AsyncIterator["AsyncConnection[Row]"]:
    async with _turn(database) as link, _recovering(link):
        connection = await _connected(database, link)
        async with connection.pipeline():
            await connection.execute("begin")
            await connection.execute(identity, [value])
            telemetry.count_round_trip("postgres")
        yield connection
        telemetry.count_round_trip("postgres")
        await connection.execute("commit")


@asynccontextmanager
async def _turn(database: Database) -> AsyncIterator[_Link]:
    link = _links.setdefault((database, asyncio.get_running_loop()), _Link())
    async with link.turn:
        yield link


async def _connected(database: Database, link: _Link) -> "AsyncConnection[Row]":
    """Return the connection, opened anew when there is none or the server has closed it while it was idle."""
    if link.connection is not None and _has_died(link.connection):
        await link.connection.close()
        link.connection = None
    if link.connection is None:
        import psycopg
        from psycopg.rows import dict_row

        settings = load(DatabaseSettings)
        url = settings.database_url if database is Database.APP else settings.vector_database_url
        telemetry.count_round_trip("postgres_connect")
        link.connection = await psycopg.AsyncConnection.connect(
            url.get_secret_value(),
            autocommit=True,
            prepare_threshold=None,
            row_factory=dict_row,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name="agentkit",
            tcp_user_timeout=int(TIME_LIMIT_SECONDS * 1000),
        )
    return link.connection


def _has_died(connection: "AsyncConnection[Row]") -> bool:
    """Say whether an idle connection has been closed by the other side; costs no round trip.

    Postgres says nothing to an idle client but goodbye, so anything to read means that it is over.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


@asynccontextmanager
async def _recovering(link: _Link) -> AsyncIterator[None]:
    """Bound the time, translate failures, and never leave a connection in an unknown state to the next person."""
    try:
        async with asyncio.timeout(TIME_LIMIT_SECONDS):
            yield
    except BaseException as error:
        await _restore(link)
        problem = _problem(error)
        if problem is None:
            raise
        raise problem from error


async def _restore(link: _Link) -> None:
    """Roll back, or give the connection up.

    A rollback is tried only where a transaction is open and idle. In any other state (a query still running because
    its task was cancelled, a pipeline cut in the middle) what the server will do next is not known.
    """
    from psycopg.pq import TransactionStatus

    connection = link.connection
    if connection is None:
        return
    open_and_idle = TransactionStatus.INTRANS, TransactionStatus.INERROR
    if not connection.closed and connection.info.transaction_status in open_and_idle:
        with suppress(Exception):
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await connection.execute("rollback")
    if connection.closed or connection.info.transaction_status is not TransactionStatus.IDLE:
        link.connection = None
        with suppress(Exception):
            await connection.close()


def _problem(error: BaseException) -> Problem | None:
    """Return the problem that a failure of the database means to the client; None for what is not the database's."""
    import psycopg

    if isinstance(error, TimeoutError | psycopg.errors.QueryCanceled):
        log.warning("database.timeout", exc_info=error)
        return Unavailable("The database took too long.", code="database_timeout")
    if isinstance(error, psycopg.OperationalError):
        log.warning("database.unavailable", exc_info=error)
        return Unavailable("The database cannot be reached just now.", code="database_unavailable")
    if isinstance(error, psycopg.DataError):
        return Invalid("A value of the request cannot be stored.")
    return None
