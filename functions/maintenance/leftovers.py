"""What jobs that are over have left: of no use once nobody resumes them."""

from collections.abc import AsyncGenerator, Mapping
from uuid import UUID

from agentkit import database, passages
from agentkit.settings import MaintenanceSettings, load

BATCH = 100

# A job that failed or was cancelled may be begun again where it broke off.
RESUMABLE = """
    status in ('queued', 'parsing', 'embedding', 'indexing')
    or (status in ('failed', 'cancelled') and finished_at >= now() - make_interval(secs => %(grace_seconds)s))
"""
PARTS = f"""
    with over as (
        select id from agentkit.jobs as job
        where exists (select from agentkit.job_parts where job_id = job.id) and not ({RESUMABLE})
        limit %(limit)s
        for update skip locked
    )
    delete from agentkit.job_parts using over where job_id = over.id
    returning job_id
"""
KEPT = f"select id from agentkit.jobs where id = any(%(ids)s) and ({RESUMABLE})"
OLD = """
    delete from agentkit.jobs where id in (
        select id from agentkit.jobs
        where finished_at < now() - make_interval(secs => %(kept_seconds)s)
          and status in ('ready', 'failed', 'cancelled')
        order by finished_at limit %(limit)s
        for update skip locked)
"""


async def parts() -> AsyncGenerator[Mapping[str, int], None]:
    """Remove the parts of jobs that nobody resumes."""
    facts = {"grace_seconds": load(MaintenanceSettings).grace_seconds, "limit": BATCH}
    found = BATCH
    while found == BATCH:
        async with database.service_transaction("remove parts of jobs") as connection:
            rows = await (await connection.execute(PARTS, facts)).fetchall()
        found = len({row["job_id"] for row in rows})
        yield {"PartsLeftOver": len(rows)}


async def staged() -> AsyncGenerator[Mapping[str, int], None]:
    """Remove the staged passages of jobs that nobody resumes, or that are gone."""
    grace_seconds = load(MaintenanceSettings).grace_seconds
    after, found = UUID(int=0), BATCH
    while found == BATCH:
        ids = await passages.staging(after, BATCH)
        facts = {"ids": ids, "grace_seconds": grace_seconds}
        (rows,) = await database.service_fetch_all("find jobs that are over", [(KEPT, facts)])
        over = set(ids) - {row["id"] for row in rows}
        for job_id in over:
            await passages.unstage(job_id)
        found, after = len(ids), ids[-1] if ids else after
        yield {"StagedLeftOver": len(over)}


async def old_jobs() -> AsyncGenerator[Mapping[str, int], None]:
    """Forget jobs that ended long ago."""
    facts = {"kept_seconds": load(MaintenanceSettings).maintenance_job_days * 86_400, "limit": BATCH}
    found = BATCH
    while found == BATCH:
        async with database.service_transaction("forget old jobs") as connection:
            found = (await connection.execute(OLD, facts)).rowcount
        yield {"JobsForgotten": found}
