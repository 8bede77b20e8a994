"""Files and their documents: neither is there without the other for long.

Only objects that are named as `documents` names them are ours to delete; whatever else is in the bucket stays.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from agentkit import database, jobs, storage, telemetry
from agentkit.database import Row
from agentkit.errors import NotFound
from agentkit.settings import MaintenanceSettings, load
from agentkit.storage import LISTED_AT_ONCE
from functions.maintenance.around import around

BATCH = 50
UUID_PATTERN = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# As `documents` names them; an app may keep files of its own beside, in folders of the same kind.
OURS = re.compile(f"{UUID_PATTERN}/{UUID_PATTERN}/[0-9a-f]{{32}}-.+")

ABANDONED = """
    select * from agentkit.documents
    where status = 'awaiting_upload' and created_at < now() - make_interval(secs => %s) and id > %s
    order by id limit %s
"""
EXPIRE = "delete from agentkit.documents where id = %s and status = 'awaiting_upload'"
# Which of these keys has no document, and how many documents between them are ready and have no file?
COMPARED = """
    select array(select key from unnest(%(ours)s::text[]) as key
                 where not exists (select from agentkit.documents where object_key = key)) as unclaimed,
           (select count(*) from agentkit.documents
            where status = 'ready' and object_key collate "C" > %(after)s
              and (%(until)s::text is null or object_key collate "C" <= %(until)s)
              and object_key <> all(%(keys)s::text[])) as without_file
"""

log = telemetry.logger(__name__)


async def abandoned() -> AsyncGenerator[Mapping[str, int], None]:
    """Have uploads ingested that nobody told us of, and drop documents whose upload never came."""
    grace_seconds = load(MaintenanceSettings).grace_seconds
    after, found = UUID(int=0), BATCH
    while found == BATCH:
        async with database.service_transaction("find abandoned uploads") as connection:
            rows = await (await connection.execute(ABANDONED, [grace_seconds, after, BATCH])).fetchall()
        arrived = await asyncio.gather(*map(_has_its_file, rows))
        for row, has_its_file in zip(rows, arrived, strict=True):
            after = row["id"]
            if has_its_file:
                await jobs.enqueue_for(row["owner"], "ingest", row["id"], reason="ingest an upload")
            else:
                await database.service_fetch_all("drop an abandoned upload", [(EXPIRE, [row["id"]])])
        found = len(rows)
        yield {"UploadsRecovered": sum(arrived), "UploadsExpired": found - sum(arrived)}


async def unclaimed() -> AsyncGenerator[Mapping[str, int], None]:
    """Delete objects that no document has; count documents whose file is gone."""
    old = datetime.now(UTC) - timedelta(seconds=load(MaintenanceSettings).grace_seconds)

    async def read(after: str) -> list[storage.Listed]:
        return await storage.listed(after=after, limit=LISTED_AT_ONCE)

    # A key begins with its owner's id: a random one is a random place.
    pages = around(read, lambda each: each.key, first="", start=str(uuid4()), limit=LISTED_AT_ONCE)
    async for page in pages:
        facts = {
            "after": page.after,
            "until": page.until,
            "keys": [each.key for each in page.items],
            # A text is written before its document.
            "ours": [each.key for each in page.items if OURS.fullmatch(each.key) and each.stored_at <= old],
        }
        ((compared,),) = await database.service_fetch_all("compare documents with files", [(COMPARED, facts)])
        if compared["unclaimed"]:
            log.warning("objects.unclaimed", objects=len(compared["unclaimed"]))
            await storage.delete_many(compared["unclaimed"])
        yield {"ObjectsUnclaimed": len(compared["unclaimed"]), "DocumentsWithoutFile": compared["without_file"]}


async def _has_its_file(row: Row) -> bool:
    try:
        stored = await storage.head(row["object_key"])
    except NotFound:
        return False
    return bool(stored.size_bytes == row["size_bytes"])
