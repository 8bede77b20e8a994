"""Migrations: SQL files applied in order, once, forward only, to a bare Supabase project and the local stack alike.

A file is `infra/migrations/NNNN_name.sql`. Its first line says for which databases: `-- databases: app, vectors`;
both may be one. Each runs in a transaction of its own, together with its record in `agentkit_migrations.applied`,
where its checksum is kept: a file that was edited after it was applied is an error and not a surprise.

    ADMIN_DATABASE_URL=… ADMIN_VECTOR_DATABASE_URL=…             the owner's own connections: on Supabase `postgres`,
                                                                 direct or in session mode
    AGENTKIT_FUNCTIONS_PASSWORD=… AGENTKIT_WORKER_PASSWORD=…     what the two logins get; left out, they keep theirs
    python -m infra migrate --embedding-dimensions 1536
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from agentkit.passages import COLLECTION
from agentkit.settings import CollectionSettings, ConfigurationError, load

FOLDER = Path(__file__).resolve().parent / "migrations"
# Any number will do, as long as every migrator takes the same one.
ADVISORY_LOCK = 4_711_002
LOCK_TIMEOUT = "5s"
LOGINS = ("agentkit_functions", "agentkit_worker")
FIRST = "0001_roles"
# How many dimensions the vectors of that collection have, where it is there.
DIMENSIONS = """
select atttypmod from pg_attribute
where attrelid = to_regclass(format('vecs.%%I', %s::text)) and attname = 'vec'
"""
URLS = ("ADMIN_DATABASE_URL", "ADMIN_VECTOR_DATABASE_URL")


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
    collection: str = COLLECTION,
    passwords: Mapping[str, str] | None = None,
    folder: Path = FOLDER,
) -> list[str]:
    """Apply what is missing to both databases and return the names applied, each as `database/name`.

    collection: the one that serves, whose vectors have that many dimensions.
    passwords: login role to password, set after the migrations; None leaves them as they are.
    Raises MigrationError, psycopg.Error when a database is out of reach or its owner may not do that.
    """
    parameters = {"embedding_dimensions": str(embedding_dimensions)}
    applied: list[str] = []
    with psycopg.connect(app_url, autocommit=True) as app, psycopg.connect(vectors_url, autocommit=True) as vectors:
        targets = [("app", app, {"app"}), ("vectors", vectors, {"vectors"})]
        if _identity(app) == _identity(vectors):
            targets = [("app", app, {"app", "vectors"})]
        _check_dimensions(vectors, collection, embedding_dimensions)
        for database, connection, kinds in targets:
            with _alone(connection):
                names = _apply(connection, kinds, folder, parameters)
                applied += [f"{database}/{name}" for name in names]
                for login, password in (passwords or {}).items():
                    _set_password(connection, login, password)
    return applied


def main(embedding_dimensions: int) -> int:
    """Migrate the databases that the environment names, print what was applied, and return the exit status.

    EMBEDDING_COLLECTION names the collection that serves, where it is not the first one.
    Logins get the passwords in AGENTKIT_FUNCTIONS_PASSWORD and AGENTKIT_WORKER_PASSWORD, where those are set.
    """
    if missing := [name for name in URLS if not os.environ.get(name)]:
        print(f"Set {' and '.join(missing)} to the owner's connection string.", file=sys.stderr)
        return 2
    for name in URLS:
        try:
            conninfo_to_dict(os.environ[name])
        except psycopg.ProgrammingError:
            # The library's own message repeats the string, and the password in it.
            print(f"{name} is not a connection string: postgresql://user:password@host:port/name", file=sys.stderr)
            return 2
    variables = {login: f"{login.upper()}_PASSWORD" for login in LOGINS}
    passwords = {login: os.environ[name] for login, name in variables.items() if os.environ.get(name)}
    app_url, vectors_url = (os.environ[name] for name in URLS)
    try:
        collection = load(CollectionSettings).embedding_collection
        applied = migrate(
            app_url,
            vectors_url,
            embedding_dimensions=embedding_dimensions,
            collection=collection,
            passwords=passwords,
        )
    except (MigrationError, ConfigurationError, psycopg.Error) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(applied) or "Nothing to do.")
    if f"app/{FIRST}" in applied and len(passwords) < len(LOGINS):
        unset = " and ".join(name for login, name in variables.items() if login not in passwords)
        print(f"Without a password a login cannot be used: set {unset}, and migrate again.")
    return 0


@contextmanager
def _alone(connection: psycopg.Connection) -> Iterator[None]:
    """Hold off every other migrator of that database meanwhile."""
    connection.execute("select pg_advisory_lock(%s)", (ADVISORY_LOCK,))
    try:
        yield
    finally:
        connection.execute("select pg_advisory_unlock(%s)", (ADVISORY_LOCK,))


def _identity(connection: psycopg.Connection) -> object:
    """Return what two connections share when they reach the same database, by whatever name."""
    return connection.execute("select system_identifier, current_database() from pg_control_system()").fetchone()


def _set_password(connection: psycopg.Connection, login: str, password: str) -> None:
    # Hashed here: a server that logs its statements would write the password down.
    verifier = connection.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
    statement = sql.SQL("alter role {} login password {}")
    connection.execute(statement.format(sql.Identifier(login), sql.Literal(verifier)))


def _check_dimensions(connection: psycopg.Connection, collection: str, wanted: int) -> None:
    row = connection.execute(DIMENSIONS, [collection]).fetchone()
    if row is not None and row[0] != wanted:
        raise MigrationError(
            f"vecs.{collection} holds vectors of {row[0]} dimensions, not {wanted}: another embedding model has "
            "another collection, which `python -m infra reembed` fills and EMBEDDING_COLLECTION names."
        )


def _apply(connection: psycopg.Connection, kinds: set[str], folder: Path, parameters: Mapping[str, str]) -> list[str]:
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
        if not kinds & migration.databases:
            continue
        if migration.name in known:
            if known[migration.name] != migration.checksum:
                raise MigrationError(
                    f"{migration.name} was edited after it was applied; write a new migration instead."
                )
            continue
        if known and migration.name < max(known):
            raise MigrationError(f"{migration.name} comes before {max(known)}, which is applied; give it a new number.")
        try:
            with connection.transaction():
                connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
                # Supabase ends a statement after two minutes; an index on many vectors takes longer.
                connection.execute("set local statement_timeout = 0")
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
