"""Migrations: SQL files applied in order, once, forward only, to a bare Supabase project and the local stack alike.

A file is `infra/migrations/NNNN_name.sql`. Its first line says for which databases: `-- databases: app, vectors`;
both may be one. Each runs in a transaction of its own, together with its record in `agentkit_migrations.applied`,
where its checksum is kept: a file that was edited after it was applied is an error and not a surprise.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql

FOLDER = Path(__file__).resolve().parent / "migrations"
# Any number will do, as long as every migrator takes the same one.
ADVISORY_LOCK = 4_711_002
LOCK_TIMEOUT = "5s"
LOGINS = ("agentkit_functions", "agentkit_worker")

DatabaseName = Literal["app", "vectors"]


class MigrationError(RuntimeError):
    """A migration cannot be applied; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    name: str
    databases: frozenset[str]
    statements: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.statements.encode()).hexdigest()


def migrations(folder: Path = FOLDER) -> list[Migration]:
    """Return every migration in order; raises MigrationError for a file that does not say what it is for."""
    found = []
    for file in sorted(folder.glob("*.sql")):
        text = file.read_text()
        header = re.match(r"-- databases: ([a-z, ]+)\n", text)
        if header is None or not re.fullmatch(r"\d{4}_[a-z_]+", file.stem):
            raise MigrationError(f"{file.name}: is not NNNN_name.sql beginning with `-- databases: …`.")
        found.append(Migration(file.stem, frozenset(header.group(1).replace(" ", "").split(",")), text))
    return found


def migrate(
    app_url: str,
    vectors_url: str,
    *,
    embedding_dimensions: int,
    passwords: Mapping[str, str] | None = None,
    folder: Path = FOLDER,
) -> list[str]:
    """Apply what is missing to both databases and return the names applied, each as `database/name`.

    passwords: login role to password, set after the migrations; None leaves them as they are.
    """
    parameters = {"embedding_dimensions": str(embedding_dimensions)}
    applied: list[str] = []
    for database, url in (("app", app_url), ("vectors", vectors_url)):
        with psycopg.connect(url, autocommit=True) as connection, _alone(connection):
            applied += [f"{database}/{name}" for name in _apply(connection, database, folder, parameters)]
            for role, password in (passwords or {}).items():
                statement = sql.SQL("alter role {} login password {}")
                connection.execute(statement.format(sql.Identifier(role), sql.Literal(password)))
    return applied


def main(embedding_dimensions: int) -> int:
    """Migrate the databases that the environment names, print what was applied, and return the exit status.

    Logins get the passwords in AGENTKIT_FUNCTIONS_PASSWORD and AGENTKIT_WORKER_PASSWORD, where those are set.
    """
    try:
        urls = os.environ["ADMIN_DATABASE_URL"], os.environ["ADMIN_VECTOR_DATABASE_URL"]
    except KeyError as missing:
        print(f"Set {missing.args[0]} to the owner's connection string.", file=sys.stderr)
        return 2
    given = {login: os.environ.get(f"{login.upper()}_PASSWORD") for login in LOGINS}
    passwords = {login: password for login, password in given.items() if password}
    try:
        applied = migrate(*urls, embedding_dimensions=embedding_dimensions, passwords=passwords)
    except (MigrationError, psycopg.OperationalError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(applied) or "Nothing to do.")
    return 0


@contextmanager
def _alone(connection: psycopg.Connection) -> Iterator[None]:
    """Hold off every other migrator of that database meanwhile."""
    connection.execute("select pg_advisory_lock(%s)", (ADVISORY_LOCK,))
    try:
        yield
    finally:
        connection.execute("select pg_advisory_unlock(%s)", (ADVISORY_LOCK,))


def _apply(connection: psycopg.Connection, database: str, folder: Path, parameters: Mapping[str, str]) -> list[str]:
    connection.execute("create schema if not exists agentkit_migrations")
    connection.execute(
        "create table if not exists agentkit_migrations.applied"
        " (name text primary key, checksum text not null, applied_at timestamptz not null default now())"
    )
    known: dict[str, str] = dict(
        connection.execute("select name, checksum from agentkit_migrations.applied").fetchall()
    )
    names = []
    for migration in migrations(folder):
        if database not in migration.databases:
            continue
        if migration.name in known:
            if known[migration.name] != migration.checksum:
                raise MigrationError(
                    f"{migration.name} was edited after it was applied; write a new migration instead."
                )
            continue
        try:
            with connection.transaction():
                connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
                connection.execute(_filled(migration, parameters).encode())
                connection.execute(
                    "insert into agentkit_migrations.applied (name, checksum) values (%s, %s)",
                    (migration.name, migration.checksum),
                )
        except psycopg.Error as error:
            raise MigrationError(f"{migration.name} failed and was rolled back: {error}") from error
        names.append(migration.name)
    return names


def _filled(migration: Migration, parameters: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match.group(1) not in parameters:
            raise MigrationError(f"{migration.name}: there is no parameter {match.group(1)}.")
        return parameters[match.group(1)]

    return re.sub(r"\{\{(\w+)\}\}", value, migration.statements)
