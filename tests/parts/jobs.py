"""Jobs as they may stand in their table, without the work that brings them there."""

import uuid
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from tests.parts.people import ADA
from tests.parts.postgres import Rows

PutJob = Callable[..., UUID]


@pytest.fixture
def put_job(rows: Rows) -> PutJob:
    """Put a job there, a new one of Ada's where nothing else is said; returns its id."""

    def put(**columns: Any) -> UUID:
        row: dict[str, Any] = {"id": uuid.uuid4(), "owner": ADA.id, "kind": "ingest", **columns}
        places = ", ".join(["%s"] * len(row))
        rows(f"insert into agentkit.jobs ({', '.join(row)}) values ({places})", list(row.values()))
        return UUID(str(row["id"]))

    return put
