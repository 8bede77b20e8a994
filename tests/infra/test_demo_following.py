"""`make demo` follows each document by its job's events, and shows on a terminal how far it is."""

import sys
import uuid
from contextlib import ExitStack

import httpx
import pytest
from psycopg.types.json import Jsonb

from functions.jobs import app as jobs_app
from functions.jobs import events
from infra.demo import show
from infra.demo.events import follow
from tests.infra.test_display import Terminal
from tests.parts.people import ADA, bearer

JOB = uuid.UUID("11111111-1111-4111-8111-111111111111")
READY = {"status": "ready"}
EMBEDDING = {"status": "embedding", "progress": {"passages": 64, "passages_total": 96}}


QUEUED = 'event: progress\nid: 1\ndata: {"status": "queued", "progress": {}}\n\n'
PING = ": ping\n\n"


class Ended(Exception):  # noqa: N818  # reads as what happened
    """Raised by a test that has seen enough."""


@pytest.fixture
def ada(postgres, people, upstash, serve, monkeypatch):
    """Ada's client of the jobs function, which looks for changes all the time."""
    for name in ("FIRST_PAUSE_SECONDS", "LONGEST_PAUSE_SECONDS"):
        monkeypatch.setattr(events, name, 0.01)
    client = serve(jobs_app.app)
    client.headers.update(bearer(ADA))
    return client


@pytest.fixture
def watch(rows, put_job):
    """A watch that does the next thing to the job, which is queued at first, each time that it is called."""
    put_job(id=JOB)

    def watch(*changes):
        left = list(changes)
        states = []

        def take(state):
            states.append(state)
            if left and (change := left.pop(0)):
                rows(f"update agentkit.jobs set {', '.join(f'{name} = %s' for name in change)}", list(change.values()))

        return take, states

    return watch


@pytest.fixture
def saying():
    """A client of a server that says just that, whatever it is asked."""
    with ExitStack() as stack:

        def saying(text):
            server = httpx.MockTransport(lambda _: httpx.Response(200, text=text))
            return stack.enter_context(httpx.Client(transport=server, base_url="http://agentkit.test"))

        yield saying


def test_a_job_is_followed_from_state_to_state_until_it_is_ready(ada, watch):
    take, states = watch({"status": "embedding", "progress": Jsonb({"passages": 64, "passages_total": 96})}, READY)
    followed = follow(ada, str(JOB), "a.pdf", take)
    assert [(state["status"], state["progress"]["passages"]) for state in followed.told] == [
        ("queued", None),
        ("embedding", 64),
    ]
    assert followed.job["status"] == "ready"
    assert states == [*followed.told, followed.job]


def test_it_asks_again_when_a_stream_ends_before_the_job(ada, watch, monkeypatch):
    monkeypatch.setattr(jobs_app, "LONGEST_SECONDS", 0.0)
    # Each stream tells how the job stands, then to ask again.
    take, states = watch(None, None, None, READY)
    followed = follow(ada, str(JOB), "a.pdf", take)
    assert [state["status"] for state in states] == ["queued"] * 4 + ["ready"]
    assert [state["status"] for state in followed.told] == ["queued"] * 2
    assert followed.job["status"] == "ready"


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        pytest.param(
            {"status": "failed", "error_code": "no_text", "error": "No text was found."},
            "a.pdf: No text was found.",
            id="failed",
        ),
        pytest.param({"status": "cancelled"}, "a.pdf: it was cancelled.", id="cancelled"),
        # As if it had gone: it is not hers any more.
        pytest.param(
            {"owner": uuid.UUID(int=1)},
            "a.pdf cannot be followed any more: You have no job of that id.",
            id="gone",
        ),
    ],
)
def test_another_end_is_an_error_that_names_the_file(ada, watch, end, sentence):
    take, _ = watch(end)
    with pytest.raises(RuntimeError) as failure:
        follow(ada, str(JOB), "a.pdf", take)
    assert str(failure.value) == sentence


def test_a_refusal_is_told(ada):
    with pytest.raises(RuntimeError, match=f"^GET /v1/jobs/{JOB}/events answered 404: .*You have no job of that id"):
        follow(ada, str(JOB), "a.pdf", lambda _: None)


def test_who_watches_can_end_it_while_nothing_happens(saying):
    states = []

    def watch(state):
        states.append(state["status"])
        if len(states) == 3:
            raise Ended

    with pytest.raises(Ended):
        follow(saying(QUEUED + PING + PING), str(JOB), "a.pdf", watch)
    assert states == ["queued"] * 3


def test_a_stream_that_breaks_off_is_told(saying):
    with pytest.raises(RuntimeError, match=r"^a\.pdf: its job's events broke off\.$"):
        follow(saying(QUEUED + PING), str(JOB), "a.pdf", lambda _: None)


# What is shown meanwhile


def test_on_a_terminal_a_line_changes_until_the_last_takes_its_place(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    progress = show.Progress(lambda: None)
    progress.of("a.pdf")(EMBEDDING)
    assert terminal.new() == f"\r  {'a.pdf':<28}  embedding   64 of 96 passages  67 %\x1b[K\n\x1b[J"
    progress.end("  a.pdf: 96 passages")
    assert terminal.new() == "\x1b[1A\r  a.pdf: 96 passages\x1b[K\n\x1b[J"


def test_elsewhere_only_the_last_line_is_printed(capsys):
    progress = show.Progress(lambda: None)
    progress.of("a.pdf")(EMBEDDING)
    progress.end("  a.pdf: 96 passages")
    assert capsys.readouterr().out == "  a.pdf: 96 passages\n"


def test_the_reason_why_it_will_not_come_ends_the_watching():
    with pytest.raises(RuntimeError, match=r"^embedder ended\.$"):
        show.Progress(lambda: "embedder ended.").of("a.pdf")(EMBEDDING)
