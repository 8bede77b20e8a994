"""Hybrid search as the caller: the right passages, only theirs, never fewer than there are."""

import math
from uuid import UUID, uuid5

import psycopg
import pytest
from psycopg.types.json import Jsonb

from agentkit import database, passages
from agentkit.embeddings import close as close_embeddings
from agentkit.embeddings import embed, embed_one
from agentkit.passages import Passage, find
from tests.parts.people import ADA, ADMIN, BOB, caller

pytestmark = pytest.mark.anyio

LEASE = UUID("10000000-0000-4000-8000-000000000001")
HANDBOOK = UUID("10000000-0000-4000-8000-000000000002")
LEASE_TEXTS = [
    "The lease ends on 30 September 2027 unless both parties agree in writing to renew it.",
    "The monthly rent is 1,450 euros and is due on the third working day of each month.",
    "The tenant pays a deposit of two months' rent before moving in.",
]
HANDBOOK_TEXTS = [
    "Employees have 28 days of paid holiday in each calendar year.",
    "Travel by train is booked in second class; flights need approval by the team lead.",
]


def passages_of(document_id, texts, owner=ADA, **changes):
    return [
        Passage(
            document_id, owner.id, ordinal, text, title="Papers", start=0, end=len(text), page=ordinal + 1, **changes
        )
        for ordinal, text in enumerate(texts)
    ]


@pytest.fixture(autouse=True)
async def as_worker(postgres, embedder, monkeypatch):
    """The worker's login, which may do what the functions' may and write as the service too."""
    monkeypatch.setenv("DATABASE_URL", postgres.environment["WORKER_DATABASE_URL"])
    monkeypatch.setenv("VECTOR_DATABASE_URL", postgres.environment["WORKER_VECTOR_DATABASE_URL"])
    yield
    await database.close()
    await close_embeddings()
    passages._collection().client.engine.dispose()
    passages._collection.cache_clear()


async def store(document_id, texts, owner=ADA, **changes):
    await passages.replace(document_id, passages_of(document_id, texts, owner, **changes), await embed(texts))


async def found(text, *, person=ADA, limit=3, mode="hybrid", **options):
    vector = None if mode == "keyword" else await embed_one(text)
    return await find(caller(person), vector, text, limit=limit, mode=mode, **options)


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
async def test_the_passage_that_answers_comes_first(mode):
    await store(LEASE, LEASE_TEXTS)
    best = (await found("How much is the rent each month?", mode=mode))[0]
    assert best.text == LEASE_TEXTS[1]
    assert (best.document_id, best.title, best.page) == (LEASE, "Papers", 2)


async def test_similarity_is_the_cosine_and_is_absent_when_only_words_were_compared():
    await store(LEASE, LEASE_TEXTS)
    question, passage = await embed([LEASE_TEXTS[0], LEASE_TEXTS[1]])
    by_text = {match.text: match for match in await found(LEASE_TEXTS[0], mode="semantic")}
    # Both vectors have unit length, so their cosine is their dot product; pgvector keeps 4-byte floats.
    cosine = sum(a * b for a, b in zip(question, passage, strict=True))
    assert by_text[LEASE_TEXTS[1]].similarity == pytest.approx(cosine, abs=1e-5)
    assert by_text[LEASE_TEXTS[0]].similarity == pytest.approx(1, abs=1e-5)
    assert [match.similarity for match in await found("rent", mode="keyword")] == [None, None]


async def test_fused_scores_are_sums_of_reciprocal_ranks():
    await store(LEASE, LEASE_TEXTS)
    first, second, third = await found("deposit", mode="hybrid")
    # "deposit" stands in one passage alone: rank 1 in both legs. The others are ranks 2 and 3 of the semantic leg.
    assert first.score == pytest.approx(1 / 61 + 1 / 61)
    assert (second.score, third.score) == (pytest.approx(1 / 62), pytest.approx(1 / 63))


async def test_nobody_sees_anothers_passages():
    await store(LEASE, LEASE_TEXTS)
    for mode in ("hybrid", "semantic", "keyword"):
        assert await found("When does the lease end?", person=BOB, mode=mode) == []


async def test_what_is_for_everyone_is_found_by_everyone():
    await store(HANDBOOK, HANDBOOK_TEXTS, owner=ADMIN, audience="everyone")
    assert (await found("How many days of holiday?", person=BOB))[0].text == HANDBOOK_TEXTS[0]


async def test_a_search_can_be_kept_to_some_documents():
    await store(LEASE, LEASE_TEXTS)
    await store(HANDBOOK, HANDBOOK_TEXTS)
    matches = await found("When does the lease end?", document_ids=[HANDBOOK])
    assert {match.document_id for match in matches} == {HANDBOOK}
    assert await found("When does the lease end?", document_ids=[]) == []


@pytest.mark.parametrize(
    "text",
    [
        "the of and",
        "'); drop table vecs.passages; --",
        "a & b | !c <-> 'd",
        "\\' \\\\ \\n",
        "مرحبا بالعالم",
        "x" * 2_000,
        "  ",
    ],
    ids=["stop words", "injection", "tsquery syntax", "backslashes", "right to left", "one long word", "blank"],
)
async def test_any_text_can_be_searched_for(text):
    await store(LEASE, LEASE_TEXTS)
    vector = await embed_one(text)
    assert len(await find(caller(ADA), vector, text, limit=3)) == 3
    assert len(await find(caller(ADA), None, text, limit=3, mode="keyword")) <= 3


async def test_storing_again_replaces_and_repeats_nothing():
    await store(LEASE, LEASE_TEXTS)
    await store(LEASE, LEASE_TEXTS)
    assert len(await found("lease", limit=50)) == 3
    await store(LEASE, LEASE_TEXTS[:1])
    assert [match.text for match in await found("lease", limit=50)] == LEASE_TEXTS[:1]


async def test_a_document_is_removed_by_its_owner_alone():
    await store(LEASE, LEASE_TEXTS)
    await passages.remove_as(caller(BOB), LEASE)
    assert len(await found("lease", limit=50)) == 3
    await passages.remove_as(caller(ADA), LEASE)
    assert await found("lease", limit=50) == []


TENANTS = 100
SHARED = 40
DIMENSIONS = 384


def crowd(postgres):
    """A hundred tenants with forty passages each in one index, all of them near the same direction."""
    rows = []
    for tenant in range(TENANTS):
        owner = uuid5(LEASE, f"tenant {tenant}")
        for ordinal in range(SHARED):
            vector = [1.0, *(math.sin(tenant * 7 + ordinal * 3 + place) / 50 for place in range(DIMENSIONS - 1))]
            metadata = {"owner": str(owner), "document_id": str(owner), "text": f"tenant {tenant} number {ordinal}"}
            rows.append((f"{owner}:{ordinal:05d}", str(vector), Jsonb(metadata)))
    with psycopg.connect(postgres.environment["ADMIN_VECTOR_DATABASE_URL"], autocommit=True) as connection:
        connection.cursor().executemany("insert into vecs.passages (id, vec, metadata) values (%s, %s, %s)", rows)
        connection.execute("analyze vecs.passages")


@pytest.mark.parametrize("exact_at_most", [passages.EXACT_AT_MOST, 0], ids=["exact", "by index"])
async def test_each_of_a_hundred_tenants_gets_ten_of_their_own(postgres, monkeypatch, exact_at_most):
    crowd(postgres)
    monkeypatch.setattr(passages, "EXACT_AT_MOST", exact_at_most)
    vector = [1.0] + [0.0] * (DIMENSIONS - 1)
    for tenant in range(0, TENANTS, 7):
        owner = uuid5(LEASE, f"tenant {tenant}")
        person = type(ADA)(owner, "tenant@example.com", {})
        matches = await find(caller(person), vector, "", limit=10, mode="semantic")
        assert [match.document_id for match in matches] == [owner] * 10


async def test_a_branch_whose_gate_is_shut_is_not_executed(postgres):
    crowd(postgres)
    owner = uuid5(LEASE, "tenant 3")
    parameters = {
        "owner": owner,
        "vector": str([1.0] * DIMENSIONS),
        "text": "number",
        "semantic": True,
        "keyword": False,
        "document_ids": None,
        "limit": 10,
        "depth": 40,
        "exact_at_most": 1_000,
        "ef_search": "80",
        "most_scanned": "20000",
    }
    with psycopg.connect(postgres.environment["ADMIN_VECTOR_DATABASE_URL"]) as connection:
        connection.execute(passages.SCAN_SETTINGS, parameters)
        rows = connection.execute("explain (analyze, costs off, timing off) " + passages.FIND, parameters).fetchall()
    plan = [row[0] for row in rows]
    (by_index,) = [line for line in plan if "using ix_vector_cosine_ops_hnsw" in line]
    assert "never executed" in by_index
