"""Whose an ingestion's next step is: one worker's for the whole of a document, several workers' for its parts.

    read      fetch, parse and cut the document; a short one is embedded and indexed at once     by one worker alone
    embed     one part of a long one                                                             by as many as there are
    index     make the new passages the document's, once every part is embedded                  by one worker alone

A claim is a holder and the end of a lease in the job's row, or in its part's. Whatever a step writes it writes as that
holder: once the lease has gone to someone else, or the job is over, it is told so by LeaseLost.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID, uuid4

from agentkit import database, work
from agentkit.database import Row
from agentkit.jobs import Job, Status
from agentkit.settings import EmbeddingSettings, QueueSettings, WorkerSettings, load
from agentkit.work import GAVE_UP, TOOK_TOO_LONG, Busy, LeaseLost, Over, WorkFailed
from functions.worker.chunk import Passage

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# Locked for as long as it takes to choose, so that two workers never choose at the same time.
LOOK = """
    select job.*, deadline < now() as late, coalesce(lease_until > now(), false) as held,
           coalesce(extract(epoch from lease_until - now()), 0)::float8 as held_seconds,
           (select count(*) from agentkit.job_parts where job_id = job.id) as parts,
           (select count(*) from agentkit.job_parts where job_id = job.id and done_at is null) as undone
    from agentkit.jobs as job where id = %s for update
"""
CLAIM = """
    update agentkit.jobs
    set status = %(status)s, holder = %(holder)s, lease_until = now() + make_interval(secs => %(lease)s),
        attempts = attempts + %(begun)s::int, started_at = case when %(begun)s then now() else started_at end,
        progress = case when %(begun)s then '{}' else progress end
    where id = %(id)s
    returning *
"""
# The condition is said again for the row as it is when it is locked: a heartbeat may have come meanwhile.
CLAIM_PART = """
    with free as (
        select ordinal from agentkit.job_parts
        where job_id = %(id)s and done_at is null and (holder is null or lease_until < now())
        order by ordinal limit 1
    )
    update agentkit.job_parts as part
    set holder = %(holder)s, lease_until = now() + make_interval(secs => %(lease)s), attempts = attempts + 1
    from free
    where part.job_id = %(id)s and part.ordinal = free.ordinal and (part.holder is null or part.lease_until < now())
    returning part.*
"""
# Begun again by its owner: what is left of it counts from the start.
RESUME = "update agentkit.jobs set status = 'embedding', attempts = attempts + 1, started_at = now() where id = %s"
FORGIVE = "update agentkit.job_parts set attempts = 0, holder = null where job_id = %s and done_at is null"
FIRST_FREE = """
    select coalesce(min(extract(epoch from lease_until - now())), 0)::float8 as seconds
    from agentkit.job_parts where job_id = %s and done_at is null
"""

# Each of these tells by a row whether the claim still held.
BEAT = """
    update agentkit.jobs set lease_until = now() + make_interval(secs => %(lease)s)
    where id = %(id)s and holder = %(holder)s
    returning id
"""
BEAT_PART = """
    update agentkit.job_parts as part set lease_until = now() + make_interval(secs => %(lease)s)
    from agentkit.jobs as job
    where part.job_id = %(id)s and part.holder = %(holder)s and part.done_at is null
      and job.id = part.job_id and job.status = 'embedding'
    returning job.id
"""
RELEASE = """
    update agentkit.jobs
    set status = %(status)s, holder = null, lease_until = null, attempts = attempts - %(forgone)s::int
    where id = %(id)s and holder = %(holder)s
    returning id
"""
# Several workers try a part within seconds while the model is away: their messages' deliveries count that. What counts
# here is who has died at it.
RELEASE_PART = """
    update agentkit.job_parts set holder = null, lease_until = null, attempts = attempts - 1
    where job_id = %(id)s and holder = %(holder)s and done_at is null
    returning job_id
"""

ADVANCE = """
    update agentkit.jobs set status = %(status)s, progress = %(progress)s
    where id = %(id)s and holder = %(holder)s
    returning id
"""
SPLIT = """
    update agentkit.jobs
    set status = 'embedding', source = %(source)s, progress = %(progress)s, holder = null, lease_until = null
    where id = %(id)s and holder = %(holder)s
"""
ADD_PART = """
    insert into agentkit.job_parts (job_id, ordinal, first_page, last_page, passages, count)
    values (%s, %s, %s, %s, %s, %s)
"""
START_OVER = """
    update agentkit.jobs set status = 'queued', source = '{}', holder = null, lease_until = null
    where id = %(id)s and holder = %(holder)s
"""
# What failed may have been the file before the one that it was asked for meanwhile. By its deadline an earlier message
# of it, which may be a dead letter soon, is known for one.
BEGIN_AGAIN = """
    update agentkit.jobs
    set status = 'queued', attempts = 0, source = '{}', holder = null, lease_until = null,
        deadline = now() + make_interval(secs => %(deadline_seconds)s)
    where id = %(id)s and holder = %(holder)s and source ? 'again'
    returning id
"""
DELETE_PARTS = "delete from agentkit.job_parts where job_id = %s"
NOTE_PART = """
    update agentkit.job_parts as part
    set staged = %(staged)s, reused = %(reused)s,
        done_at = case when %(staged)s = part.count then now() end,
        holder = case when %(staged)s < part.count then part.holder end
    from agentkit.jobs as job
    where part.job_id = %(id)s and part.holder = %(holder)s and part.done_at is null
      and job.id = part.job_id and job.status = 'embedding'
    returning job.id
"""
PROGRESS_OF_PARTS = """
    update agentkit.jobs as job
    set progress = job.progress || jsonb_build_object(
        'passages', parts.staged, 'reused', parts.reused,
        'pages', least(parts.pages, (job.progress ->> 'pages_total')::int))
    from (
        select sum(staged) as staged, sum(reused) as reused,
               sum(case when staged = count then last_page - first_page + 1 else 0 end) as pages
        from agentkit.job_parts where job_id = %(id)s
    ) as parts
    where job.id = %(id)s and job.status = 'embedding'
"""
SPEND = """
    update agentkit.jobs set input_tokens = input_tokens + %(tokens)s, cost_usd = cost_usd + %(cost)s
    where id = %(id)s
"""
USAGE = """
    insert into agentkit.usage_events (owner, function, model, input_tokens, output_tokens, cost_usd, document_id)
    values (%(owner)s, 'worker', %(model)s, %(tokens)s, 0, %(cost)s, %(document_id)s)
"""


@dataclass(frozen=True, slots=True)
class JobClaim:
    """The job is ours alone."""

    job: Job
    holder: UUID
    steps: "Steps"
    indexes: bool
    """Its parts are embedded and wait to be made the document's; otherwise it begins with its file."""
    begun: bool
    """The claim counts among the job's attempts."""

    @property
    def attempts(self) -> int:
        """How often the job was begun."""
        return self.job.attempts

    async def run(self) -> None:
        """Do the step."""
        await (self.steps.index if self.indexes else self.steps.read)(self)

    async def beat(self) -> bool:
        """Hold it for another lease; False when it is not ours any more."""
        return await _changed("hold a job", BEAT, _held(self, lease=_lease()))

    async def release(self) -> None:
        """Let the next worker have it at once."""
        await self._release(forgone=False)

    async def forgo(self) -> None:
        """Let the next worker have it as if it had not been claimed."""
        await self._release(forgone=self.begun)

    async def fail(self, failure: WorkFailed) -> None:
        """Fail the job and its document; unless it was asked for again since it began, and begins again."""
        facts = _held(self, deadline_seconds=load(QueueSettings).jobs_deadline_seconds)
        if self.indexes or not await _changed("begin a job again", BEGIN_AGAIN, facts):
            await _fail(self, failure)

    async def advance(self, status: Status, **progress: object) -> None:
        """The job's owner sees it there, this far; raises LeaseLost."""
        facts = _held(self, status=status, progress=json.dumps(progress))
        if not await _changed("move a job on", ADVANCE, facts):
            raise LeaseLost

    async def note(self, tokens: int, **progress: object) -> None:
        """The job's owner sees it this far with its vectors, the last of which cost so much; raises LeaseLost."""
        facts = _held(self, status="embedding", progress=json.dumps(progress))
        noted = await _together("note a job's progress", (ADVANCE, facts), *_spent(self.job, tokens))
        if not noted:
            raise LeaseLost

    async def split(self, parts: Sequence[Sequence[tuple[int, Passage]]], source: Mapping[str, object]) -> None:
        """The job is in parts, each a run of passages with their places in the document, and no more ours alone."""
        total = sum(map(len, parts))
        progress: dict[str, object] = {"passages": 0, "passages_total": total, "reused": 0}
        if source.get("pages") is not None:
            progress |= {"pages": 0, "pages_total": source["pages"]}
        async with database.service_transaction("split a job") as connection:
            await connection.execute(DELETE_PARTS, [self.job.id])
            facts = _held(self, source=json.dumps(source), progress=json.dumps(progress))
            if not (await connection.execute(SPLIT, facts)).rowcount:
                raise LeaseLost
            await connection.cursor().executemany(
                ADD_PART,
                [
                    (
                        self.job.id,
                        ordinal,
                        part[0][1].page,
                        part[-1][1].page,
                        json.dumps([{"ordinal": place, **asdict(passage)} for place, passage in part]),
                        len(part),
                    )
                    for ordinal, part in enumerate(parts)
                ],
            )

    async def start_over(self) -> None:
        """The job begins with its file again: it is another one now."""
        async with database.service_transaction("begin a job again") as connection:
            await connection.execute(START_OVER, _held(self))
            await connection.execute(DELETE_PARTS, [self.job.id])

    async def _release(self, *, forgone: bool) -> None:
        status = "indexing" if self.indexes else "queued"
        await _changed("release a job", RELEASE, _held(self, status=status, forgone=forgone))


@dataclass(frozen=True, slots=True)
class PartClaim:
    """One part of the job is ours."""

    job: Job
    holder: UUID
    steps: "Steps"
    attempts: int
    passages: list[tuple[int, Passage]]
    """With their places in the document."""

    async def run(self) -> None:
        """Do the step."""
        await self.steps.embed(self)

    async def beat(self) -> bool:
        """Hold it for another lease; False when it is not ours any more."""
        return await _changed("hold a part", BEAT_PART, _held(self, lease=_lease()))

    async def release(self) -> None:
        """Let the next worker have it at once."""
        await _changed("release a part", RELEASE_PART, _held(self))

    async def forgo(self) -> None:
        """Let the next worker have it as if it had not been claimed."""
        await self.release()

    async def fail(self, failure: WorkFailed) -> None:
        """Fail the job and its document."""
        await _fail(self, failure)

    async def note(self, tokens: int, *, staged: int, reused: int) -> None:
        """So many passages of the part have their vectors, of which so many were known; the last ones cost so much.

        Raises LeaseLost.
        """
        facts = _held(self, staged=staged, reused=reused)
        statements = (NOTE_PART, facts), *_spent(self.job, tokens), (PROGRESS_OF_PARTS, facts)
        if not await _together("note a job's progress", *statements):
            raise LeaseLost


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done with a claim."""

    read: Callable[[JobClaim], Awaitable[None]]
    embed: Callable[[PartClaim], Awaitable[None]]
    index: Callable[[JobClaim], Awaitable[None]]


async def claim(job_id: UUID, steps: Steps) -> JobClaim | PartClaim | Busy | Over:
    """Claim what is to be done next on that job.

    A job that is past its deadline, or whose step has broken off too often, is failed instead.
    """
    async with database.service_transaction("take a job's next step") as connection:
        row = await (await connection.execute(LOOK, [job_id])).fetchone()
        if row is None:
            return Over("gone")
        job = Job.of(row)
        if not job.live:
            return Over(job.status)
        if row["late"]:
            return await _end(connection, job, TOOK_TOO_LONG)
        if row["held"]:
            return Busy(row["held_seconds"])
        if row["undone"]:
            return await _claim_part(connection, job, steps)
        return await _claim_job(connection, job, steps, indexes=row["parts"] > 0, broke_off=row["holder"] is not None)


async def _claim_job(
    connection: "AsyncConnection[Row]", job: Job, steps: Steps, *, indexes: bool, broke_off: bool
) -> JobClaim | Over:
    begun = broke_off or not indexes
    if begun and job.attempts >= load(WorkerSettings).jobs_max_receives:
        return await _end(connection, job, GAVE_UP)
    holder = uuid4()
    facts = {
        "id": job.id,
        "holder": holder,
        "lease": _lease(),
        "status": "indexing" if indexes else "parsing",
        "begun": begun,
    }
    row = await (await connection.execute(CLAIM, facts)).fetchone()
    assert row is not None  # noqa: S101  # it is locked
    return JobClaim(Job.of(row), holder, steps, indexes, begun)


async def _claim_part(connection: "AsyncConnection[Row]", job: Job, steps: Steps) -> PartClaim | Busy | Over:
    if job.status == "queued":
        await connection.execute(RESUME, [job.id])
        await connection.execute(FORGIVE, [job.id])
    holder = uuid4()
    facts = {"id": job.id, "holder": holder, "lease": _lease()}
    row = await (await connection.execute(CLAIM_PART, facts)).fetchone()
    if row is None:
        free = await (await connection.execute(FIRST_FREE, [job.id])).fetchone()
        return Busy(free["seconds"] if free else 0)
    if row["attempts"] > load(WorkerSettings).jobs_max_receives:
        return await _end(connection, job, GAVE_UP)
    return PartClaim(job, holder, steps, row["attempts"], [_placed(each) for each in row["passages"]])


def _placed(kept: dict[str, Any]) -> tuple[int, Passage]:
    return kept.pop("ordinal"), Passage(**{**kept, "heading": tuple(kept["heading"])})


async def _end(connection: "AsyncConnection[Row]", job: Job, failure: WorkFailed) -> Over:
    await work.fail(connection, job, failure, holder=None)
    return Over("failed")


async def _fail(held: JobClaim | PartClaim, failure: WorkFailed) -> None:
    async with database.service_transaction("note a job's failure") as connection:
        await work.fail(connection, held.job, failure, holder=held.holder)


def _spent(job: Job, tokens: int) -> list[tuple[LiteralString, Mapping[str, Any]]]:
    """Return what notes the cost of an embedding: it was spent, whoever has the job now."""
    if not tokens:
        return []
    settings = load(EmbeddingSettings)
    facts = {
        "id": job.id,
        "owner": job.owner,
        "document_id": job.document_id,
        "model": settings.embedding_model,
        "tokens": tokens,
        "cost": round(tokens * settings.embedding_price / 1_000_000, 6),
    }
    return [(SPEND, facts), (USAGE, facts)]


async def _changed(reason: str, statement: LiteralString, facts: Mapping[str, Any]) -> bool:
    return await _together(reason, (statement, facts))


async def _together(reason: str, *statements: tuple[LiteralString, Mapping[str, Any]]) -> bool:
    """Execute them in one round trip; say whether the first found the claim to hold."""
    first, *_ = await database.service_fetch_all(reason, statements)
    return bool(first)


def _held(held: JobClaim | PartClaim, **facts: object) -> dict[str, object]:
    return {"id": held.job.id, "holder": held.holder, **facts}


def _lease() -> float:
    return load(WorkerSettings).jobs_lease_seconds
