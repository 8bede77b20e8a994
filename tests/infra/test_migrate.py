"""Migrations bring a bare Supabase project to what the functions need: whole files, once, in order, or not at all."""

import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from agentkit import database, passages, settings
from agentkit.passages import Passage
from infra.__main__ import main
from infra.local.part import LOOPBACK
from infra.local.postgres import BARE_PROJECT, SUPERUSER, Postgres
from infra.migrate import ADVISORY_LOCK, FOLDER, LOGINS, MigrationError, migrate, migrations
from tests.parts.people import ADA, BOB, caller
from tests.parts.postgres import open_folder

OWNER = "project_owner"
PASSWORD = "the-owners-own"
# What Supabase's `postgres` is: no superuser, and it may hand on the API's roles
# (supabase/postgres, nix/tests/expected/z_17_roles.out).
AS_SUPABASE = f"""
create role {OWNER} login createrole createdb bypassrls password '{PASSWORD}';
grant anon, authenticated, service_role to {OWNER} with admin option;
alter role {OWNER} set search_path = "$user", public, extensions;
"""
# And in each of its databases; only Supabase itself makes extensions.
IN_DATABASE = f"""
grant usage on schema auth to {OWNER};
create schema extensions authorization {OWNER};
grant usage on schema extensions to anon, authenticated, service_role;
create extension vector schema extensions;
"""
ROLES = ("agentkit_functions", "agentkit_worker", "agentkit_service")


@dataclass
class Project:
    """A Supabase project with a database for vectors beside it, both bare."""

    server: Postgres
    app: str
    vectors: str

    def url(self, database, login=OWNER, password=PASSWORD):
        if login == SUPERUSER:
            return self.server.url(database, SUPERUSER)
        return f"postgresql://{login}:{password}@{LOOPBACK}:{self.server.port}/{database}"

    def connect(self, database, login=OWNER, password=PASSWORD):
        return psycopg.connect(self.url(database, login, password), autocommit=True)

    def migrate(self, dimensions=3, *, together=False, **options):
        databases = (self.app, self.app) if together else (self.app, self.vectors)
        return migrate(*map(self.url, databases), embedding_dimensions=dimensions, **options)

    def ask(self, statement, database=None):
        with self.connect(database or self.app) as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture(scope="module")
def cluster():
    with open_folder() as folder:
        server = Postgres(folder, durable=False)
        server.start()
        with psycopg.connect(server.url("postgres", SUPERUSER), autocommit=True) as connection:
            for database in ("app", "vectors"):
                connection.execute(f"drop database {database}")
            connection.execute(f"drop role {', '.join(ROLES)}")
            connection.execute(AS_SUPABASE)
        yield server
        server.stop()


@pytest.fixture
def project(cluster):
    names = [f"{kind}_{uuid.uuid4().hex[:8]}" for kind in ("app", "vectors")]
    with psycopg.connect(cluster.url("postgres", SUPERUSER), autocommit=True) as connection:
        for name in names:
            connection.execute(f"create database {name} owner {OWNER}")
            with psycopg.connect(cluster.url(name, SUPERUSER), autocommit=True) as own:
                own.execute(BARE_PROJECT.encode())
                own.execute(IN_DATABASE)
        yield Project(cluster, *names)
        for name in names:
            connection.execute(f"drop database {name} with (force)")
        connection.execute(f"drop role if exists {', '.join(ROLES)}")


@pytest.fixture
def folder(tmp_path):
    """The project's own migrations, to add to."""
    return Path(shutil.copytree(FOLDER, tmp_path / "migrations"))


@pytest.fixture
def run(project, monkeypatch, capsys):
    """`python -m infra migrate`, with the project's owner in the environment; returns status, output, complaints."""
    monkeypatch.setenv("ADMIN_DATABASE_URL", project.url(project.app))
    monkeypatch.setenv("ADMIN_VECTOR_DATABASE_URL", project.url(project.vectors))
    for login in LOGINS:
        monkeypatch.delenv(f"{login.upper()}_PASSWORD", raising=False)

    def run(dimensions=3):
        status = main(["migrate", "--embedding-dimensions", str(dimensions)])
        return status, *capsys.readouterr()

    return run


def named(kind):
    return [each.name for each in migrations() if kind in each.databases]


def everything():
    return [f"app/{name}" for name in named("app")] + [f"vectors/{name}" for name in named("vectors")]


def add(folder, name, statements, databases="app"):
    (folder / f"{name}.sql").write_text(f"-- databases: {databases}\n{statements}\n")


def test_a_bare_project_gets_everything_and_the_second_time_nothing(project):
    assert project.migrate() == everything()
    assert project.migrate() == []


def test_one_database_may_be_both(project):
    assert project.migrate(together=True) == [f"app/{each.name}" for each in migrations()]
    assert project.migrate(together=True) == []
    assert project.ask("select to_regclass('agentkit.documents'), to_regclass('vecs.passages')") == [
        ("agentkit.documents", "vecs.passages")
    ]


def test_one_database_is_known_by_whatever_address(project):
    other = project.url(project.app).replace(LOOPBACK, "localhost")
    assert migrate(project.url(project.app), other, embedding_dimensions=3)[0] == "app/0001_roles"
    assert migrate(other, project.url(project.app), embedding_dimensions=3) == []


def test_a_new_file_is_applied_to_the_databases_that_it_names(project, folder):
    project.migrate(folder=folder)
    add(folder, "0100_more", "create table agentkit.more ();", "vectors")
    assert project.migrate(folder=folder) == ["vectors/0100_more"]


def test_a_file_that_was_edited_after_it_was_applied_is_refused(project, folder):
    project.migrate(folder=folder)
    with (folder / "0004_jobs.sql").open("a") as file:
        file.write("drop table agentkit.jobs;")
    with pytest.raises(MigrationError, match=r"^0004_jobs was edited after it was applied"):
        project.migrate(folder=folder)
    assert project.ask("select to_regclass('agentkit.jobs')") == [("agentkit.jobs",)]


def test_a_file_that_comes_before_an_applied_one_is_refused(project, folder):
    project.migrate(folder=folder)
    add(folder, "0004_late", "create table agentkit.late ();")
    with pytest.raises(MigrationError, match=r"^0004_late comes before \d{4}_\w+, which is applied"):
        project.migrate(folder=folder)
    assert project.ask("select to_regclass('agentkit.late')") == [(None,)]


def test_a_file_that_fails_leaves_nothing_is_named_and_can_be_mended(project, folder):
    add(folder, "0100_half", "create table agentkit.half (); select 1 / 0;")
    with pytest.raises(MigrationError, match=r"^0100_half failed and was rolled back: division by zero"):
        project.migrate(folder=folder)
    assert project.ask("select to_regclass('agentkit.half')") == [(None,)]
    add(folder, "0100_half", "create table agentkit.half ();")
    # Those before it stand; of the vectors' nothing had begun.
    assert project.migrate(folder=folder) == ["app/0100_half", *(f"vectors/{name}" for name in named("vectors"))]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("0100_unsaid", "select 1;", id="no databases"),
        pytest.param("late", "-- databases: app\nselect 1;", id="no number"),
        pytest.param("0100_unknown", "-- databases: app\nselect {{nothing}};", id="unknown parameter"),
    ],
)
def test_a_file_that_is_no_migration_is_refused_by_name(project, folder, name, text):
    (folder / f"{name}.sql").write_text(text)
    with pytest.raises(MigrationError, match=f"^{name}"):
        project.migrate(folder=folder)


def test_no_migration_waits_for_a_lock_for_long(project, folder):
    add(folder, "0100_patience", "create table agentkit.patience as select current_setting('lock_timeout') as value;")
    project.migrate(folder=folder)
    assert project.ask("select value from agentkit.patience") == [("5s",)]


def test_a_migration_may_take_longer_than_a_statement_may_elsewhere(project, folder, monkeypatch):
    monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=2min")
    add(folder, "0100_index", "create table agentkit.most as select current_setting('statement_timeout') as value;")
    project.migrate(folder=folder)
    assert project.ask("select value from agentkit.most") == [("0",)]


def test_a_second_migrator_waits_for_the_first(project):
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    with project.connect(project.app) as first, ThreadPoolExecutor() as others:
        first.execute("select pg_advisory_lock(%s)", [ADVISORY_LOCK])
        second = others.submit(project.migrate)
        while first.execute(waiting).fetchone() == (0,):
            assert not second.done()
        assert project.ask("select to_regclass('agentkit_migrations.applied')") == [(None,)]
        first.execute("select pg_advisory_unlock(%s)", [ADVISORY_LOCK])
        assert second.result() == everything()


def test_strangers_are_granted_nothing(project):
    project.migrate(together=True)
    schemas = "select nspname from pg_namespace where nspname in ('agentkit', 'vecs', 'agentkit_migrations')"
    for role in ("anon", "public"):
        granted = f"""
            select relname from pg_class where relnamespace in (select oid from pg_namespace n where n.nspname in
              ('agentkit', 'vecs', 'agentkit_migrations')) and relkind in ('r', 'v', 'S')
            and has_table_privilege('{role}', oid, 'select, insert, update, delete, truncate, references, trigger')
        """
        assert project.ask(granted) == []
        may = f"{schemas} and has_schema_privilege('{role}', oid, 'usage, create')"
        assert project.ask(may) == []


def test_the_dimensions_are_the_embedding_models(project):
    project.migrate(1536)
    column = "select format_type(atttypid, atttypmod) from pg_attribute where attrelid = 'vecs.passages'::regclass"
    assert project.ask(f"{column} and attname = 'vec'", project.vectors) == [("vector(1536)",)]


def test_other_dimensions_than_the_table_has_are_told_and_not_passed_over(project):
    project.migrate(384)
    with pytest.raises(MigrationError, match=r"^vecs\.passages holds vectors of 384 dimensions, not 1536"):
        project.migrate(1536)


@pytest.mark.parametrize("schema", ["public", "extensions"])
@pytest.mark.anyio
async def test_the_logins_find_pgvector_where_the_project_keeps_it(project, schema, monkeypatch):
    with project.connect(project.vectors, SUPERUSER) as connection:
        connection.execute(f"alter extension vector set schema {schema}")
    project.migrate(3, passwords={login: f"of-{login}" for login in LOGINS})
    monkeypatch.setenv("EMBEDDING_DIMENSIONS", "3")
    monkeypatch.setenv("EMBEDDING_MODEL", "three")
    monkeypatch.setenv("OPENAI_API_KEY", "not-needed-here")
    document, job = uuid.uuid4(), uuid.uuid4()
    passage = Passage(document, ADA.id, 0, "The lease ends in 2027.", "Lease", 0, 23)

    def become(login):
        for name, kept_in in (("DATABASE_URL", project.app), ("VECTOR_DATABASE_URL", project.vectors)):
            monkeypatch.setenv(name, project.url(kept_in, login, f"of-{login}"))
        settings.forget()

    passages._collection.cache_clear()
    become("agentkit_worker")
    await passages.stage(job, [passage], [[1.0, 0.0, 0.0]])
    await passages.swap(job, document, ADA.id, version=1, count=1)
    await database.close()
    passages._collection.cache_clear()
    become("agentkit_functions")
    found = await passages.find(caller(ADA), [1.0, 0.0, 0.0], "lease", limit=5)
    assert [(match.text, match.similarity) for match in found] == [("The lease ends in 2027.", 1.0)]
    assert await passages.find(caller(BOB), [1.0, 0.0, 0.0], "lease", limit=5) == []
    await database.close()


def test_logins_get_their_passwords_and_keep_them_when_none_are_given(project):
    passwords = {"agentkit_functions": "först's", "agentkit_worker": "second"}
    project.migrate(passwords=passwords)
    project.migrate()
    for login, password in passwords.items():
        conninfo = make_conninfo(project.url(project.app, login, "x"), password=password)
        with psycopg.connect(conninfo) as connection:
            assert connection.execute("select current_user").fetchone() == (login,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        project.connect(project.app, "agentkit_functions", "second")


def test_a_password_never_reaches_the_server_in_the_clear(project):
    with project.connect(project.app, SUPERUSER) as connection:
        connection.execute("alter system set log_statement = 'all'")
        connection.execute("select pg_reload_conf()")
    log = project.server.folder.parent / "logs" / "postgres.log"
    try:
        project.migrate(passwords={"agentkit_functions": "in-the-clear"})
        assert "alter role" in log.read_text()
        assert "in-the-clear" not in log.read_text()
    finally:
        with project.connect(project.app, SUPERUSER) as connection:
            connection.execute("alter system reset log_statement")
            connection.execute("select pg_reload_conf()")


def test_the_command_says_what_it_applied(run):
    status, said, complaints = run()
    assert (status, complaints) == (0, "")
    assert said.splitlines()[:-1] == everything()
    assert run() == (0, "Nothing to do.\n", "")


def test_the_command_says_which_logins_are_still_without_a_password(run, project, monkeypatch):
    monkeypatch.setenv("AGENTKIT_WORKER_PASSWORD", "of-the-worker")
    _, said, _ = run()
    assert said.splitlines()[-1] == (
        "Without a password a login cannot be used: set AGENTKIT_FUNCTIONS_PASSWORD, and migrate again."
    )
    with project.connect(project.app, "agentkit_worker", "of-the-worker") as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize(
    ("unset", "sentence"),
    [
        pytest.param(["ADMIN_DATABASE_URL"], "Set ADMIN_DATABASE_URL to", id="one"),
        pytest.param(
            ["ADMIN_DATABASE_URL", "ADMIN_VECTOR_DATABASE_URL"],
            "Set ADMIN_DATABASE_URL and ADMIN_VECTOR_DATABASE_URL to",
            id="both",
        ),
    ],
)
@pytest.mark.parametrize("empty", [True, False], ids=["empty", "missing"])
def test_the_command_says_which_variable_is_missing(run, monkeypatch, unset, sentence, empty):
    for name in unset:
        monkeypatch.setenv(name, "") if empty else monkeypatch.delenv(name)
    assert run() == (2, "", f"{sentence} the owner's connection string.\n")


def test_a_variable_that_is_no_connection_string_is_named_without_its_secret(run, monkeypatch):
    monkeypatch.setenv("ADMIN_VECTOR_DATABASE_URL", "postgres//owner:secret@host/name")
    status, _, complaints = run()
    assert status == 2
    assert complaints.startswith("ADMIN_VECTOR_DATABASE_URL is not a connection string")
    assert "secret" not in complaints


def test_a_login_that_may_not_migrate_is_told_so(run, project, monkeypatch):
    project.migrate(passwords={"agentkit_functions": "mine"})
    monkeypatch.setenv("ADMIN_DATABASE_URL", project.url(project.app, "agentkit_functions", "mine"))
    status, _, complaints = run()
    assert status == 1
    assert complaints.startswith("permission denied for ")


def test_a_server_that_is_away_is_told(run, monkeypatch):
    monkeypatch.setenv("ADMIN_DATABASE_URL", "postgresql://owner:secret@127.0.0.1:9/name")
    status, _, complaints = run()
    assert status == 1
    assert "connection" in complaints
    assert "secret" not in complaints
