"""Ada and Bob against every table and every verb, as Postgres itself enforces it: no function of ours is in between."""

import json
import re
from contextlib import contextmanager
from uuid import UUID, uuid4, uuid5

import psycopg
import pytest
from psycopg import errors
from psycopg.types.json import Jsonb

from tests.parts.people import ADA, ADMIN, BOB, Person, claims

# Supabase's own schema, and where the migrator notes what it applied.
NOT_OURS = ("auth", "agentkit_migrations")
CATALOG = """
    select format('%%I.%%I', n.nspname, c.relname) as name, c.relrowsecurity as secured,
           obj_description(c.oid, 'pg_class') as comment
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'f', 'm') and n.nspname not like 'pg\\_%%' and n.nspname <> 'information_schema'
      and not n.nspname = any(%s)
"""
# How a row of each table comes to be; %(owner)s is whose it is, %(id)s new for each.
INSERT = {
    "agentkit.documents": """
        insert into agentkit.documents (id, owner, title, filename, media_type, size_bytes, status, object_key)
        values (%(id)s::uuid, %(owner)s, 'Lease', 'lease.pdf', 'application/pdf', 5, 'ready', %(id)s::text)""",
    "agentkit.conversations": """
        insert into agentkit.conversations (owner, id, title) values (%(owner)s, %(id)s, 'The lease')""",
    "agentkit.messages": """
        with conversation as (
            insert into agentkit.conversations (owner, id, title) values (%(owner)s, 'chat-of-messages', 'The lease')
            on conflict do nothing
        )
        insert into agentkit.messages (owner, conversation_id, id, role, parts)
        values (%(owner)s, 'chat-of-messages', %(id)s, 'user', '[]')""",
    "agentkit.jobs": "insert into agentkit.jobs (id, owner, kind) values (%(id)s, %(owner)s, 'ingest')",
    "agentkit.usage_events": """
        insert into agentkit.usage_events (owner, function, model, input_tokens, output_tokens, cost_usd)
        values (%(owner)s, 'chat', 'm', 1, 1, 0)""",
    "vecs.passages": """
        insert into vecs.passages (id, vec, metadata)
        values (%(id)s::text, array_fill(0.5, array[384])::vector,
                jsonb_build_object('owner', %(owner)s::text, 'document_id', %(id)s::text, 'text', 'The lease'))""",
}
TABLES = sorted(INSERT)
# What people are granted nothing of: it is the service's own, while it works on a document.
SERVICE_ONLY = {
    "agentkit.job_parts": """
        with job as (
            insert into agentkit.jobs (id, owner, kind) values (%(id)s, %(owner)s, 'ingest') returning id
        )
        insert into agentkit.job_parts (job_id, ordinal, passages, count) select id, 0, '[]', 1 from job""",
    "vecs.staged": """
        insert into vecs.staged (id, vec, metadata)
        values (%(id)s::text, array_fill(0.5, array[384])::vector,
                jsonb_build_object('owner', %(owner)s::text, 'document_id', %(id)s::text, 'job_id', %(id)s::text))""",
}
# What people may not do at all: passages are the worker's to write, a job is kept, usage is never changed.
NOBODY_MAY = {
    ("vecs.passages", "insert"),
    ("vecs.passages", "update"),
    ("agentkit.jobs", "delete"),
    ("agentkit.usage_events", "update"),
    ("agentkit.usage_events", "delete"),
}
# Says again what a row of that table says; by it an update is tried that changes nothing else.
SAME = dict.fromkeys(TABLES, "owner = owner") | {"vecs.passages": "metadata = metadata"}


@pytest.fixture
def server(postgres):
    """Each table holds a row of Ada's and one of Bob's."""
    for table in TABLES:
        with connected(postgres, table, "ADMIN") as connection:
            for person in (ADA, BOB):
                connection.execute(INSERT[table], {"owner": str(person.id), "id": str(uuid4())})
    return postgres


@contextmanager
def connected(server, table, login=""):
    """A connection to that table's database, by default as the functions' login."""
    kind = "VECTOR_DATABASE_URL" if table.startswith("vecs.") else "DATABASE_URL"
    with psycopg.connect(server.environment[f"{login}_{kind}".strip("_")], autocommit=True) as connection:
        yield connection


@contextmanager
def acting_as(server, person, table, **changes):
    """A transaction of that person's, as the functions make it."""
    said = claims(person, **changes) if person else {}
    with connected(server, table) as connection, connection.transaction(force_rollback=False):
        connection.execute("select set_config('role', 'authenticated', true)")
        connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(said) if said else ""])
        yield connection


def owners(connection, table):
    return {owner for (owner,) in connection.execute(f"select owner from {table}")}


def everything(server, table):
    with connected(server, table, "ADMIN") as connection:
        return connection.execute(f"select * from {table} order by 1").fetchall()


def catalog(server):
    found: dict[str, tuple] = {}
    for table in ("agentkit.", "vecs."):
        with connected(server, table, "ADMIN") as connection:
            found |= {row[0]: row[1:] for row in connection.execute(CATALOG, [list(NOT_OURS)])}
    return found


def test_every_table_that_exists_is_tried_here(postgres):
    assert sorted(catalog(postgres)) == sorted([*TABLES, *SERVICE_ONLY])


def test_every_table_has_row_level_security_and_says_what_it_holds(postgres):
    assert {name: (secured, bool(comment)) for name, (secured, comment) in catalog(postgres).items()} == (
        dict.fromkeys([*TABLES, *SERVICE_ONLY], (True, True))
    )


def test_no_policy_asks_who_it_is_for_every_row_anew(postgres):
    for table in ("agentkit.", "vecs."):
        with connected(postgres, table, "ADMIN") as connection:
            policies = connection.execute("select policyname, concat(qual, with_check) from pg_policies").fetchall()
            for name, conditions in policies:
                asked_once = re.sub(r"\( SELECT [a-z_.]+\(\) AS \w+\)", "", conditions)
                assert "()" not in asked_once, name


def test_nothing_runs_with_its_makers_rights(postgres):
    definers = "select proname from pg_proc p join pg_namespace n on n.oid = pronamespace where prosecdef"
    views = "select viewname from pg_views where schemaname = any(%s)"
    for table in ("agentkit.", "vecs."):
        with connected(postgres, table, "ADMIN") as connection:
            assert connection.execute(definers).fetchall() == []
            assert connection.execute(views, [["agentkit", "vecs", "public"]]).fetchall() == []


@pytest.mark.parametrize("table", TABLES)
def test_people_see_their_own_rows_and_no_others(server, table):
    for person in (ADA, BOB):
        with acting_as(server, person, table) as connection:
            assert owners(connection, table) == {person.id}


@pytest.mark.parametrize("table", TABLES)
def test_nobody_sees_anything_without_being_someone(server, table):
    with acting_as(server, None, table) as connection:
        assert owners(connection, table) == set()
    for role in ("anon", "service_role"):
        with connected(server, table, "ADMIN") as connection, pytest.raises(errors.InsufficientPrivilege):
            connection.execute(f"set role {role}")
            owners(connection, table)


def refused_or_none(connection, statement, parameters=()):
    """Whether the statement was refused, or found no row that it may touch."""
    try:
        with connection.transaction():
            return connection.execute(statement, parameters).rowcount == 0
    except errors.InsufficientPrivilege:
        return True


@pytest.mark.parametrize("table", TABLES)
def test_bob_changes_nothing_of_adas(server, table):
    before = everything(server, table)
    with acting_as(server, BOB, table) as connection:
        assert refused_or_none(connection, f"update {table} set {SAME[table]} where owner = %s", [ADA.id])
        assert refused_or_none(connection, f"delete from {table} where owner = %s", [ADA.id])
        assert refused_or_none(connection, INSERT[table], {"owner": str(ADA.id), "id": str(uuid4())})
    assert everything(server, table) == before


@pytest.mark.parametrize("table", TABLES)
def test_bob_cannot_give_ada_a_row_of_his(server, table):
    before = everything(server, table)
    new = "metadata = metadata || jsonb_build_object('owner', %s::text)" if table == "vecs.passages" else "owner = %s"
    with acting_as(server, BOB, table) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(f"update {table} set {new}", [ADA.id])
    assert everything(server, table) == before


@pytest.mark.parametrize("table", TABLES)
def test_people_may_do_with_their_own_what_the_grants_say(server, table):
    statements = {
        "insert": (INSERT[table], {"owner": str(ADA.id), "id": str(uuid4())}),
        "update": (f"update {table} set {SAME[table]}", ()),
        "delete": (f"delete from {table}", ()),
    }
    refused = set()
    for verb, (statement, parameters) in statements.items():
        with acting_as(server, ADA, table) as connection:
            if refused_or_none(connection, statement, parameters):
                refused.add((table, verb))
    assert refused == {(each, verb) for each, verb in NOBODY_MAY if each == table}
    with acting_as(server, BOB, table) as connection:
        assert owners(connection, table) == {BOB.id}  # whatever Ada deleted was hers


@pytest.mark.parametrize("table", TABLES)
def test_truncating_is_for_nobody(server, table):
    with acting_as(server, ADA, table) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(f"truncate {table}")


@pytest.mark.parametrize("table", SERVICE_ONLY)
@pytest.mark.parametrize("person", [None, ADA, ADMIN], ids=["nobody", "its owner", "an admin"])
def test_what_is_the_services_own_people_neither_see_nor_touch(postgres, table, person):
    with connected(postgres, table, "ADMIN") as connection:
        connection.execute(SERVICE_ONLY[table], {"owner": str(ADA.id), "id": str(uuid4())})
    before = everything(postgres, table)
    for statement in (f"select from {table}", f"delete from {table}", SERVICE_ONLY[table]):
        with acting_as(postgres, person, table) as connection, pytest.raises(errors.InsufficientPrivilege):
            connection.execute(statement, {"owner": str(ADA.id), "id": str(uuid4())})
    assert everything(postgres, table) == before


# What may be for everyone, and the statement by which a row of the person's own becomes it.
PUBLISH = "update agentkit.documents set audience = 'everyone'"


def test_what_an_admin_gives_to_everyone_is_read_by_all_and_changed_by_none(server):
    with acting_as(server, ADMIN, "agentkit.documents") as connection:
        connection.execute(INSERT["agentkit.documents"], {"owner": ADMIN.id, "id": str(uuid4())})
        connection.execute(PUBLISH)
    with acting_as(server, BOB, "agentkit.documents") as connection:
        assert owners(connection, "agentkit.documents") == {BOB.id, ADMIN.id}
        for change in ("update agentkit.documents set title = 'Mine'", "delete from agentkit.documents"):
            assert refused_or_none(connection, f"{change} where owner = %s", [ADMIN.id])
    with acting_as(server, None, "agentkit.documents") as connection:
        assert owners(connection, "agentkit.documents") == {ADMIN.id}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"user_metadata": {"role": "admin"}},
        {"role": "admin"},
        {"app_metadata": {"role": "Admin"}},
        {"app_metadata": "admin"},
        {"app_metadata": None},
        {"app_metadata": {"role": ["admin"]}},
    ],
    ids=str,
)
def test_only_an_admin_gives_to_everyone(server, changes):
    columns = "id, owner, title, filename, media_type, size_bytes, status, object_key, audience"
    insert = f"insert into agentkit.documents ({columns}) values (%s, %s, 't', 'f', 'm', 1, 'ready', 'k', 'everyone')"
    for statement, parameters in ((PUBLISH, []), (insert, [uuid4(), BOB.id])):
        with (
            pytest.raises(errors.InsufficientPrivilege),
            acting_as(server, BOB, "agentkit.documents", **changes) as connection,
        ):
            connection.execute(statement, parameters)


def test_a_hundred_tenants_in_one_index_each_see_their_own(postgres):
    tenants = [uuid5(UUID(int=0), f"tenant {number}") for number in range(100)]
    rows = [
        (f"{tenant}:{ordinal}", Jsonb({"owner": str(tenant), "document_id": str(tenant), "text": "the same words"}))
        for ordinal in range(10)
        for tenant in tenants
    ]
    with connected(postgres, "vecs.passages", "ADMIN") as connection:
        connection.cursor().executemany(
            "insert into vecs.passages (id, vec, metadata) values (%s, array(select random()"
            " from generate_series(1, 384))::vector, %s)",
            rows,
        )
    # No condition of the statement's own keeps them apart, and whichever index it is answered from.
    statements = [
        "select owner, id from vecs.passages",
        "select owner, id from vecs.passages where fts @@ to_tsquery('english', 'words')",
        "select owner, id from vecs.passages order by vec <=> array_fill(0.5, array[384])::vector limit 1000",
    ]
    for tenant in tenants:
        with acting_as(postgres, Person(tenant, "tenant@example.com", {}), "vecs.passages") as connection:
            connection.execute("set local hnsw.iterative_scan = relaxed_order")
            for statement in statements:
                found = connection.execute(statement).fetchall()
                assert {owner for owner, _ in found} == {tenant}
                assert len(found) == 10


@pytest.mark.parametrize("table", TABLES)
def test_the_functions_login_itself_reads_nothing(server, table):
    with connected(server, table) as connection, pytest.raises(errors.InsufficientPrivilege):
        owners(connection, table)


@pytest.mark.parametrize("table", ["agentkit.", "vecs."], ids=["app", "vectors"])
@pytest.mark.parametrize(
    "statement",
    [
        *(f"set role {role}" for role in ("agentkit_service", "agentkit_worker", "service_role", "postgres", "anon")),
        "set session authorization postgres",
        "set row_security = off; select * from auth.users",
        "select * from auth.users",
        "select * from agentkit_migrations.applied",
        "insert into agentkit_migrations.applied (name, checksum) values ('9999_mine', '')",
        "create schema mine",
        "create table public.mine ()",
        "create table agentkit.mine ()",
        "create table vecs.mine ()",
        "create extension pg_trgm",
        "create function agentkit.is_admin() returns boolean language sql return true",
        "create or replace function auth.uid() returns uuid language sql return null",
        "create role mine",
        "alter role agentkit_functions bypassrls",
        "grant agentkit_service to agentkit_functions",
        "copy (select 1) to program 'true'",
        "select pg_read_file('/etc/hostname')",
    ],
)
@pytest.mark.parametrize("person", [None, ADMIN], ids=["as the login", "as an admin of the app"])
def test_the_functions_login_cannot(postgres, table, statement, person):
    with (
        pytest.raises((errors.InsufficientPrivilege, errors.InvalidSchemaName)),
        connected(postgres, table) as connection,
    ):
        if person:
            connection.execute("select set_config('request.jwt.claims', %s, false)", [json.dumps(claims(person))])
            connection.execute("set role authenticated")
        connection.execute(statement)


@pytest.mark.parametrize(
    "login", ["agentkit_functions", "agentkit_worker", "agentkit_service", "authenticated", "anon"]
)
@pytest.mark.parametrize("table", ["agentkit.", "vecs."], ids=["app", "vectors"])
def test_no_role_of_ours_owns_anything_or_stands_above_the_policies(postgres, login, table):
    with connected(postgres, table, "ADMIN") as connection:
        powers = connection.execute(
            "select rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication from pg_roles"
            " where rolname = %s",
            [login],
        ).fetchone()
        owned = connection.execute(
            "select from pg_shdepend where deptype = 'o' and refobjid = %s::regrole", [login]
        ).fetchall()
    assert powers == (False,) * 5
    assert owned == []


@pytest.mark.parametrize("table", TABLES)
def test_the_service_sees_all_and_only_the_workers_login_becomes_it(server, table):
    with connected(server, table, "WORKER") as connection:
        if table != "vecs.passages":  # which vecs writes as the login itself, by a policy that says so
            with pytest.raises(errors.InsufficientPrivilege):
                owners(connection, table)
        connection.execute("set role agentkit_service")
        assert owners(connection, table) == {ADA.id, BOB.id}
