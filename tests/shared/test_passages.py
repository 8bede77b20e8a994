"""Hybrid search as the caller: the right passages, only theirs, never fewer than there are."""

import json
import math
from uuid import UUID, uuid4, uuid5

import psycopg
import pytest
import vecs
from psycopg.types.json import Jsonb

from agentkit import database, passages, telemetry
from agentkit.embeddings import embed, embed_one
from agentkit.passages import Passage, find
from tests.parts.people import ADA, ADMIN, BOB, Person, caller, claims

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("as_worker", "embedder")]

LEASE = UUID("10000000-0000-4000-8000-000000000001")
HANDBOOK = UUID("10000000-0000-4000-8000-000000000002")
NOTICE = UUID("10000000-0000-4000-8000-000000000003")
BOBS = UUID("10000000-0000-4000-8000-000000000004")
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


async def store(document_id, texts, owner=ADA, **changes):
    job, found = uuid4(), passages_of(document_id, texts, owner, **changes)
    await passages.stage(job, found, (await embed(texts)).vectors)
    await passages.swap(job, document_id, owner.id, version=0, count=len(found))
    await passages.unstage(job)


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
    question, passage = (await embed([LEASE_TEXTS[0], LEASE_TEXTS[1]])).vectors
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
    assert first.score == pytest.approx(1 / 11 + 1 / 11)
    assert (second.score, third.score) == (pytest.approx(1 / 12), pytest.approx(1 / 13))


async def test_words_count_by_the_share_of_them_that_a_passage_holds():
    await store(LEASE, LEASE_TEXTS)
    best, *_ = await found("deposit zeppelin umbrella", mode="keyword")
    # One of three words, at rank 1.
    assert best.score == pytest.approx(1 / 3 / 11)


@pytest.mark.parametrize("asked", ["papers", "subletting", "guests"])
async def test_a_passage_is_found_by_its_documents_title_and_its_headings(asked):
    await store(LEASE, LEASE_TEXTS[:1], heading=("Use of the flat", "Guests and subletting"))
    assert [match.text for match in await found(asked, mode="keyword")] == LEASE_TEXTS[:1]


@pytest.mark.parametrize("asked", ["harbour", "lease", "2027"])
async def test_a_title_that_is_a_filename_is_found_by_its_words(rows, asked):
    await store(HANDBOOK, HANDBOOK_TEXTS[:1])
    rows(
        'update vecs.passages set metadata = metadata || \'{"title": "harbour-street_lease.2027"}\'', database="VECTOR_"
    )
    assert [match.text for match in await found(asked, mode="keyword")] == HANDBOOK_TEXTS[:1]


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


DIMENSIONS = 384
# How a search goes about it: compares all, asks the index, or asks an index that gives up at once.
WAYS = {
    "by comparing all": {},
    "by index": {"COMPARED_NUMBERS": 0},
    "by an index that gives up": {"COMPARED_NUMBERS": 0, "MOST_SCANNED": 1, "LEAST_EF_SEARCH": 1},
}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    for name, value in WAYS[request.param].items():
        monkeypatch.setattr(passages, name, value)
    return request.param


def at(degrees, *, beside=2):
    """A direction so far from the first axis, where questions point, that its cosine to them is that of the angle."""
    turned = math.radians(degrees)
    vector = [0.0] * DIMENSIONS
    vector[0], vector[beside] = math.cos(turned), math.sin(turned)
    return vector


QUESTION = at(0)


@pytest.fixture
def table(postgres):
    """A connection that may write passages as they are."""
    with psycopg.connect(postgres.environment["ADMIN_VECTOR_DATABASE_URL"], autocommit=True) as connection:
        yield connection


def put(table, owner, vectors, *, document_id=LEASE, audience="owner", text="the lease"):
    """Store passages as they are, without embedding them; returns their ids."""
    metadata = Jsonb({"owner": str(owner.id), "document_id": str(document_id), "audience": audience, "text": text})
    (held,) = table.execute("select count(*) from vecs.passages").fetchone()
    ids = [f"{held + number:05d}" for number in range(len(vectors))]
    table.cursor().executemany(
        "insert into vecs.passages (id, vec, metadata) values (%s, %s, %s)",
        [(id_, str(vector), metadata) for id_, vector in zip(ids, vectors, strict=True)],
    )
    return ids


async def ids_found(*, person=ADA, text="", mode="semantic", limit=10, **options):
    vector = None if mode == "keyword" else QUESTION
    return [match.id for match in await find(caller(person), vector, text, limit=limit, mode=mode, **options)]


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
async def test_as_many_come_back_as_are_wanted_or_as_there_are(table, way, mode):
    # Bob's are many, nearer and say the same; of Ada's twelve, four are in the handbook; one is for everyone.
    put(table, BOB, [at(number / 100) for number in range(300)], document_id=BOBS)
    put(table, ADA, [at(80 + number / 100) for number in range(8)])
    put(table, ADA, [at(85 + number / 100) for number in range(4)], document_id=HANDBOOK)
    put(table, ADMIN, [at(88)], document_id=NOTICE, audience="everyone")
    for limit in (1, 8, 13, 50):
        for document_ids, visible in (
            (None, 8 + 4 + 1),
            ([LEASE], 8),
            ([HANDBOOK, NOTICE], 4 + 1),
            ([BOBS], 0),
            ([BOBS, HANDBOOK], 4),
            ([], 0),
        ):
            found = await ids_found(text="lease", mode=mode, limit=limit, document_ids=document_ids)
            assert len(found) == len(set(found)) == min(limit, visible), (limit, document_ids)


@pytest.mark.parametrize("more", [-1, 0, 1], ids=["one more than is compared", "just as many", "one fewer"])
async def test_the_nearest_come_first_on_either_side_of_the_bound(table, monkeypatch, more):
    put(table, BOB, [at(number / 10) for number in range(100)])
    ids = put(table, ADA, [at(30 + number) for number in range(40)])
    monkeypatch.setattr(passages, "COMPARED_NUMBERS", (len(ids) + more) * DIMENSIONS)
    assert await ids_found() == ids[:10]


async def test_far_passages_come_nearest_first_however_many_others_are_nearer(table, way):
    # A hundred others write about what is asked; Ada writes about something else, all of it 60 degrees away or more.
    for tenant in range(100):
        owner = Person(uuid5(LEASE, f"tenant {tenant}"), "tenant@example.com", {})
        put(table, owner, [at(tenant / 50 + number / 10, beside=3) for number in range(4)])
    ids = put(table, ADA, [at(60 + number / 2) for number in range(20)])
    assert await ids_found() == ids[:10]


async def test_what_is_for_everyone_takes_its_place_among_ones_own(table, way):
    put(table, BOB, [at(number / 10) for number in range(100)])
    shared = put(table, ADMIN, [at(10 + 2 * number) for number in range(30)], audience="everyone")
    own = put(table, ADA, [at(11), at(15), at(19)])
    # 10, 11, 12, 14, 15, 16, 18, 19, 20 and 22 degrees.
    expected = [shared[0], own[0], shared[1], shared[2], own[1], shared[3], shared[4], own[2], shared[5], shared[6]]
    assert await ids_found() == expected


async def test_a_document_among_many_is_searched_whole(table, way):
    put(table, ADA, [at(number / 10) for number in range(300)], document_id=HANDBOOK)
    ids = put(table, ADA, [at(50 + number) for number in range(20)])
    assert await ids_found(document_ids=[LEASE]) == ids[:10]


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
@pytest.mark.parametrize("exactly", [True, False], ids=["by comparing all", "by index"])
async def test_each_of_a_hundred_tenants_gets_ten_of_their_own(table, monkeypatch, exactly, mode):
    tenants = [Person(uuid5(LEASE, f"tenant {number}"), "tenant@example.com", {}) for number in range(100)]
    for number, tenant in enumerate(tenants):
        vectors = [
            [1.0, *(math.sin(number * 7 + ordinal * 3 + place) / 50 for place in range(DIMENSIONS - 1))]
            for ordinal in range(12)
        ]
        put(table, tenant, vectors, document_id=tenant.id)
    if not exactly:
        monkeypatch.setattr(passages, "COMPARED_NUMBERS", 0)
    for tenant in tenants:
        matches = await find(caller(tenant), QUESTION, "lease", limit=10, mode=mode)
        assert [match.document_id for match in matches] == [tenant.id] * 10


async def test_a_rare_word_finds_its_passage_among_many_that_hold_the_common_ones(table, way):
    put(table, BOB, [at(1)], text="the lease of the lighthouse")
    put(table, ADA, [at(2)] * 200)
    (wanted,) = put(table, ADA, [at(3)], text="the lease of the lighthouse")
    found = await ids_found(text="Which lease is of a lighthouse?", mode="keyword")
    assert found[0] == wanted
    assert len(found) == 10


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
async def test_a_search_is_one_round_trip(way, mode):
    await store(LEASE, LEASE_TEXTS)
    await found("rent")  # connected
    with telemetry.counting_round_trips() as counted:
        await find(caller(ADA), QUESTION, "rent", limit=3, mode=mode)
    assert counted["postgres"] == 1


def explained(postgres, person, *, text="lease", mode="semantic"):
    """The plan of a search as that person, and what each part of it did."""
    parameters = passages._parameters(caller(person), QUESTION, text, limit=10, mode=mode, document_ids=None)
    with psycopg.connect(postgres.environment["VECTOR_DATABASE_URL"]) as connection:
        connection.execute(database.AS_CALLER, [json.dumps(claims(person))])
        connection.execute(passages.SCAN_SETTINGS, parameters)
        rows = connection.execute("explain (analyze, costs off, timing off) " + passages.FIND, parameters).fetchall()
    return [row[0] for row in rows]


@pytest.mark.parametrize("most_compared", [99, 100, 101])
async def test_one_of_comparing_and_the_index_is_executed(postgres, table, monkeypatch, most_compared):
    put(table, ADA, [at(number) for number in range(100)])
    table.execute("analyze vecs.passages")
    monkeypatch.setattr(passages, "COMPARED_NUMBERS", most_compared * DIMENSIONS)
    plan = explained(postgres, ADA)
    (by_index,) = [line for line in plan if "using ix_vector_cosine_ops_hnsw" in line]
    assert ("never executed" in by_index) == (most_compared >= 100)


async def test_settings_for_a_search_end_with_it(postgres):
    with psycopg.connect(postgres.environment["VECTOR_DATABASE_URL"], autocommit=True) as connection:
        names = "enable_sort", "enable_seqscan", "enable_bitmapscan"
        show = "select " + ", ".join(f"current_setting('{name}')" for name in names)
        with connection.transaction():
            parameters = passages._parameters(caller(ADA), QUESTION, "", limit=10, mode="hybrid", document_ids=None)
            connection.execute(passages.SCAN_SETTINGS, parameters)
            assert connection.execute(show).fetchone() == ("off", "off", "off")
        assert connection.execute(show).fetchone() == ("on", "on", "on")


async def test_vecs_opens_writes_and_asks_the_table_as_any_of_its_own(postgres):
    url = postgres.environment["WORKER_VECTOR_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://", 1)
    client = vecs.create_client(url)
    try:
        collection = client.get_or_create_collection("passages", dimension=DIMENSIONS)
        assert collection.is_indexed_for_measure(vecs.IndexMeasure.cosine_distance)
        metadata = {"owner": str(ADA.id), "document_id": str(LEASE), "text": "the lease"}
        collection.upsert([("near", at(10), metadata), ("far", at(80), metadata)])
        collection.upsert([("far", at(70), metadata)])
        mine = {"owner": {"$eq": str(ADA.id)}}
        assert collection.query(QUESTION, limit=5, filters=mine) == ["near", "far"]
        assert collection.query(QUESTION, limit=5, filters={"owner": {"$eq": str(BOB.id)}}) == []
        assert sorted(collection.delete(["near", "far"])) == ["far", "near"]
    finally:
        client.disconnect()
