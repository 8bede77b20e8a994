"""Another embedding model: its collection is filled while the old one serves, loses nothing and brings nothing back."""

import asyncio
from uuid import UUID, uuid4

import pytest

from agentkit import embeddings, passages, settings
from agentkit.embeddings import content_hash
from agentkit.passages import Passage, find, stage, stage_known, swap
from functions.worker.chunk import embedded
from infra import reembed
from infra.__main__ import main
from infra.migrate import MigrationError, migrate
from tests.parts.embedding_model import Says, direction
from tests.parts.people import ADA, BOB, caller

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("as_worker", "embedding_model")]

LEASE = UUID("10000000-0000-4000-8000-000000000001")
HANDBOOK = UUID("10000000-0000-4000-8000-000000000002")
TEXTS = [f"Clause {'i' * number} of the lease." for number in range(12)]
LARGE = {"EMBEDDING_MODEL": "text-embedding-3-large", "EMBEDDING_DIMENSIONS": "8", "EMBEDDING_COLLECTION": "large"}


@pytest.fixture(autouse=True)
def database(postgres, rows, monkeypatch):
    """The owner's connection, small batches and short pauses; afterwards `passages` is the only collection."""
    for name in ("ADMIN_DATABASE_URL", "ADMIN_VECTOR_DATABASE_URL"):
        monkeypatch.setenv(name, postgres.environment[name])
    monkeypatch.setattr(reembed, "BATCH", 5)
    monkeypatch.setattr(reembed, "FIRST_PAUSE_SECONDS", 0.001)
    yield
    rows("drop table if exists vecs.large, vecs.large_staged", database="VECTOR_")
    rows("drop function if exists vecs.delete_from_other cascade", database="VECTOR_")


@pytest.fixture
def switch(monkeypatch):
    """Configure the new model and its collection; back to the old with no arguments."""
    before = {"EMBEDDING_MODEL": "small", "EMBEDDING_DIMENSIONS": "384", "EMBEDDING_COLLECTION": "passages"}

    def switch(to=LARGE):
        for name, value in (to or before).items():
            monkeypatch.setenv(name, value)
        settings.forget()
        passages._collection.cache_clear()

    return switch


@pytest.fixture
def run(switch, capsys):
    """`python -m infra reembed` with the new model in the environment; returns status, output and complaints."""

    async def run(*arguments, to=LARGE):
        switch(to)
        status = await asyncio.to_thread(main, ["reembed", *(arguments or ("--from", "passages"))])
        switch(None)
        return status, *capsys.readouterr()

    return run


def written(texts, document_id=LEASE, *, owner=ADA, version=1, title="Lease"):
    return [
        Passage(
            document_id,
            owner.id,
            place,
            text,
            title,
            0,
            len(text),
            page=place + 1,
            heading=("Clauses",),
            content_hash=content_hash(f"{title} > Clauses\n{text}"),
            version=version,
        )
        for place, text in enumerate(texts)
    ]


async def ingest(texts=TEXTS, document_id=LEASE, *, version=1, owner=ADA, **changes):
    """Ingest those as the worker does; return how many were embedded."""
    job, found = uuid4(), written(texts, document_id, version=version, owner=owner, **changes)
    unknown = await stage_known(job, found)
    dimensions = settings.load(settings.EmbeddingSettings).embedding_dimensions
    vectors = [direction(embedded(each.title, each), dimensions) for each in unknown]
    await stage(job, unknown, vectors)
    await swap(job, document_id, owner.id, version=version, count=len(found))
    await passages.unstage(job)
    return len(unknown)


@pytest.fixture
def held(rows):
    """What a collection holds: the texts of each passage by its id; or other columns."""

    def ask(name, columns="id, metadata ->> 'text' as text"):
        return [
            tuple(row.values()) for row in rows(f"select {columns} from vecs.{name} order by id", database="VECTOR_")
        ]

    return ask


# Filling


async def test_the_new_collection_holds_what_a_fresh_ingestion_would_write(run, held, switch):
    await ingest()
    status, *_ = await run()
    assert status == 0
    assert held("large") == held("passages")
    switch()
    before = held("large", "id, vec::text, metadata, ctid::text")
    assert [vec for _, vec, *_ in before] == [
        "[" + ",".join(f"{number:g}" for number in direction(f"Lease > Clauses\n{text}", 8)) + "]" for text in TEXTS
    ]
    assert await ingest() == 0
    assert held("large", "id, vec::text, metadata, ctid::text") == before


async def test_it_says_what_it_took_and_how_to_switch(run, monkeypatch):
    monkeypatch.setenv("EMBEDDING_PRICE", "2.5")
    await ingest()
    _, said, complaints = await run()
    lines = said.splitlines()
    # Batches of 5, 5 and 2; a token for each four characters of "Lease > Clauses\nClause iii of the lease.",
    # 37 without its i's: 5 * 37 + (0 + … + 4) = 195, 5 * 37 + (5 + … + 9) = 220, 2 * 37 + 10 + 11 = 95.
    assert lines[0] == "5 of 12 passages: 5 embedded, 49 tokens, $0.0001"
    assert lines[2].startswith(f"12 of 12 passages: 12 embedded, {49 + 55 + 24} tokens, ")
    assert [line.strip() for line in lines if line.startswith("  ")] == [
        f"{name}={value}" for name, value in LARGE.items()
    ]
    assert complaints == ""


async def test_searches_go_on_while_it_fills(switch, rows, held, embedding_model, monkeypatch):
    def made():
        return rows("select to_regclass('vecs.large') as name", database="VECTOR_")[0]["name"] is not None

    # So that a search falls between two batches.
    embedding_model.seconds = 0.05
    for number in range(10):
        await ingest(TEXTS, UUID(int=number))
    # As two processes, the one that searches and the one that fills: it has read its settings when it asks the model.
    switch()
    read = {kind: settings.load(kind) for kind in (settings.EmbeddingSettings, settings.CollectionSettings)}
    monkeypatch.setattr(reembed, "load", read.__getitem__)
    monkeypatch.setattr(embeddings, "load", read.__getitem__)
    switch(None)
    filling = asyncio.create_task(asyncio.to_thread(main, ["reembed", "--from", "passages"]))
    searches = 0
    while not filling.done():
        found = await find(caller(ADA), direction("the lease"), "lease", limit=10)
        assert len(found) == 10
        searches += len(held("large")) not in (0, 120) if made() else 0
    assert await filling == 0
    assert len(held("large")) == 120
    assert searches > 0


async def test_the_new_collection_is_made_like_the_old_one(run, rows):
    await run()

    def described(name):
        asked = {
            "columns": "select attname, format_type(atttypid, null) as type, attstorage::text, attnotnull,"
            " attgenerated::text, pg_get_expr(adbin, adrelid) as made"
            " from pg_attribute left join pg_attrdef on adrelid = attrelid and"
            f" adnum = attnum where attrelid = 'vecs.{name}'::regclass and attnum > 0 and not attisdropped"
            " order by attname",
            "indexes": "select regexp_replace(replace(indexdef, %s, ''), 'INDEX \\S+', '') as made from pg_indexes"
            f" where schemaname = 'vecs' and tablename = '{name}' order by 1",
            "checks": "select pg_get_constraintdef(oid) as made from pg_constraint"
            f" where conrelid = 'vecs.{name}'::regclass order by 1",
            "policies": "select policyname, permissive, roles, cmd, qual, with_check from pg_policies"
            f" where tablename = '{name}' order by 1",
            "grants": "select grantee, privilege_type from information_schema.role_table_grants"
            f" where table_schema = 'vecs' and table_name = '{name}' order by 1, 2",
            "security": f"select relrowsecurity from pg_class where oid = 'vecs.{name}'::regclass",
        }
        return {what: rows(ask, [f"vecs.{name} "] if "%s" in ask else [], "VECTOR_") for what, ask in asked.items()}

    assert described("large") == described("passages")
    assert described("large_staged") == described("staged")
    size = "select format_type(atttypid, atttypmod) as type from pg_attribute where attname = 'vec' and attrelid = "
    for name in ("large", "large_staged"):
        assert rows(f"{size}'vecs.{name}'::regclass", database="VECTOR_") == [{"type": "vector(8)"}]


async def test_vecs_finds_the_new_collections_index(run, switch):
    import vecs

    await run()
    switch()
    collection = passages._collection().client.get_or_create_collection("large", dimension=8)
    assert collection.is_indexed_for_measure(vecs.IndexMeasure.cosine_distance)


async def test_a_run_that_broke_off_goes_on_where_it_was(run, held, embedding_model):
    await ingest()
    embedding_model.answers = [Says(), Says(400)]
    status, said, complaints = await run()
    assert (status, len(said.splitlines())) == (1, 1)
    assert complaints == "The embedding model refused the text.\n"
    assert len(held("large")) == 5
    status, *_ = await run()
    assert status == 0
    assert held("large") == held("passages")
    # Five in the first run, five that were refused, and the seven that were left in two requests.
    assert [len(texts) for texts in embedding_model.texts] == [5, 5, 5, 2]


async def test_a_model_that_wants_to_be_asked_less_often_is_waited_for(run, held, embedding_model):
    await ingest()
    embedding_model.answers = [Says(429)] * 7
    status, _, complaints = await run()
    assert status == 0
    assert held("large") == held("passages")
    # Three tries each.
    assert len(complaints.splitlines()) == 2


async def test_only_what_changed_is_embedded_again(run, held, embedding_model):
    await ingest()
    await run()
    embedding_model.asked.clear()
    await run()
    assert embedding_model.asked == []
    await ingest([*TEXTS[:3], "Something else."], version=2)
    await run()
    assert embedding_model.texts == [["Lease > Clauses\nSomething else."]]
    assert held("large") == held("passages")
    # All else that a passage says comes along.
    without_hash = "metadata - 'content_hash' as metadata"
    assert held("large", without_hash) == held("passages", without_hash)


# What happens meanwhile


@pytest.mark.parametrize("name", ["passages", "large"])
async def test_what_is_deleted_from_either_is_deleted_from_both(run, held, switch, name):
    await ingest()
    await ingest(TEXTS[:2], HANDBOOK, owner=BOB)
    await run()
    if name == "large":
        switch()
    await passages.remove_as(caller(ADA), LEASE)
    assert [id_ for id_, _ in held("large")] == [id_ for id_, _ in held("passages")]
    assert len(held("large")) == 2


async def test_a_document_deleted_while_it_is_embedded_is_not_brought_back(run, rows, held, monkeypatch):
    await ingest()
    await ingest(TEXTS[:2], HANDBOOK)
    patiently = reembed._patiently

    async def while_it_is_deleted(texts):
        answer = await patiently(texts)
        rows("delete from vecs.passages where document_id = %s", [LEASE], "VECTOR_")
        return answer

    monkeypatch.setattr(reembed, "_patiently", while_it_is_deleted)
    status, *_ = await run()
    assert status == 0
    assert {id_.partition(":")[0] for id_, _ in held("large")} == {str(HANDBOOK)}
    assert held("large") == held("passages")


async def test_of_a_document_in_both_the_later_ingestion_stays(run, held, switch):
    await ingest()
    await ingest(TEXTS[:4], HANDBOOK)
    await run()
    switch()
    await ingest(["New."], version=3)
    switch(None)
    await ingest(["Newer, in the old one."], HANDBOOK, version=4)
    await run()
    assert [text for _, text in held("large")] == ["New.", "Newer, in the old one."]


# What is refused, and the old one's end


@pytest.mark.parametrize(
    ("arguments", "to", "sentence"),
    [
        (["--from", "passages"], LARGE | {"EMBEDDING_COLLECTION": "passages"}, "EMBEDDING_COLLECTION is passages"),
        (["--from", "nothing"], LARGE, "There is no collection nothing."),
        (["--from", "Nobody's"], LARGE, "There is no collection Nobody's."),
        (["--drop", "passages"], None, "passages is the collection that serves"),
        (["--drop", "passages"], LARGE, "There is no collection large."),
        (["--from", "passages"], LARGE | {"EMBEDDING_COLLECTION": "Large"}, "EmbeddingSettings: EMBEDDING_COLLECTION"),
        (
            ["--from", "passages"],
            LARGE | {"EMBEDDING_COLLECTION": "my_staged"},
            "EmbeddingSettings: EMBEDDING_COLLECTION",
        ),
    ],
)
async def test_what_does_not_fit_is_refused_with_a_reason(run, arguments, to, sentence):
    status, _, complaints = await run(*arguments, to=to)
    assert status == 1
    assert complaints.startswith(sentence)


async def test_a_collection_of_another_model_is_left_alone(run, held):
    await ingest()
    await run()
    status, _, complaints = await run(to=LARGE | {"EMBEDDING_MODEL": "text-embedding-3-small"})
    assert status == 1
    assert complaints.startswith("large is there already, of 8 dimensions: “Pieces of documents")


async def test_one_may_go_back(run, held, switch):
    await ingest()
    await run()
    switch()
    await ingest(["A new one."], HANDBOOK, version=2)
    small = {"EMBEDDING_MODEL": "small", "EMBEDDING_DIMENSIONS": "384", "EMBEDDING_COLLECTION": "passages"}
    status, *_ = await run("--from", "large", to=small)
    assert status == 0
    assert len(held("passages")) == len(TEXTS) + 1
    assert held("passages") == held("large")


async def test_it_may_take_longer_than_a_statement_may_elsewhere(run, monkeypatch):
    allowed = []

    def look(connection, old):
        allowed.extend(connection.execute("show statement_timeout").fetchall())
        return reembed.Spent()

    monkeypatch.setattr(reembed, "fill", look)
    monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=2min")
    await run("--from", "passages")
    assert allowed == [{"statement_timeout": "0"}]


async def test_two_do_not_fill_at_once(run, postgres):
    import psycopg

    with psycopg.connect(postgres.environment["ADMIN_VECTOR_DATABASE_URL"], autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", [reembed.ADVISORY_LOCK])
        assert await run() == (1, "", "Another `reembed` is at work on this database.\n")


async def test_the_old_one_stays_while_the_new_one_lacks_something(run, rows):
    await ingest()
    await run()
    await ingest(["A late one."], HANDBOOK)
    status, _, complaints = await run("--drop", "passages")
    assert status == 1
    assert complaints.startswith("large lacks 1 passages of passages")
    assert rows("select to_regclass('vecs.passages')::text as name", database="VECTOR_") == [{"name": "vecs.passages"}]


async def test_the_old_one_goes_and_the_new_one_stands_alone(run, rows, held, switch):
    first = {"EMBEDDING_COLLECTION": "large"} | {
        "EMBEDDING_MODEL": "text-embedding-3-large",
        "EMBEDDING_DIMENSIONS": "8",
    }
    second = LARGE | {"EMBEDDING_COLLECTION": "larger"}
    try:
        await ingest()
        await run(to=first)
        await run("--from", "large", to=second)
        status, *_ = await run("--drop", "large", to=second)
        assert status == 0
        names = "select to_regclass('vecs.large') as one, to_regclass('vecs.large_staged') as other"
        assert rows(names, database="VECTOR_") == [{"one": None, "other": None}]
        switch(second)
        assert len(await find(caller(ADA), direction("lease", 8), "lease", limit=5)) == 5
        await passages.remove_as(caller(ADA), LEASE)
        assert held("larger") == []
    finally:
        rows("drop table if exists vecs.larger, vecs.larger_staged", database="VECTOR_")


async def test_migrations_compare_the_dimensions_with_those_of_the_collection_that_serves(run, postgres):
    await run()
    urls = [postgres.environment[name] for name in ("ADMIN_DATABASE_URL", "ADMIN_VECTOR_DATABASE_URL")]
    assert migrate(*urls, embedding_dimensions=8, collection="large") == []
    with pytest.raises(MigrationError, match=r"^vecs\.large holds vectors of 8 dimensions, not 384"):
        migrate(*urls, embedding_dimensions=384, collection="large")
