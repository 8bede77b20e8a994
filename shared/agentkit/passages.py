"""The pieces of documents, by meaning and by words: hybrid search in one statement, and their storing through vecs.

Search reads `vecs.passages` by SQL, as the caller, in one round trip. Two legs are fused by reciprocal rank
(Cormack, Clarke and Büttcher, SIGIR 2009: 1 / (60 + rank), summed over the legs). With 10 in the place of 60 and the
keyword leg weighed by the share of the question's words that the passage holds, both together are better than either
alone, whatever is asked: `make bench` measures it (quality).

- semantic: cosine distance. What a caller may see is compared one by one and the answer is exact, unless it is more
  than COMPARED_NUMBERS allow. Then the HNSW index is scanned iteratively (pgvector 0.8) until enough of the rows it
  finds are theirs; when it gives up before that, all are compared after all. A plain index scan filters afterwards and
  comes back with too few, or none.
- keyword: the words of the text, any of them, ranked by how many of them a passage holds. It reads all that the caller
  may see: `@@` is not leakproof, so under row-level security Postgres tries it only on rows that it has already found
  visible, and never by the index on fts.

A document's passages are replaced all at once. An ingestion gathers them in `vecs.staged`, where nobody finds them:
`stage_known` copies those whose vector its owner already has, `stage` writes the others through vecs; then `swap` puts
them in the old ones' place in one transaction, so that a search sees the old or the new and never a mix.

`EMBEDDING_COLLECTION` names the collection when it is not `passages`; the statements below are about that one then.
vecs is imported by the writer alone: it brings numpy and SQLAlchemy, which a search must not pay for.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, LiteralString
from uuid import UUID

from agentkit import telemetry
from agentkit.auth import Caller
from agentkit.database import Database, Row, fetch_all, service_fetch_all, service_transaction
from agentkit.embeddings import Vector
from agentkit.errors import Unavailable
from agentkit.settings import CollectionSettings, DatabaseSettings, EmbeddingSettings, load

if TYPE_CHECKING:
    from vecs.collection import Collection

COLLECTION = "passages"
STAGED = "staged"
# Candidates that each leg hands to the fusion, for each passage that is wanted.
DEPTH = 4
LEAST_DEPTH = 40
# Up to so many numbers every visible passage is compared and the answer is exact: 52,000 vectors of 384 dimensions or
# 13,000 of 1,536; 10,000 of 384 take 22 to 34 ms. Below that the index would be faster and miss: of someone who holds a
# tenth to a half of 100,000 passages, a question about other people's topics brought 58 to 33 % of the nearest ten.
COMPARED_NUMBERS = 20_000_000
# How far the index is scanned for a caller's passages among everyone's before it gives up.
MOST_SCANNED = 20_000
# Candidates of an index scan: of 10,000 passages about one topic, 400 bring 97 % of the nearest ten, 200 bring 87 %.
LEAST_EF_SEARCH = 400
MOST_EF_SEARCH = 1_000
# Nobody waits for a swap, and each passage that is new takes its place in the HNSW index: some milliseconds.
SWAP_SECONDS = 600.0
# A swap of so many is over before anyone waits long for the connection.
SHORT_SWAP = 128
# Of the connection that vecs writes over: seconds to connect, milliseconds until what was sent is acknowledged.
PATIENCE = "connect_timeout=5&tcp_user_timeout=15000&keepalives_idle=10&keepalives_interval=5&keepalives_count=2"

# Someone signed in as no one: whether there is a table can be asked, and nothing is seen of it.
NOBODY = Caller(UUID(int=0), {})

Mode = Literal["hybrid", "semantic", "keyword"]

# A row-level policy hides from the planner how much someone may see. Left to itself it sorts all of that instead of
# following the HNSW index, and reads every row to count them. What cannot be had without sorting is still sorted.
SCAN_SETTINGS = """
select set_config('hnsw.iterative_scan', 'relaxed_order', true),
       set_config('hnsw.ef_search', %(ef_search)s, true),
       set_config('hnsw.max_scan_tuples', %(most_scanned)s, true),
       set_config('hnsw.scan_mem_multiplier', '4', true),
       set_config('enable_sort', 'off', true),
       set_config('enable_bitmapscan', 'off', true),
       set_config('enable_seqscan', 'off', true),
       set_config('jit', 'off', true)
"""

# Which passages answer a text best? The conditions on owner and audience repeat what row-level security demands, so
# that indexes can be used for them. `+ 0` keeps the comparison of all off the HNSW index; a branch whose gate is shut
# is never executed.
FIND = """
with
  visible as not materialized (
    select * from vecs.passages
    where owner = %(owner)s
      and (%(document_ids)s::uuid[] is null or document_id = any(%(document_ids)s))
    union all
    select * from vecs.passages
    where audience = 'everyone' and owner <> %(owner)s
      and (%(document_ids)s::uuid[] is null or document_id = any(%(document_ids)s))
  ),
  seen as materialized (
    select (
      select count(*) from (
        select from vecs.passages
        where owner = %(owner)s and (%(document_ids)s::uuid[] is null or document_id = any(%(document_ids)s))
        limit %(most_compared)s + 1
      ) as own
    ) + (
      select count(*) from (
        select from vecs.passages
        where audience = 'everyone' and owner <> %(owner)s
          and (%(document_ids)s::uuid[] is null or document_id = any(%(document_ids)s))
        limit %(most_compared)s + 1
      ) as of_others
    ) as passages
  ),
  by_index as materialized (
    select id, vec <=> %(vector)s::vector as distance from vecs.passages
    where %(semantic)s and (select passages > %(most_compared)s from seen)
      and (owner = %(owner)s or audience = 'everyone')
      and (%(document_ids)s::uuid[] is null or document_id = any(%(document_ids)s))
    order by vec <=> %(vector)s::vector limit %(depth)s
  ),
  compared as materialized (
    select id, vec <=> %(vector)s::vector as distance from visible
    where %(semantic)s and (select count(*) from by_index) < %(limit)s
    order by (vec <=> %(vector)s::vector) + 0 limit %(depth)s
  ),
  semantic as (
    select id, row_number() over (order by distance, id) as rank
    from (select id, distance from by_index union select id, distance from compared) as nearest
  ),
  words as materialized (
    select string_agg(word, ' | ')::tsquery as wanted, array_agg(word::tsquery) as words
    from (
      select '''' || replace(replace(lexeme, '\\', '\\\\'), '''', '''''') || '''' as word
      from unnest(to_tsvector('english', %(text)s))
    ) as quoted
    where %(keyword)s
  ),
  keyword as (
    select id, row_number() over (order by weight desc, id) as rank,
           (select avg((fts @@ word)::int)::float8 from unnest((select words from words)) as word) as share
    from (
      select id, fts, ts_rank(fts, (select wanted from words)) as weight from visible
      where (select wanted is not null from words) and fts @@ (select wanted from words)
      order by weight desc, id limit %(depth)s
    ) as heaviest
  ),
  fused as (
    select id, sum(share / (10 + rank))::float8 as score
    from (select id, rank, 1.0 as share from semantic union all select id, rank, share from keyword) as legs
    group by id
    order by score desc, id
    limit %(limit)s
  )
select p.id, p.document_id, p.metadata, f.score,
       case when %(semantic)s then 1 - (p.vec <=> %(vector)s::vector) end as similarity
from fused f join vecs.passages p using (id)
order by f.score desc, p.id
"""

# Which of these have a vector that their owner already has, live or staged? They are staged with it.
STAGE_KNOWN = """
with
  found as (
    select each ->> 'id' as id, each -> 'metadata' as metadata
    from jsonb_array_elements(%(found)s::jsonb) as each
  ),
  known as materialized (
    select found.id, same.vec, found.metadata
    from found cross join lateral (
      select vec from vecs.passages
      where owner = (found.metadata ->> 'owner')::uuid
        and metadata ->> 'content_hash' = nullif(found.metadata ->> 'content_hash', '')
      union all
      select vec from vecs.staged
      where owner = (found.metadata ->> 'owner')::uuid
        and metadata ->> 'content_hash' = nullif(found.metadata ->> 'content_hash', '')
      limit 1
    ) as same
  ),
  written as (
    insert into vecs.staged as staged (id, vec, metadata)
    select id, vec, metadata from known order by id
    on conflict (id) do update set vec = excluded.vec, metadata = excluded.metadata
    where staged.metadata <> excluded.metadata or staged.vec <> excluded.vec
  )
select id from known
"""

# One swap of a document at a time; what else the transaction sets holds for the statements after this one.
LOCK = """
select pg_advisory_xact_lock(hashtextextended(%(document_id)s::text, 0)),
       set_config('statement_timeout', '0', true)
"""
# What is staged, and what is there? A document is of its newest passage's version.
COUNTED = """
select
  (
    select count(*) from vecs.staged
    where job_id = %(job_id)s and owner = %(owner)s and metadata ->> 'document_id' = %(document_id)s::text
  ) as staged,
  count(*) as live,
  coalesce(max((metadata ->> 'version')::bigint), 0) as version
from vecs.passages
where document_id = %(document_id)s and owner = %(owner)s
"""
REMOVE_OTHERS = """
delete from vecs.passages
where document_id = %(document_id)s and owner = %(owner)s
  and not id in (select split_part(id, '/', 2) from vecs.staged where job_id = %(job_id)s)
"""
# What says the same as before is left alone, the index too. The first one always tells the document's version.
PUT_STAGED = """
insert into vecs.passages (id, vec, metadata)
select staged.id, staged.vec, staged.metadata
from (
  select split_part(id, '/', 2) as id, vec, metadata - 'job_id' as metadata
  from vecs.staged where job_id = %(job_id)s
) as staged left join vecs.passages as live using (id)
where live.id is null or live.vec <> staged.vec
   or live.metadata - 'version' <> staged.metadata - 'version'
   or (staged.metadata -> 'ordinal' = '0' and live.metadata <> staged.metadata)
order by staged.id
on conflict (id) do update set vec = excluded.vec, metadata = excluded.metadata
"""
PING = "select from vecs.passages limit 0"
UNSTAGE = "delete from vecs.staged where job_id = %s"

# Which documents have passages, and which jobs have staged some? By id, from where the last page ended.
DOCUMENTS = """
select distinct document_id as id from vecs.passages where document_id > %s order by document_id limit %s
"""
STAGING = "select distinct job_id as id from vecs.staged where job_id > %s order by job_id limit %s"
COUNTS = """
select document_id as id, count(*) as passages from vecs.passages where document_id = any(%s) group by document_id
"""
REMOVE_SOME = """
delete from vecs.passages where id in (select id from vecs.passages where document_id = any(%s) limit %s)
"""

REMOVE = "delete from vecs.passages where document_id = %s and owner = %s"
REMOVE_AS_CALLER = "delete from vecs.passages where document_id = %s and owner = auth.uid()"


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document, as it is stored."""

    document_id: UUID
    owner: UUID
    ordinal: int
    """Its place in the document, from 0."""
    text: str
    title: str
    """The document's."""
    start: int
    end: int
    """Where it stands in the text that was extracted from the document, in characters; end exclusive."""
    page: int | None = None
    """From 1; None where the format knows no pages."""
    heading: tuple[str, ...] = ()
    """The headings above it, outermost first."""
    audience: Literal["owner", "everyone"] = "owner"
    content_hash: str = ""
    """Of what was embedded: the same under the same model has the same vector. Empty when that is not known."""
    version: int = 0
    """The number of the job that made it."""

    @property
    def id(self) -> str:
        """Unique among all passages, and the same when the document is ingested again."""
        return f"{self.document_id}:{self.ordinal:05d}"

    @property
    def metadata(self) -> dict[str, Any]:
        """What vecs stores beside the vector; the table derives its columns from it."""
        return {
            "owner": str(self.owner),
            "document_id": str(self.document_id),
            "audience": self.audience,
            "title": self.title,
            "page": self.page,
            "heading": list(self.heading),
            "ordinal": self.ordinal,
            "start": self.start,
            "end": self.end,
            "text": self.text,
            "content_hash": self.content_hash,
            "version": self.version,
        }


@dataclass(frozen=True, slots=True)
class Match:
    """A passage that was found."""

    id: str
    document_id: UUID
    title: str
    page: int | None
    text: str
    score: float
    """Of the fused ranking; only its order means something."""
    similarity: float | None
    """Cosine similarity to the question, -1 to 1; None when only words were searched."""
    heading: list[str] = field(default_factory=list)
    start: int = 0
    end: int = 0


class Incomplete(Exception):  # noqa: N818  # reads as what happened
    """Not exactly the document's passages are staged, so it stays as it was."""


class Superseded(Exception):  # noqa: N818  # reads as what happened
    """A later job has replaced the document's passages already, and they stay."""


async def find(
    caller: Caller,
    vector: Vector | None,
    text: str,
    *,
    limit: int,
    mode: Mode = "hybrid",
    document_ids: Sequence[UUID] | None = None,
) -> list[Match]:
    """Return the passages that the caller may see and that fit best, best first; at most `limit`, one round trip.

    vector: of the text; None only in keyword mode. document_ids: look in these alone.
    Raises Unavailable when the database is out of reach.
    """
    parameters = _parameters(caller, vector, text, limit=limit, mode=mode, document_ids=document_ids)
    _, rows = await fetch_all(
        caller, [(SCAN_SETTINGS, parameters), (_ours(FIND), parameters)], database=Database.VECTORS
    )
    return [_match(row) for row in rows]


async def ping() -> None:
    """Return when the collection can be read; raises what a search would, Unavailable among it."""
    await fetch_all(NOBODY, [(_ours(PING), ())], database=Database.VECTORS)


async def stage_known(job_id: UUID, found: Sequence[Passage]) -> list[Passage]:
    """Stage those whose vector their owner already has and return the others, in their order; one round trip.

    What an earlier attempt of the job has staged is known too. Workers only.
    """
    from psycopg.types.json import Jsonb

    staged = {_staged_id(job_id, each): each for each in found}
    records = [{"id": id_, "metadata": _staged_metadata(job_id, each)} for id_, each in staged.items()]
    statement = _ours(STAGE_KNOWN), {"found": Jsonb(records)}
    (rows,) = await service_fetch_all("stage passages", [statement], database=Database.VECTORS)
    known = {row["id"] for row in rows}
    return [each for id_, each in staged.items() if id_ not in known]


async def stage(job_id: UUID, found: Sequence[Passage], vectors: Sequence[Vector]) -> None:
    """Keep these with their vectors for the job's swap; harmless to repeat. Workers only.

    Raises Unavailable when the database is out of reach.
    """
    records = [
        (_staged_id(job_id, each), vector, _staged_metadata(job_id, each))
        for each, vector in zip(found, vectors, strict=True)
    ]
    await asyncio.to_thread(_upsert, records)


async def swap(job_id: UUID, document_id: UUID, owner: UUID, *, version: int, count: int) -> None:
    """Make what the job has staged the document's passages, all at once; harmless to repeat, also once unstaged.

    version: the job's number. count: of the passages that the document has by now. Workers only.
    Raises Incomplete when others are staged than those, Superseded when the document is of a later version.
    """
    facts = {"job_id": job_id, "document_id": document_id, "owner": owner}
    seconds = SWAP_SECONDS if count > SHORT_SWAP else None
    async with service_transaction("swap passages", database=Database.VECTORS, seconds=seconds) as connection:
        async with connection.pipeline():
            await connection.execute(LOCK, facts)
            counting = await connection.execute(_ours(COUNTED), facts)
            telemetry.count_round_trip("postgres")
        (seen,) = await counting.fetchall()
        if seen["version"] > version:
            raise Superseded(f"Document {document_id} is of version {seen['version']}, after {version}.")
        if seen["staged"] == 0 and (seen["live"], seen["version"]) == (count, version):
            return
        if seen["staged"] != count:
            raise Incomplete(f"Job {job_id} has staged {seen['staged']} of {count} passages.")
        async with connection.pipeline():
            await connection.execute(_ours(REMOVE_OTHERS), facts)
            await connection.execute(_ours(PUT_STAGED), facts)
            telemetry.count_round_trip("postgres")


async def unstage(job_id: UUID) -> None:
    """Drop what that job has staged; harmless to repeat. Workers only."""
    await _as_service("unstage passages", UNSTAGE, [job_id])


async def documents(after: UUID, limit: int) -> list[UUID]:
    """Return the documents that have passages, by id after that one; at most `limit`. Workers only."""
    return [row["id"] for row in await _as_service("list documents with passages", DOCUMENTS, [after, limit])]


async def staging(after: UUID, limit: int) -> list[UUID]:
    """Return the jobs that have passages staged, by id after that one; at most `limit`. Workers only."""
    return [row["id"] for row in await _as_service("list jobs with passages", STAGING, [after, limit])]


async def counts(document_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return how many passages each of the documents has, where it has any. Workers only."""
    rows = await _as_service("count documents' passages", COUNTS, [list(document_ids)])
    return {row["id"]: row["passages"] for row in rows}


async def remove_some(document_ids: Sequence[UUID], limit: int) -> int:
    """Take at most `limit` passages of those documents out, anyone's; return how many it were. Workers only."""
    async with service_transaction("remove passages", database=Database.VECTORS) as connection:
        return (await connection.execute(_ours(REMOVE_SOME), [list(document_ids), limit])).rowcount


async def remove(document_id: UUID, owner: UUID) -> None:
    """Take every passage of that owner's document out, as the service; those of another's stay. Workers only."""
    async with service_transaction("remove passages", database=Database.VECTORS) as connection:
        await connection.execute(_ours(REMOVE), [document_id, owner])


async def remove_as(caller: Caller, document_id: UUID) -> None:
    """Take every passage of the caller's document out; those of another's stay."""
    await fetch_all(caller, [(_ours(REMOVE_AS_CALLER), [document_id])], database=Database.VECTORS)


def _parameters(
    caller: Caller,
    vector: Vector | None,
    text: str,
    *,
    limit: int,
    mode: Mode,
    document_ids: Sequence[UUID] | None,
) -> dict[str, object]:
    depth = max(LEAST_DEPTH, DEPTH * limit)
    most_compared = 0 if vector is None else COMPARED_NUMBERS // len(vector)
    return {
        "owner": caller.id,
        "vector": None if vector is None else _literal(vector),
        "text": text,
        "semantic": mode != "keyword",
        "keyword": mode != "semantic",
        "document_ids": None if document_ids is None else list(document_ids),
        "limit": limit,
        "depth": depth,
        "most_compared": most_compared,
        "ef_search": str(min(max(2 * depth, LEAST_EF_SEARCH), MOST_EF_SEARCH)),
        "most_scanned": str(MOST_SCANNED),
    }


def _match(row: dict[str, Any]) -> Match:
    metadata = row["metadata"]
    return Match(
        id=row["id"],
        document_id=row["document_id"],
        title=metadata.get("title", ""),
        page=metadata.get("page"),
        text=metadata.get("text", ""),
        score=row["score"],
        similarity=row["similarity"],
        heading=metadata.get("heading", []),
        start=metadata.get("start", 0),
        end=metadata.get("end", 0),
    )


def _literal(vector: Vector) -> str:
    """Return the vector as pgvector reads it."""
    return f"[{','.join(map(repr, vector))}]"


def _staged_id(job_id: UUID, passage: Passage) -> str:
    return f"{job_id}/{passage.id}"


def _staged_metadata(job_id: UUID, passage: Passage) -> dict[str, Any]:
    return passage.metadata | {"job_id": str(job_id)}


async def _as_service(reason: str, statement: LiteralString, parameters: Sequence[object]) -> list[Row]:
    (rows,) = await service_fetch_all(reason, [(_ours(statement), parameters)], database=Database.VECTORS)
    return rows


def _ours(statement: LiteralString) -> LiteralString:
    """Return the statement about the collection that this deployment uses."""
    settings = load(CollectionSettings)
    if settings.embedding_collection == COLLECTION:
        return statement
    renamed = statement.replace(f"vecs.{COLLECTION}", f"vecs.{settings.embedding_collection}")
    return renamed.replace(f"vecs.{STAGED}", f"vecs.{settings.staged}")


def _upsert(records: Sequence[tuple[str, Vector, dict[str, Any]]]) -> None:
    from sqlalchemy.exc import OperationalError

    if not records:
        return
    for is_last in (False, True):
        try:
            _collection().upsert(records)
        except OperationalError as error:
            # The first may find a connection that died while it rested; the pool makes others then.
            if is_last:
                raise Unavailable("The database cannot be reached just now.", code="database_unavailable") from error
        else:
            return


@cache
def _collection() -> "Collection":
    """Return the staged passages as vecs sees them."""
    import vecs

    url = load(DatabaseSettings).vector_database_url.get_secret_value()
    separator = "&" if "?" in url else "?"
    # vecs needs psycopg2: its own statements fail under psycopg 3's server-side parameters. A network that swallows
    # packets must not keep a thread, and with it a job's lease, until the invocation ends.
    client = vecs.create_client(f"{url.replace('postgresql://', 'postgresql+psycopg2://', 1)}{separator}{PATIENCE}")
    # Logs tell of what fails, and not the passages' words with it.
    client.engine.hide_parameters = True
    # The migrations have made the table; vecs only compares its dimension with ours.
    name = load(CollectionSettings).staged
    return client.get_or_create_collection(name, dimension=load(EmbeddingSettings).embedding_dimensions)
