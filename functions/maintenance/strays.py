"""Passages and their documents, which are in two databases: neither is there without the other for long.

What a running ingestion writes is safe: its document's row is there before its passages, and as long as they.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import LiteralString
from uuid import UUID, uuid4

from agentkit import database, jobs, passages, telemetry
from agentkit.database import Row
from agentkit.settings import MaintenanceSettings, load
from functions.maintenance.around import around

BATCH = 500
REMOVED_AT_ONCE = 5_000
NIL = UUID(int=0)

KNOWN = "select id from agentkit.documents where id = any(%s)"
READY = """
    select id, owner, coalesce(passages, 0) as passages, updated_at from agentkit.documents
    where status = 'ready' and id > %s order by id limit %s
"""
# Its bytes do not count as known any more, so that they are read again. Only while nothing has happened to it since it
# was compared: an ingestion changes both its row and its passages.
DOUBT = """
    update agentkit.documents as document set content_hash = null
    where id = %(id)s and status = 'ready' and updated_at = %(updated_at)s
      and not exists (select from agentkit.jobs as job
                      where job.document_id = document.id and job.owner = document.owner
                        and job.status in ('queued', 'parsing', 'embedding', 'indexing'))
"""

log = telemetry.logger(__name__)


async def orphans() -> AsyncGenerator[Mapping[str, int], None]:
    """Take passages out whose document is gone."""

    async def read(after: UUID) -> list[UUID]:
        return await passages.documents(after, BATCH)

    async for page in around(read, lambda each: each, first=NIL, start=uuid4(), limit=BATCH):
        gone = await _gone(page.items)
        removed = REMOVED_AT_ONCE
        while gone and removed == REMOVED_AT_ONCE:
            # Asked again each time: the same Idempotency-Key makes a document of the same id.
            gone = await _gone(gone)
            removed = await passages.remove_some(gone, REMOVED_AT_ONCE)
            log.warning("passages.orphaned", documents=len(gone), passages=removed)
            yield {"PassagesOrphaned": removed}
        yield {"PassagesOrphaned": 0}


async def incomplete() -> AsyncGenerator[Mapping[str, int], None]:
    """Have documents ingested again whose passages are not as many as they say."""
    most = load(MaintenanceSettings).maintenance_max_repairs
    found = 0

    async def read(after: UUID) -> list[Row]:
        return await _asked(READY, [after, BATCH])

    async for page in around(read, lambda row: row["id"], first=NIL, start=uuid4(), limit=BATCH):
        counts = await passages.counts([row["id"] for row in page.items])
        wrong = [row for row in page.items if counts.get(row["id"], 0) != row["passages"]]
        repaired = 0
        for row in wrong[: most - found]:
            repaired += await _ingest_again(row, counts.get(row["id"], 0))
        found += repaired
        yield {"DocumentsIncomplete": repaired}
        if len(wrong) > repaired and found >= most:
            log.error("maintenance.repairs_put_off", repaired=found)
            return


async def _ingest_again(row: Row, passages_there: int) -> bool:
    facts: dict[str, UUID | datetime] = {"id": row["id"], "updated_at": row["updated_at"]}
    async with database.service_transaction("doubt a document") as connection:
        if not (await connection.execute(DOUBT, facts)).rowcount:
            return False
    log.warning("document.incomplete", document_id=row["id"], passages=passages_there, expected=row["passages"])
    await jobs.enqueue_for(row["owner"], "ingest", row["id"], reason="repair a document")
    return True


async def _gone(document_ids: Sequence[UUID]) -> list[UUID]:
    known = {row["id"] for row in await _asked(KNOWN, [list(document_ids)])}
    return [each for each in document_ids if each not in known]


async def _asked(statement: LiteralString, parameters: Sequence[object]) -> list[Row]:
    (rows,) = await database.service_fetch_all("compare documents with passages", [(statement, parameters)])
    return rows
