"""Postgres as the caller: every statement runs as that person, under row-level security, or as a named service.

    rows = await fetch(caller, "select id, title from agentkit.documents where id = %s", [id])
    async with transaction(caller) as connection: ...            dependent statements
    async with service_transaction("ingest a document") as connection: ...

Identity is set inside the transaction (`set_config(…, true)`), so it ends with it and a pooled connection carries
nothing over; Supavisor's transaction mode works, as no statement is prepared by name. A guarded read is one network
round trip: begin, identity, query and commit travel together in a pipeline. A connection that is not known to be idle
(its task was cancelled, its rollback failed) is given up and never handed to the next person.

The functions' login owns nothing, cannot bypass row-level security and cannot become the service.
"""

import asyncio
import json
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, LiteralString

from agentkit import telemetry
from agentkit.auth import Caller
from agentkit.errors import Forbidden, Invalid, Problem, Unavailable
from agentkit.settings import DatabaseSettings, load

if TYPE_CHECKING:
    from psycopg import AsyncConnection

CONNECT_TIMEOUT_SECONDS = 5
STATEMENT_TIMEOUT = "10s"
# A caller waits at most this long in all, also when the network swallows packets.
TIME_LIMIT_SECONDS = 15.0
# A connection that has rested longer is asked whether it still stands: a frozen sandbox hears no goodbye.
RESTED_SECONDS = 60.0
PROBE_TIMEOUT_SECONDS = 2.0
# How long a request that is over still tries to end its query at the server.
CANCEL_TIMEOUT_SECONDS = 1.0

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
    """Idle, and nobody's: while someone has it, it is not here."""
    used_at: float = 0.0
    """When it was last put back, by the wall clock: the monotonic one may stand still while a sandbox is frozen."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


# What may take long has a connection of its own, so that the rest does not wait for it.
_links: dict[tuple[Database, asyncio.AbstractEventLoop, bool], _Link] = {}


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
    return await _fetch_all(database, AS_CALLER, json.dumps(caller.claims), statements)


async def service_fetch_all(
    reason: str,
    statements: Sequence[tuple[LiteralString, Parameters]],
    *,
    database: Database = Database.APP,
) -> list[list[Row]]:
    """Run independent statements as the service, in one round trip; otherwise as `fetch_all`.

    reason: what for, as for `service_transaction`.
    """
    return await _fetch_all(database, AS_SERVICE, _named(reason), statements)


@asynccontextmanager
async def transaction(caller: Caller, *, database: Database = Database.APP) -> AsyncIterator["AsyncConnection[Row]"]:
    """Run several dependent statements as that person; committed at the end, rolled back when the body raises."""
    async with _transaction(database, AS_CALLER, json.dumps(caller.claims)) as connection:
        yield connection


@asynccontextmanager
async def service_transaction(
    reason: str, *, database: Database = Database.APP, seconds: float | None = None
) -> AsyncIterator["AsyncConnection[Row]"]:
    """Run statements as the service, which sees every person's rows; only the worker's login may.

    reason: what for, in a few words; Postgres shows it as the connection's name meanwhile.
    seconds: how long it may take in all, for work that nobody waits for; else TIME_LIMIT_SECONDS.
    """
    async with _transaction(database, AS_SERVICE, _named(reason), seconds=seconds) as connection:
        yield connection


@asynccontextmanager
async def alone(name: str) -> AsyncIterator[bool]:
    """Say whether nobody else is in here under that name, in any process; if so, nobody else will be until the end.

    It takes a connection of its own, as the only lock that lasts through a pooler is a transaction's: ours while both
    last.
    """
    try:
        connection = await _connect(Database.APP)
    except Exception as error:
        problem = _problem(error, too_late=False)
        if problem is None:
            raise
        raise problem from error
    try:
        await connection.execute("begin")
        asked = await connection.execute("select pg_try_advisory_xact_lock(hashtextextended(%s, 0)) as ours", [name])
        yield (await asked.fetchall())[0]["ours"]
    finally:
        await connection.close()


async def ping(database: Database) -> None:
    """Return when that database answers; raises Unavailable when it does not."""
    async with _turn(database) as connection:
        telemetry.count_round_trip("postgres")
        await connection.execute("select 1")


async def close() -> None:
    """Let go of this event loop's connections."""
    loop = asyncio.get_running_loop()
    for key in [key for key in _links if key[1] is loop]:
        link = _links.pop(key)
        if link.connection is not None:
            await link.connection.close()


async def _fetch_all(
    database: Database,
    identity: LiteralString,
    value: str,
    statements: Sequence[tuple[LiteralString, Parameters]],
) -> list[list[Row]]:
    async with _turn(database) as connection:
        async with connection.pipeline():
            await connection.execute("begin")
            await connection.execute(identity, [value])
            cursors = [await connection.execute(query, parameters) for query, parameters in statements]
            await connection.execute("commit")
            telemetry.count_round_trip("postgres")
        return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]


@asynccontextmanager
async def _transaction(
    database: Database, identity: LiteralString, value: str, *, seconds: float | None = None
) -> AsyncIterator["AsyncConnection[Row]"]:
    async with _turn(database, seconds) as connection:
        async with connection.pipeline():
            await connection.execute("begin")
            await connection.execute(identity, [value])
            telemetry.count_round_trip("postgres")
        yield connection
        telemetry.count_round_trip("postgres")
        await connection.execute("commit")


@asynccontextmanager
async def _turn(database: Database, seconds: float | None = None) -> AsyncIterator["AsyncConnection[Row]"]:
    """Lend the connection to one task at a time, for a bounded time; failures come out as the problems they mean."""
    link = _links.setdefault((database, asyncio.get_running_loop(), seconds is not None), _Link())
    limit = asyncio.timeout(TIME_LIMIT_SECONDS if seconds is None else seconds)
    try:
        async with limit, link.turn:
            connection = None
            try:
                connection = await _reusable(link) or await _connect(database)
                yield connection
            finally:
                if connection is not None:
                    await _give_back(link, connection)
    except BaseException as error:
        problem = _problem(error, too_late=limit.expired())
        if problem is None:
            raise
        raise problem from error


def _named(reason: str) -> str:
    """Return the connection's name while it does that; Postgres keeps 63 bytes of it."""
    return f"agentkit: {reason}"[:63]


async def _connect(database: Database) -> "AsyncConnection[Row]":
    from psycopg.rows import dict_row

    settings = load(DatabaseSettings)
    url = settings.database_url if database is Database.APP else settings.vector_database_url
    telemetry.count_round_trip("postgres_connect")
    return await _connection_class().connect(
        url.get_secret_value(),
        autocommit=True,
        prepare_threshold=None,
        row_factory=dict_row,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        application_name="agentkit",
        tcp_user_timeout=int(TIME_LIMIT_SECONDS * 1000),
    )


@cache
def _connection_class() -> "type[AsyncConnection[Row]]":
    import psycopg

    class Connection(psycopg.AsyncConnection[Row]):
        """psycopg's, which does not keep a cancelled task waiting for a server that is gone (its own limits: 10 s)."""

        async def cancel_safe(self, *, timeout: float = CANCEL_TIMEOUT_SECONDS) -> None:  # noqa: ASYNC109  # its base's
            """Ask the server to end the query; when that cannot be done, hang up."""
            try:
                await super().cancel_safe(timeout=min(timeout, CANCEL_TIMEOUT_SECONDS))
            except BaseException:
                _hang_up(self)
                raise

    return Connection


def _hang_up(connection: "AsyncConnection[Row]") -> None:
    """End the conversation without a word, so that whoever waits for an answer is told that it is over."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


async def _reusable(link: _Link) -> "AsyncConnection[Row] | None":
    """Take the resting connection, unless there is none or the other side is gone."""
    import psycopg

    connection, link.connection = link.connection, None
    if connection is None:
        return None
    try:
        if not _has_died(connection):
            if time.time() - link.used_at > RESTED_SECONDS:
                await _probe(connection)
            return connection
    except psycopg.OperationalError:
        log.info("database.connection_lost")
    except BaseException:
        await connection.close()
        raise
    await connection.close()
    return None


async def _probe(connection: "AsyncConnection[Row]") -> None:
    """Return when the server answers on that connection; raises psycopg.OperationalError when it does not, soon."""
    telemetry.count_round_trip("postgres")
    patience = asyncio.get_running_loop().call_later(PROBE_TIMEOUT_SECONDS, _hang_up, connection)
    try:
        await connection.execute("select 1")
    finally:
        patience.cancel()


def _has_died(connection: "AsyncConnection[Row]") -> bool:
    """Say whether an idle connection has been closed by the other side; costs no round trip.

    Postgres says nothing to an idle client but goodbye, so anything to read means that it is over.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _give_back(link: _Link, connection: "AsyncConnection[Row]") -> None:
    """Put the connection back once it is known to be idle, rolled back if need be; otherwise close it.

    A rollback is tried only where a transaction is open and at rest. In any other state (a query still running because
    its task was cancelled, a pipeline cut in the middle) what the server will do next is not known.
    """
    from psycopg.pq import PipelineStatus, TransactionStatus

    def idle() -> bool:
        state = connection.pgconn
        return state.transaction_status == TransactionStatus.IDLE and state.pipeline_status == PipelineStatus.OFF

    try:
        at_rest = TransactionStatus.INTRANS, TransactionStatus.INERROR
        if not connection.closed and connection.info.transaction_status in at_rest:
            with suppress(Exception):
                async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                    await connection.execute("rollback")
    finally:
        if not connection.closed and idle():
            link.connection, link.used_at = connection, time.time()
        else:
            await connection.close()


def _problem(error: BaseException, *, too_late: bool) -> Problem | None:
    """Return the problem that a failure of the database means to the client; None for what is not the database's."""
    import psycopg

    if isinstance(error, psycopg.errors.QueryCanceled) or (too_late and isinstance(error, TimeoutError)):
        log.warning("database.timeout", exc_info=error)
        return Unavailable("The database took too long.", code="database_timeout")
    if isinstance(error, psycopg.OperationalError):
        log.warning("database.unavailable", exc_info=error)
        return Unavailable("The database cannot be reached just now.", code="database_unavailable")
    # UnicodeEncodeError: half of a surrogate pair, which psycopg cannot send.
    if isinstance(error, psycopg.DataError | UnicodeEncodeError):
        return Invalid("A value of the request cannot be stored.")
    # Only a policy's `with check` is the caller's; the same error for a missing grant is ours.
    if isinstance(error, psycopg.errors.InsufficientPrivilege) and error.diag.source_function == "ExecWithCheckOptions":
        return Forbidden("You are not allowed to make this change.")
    return None
