"""Passages as the worker writes them."""

from collections.abc import AsyncIterator

import pytest

from agentkit import database, embeddings, passages
from infra.local.postgres import Postgres


@pytest.fixture
async def as_worker(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Postgres]:
    """The worker's login, which may do what the functions' may and write as the service too."""
    for name in ("DATABASE_URL", "VECTOR_DATABASE_URL"):
        monkeypatch.setenv(name, postgres.environment[f"WORKER_{name}"])
    passages._collection.cache_clear()
    yield postgres
    await database.close()
    await embeddings.close()
    if passages._collection.cache_info().currsize:
        passages._collection().client.disconnect()
        passages._collection.cache_clear()
