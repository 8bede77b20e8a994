"""Another embedding model without downtime: a second collection is filled with its vectors while the first serves.

    ADMIN_VECTOR_DATABASE_URL=…                                  the owner's own connection, as for `migrate`
    EMBEDDING_MODEL=… EMBEDDING_DIMENSIONS=… EMBEDDING_COLLECTION=…        of the new collection
    python -m infra reembed --from passages
    python -m infra reembed --drop passages                      once the new one serves

The new collection is made like the old one in all but its dimensions. It is filled batch by batch, also after a break,
with what it lacks or holds differently, until a pass over the old one finds nothing more. What is deleted from either
is deleted from the other by trigger, at once. Where both hold a document, the one of the later job stays: so this may
be run again once the new collection serves, for what was ingested into the old one meanwhile.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pydantic import ValidationError

from agentkit import embeddings
from agentkit.embeddings import Embedded, content_hash, embed
from agentkit.errors import Problem, Unavailable
from agentkit.settings import CollectionSettings, ConfigurationError, EmbeddingSettings, load
from functions.worker.chunk import Passage, embedded

BATCH = 256
# A model that limits how fast it may be asked is asked again for about half an hour.
TRIES = 40
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
LOCK_TIMEOUT = "5s"
# Any number will do, as long as everyone who fills takes the same one.
ADVISORY_LOCK = 4_711_003
URL = "ADMIN_VECTOR_DATABASE_URL"

# What is there of a collection: its vectors' dimensions, and what its table says that it holds.
COLLECTION_OF_THAT_NAME = """
select a.atttypmod as dimensions, obj_description(c.oid, 'pg_class') as holds
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'vec'
where c.relnamespace = 'vecs'::regnamespace and c.relkind = 'r' and c.relname = %s
"""
POLICIES = """
select policyname as name, permissive, roles::text[] as roles, cmd, qual, with_check
from pg_policies where schemaname = 'vecs' and tablename = %s
"""
GRANTS = """
select grantee::regrole::text as role, privilege_type as privilege
from pg_class c, aclexplode(c.relacl)
where c.relnamespace = 'vecs'::regnamespace and c.relname = %s and grantee not in (0, c.relowner)
"""
HNSW = """
select c.relname as name, opclass.opcname as measure, c.reloptions as options
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am am on am.oid = c.relam
  join pg_opclass opclass on opclass.oid = i.indclass[0]
where i.indrelid = format('vecs.%%I', %s::text)::regclass and am.amname = 'hnsw'
"""
# A column that gets another type gets that type's way of storing too.
STORAGE = """
select case attstorage when 'p' then 'plain' when 'm' then 'main' when 'e' then 'external' else 'extended' end as vec
from pg_attribute where attrelid = format('vecs.%%I', %s::text)::regclass and attname = 'vec'
"""
# As whoever deletes: the policies of both collections are the same.
DELETE_FROM_OTHER = """
create or replace function vecs.delete_from_other() returns trigger language plpgsql as $$
begin
  execute format('delete from vecs.%I where id = $1', tg_argv[0]) using old.id;
  return null;
end
$$
"""
# Which passages does the new collection lack or hold differently? Not those of documents of which it has later ones.
LACKED = """
with
  before as (
    select document_id, max(coalesce((metadata ->> 'version')::bigint, 0)) as version
    from vecs.{old} group by document_id
  ),
  after as (
    select document_id, max(coalesce((metadata ->> 'version')::bigint, 0)) as version
    from vecs.{new} group by document_id
  )
select old.id, before.version
from vecs.{old} as old
  join before using (document_id)
  left join after using (document_id)
  left join vecs.{new} as new on new.id = old.id
where (after.version is null or after.version <= before.version)
  and (new.id is null or new.metadata - 'content_hash' <> old.metadata - 'content_hash')
"""
NEXT = """
select old.id, old.owner, old.document_id, old.metadata
from lacked join vecs.{old} as old using (id)
where id > %(after)s order by id limit %(batch)s
"""
KNOWN = """
select distinct wanted.hash
from unnest(%(owners)s::uuid[], %(hashes)s::text[]) as wanted (owner, hash)
  join vecs.{new} as new on new.owner = wanted.owner and new.metadata ->> 'content_hash' = wanted.hash
"""
# The lock that a swap of each document takes.
LOCK_DOCUMENTS = """
select pg_advisory_xact_lock(hashtextextended(id, 0)) from (select unnest(%s::text[]) as id order by id) as documents
"""
# A passage that was changed or deleted since it was read is left to the next pass; one that is being deleted too.
PUT = """
with
  given as (
    select * from unnest(%(ids)s::text[], %(read)s::jsonb[], %(hashes)s::text[], %(vectors)s::text[])
      as given (id, metadata, hash, vec)
  ),
  after as materialized (
    select document_id, max((metadata ->> 'version')::bigint) as version
    from vecs.{new} where document_id = any(%(documents)s) group by document_id
  )
insert into vecs.{new} (id, vec, metadata)
select old.id, coalesce(given.vec::vector, known.vec),
       old.metadata || jsonb_build_object('content_hash', given.hash)
from given
  join vecs.{old} as old on old.id = given.id and old.metadata = given.metadata
  join lacked on lacked.id = old.id
  left join lateral (
    select vec from vecs.{new} as new
    where given.vec is null and new.owner = old.owner and new.metadata ->> 'content_hash' = given.hash
    limit 1
  ) as known on true
where (given.vec is not null or known.vec is not null)
  and not exists (select from after where after.document_id = old.document_id and after.version > lacked.version)
for key share of old skip locked
on conflict (id) do update set vec = excluded.vec, metadata = excluded.metadata
"""


class ReembedError(RuntimeError):
    """It cannot be done; the message says why and what to do."""


@dataclass
class Spent:
    """What the run has taken so far."""

    embedded: int = 0
    tokens: int = 0

    def __str__(self) -> str:
        """Texts, tokens and US dollars."""
        dollars = self.tokens * load(EmbeddingSettings).embedding_price / 1_000_000
        return f"{self.embedded:,} embedded, {self.tokens:,} tokens, ${dollars:,.4f}"


def fill(connection: psycopg.Connection[Any], old: str) -> Spent:
    """The collection that the settings name holds all that `old` holds; prints how far it is.

    Raises ReembedError when the names or what is there do not fit, Unavailable when the model stays out of reach.
    """
    settings = load(EmbeddingSettings)
    new = settings.embedding_collection
    if new == old:
        raise ReembedError(f"EMBEDDING_COLLECTION is {old}, which is to be read: name the new collection there.")
    _make(connection, old, settings)
    spent = Spent()
    with asyncio.Runner() as loop:
        while lacked := _find_lacked(connection, old, new):
            done = 0
            for batch in _batches(connection, old):
                done += _put(connection, loop, batch, old, new, spent)
                print(f"{done:,} of {lacked:,} passages: {spent}", flush=True)
            if not done:
                time.sleep(FIRST_PAUSE_SECONDS)  # all of them are being deleted, or will be read anew
        loop.run(embeddings.close())
    connection.execute(_named("analyze vecs.{new}", new=new))
    return spent


def drop(connection: psycopg.Connection[Any], old: str) -> None:
    """There is no collection `old` any more.

    Raises ReembedError while it serves, or holds what the serving one lacks.
    """
    serving = load(CollectionSettings).embedding_collection
    if serving == old:
        raise ReembedError(f"{old} is the collection that serves: set EMBEDDING_COLLECTION to the one in its place.")
    for name in (old, serving):
        _there(connection, name)
    with connection.transaction():
        connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'".encode())
        connection.execute(_named("lock table vecs.{old} in access exclusive mode", old=old))
        if lacked := _find_lacked(connection, old, serving):
            raise ReembedError(
                f"{serving} lacks {lacked:,} passages of {old}: `python -m infra reembed --from {old}` first."
            )
        trigger = "drop trigger if exists {trigger} on vecs.{serving}"
        connection.execute(_named(trigger, trigger=f"delete_from_{old}", serving=serving))
        for table in (old, _staged(old)):
            connection.execute(_named("drop table vecs.{table}", table=table))


def main(old: str, *, dropping: bool) -> int:
    """Fill the collection that the environment names from `old`, or drop `old`; return the exit status."""
    if not os.environ.get(URL):
        print(f"Set {URL} to the owner's connection string.", file=sys.stderr)
        return 2
    try:
        with psycopg.connect(os.environ[URL], autocommit=True, row_factory=dict_row) as connection, _alone(connection):
            # Supabase ends a statement after two minutes; two collections are not always compared in that.
            connection.execute("set statement_timeout = 0")
            if dropping:
                drop(connection, old)
                print(f"Dropped {old}.")
            else:
                spent = fill(connection, old)
                print(_told(old, spent))
    except (ReembedError, ConfigurationError, Problem, psycopg.Error) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _told(old: str, spent: Spent) -> str:
    settings = load(EmbeddingSettings)
    new = settings.embedding_collection
    return f"""\
{new} holds what {old} holds: {spent}.
To switch, set these for the functions and the worker:
  EMBEDDING_MODEL={settings.embedding_model}
  EMBEDDING_DIMENSIONS={settings.embedding_dimensions}
  EMBEDDING_COLLECTION={new}
Then run this again, for what was ingested meanwhile, and `python -m infra reembed --drop {old}`."""


@contextmanager
def _alone(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Raise ReembedError when someone else is at it; keep others out until the connection ends."""
    (row,) = connection.execute("select pg_try_advisory_lock(%s) as free", (ADVISORY_LOCK,)).fetchall()
    if not row["free"]:
        raise ReembedError("Another `reembed` is at work on this database.")
    yield


def _there(connection: psycopg.Connection[Any], name: str) -> dict[str, Any]:
    """Return what is there of that collection; raises ReembedError when there is none."""
    found = connection.execute(COLLECTION_OF_THAT_NAME, [name]).fetchone()
    if found is None:
        raise ReembedError(f"There is no collection {name}.")
    return dict(found)


def _make(connection: psycopg.Connection[Any], old: str, settings: EmbeddingSettings) -> None:
    """The new collection is there, empty or as an earlier run left it.

    Raises ReembedError when it is another model's.
    """
    new = settings.embedding_collection
    holds = f"Pieces of documents with their vectors, by {settings.embedding_model}; {old} is its forerunner."
    before = _there(connection, old)
    if connection.execute(COLLECTION_OF_THAT_NAME, [new]).fetchone():
        found = _there(connection, new)
        # Back to the one that this one was filled from: nothing tells its model.
        goes_back = str(before["holds"]).endswith(f"; {new} is its forerunner.")
        if found["dimensions"] != settings.embedding_dimensions or not (goes_back or found["holds"] == holds):
            raise ReembedError(
                f"{new} is there already, of {found['dimensions']} dimensions: “{found['holds']}” Name another."
            )
        return
    with connection.transaction():
        connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'".encode())
        _make_like(connection, old, new, settings.embedding_dimensions, holds)
        beside = f"Passages on their way into {new}."
        _make_like(connection, _staged(old), settings.staged, settings.embedding_dimensions, beside)
        connection.execute(DELETE_FROM_OTHER)
        for here, there in ((old, new), (new, old)):
            statement = """
                create trigger {trigger} after delete on vecs.{here}
                for each row execute function vecs.delete_from_other({there})
            """
            connection.execute(
                sql.SQL(statement).format(
                    trigger=sql.Identifier(f"delete_from_{there}"), here=sql.Identifier(here), there=sql.Literal(there)
                )
            )


def _make_like(connection: psycopg.Connection[Any], old: str, new: str, dimensions: int, holds: str) -> None:
    """Make a table like another in all but its vectors' dimensions: columns, indexes, policies and grants."""
    connection.execute(_named("create table vecs.{new} (like vecs.{old} including all)", new=new, old=old))
    size = sql.SQL("alter table vecs.{new} alter column vec type vector({size})")
    connection.execute(size.format(new=sql.Identifier(new), size=sql.Literal(dimensions)))
    (storage,) = connection.execute(STORAGE, [old]).fetchall()
    keep = sql.SQL("alter table vecs.{new} alter column vec set storage {storage}")
    connection.execute(keep.format(new=sql.Identifier(new), storage=sql.SQL(storage["vec"])))
    comment = sql.SQL("comment on table vecs.{new} is {holds}")
    connection.execute(comment.format(new=sql.Identifier(new), holds=sql.Literal(holds)))
    for index in connection.execute(HNSW, [new]).fetchall():
        sizes = dict(option.split("=") for option in index["options"])
        # As vecs names its own, so that it finds it.
        name = f"ix_{index['measure']}_hnsw_m{sizes['m']}_efc{sizes['ef_construction']}_{new}"
        connection.execute(_named("alter index vecs.{index} rename to {name}", index=index["name"], name=name))
    for grant in connection.execute(GRANTS, [old]).fetchall():
        statement = sql.SQL("grant {privilege} on vecs.{new} to {role}")
        connection.execute(
            statement.format(
                privilege=sql.SQL(grant["privilege"]), new=sql.Identifier(new), role=sql.SQL(grant["role"])
            )
        )
    connection.execute(_named("alter table vecs.{new} enable row level security", new=new))
    for policy in connection.execute(POLICIES, [old]).fetchall():
        parts = [
            sql.SQL("create policy {name} on vecs.{new} as").format(
                name=sql.Identifier(policy["name"]), new=sql.Identifier(new)
            ),
            sql.SQL(f"{policy['permissive']} for {policy['cmd']} to"),
            sql.SQL(", ").join(map(sql.Identifier, policy["roles"])),
        ]
        parts += [sql.SQL(f"using ({policy['qual']})")] if policy["qual"] else []
        parts += [sql.SQL(f"with check ({policy['with_check']})")] if policy["with_check"] else []
        connection.execute(sql.SQL(" ").join(parts))


def _find_lacked(connection: psycopg.Connection[Any], old: str, new: str) -> int:
    """Note what the new collection lacks in the connection's table `lacked`, and return how much that is."""
    connection.execute("create temporary table if not exists lacked (id varchar primary key, version bigint not null)")
    connection.execute("truncate lacked")
    return connection.execute(_named("insert into lacked " + LACKED, old=old, new=new)).rowcount


def _batches(connection: psycopg.Connection[Any], old: str) -> Iterator[list[dict[str, Any]]]:
    after = ""
    statement = _named(NEXT, old=old)
    while batch := connection.execute(statement, {"after": after, "batch": BATCH}).fetchall():
        yield batch
        after = batch[-1]["id"]


def _put(
    connection: psycopg.Connection[Any],
    loop: asyncio.Runner,
    batch: list[dict[str, Any]],
    old: str,
    new: str,
    spent: Spent,
) -> int:
    """Write the batch into the new collection and return how many passages that were; known vectors cost nothing."""
    texts = [_embedded(row["metadata"]) for row in batch]
    hashes = [content_hash(text) for text in texts]
    owners = [row["owner"] for row in batch]
    rows = connection.execute(_named(KNOWN, new=new), {"owners": owners, "hashes": hashes}).fetchall()
    known = {row["hash"] for row in rows}
    unknown = [text for text, hash_ in zip(texts, hashes, strict=True) if hash_ not in known]
    answer = loop.run(_patiently(unknown))
    spent.embedded += len(unknown)
    spent.tokens += answer.tokens
    vectors = iter(answer.vectors)
    parameters = {
        "ids": [row["id"] for row in batch],
        "read": [Jsonb(row["metadata"]) for row in batch],
        "hashes": hashes,
        "vectors": [None if hash_ in known else str(next(vectors)) for hash_ in hashes],
        "documents": list({row["document_id"] for row in batch}),
    }
    with connection.transaction():
        connection.execute(LOCK_DOCUMENTS, [[str(document_id) for document_id in parameters["documents"]]])
        return connection.execute(_named(PUT, old=old, new=new), parameters).rowcount


def _embedded(metadata: dict[str, Any]) -> str:
    """Return what a stored passage's vector stands for, as the worker embeds it."""
    heading = tuple(metadata["heading"])
    passage = Passage(metadata["text"], metadata["start"], metadata["end"], metadata["page"], heading)
    return embedded(metadata["title"], passage)


async def _patiently(texts: list[str]) -> Embedded:
    """Return the texts' vectors; a model that is out of reach or wants to be asked less often is waited for."""
    pause = FIRST_PAUSE_SECONDS
    for _ in range(TRIES - 1):
        try:
            return await embed(texts)
        except Unavailable as problem:
            print(f"{problem} Trying again in {pause:g} s.", file=sys.stderr, flush=True)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return await embed(texts)


def _staged(name: str) -> str:
    """Return the collection that belongs to that one."""
    try:
        return CollectionSettings(embedding_collection=name).staged
    except ValidationError as error:
        raise ReembedError(f"{name!r} is no collection's name.") from error


def _named(statement: LiteralString, **names: str) -> sql.Composed:
    return sql.SQL(statement).format(**{key: sql.Identifier(name) for key, name in names.items()})
