"""Jobs and documents that nothing happens to any more: each is brought to an end, or back to a worker."""

from collections.abc import AsyncGenerator, Mapping

from agentkit import database, jobs, telemetry, work
from agentkit.jobs import Job
from agentkit.settings import QueueSettings, WorkerSettings, load
from agentkit.work import GAVE_UP, TOOK_TOO_LONG

BATCH = 100
# A job is not heard of for so many times a lease, and this long at least, before its message counts as lost.
LEASES = 3
LEAST_SECONDS = 120.0

OVERDUE = """
    select * from agentkit.jobs
    where status in ('queued', 'parsing', 'embedding', 'indexing') and deadline < now()
    order by deadline limit %(limit)s
    for update skip locked
"""
# Which jobs has nobody touched, or held a step of, for so long? While messages wait, theirs may be among them: then
# only those that have waited twice as long as the last time, so that a crowded queue is not made more crowded.
UNHEARD = """
    select job.* from agentkit.jobs as job
    where status in ('queued', 'parsing', 'embedding', 'indexing')
      and updated_at < now() - make_interval(secs => %(patience)s)
      and coalesce(lease_until < now(), true)
      and not exists (select from agentkit.job_parts as part
                      where part.job_id = job.id and part.done_at is null and part.lease_until > now())
      and (not %(crowded)s
           or now() - updated_at > updated_at - (deadline - make_interval(secs => %(deadline_seconds)s)))
    order by updated_at limit %(limit)s
    for update skip locked
"""
TOUCH = "update agentkit.jobs set updated_at = now() where id = any(%s)"
# A document under way without work of its owner's on it. It is as good as before, if it was ready before.
FORGOTTEN = """
    with stray as (
        select id from agentkit.documents as document
        where status in ('queued', 'processing') and updated_at < now() - make_interval(secs => %(patience)s)
          and not exists (select from agentkit.jobs as job
                          where job.document_id = document.id and job.owner = document.owner
                            and job.status in ('queued', 'parsing', 'embedding', 'indexing'))
        order by updated_at limit %(limit)s
        for update skip locked
    )
    update agentkit.documents as document
    set status = case when passages > 0 and content_hash is not null then 'ready' else 'failed' end,
        error_code = case when passages > 0 and content_hash is not null then null else 'interrupted' end,
        error = case when passages > 0 and content_hash is not null then null else %(sentence)s end
    from stray where document.id = stray.id
    returning document.id, document.status
"""
INTERRUPTED = "The work on it broke off; ask for it again."

log = telemetry.logger(__name__)


async def overdue() -> AsyncGenerator[Mapping[str, int], None]:
    """Fail live jobs that are past their deadline, whoever is at them."""
    found = BATCH
    while found == BATCH:
        async with database.service_transaction("fail overdue jobs") as connection:
            rows = await (await connection.execute(OVERDUE, {"limit": BATCH})).fetchall()
            for row in rows:
                await work.fail(connection, Job.of(row), TOOK_TOO_LONG, holder=None)
        found = len(rows)
        yield {"JobsOverdue": found}


async def unheard() -> AsyncGenerator[Mapping[str, int], None]:
    """Send the message of live jobs again that nobody has been at for long, or give them up after too many attempts."""
    settings = load(WorkerSettings)
    facts = {
        "patience": max(LEASES * settings.jobs_lease_seconds, LEAST_SECONDS),
        "crowded": await jobs.waiting() > 0,
        "deadline_seconds": load(QueueSettings).jobs_deadline_seconds,
        "limit": BATCH,
    }
    found = BATCH
    while found == BATCH:
        async with database.service_transaction("find jobs without a message") as connection:
            unheard = [Job.of(row) for row in await (await connection.execute(UNHEARD, facts)).fetchall()]
            spent = [job for job in unheard if job.attempts >= settings.jobs_max_receives]
            for job in spent:
                await work.fail(connection, job, GAVE_UP, holder=None)
            # Before they are sent: nobody else sends them too, and what cannot be sent has its next turn later.
            lost = [job for job in unheard if job not in spent]
            await connection.execute(TOUCH, [[job.id for job in lost]])
        for job in lost:
            await jobs.send(job)
            log.info("job.sent_again", job_id=job.id, kind=job.kind, status=job.status)
        found = len(unheard)
        yield {"JobsSentAgain": len(lost), "JobsGivenUp": len(spent)}


async def forgotten() -> AsyncGenerator[Mapping[str, int], None]:
    """Make documents under way that no job is at ready again, or else failed."""
    facts = {"patience": LEAST_SECONDS, "sentence": INTERRUPTED, "limit": BATCH}
    found = BATCH
    while found == BATCH:
        async with database.service_transaction("end what no job is at") as connection:
            rows = await (await connection.execute(FORGOTTEN, facts)).fetchall()
        for row in rows:
            log.warning("document.forgotten", document_id=row["id"], status=row["status"])
        found = len(rows)
        ready = sum(row["status"] == "ready" for row in rows)
        yield {"DocumentsRestored": ready, "DocumentsInterrupted": found - ready}
