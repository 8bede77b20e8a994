"""The real Postgres, migrated, one for the whole run."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from infra.local.postgres import Postgres

Rows = Callable[..., list[dict[str, Any]]]


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that everyone may enter while it lasts: root runs the server as nobody.

    Not one of pytest's: each pytest that starts closes those of the same person's others.
    """
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A running server; ask for `postgres` instead, unless the test stops it."""
    with open_folder() as folder:
        server = Postgres(folder, durable=False)
        server.start()
        yield server
        server.stop()


@pytest.fixture
def postgres(postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    """Empty tables, and the functions' logins in the environment."""
    for name in ("DATABASE_URL", "VECTOR_DATABASE_URL"):
        monkeypatch.setenv(name, postgres_server.environment[name])
    with psycopg.connect(postgres_server.environment["ADMIN_DATABASE_URL"], autocommit=True) as connection:
        tables = "documents", "conversations", "messages", "jobs", "usage_events"
        connection.execute("truncate " + ", ".join(f"agentkit.{table}" for table in tables) + " cascade")
    with psycopg.connect(postgres_server.environment["ADMIN_VECTOR_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("truncate vecs.passages, vecs.staged")
    return postgres_server


@pytest.fixture
def rows(postgres: Postgres) -> Rows:
    """Ask the databases as their owner: `rows(statement, parameters)`, `rows(statement, database="VECTOR_")`."""

    def query(statement: str, parameters: Sequence[object] = (), database: str = "") -> list[dict[str, Any]]:
        url = postgres.environment[f"ADMIN_{database}DATABASE_URL"]
        with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    return query
