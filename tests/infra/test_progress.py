"""`make dev` says of each ingestion how far it is, and how it ended."""

import io
import os
import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from infra.local.display import Display
from infra.local.progress import Watcher, following, under_way
from tests.infra.test_display import Terminal
from tests.parts.chat import eventually
from tests.parts.people import ADA

NAME = f"{'staff-handbook.pdf':<28}"
WHOLE = {"pages": 7, "pages_total": 7, "passages": 96, "passages_total": 96}


# What a line says


@pytest.mark.parametrize(
    ("status", "progress", "told"),
    [
        pytest.param("queued", {}, "queued", id="nothing known"),
        pytest.param("parsing", {"pages": 3, "pages_total": 1000}, "parsing     3 of 1,000 pages  0 %", id="pages"),
        pytest.param(
            "embedding", {"passages": 64, "passages_total": 96}, "embedding   64 of 96 passages  67 %", id="passages"
        ),
        pytest.param(
            "embedding",
            {"pages": 1, "pages_total": 7, "passages": 24, "passages_total": 96},
            "embedding   24 of 96 passages  25 %",
            id="passages rather than pages",
        ),
        pytest.param(
            "embedding",
            {"pages": None, "passages": None, "passages_total": 2},
            "embedding   0 of 2 passages  0 %",
            id="none yet",
        ),
        pytest.param(
            "embedding",
            {"passages": 999, "passages_total": 1000},
            "embedding   999 of 1,000 passages  99 %",
            id="nearly all",
        ),
        pytest.param("indexing", WHOLE, "indexing    96 of 96 passages  100 %", id="all"),
    ],
)
def test_a_line_says_the_step_and_how_much_is_done(status, progress, told):
    assert under_way("staff-handbook.pdf", status, progress) == f"  {NAME}  {told}"


def test_a_name_is_cut_and_cannot_move_the_cursor():
    told = under_way("\x1b[2J" + "x" * 40, "queued", {})
    assert told == "  �[2J" + "x" * 23 + "…  queued"


# What is shown of the jobs that there are


@pytest.fixture
def put(rows, put_job):
    """Put a document and a job of it there; returns the job's id."""

    def put(filename="staff-handbook.pdf", *, source_url=None, pages=None, passages=None, **job):
        document = uuid.uuid4()
        rows(
            "insert into agentkit.documents"
            " (id, owner, title, filename, media_type, size_bytes, status, object_key, source_url, pages, passages)"
            " values (%s, %s, 'Title', %s, 'application/pdf', 9, 'queued', %s, %s, %s, %s)",
            [document, ADA.id, filename, str(document), source_url, pages, passages],
        )
        return put_job(document_id=document, **job)

    return put


@pytest.fixture
def change(rows):
    """Change a job: `change(job, status="ready")`; one that is over ends now unless that is said."""

    def change(job, **columns):
        if columns.get("status") in {"ready", "failed", "cancelled"}:
            columns = {"finished_at": datetime.now(UTC), **columns}
        places = ", ".join(f"{name} = %s" for name in columns)
        rows(f"update agentkit.jobs set {places} where id = %s", [*columns.values(), job])

    return change


class Look:
    """A watcher, and what it wrote at each look."""

    def __init__(self, postgres, stream, term="xterm"):
        size = os.terminal_size((100, 24))
        environment = {"TERM": term, "NO_COLOR": "1"}
        self.stream = stream
        display = Display(stream, environment=environment, size=lambda: size)
        self.watcher = Watcher(postgres.environment["ADMIN_DATABASE_URL"], display)

    def __call__(self):
        before = len(self.stream.getvalue())
        self.watcher.look()
        return self.stream.getvalue()[before:]


@pytest.fixture
def look(postgres):
    """Look, and return what that wrote to the pipe."""
    look = Look(postgres, io.StringIO())
    yield look
    look.watcher.close()


@pytest.fixture
def look_on_terminal(postgres):
    """Look, and return what that wrote to the terminal."""
    look = Look(postgres, Terminal())
    yield look
    look.watcher.close()


def test_one_line_changes_until_the_one_that_stays_takes_its_place(put, change, look_on_terminal):
    job = put()
    assert look_on_terminal() == f"\r  {NAME}  queued\x1b[K\n\x1b[J"
    change(job, status="embedding", progress=Jsonb({"passages": 64, "passages_total": 96}))
    assert look_on_terminal() == f"\x1b[1A\r  {NAME}  embedding   64 of 96 passages  67 %\x1b[K\n\x1b[J"
    assert look_on_terminal() == ""
    began = datetime.now(UTC)
    ended = began + timedelta(seconds=3.1)
    change(job, status="ready", progress=Jsonb(WHOLE), input_tokens=5210, started_at=began, finished_at=ended)
    told = f"  {NAME}  ready: 7 pages, 96 passages, 3.1 s, 5,210 tokens"
    assert look_on_terminal() == f"\x1b[1A\r{told}\x1b[K\n\x1b[J"
    assert look_on_terminal() == ""


def test_a_pipe_gets_the_beginning_and_the_end_without_a_control_character(put, change, look):
    job = put()
    assert look() == f"  {NAME}  queued\n"
    change(job, status="embedding", progress=Jsonb({"passages": 64, "passages_total": 96}))
    assert look() == ""
    now = datetime.now(UTC)
    change(job, status="ready", progress=Jsonb(WHOLE), started_at=now, finished_at=now)
    assert look() == f"  {NAME}  ready: 7 pages, 96 passages, 0.0 s, 0 tokens\n"
    assert look() == ""


def test_each_job_has_a_line_those_at_work_first(put, look_on_terminal):
    put("waits.md")
    put("first.md", status="parsing")
    put("second.md", status="embedding")
    names = [line.split()[0] for line in look_on_terminal().lstrip("\r").splitlines()[:-1]]
    assert names == ["first.md", "second.md", "waits.md"]


@pytest.mark.parametrize(
    ("job", "told"),
    [
        pytest.param(
            {"status": "failed", "error_code": "no_text", "error": "No text\x1b[2J was found."},
            "failed: No text�[2J was found. (no_text)",
            id="failed",
        ),
        pytest.param({"status": "cancelled"}, "cancelled", id="cancelled"),
        pytest.param(
            {"status": "ready", "progress": Jsonb({"passages_total": 1}), "input_tokens": 1},
            "ready: 1 passage, 2.0 s, 1 token",
            id="ready, of a kind without pages",
        ),
    ],
)
def test_each_end_is_told_in_its_words(put, change, look, job, told):
    now = datetime.now(UTC)
    # Never begun: its time counts from when it was asked for.
    change(put(), created_at=now, finished_at=now + timedelta(seconds=2), **job)
    assert look() == f"  {NAME}  {told}\n"


def test_what_was_not_read_again_has_the_pages_that_it_had(put, change, look):
    now = datetime.now(UTC)
    change(
        put(pages=7, passages=23),
        status="ready",
        progress=Jsonb({"passages": 23, "passages_total": 23, "reused": 23}),
        started_at=now,
        finished_at=now,
    )
    assert look() == f"  {NAME}  ready: 7 pages, 23 passages, 0.0 s, 0 tokens\n"


def test_an_end_has_its_colour(postgres, put, change):
    stream = Terminal()
    watcher = Watcher(postgres.environment["ADMIN_DATABASE_URL"], Display(stream, environment={"TERM": "xterm"}))
    for status in ("ready", "failed", "cancelled"):
        change(put(), status=status)
    watcher.look()
    watcher.close()
    said = stream.getvalue()
    assert all(each in said for each in ("\x1b[32mready\x1b[0m", "\x1b[31mfailed\x1b[0m", "\x1b[33mcancelled\x1b[0m"))


def test_a_web_address_is_told_rather_than_the_name_made_of_it(put, look):
    put("page.html", source_url="https://example.com/a")
    assert look() == "  https://example.com/a         queued\n"


def test_a_job_whose_document_was_deleted_is_told_all_the_same(rows, put, look):
    put()
    rows("delete from agentkit.documents")
    assert look() == "  a deleted document            queued\n"


def test_what_had_ended_before_is_not_told(put, change, look):
    change(put(), status="ready", finished_at=datetime.now(UTC) - timedelta(seconds=30))
    assert (look(), look()) == ("", "")


def test_other_work_is_not_told(put, look):
    put(kind="other")
    assert look() == ""


def test_one_that_is_begun_again_is_told_again(put, change, look):
    job = put()
    look()
    change(job, status="failed", error_code="no_text", error="No text was found.")
    assert "failed" in look()
    change(job, status="queued", finished_at=None)
    assert look() == f"  {NAME}  queued\n"
    change(job, status="failed", error_code="no_text", error="No text was found.")
    assert "failed" in look()
    assert look() == ""


def test_each_end_is_told_though_nobody_saw_the_beginning_between(put, change, look):
    job = put()
    for _ in range(2):  # cancelled, begun again, and cancelled again
        change(job, status="cancelled")
        assert look() == f"  {NAME}  cancelled\n"


def test_an_end_that_is_seen_a_little_late_is_told(put, change, look):
    # Dated when its transaction began: an earlier look did not see it.
    job, before = put(), datetime.now(UTC)
    look()
    look()
    change(job, status="cancelled", finished_at=before)
    assert "cancelled" in look()


def test_it_reads_only(look):
    look()
    with pytest.raises(Exception, match="read-only transaction"):
        look.watcher._connection.execute("delete from agentkit.jobs")


# While the stack runs


def test_it_goes_on_beside_the_rest_while_the_database_restarts_and_ends_with_it(postgres, put, change):
    stream = io.StringIO()
    with following(postgres.environment["ADMIN_DATABASE_URL"], Display(stream)):
        job = put()
        eventually(lambda: "queued" in stream.getvalue())
        postgres.stop()
        postgres.resume()
        change(job, status="cancelled")
        eventually(lambda: "cancelled" in stream.getvalue())
    assert stream.getvalue() == f"  {NAME}  queued\n  {NAME}  cancelled\n"
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_what_was_shown_stays_while_the_database_is_away(postgres, put, look_on_terminal):
    put()
    look_on_terminal()
    postgres.stop()
    try:
        assert look_on_terminal() == ""
        assert look_on_terminal() == ""
    finally:
        postgres.resume()
    assert look_on_terminal() == ""
