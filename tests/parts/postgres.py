"""The real Postgres, migrated, one for the whole run."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra.local.postgres import Postgres


def reachable(folder: Path) -> Path:
    """Let everyone into pytest's folder: root runs the server as nobody."""
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A running server; ask for `postgres` instead, unless the test stops it."""
    server = Postgres(reachable(tmp_path_factory.mktemp("postgres-part")), durable=False)
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
        connection.execute("truncate " + ", ".join(f"agentkit.{table}" for table in tables))
    with psycopg.connect(postgres_server.environment["ADMIN_VECTOR_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("truncate vecs.passages")
    return postgres_server
