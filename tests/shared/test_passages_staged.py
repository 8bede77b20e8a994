"""A document's passages are replaced all at once, by those of the latest job, and nothing is embedded twice."""

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy.exc import StatementError

from agentkit import database, passages, settings, telemetry
from agentkit.embeddings import content_hash
from agentkit.errors import Unavailable
from agentkit.passages import Incomplete, Passage, Superseded, find, stage, stage_known, swap, unstage
from infra.local.part import free_port
from tests.parts.embedding_model import DIMENSIONS, direction
from tests.parts.people import ADA, BOB, caller

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("as_worker", "embedding_model")]

LEASE = UUID("10000000-0000-4000-8000-000000000001")
HANDBOOK = UUID("10000000-0000-4000-8000-000000000002")
OLD = ["It ends in 2027.", "The rent is 900 euros.", "Pets are welcome."]
# The first stays, the second is changed, the third is gone.
NEW = ["It ends in 2027.", "The rent is 1,450 euros."]


def written(texts, *, document_id=LEASE, owner=ADA, version=1):
    """Passages as a job of that number makes them."""
    return [
        Passage(
            document_id, owner.id, place, text, "Lease", 0, len(text), content_hash=content_hash(text), version=version
        )
        for place, text in enumerate(texts)
    ]


async def staged(texts, *, job=None, **changes):
    """Stage those with vectors of their own; return the job."""
    job = job or uuid4()
    await stage(job, written(texts, **changes), [direction(text) for text in texts])
    return job


async def swapped(job, texts, *, document_id=LEASE, owner=ADA, version=1):
    await swap(job, document_id, owner.id, version=version, count=len(texts))


async def ingested(texts, **changes):
    """Stage, swap and unstage those passages; return the job."""
    job = await staged(texts, **changes)
    await swapped(job, texts, **changes)
    await unstage(job)
    return job


@pytest.fixture
def live(rows):
    """What serves: the texts by id; or whichever columns are asked for."""

    def ask(columns="id, metadata ->> 'text' as text"):
        return [
            tuple(row.values()) for row in rows(f"select {columns} from vecs.passages order by id", database="VECTOR_")
        ]

    return ask


@pytest.fixture
def waiting(rows):
    """The ids of the jobs whose passages wait for their swap, one for each passage."""
    return lambda: [row["job_id"] for row in rows("select job_id from vecs.staged order by id", database="VECTOR_")]


@pytest.fixture
def someone_else(postgres):
    """Another connection to the vectors, in a transaction."""
    with psycopg.connect(postgres.environment["ADMIN_VECTOR_DATABASE_URL"]) as connection:
        yield connection


async def blocked(rows, count=1):
    """Return once so many statements of the worker's wait for someone else."""
    held_up = "select pid from pg_stat_activity where wait_event_type = 'Lock' and application_name like 'agentkit:%%'"
    while len(rows(held_up, database="VECTOR_")) < count:
        await asyncio.sleep(0)


def ids(count, document_id=LEASE):
    return [f"{document_id}:{place:05d}" for place in range(count)]


# A swap


async def test_what_is_staged_is_found_by_nobody_before_the_swap_and_by_its_owner_after_it():
    job = await staged(OLD)
    assert await find(caller(ADA), direction(OLD[0]), "lease", limit=10) == []
    await swapped(job, OLD)
    assert sorted(match.text for match in await find(caller(ADA), direction(OLD[0]), "", limit=10)) == sorted(OLD)


async def test_a_swap_leaves_exactly_what_the_job_has_staged(live):
    await ingested(OLD)
    await ingested(["Staff handbook."], document_id=HANDBOOK)
    await ingested(NEW, version=2)
    assert live() == [*zip(ids(2), NEW, strict=True), (*ids(1, HANDBOOK), "Staff handbook.")]
    assert all("job_id" not in metadata for (metadata,) in live("metadata"))


async def test_a_passage_that_says_the_same_is_not_written_again(live):
    await ingested(OLD)
    before = live("id, ctid::text")
    await ingested([OLD[0], "The rent is lower.", OLD[2]], version=2)
    # The first tells the document's version, the second says something else.
    assert live("id, ctid::text")[2] == before[2]
    assert not {before[0], before[1]} & set(live("id, ctid::text"))
    assert [metadata["version"] for (metadata,) in live("metadata")] == [2, 2, 1]


@pytest.mark.parametrize(
    "change", [{"page": 7}, {"title": "Lease of 2026"}, {"audience": "everyone"}, {"heading": ("Rent",)}], ids=str
)
async def test_whatever_else_a_passage_says_is_brought_up_to_date(live, change):
    await ingested(OLD)
    job, found = uuid4(), [replace(each, **change) for each in written(OLD, version=2)]
    assert await stage_known(job, found) == []
    await swapped(job, OLD, version=2)
    ((name, value),) = change.items()
    expected = list(value) if isinstance(value, tuple) else value
    assert [metadata[name] for (metadata,) in live("metadata")] == [expected] * 3


async def test_a_new_vector_takes_the_old_ones_place(live):
    await ingested(OLD)
    job = uuid4()
    await stage(job, written(OLD, version=2), [direction("x" * 99)] * 3)
    await swapped(job, OLD, version=2)
    assert {vec for (vec,) in live("vec::text")} == {str([99, 1, *[0] * (DIMENSIONS - 2)]).replace(" ", "")}


@pytest.mark.parametrize("held", [1, 2], ids=["the one that changes", "the one that goes"])
async def test_a_search_in_the_middle_of_a_swap_sees_the_old_passages(rows, someone_else, held):
    await ingested(OLD)
    job = await staged(NEW, version=2)
    someone_else.execute("select from vecs.passages where id = %s for update", [ids(3)[held]])
    swapping = asyncio.create_task(swapped(job, NEW, version=2))
    await blocked(rows)

    # The worker's own connection is busy; a function has another.
    def seen():
        found = rows("select metadata ->> 'text' as text from vecs.passages order by id", database="VECTOR_")
        return [row["text"] for row in found]

    assert seen() == OLD
    someone_else.rollback()
    await swapping
    assert seen() == NEW


async def test_a_swap_that_breaks_off_leaves_the_old_passages(rows, live, someone_else):
    await ingested(OLD)
    job = await staged(NEW, version=2)
    someone_else.execute("select from vecs.passages where id = %s for update", [ids(3)[1]])
    swapping = asyncio.create_task(swapped(job, NEW, version=2))
    await blocked(rows)
    swapping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await swapping
    someone_else.rollback()
    assert [text for _, text in live()] == OLD
    await swapped(job, NEW, version=2)
    assert [text for _, text in live()] == NEW


async def test_swaps_of_one_document_take_turns_and_of_others_do_not_wait(rows, someone_else):
    lease, handbook = await staged(OLD), await staged(OLD, document_id=HANDBOOK)
    someone_else.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [str(LEASE)])
    await swapped(handbook, OLD, document_id=HANDBOOK)
    swapping = asyncio.create_task(swapped(lease, OLD))
    await blocked(rows)
    assert not swapping.done()
    someone_else.rollback()
    await swapping


async def test_a_large_swap_may_take_longer_than_someone_waits_for_an_answer(live, monkeypatch):
    job = await staged(OLD)
    monkeypatch.setattr(passages, "SHORT_SWAP", len(OLD) - 1)
    monkeypatch.setattr(database, "TIME_LIMIT_SECONDS", 0)
    with pytest.raises(Unavailable):
        await unstage(uuid4())
    await swapped(job, OLD)
    monkeypatch.undo()
    assert len(live()) == 3


async def test_what_is_staged_for_another_document_does_not_count(live):
    job = await staged(OLD, document_id=HANDBOOK)
    with pytest.raises(Incomplete):
        await swapped(job, OLD)
    assert live() == []


async def test_passages_of_another_owner_stay(live):
    await ingested(OLD, owner=BOB)
    job = await staged(OLD[:1], document_id=HANDBOOK)
    with pytest.raises(Incomplete):
        await swapped(job, OLD[:1], owner=BOB, document_id=HANDBOOK)
    assert len(live()) == 3


# When it may not be


@pytest.mark.parametrize("count", [0, 1, 3], ids=["none expected", "one too many", "one too few"])
async def test_a_document_that_is_not_staged_whole_stays_as_it_was(live, count):
    await ingested(OLD)
    job = await staged(NEW, version=2)
    with pytest.raises(Incomplete):
        await swap(job, LEASE, ADA.id, version=2, count=count)
    assert [text for _, text in live()] == OLD


async def test_a_swap_that_is_repeated_changes_nothing_before_and_after_it_is_unstaged(live):
    job = await staged(OLD)
    await swapped(job, OLD)
    before = live("id, ctid::text, metadata")
    await swapped(job, OLD)
    await unstage(job)
    await swapped(job, OLD)
    assert live("id, ctid::text, metadata") == before


async def test_a_job_that_is_done_again_with_another_file_swaps_again(live):
    job = await ingested(OLD)
    await staged([*NEW, "Dogs are not."], job=job)
    await swapped(job, OLD)
    assert [text for _, text in live()] == [*NEW, "Dogs are not."]


@pytest.mark.parametrize("later", [NEW, OLD], ids=["other passages", "the same passages"])
async def test_an_earlier_job_that_comes_late_is_refused(live, later):
    await ingested(OLD)
    early = await staged(["It is over."], version=2)
    await ingested(later, version=3)
    with pytest.raises(Superseded):
        await swapped(early, ["It is over."], version=2)
    assert [text for _, text in live()] == later


async def test_unstaging_takes_one_jobs_passages_alone(waiting):
    kept, dropped = await staged(OLD), await staged(OLD)
    await unstage(dropped)
    await unstage(dropped)
    assert waiting() == [kept] * 3


async def test_staging_again_is_harmless(waiting):
    job = await staged(OLD)
    await staged(OLD, job=job)
    assert waiting() == [job] * 3


async def test_a_database_out_of_reach_is_a_503(monkeypatch):
    monkeypatch.setenv("VECTOR_DATABASE_URL", f"postgresql://agentkit_worker:x@127.0.0.1:{free_port()}/vectors")
    with pytest.raises(Unavailable):
        await staged(OLD)


async def test_a_connection_that_died_while_it_rested_is_replaced(rows, waiting):
    await staged(OLD)
    logins = "select pid from pg_stat_activity where usename = 'agentkit_worker'"
    rows(f"select pg_terminate_backend(pid) from ({logins}) as logins", database="VECTOR_")
    job = await staged(NEW)
    assert waiting().count(job) == len(NEW)


async def test_what_cannot_be_staged_is_told_without_what_it_says():
    with pytest.raises(StatementError) as caught:
        await stage(uuid4(), written(OLD), [[1.0]] * len(OLD))
    assert OLD[0] not in str(caught.value)


# Known vectors


async def known(texts, **changes):
    """The texts of those that have to be embedded."""
    return [each.text for each in await stage_known(uuid4(), written(texts, **changes))]


async def test_only_what_is_new_has_to_be_embedded():
    await ingested(OLD)
    assert await known(["First of all.", OLD[2], "The rent is lower.", OLD[0]]) == [
        "First of all.",
        "The rent is lower.",
    ]


async def test_a_known_passage_has_the_vector_that_it_had(live):
    await ingested(OLD)
    before = dict(live("metadata ->> 'text', vec::text"))
    job = uuid4()
    assert await stage_known(job, written(OLD[::-1], version=2)) == []
    await swapped(job, OLD, version=2)
    assert dict(live("metadata ->> 'text', vec::text")) == before
    assert [text for _, text in live()] == OLD[::-1]


async def test_the_same_text_in_another_document_of_the_same_owner_is_known():
    await ingested(OLD)
    assert await known(OLD, document_id=HANDBOOK) == []


async def test_what_a_job_that_broke_off_has_staged_is_known_and_left_alone(rows, waiting):
    job = await staged(OLD[:2])
    where = "select ctid::text from vecs.staged order by id"
    before = rows(where, database="VECTOR_")
    assert [each.text for each in await stage_known(job, written(OLD))] == OLD[2:]
    assert waiting() == [job, job]
    assert rows(where, database="VECTOR_") == before
    assert await known(OLD) == OLD[2:]


async def test_another_owners_vectors_are_nobody_elses():
    await ingested(OLD)
    await staged(OLD)
    assert await known(OLD, owner=BOB) == OLD


async def test_another_models_vectors_are_not_known(monkeypatch):
    await ingested(OLD)
    monkeypatch.setenv("EMBEDDING_MODEL", "large")
    settings.forget()
    assert await known(OLD) == OLD


async def test_without_a_hash_nothing_is_known():
    nameless = [replace(each, content_hash="") for each in written(OLD)]
    await stage(uuid4(), nameless, [direction(text) for text in OLD])
    assert await stage_known(uuid4(), nameless) == nameless


# What it costs


async def test_a_batch_is_looked_up_in_one_round_trip_however_long_it_is():
    await ingested(OLD)
    for texts in (OLD, [f"text {number}" for number in range(500)], []):
        with telemetry.counting_round_trips() as counted:
            await stage_known(uuid4(), written(texts))
        assert counted == {"postgres": 1}


async def test_a_swap_is_four_round_trips_however_long_the_document_is():
    await unstage(uuid4())  # connected
    for texts in (OLD, [f"text {number}" for number in range(500)]):
        job = await staged(texts, document_id=(document := uuid4()))
        with telemetry.counting_round_trips() as counted:
            await swapped(job, texts, document_id=document)
        # Begin, count, replace, commit; a long one over a connection of its own, which stays open.
        del counted["postgres_connect"]
        assert counted == {"postgres": 4}
