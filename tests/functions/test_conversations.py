"""What was said is listed, read, renamed and deleted by those who said it, and by nobody else."""

import base64
import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from functions.chat.history import title_of
from functions.conversations.app import app
from tests.parts.model import calls, says
from tests.parts.people import ADA, BOB, bearer

pytestmark = pytest.mark.usefixtures("upstash", "postgres", "people")

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
LIST = "/v1/conversations"


@pytest.fixture
def ask(serve, monkeypatch):
    """Make a request as a person: `ask(ADA, "GET", "/v1/conversations")`."""
    monkeypatch.setenv("RATE_LIMIT_SCALE", "1000")
    http = serve(app)

    def request(person, method, path, **options):
        return http.request(method, path, headers=bearer(person), **options)

    return request


@pytest.fixture
def had(rows):
    """That person has had a conversation, last used at that minute after noon."""

    def insert(identity, *, person=ADA, minute=0, title="The lease"):
        moment = NOON + timedelta(minutes=minute)
        rows(
            "insert into agentkit.conversations (owner, id, title, created_at, updated_at) values (%s, %s, %s, %s, %s)",
            [person.id, identity, title, moment, moment],
        )

    return insert


@pytest.fixture
def said(had, rows):
    """Something was said in a conversation of Ada's."""

    def insert(identity, role, text, **metadata):
        parts = json.dumps([{"type": "text", "text": text}])
        rows(
            "insert into agentkit.messages (owner, conversation_id, id, role, parts, metadata)"
            " values (%s, 'lease', %s, %s, %s, %s)",
            [ADA.id, identity, role, parts, json.dumps(metadata)],
        )

    had("lease")
    return insert


def problem(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def pages(ask, limit, between=lambda: None):
    """The ids of all of Ada's conversations, page by page; `between` happens before each next page."""
    ids, cursor = [], None
    while True:
        page = ask(ADA, "GET", LIST, params={"limit": limit} | ({"cursor": cursor} if cursor else {})).json()
        ids.append([item["id"] for item in page["items"]])
        cursor = page["next_cursor"]
        if cursor is None:
            return ids
        between()


# The list


def test_the_last_used_comes_first(ask, had):
    for minute, identity in enumerate(["old", "newer", "newest"]):
        had(identity, minute=minute)
    assert pages(ask, 20) == [["newest", "newer", "old"]]


def test_nobody_sees_anothers_list(ask, had):
    had("lease", person=ADA)
    assert ask(BOB, "GET", LIST).json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("minutes", [range(7), [0] * 7], ids=["at different times", "at the same time"])
def test_pages_hold_each_conversation_once(ask, had, minutes):
    for number, minute in enumerate(minutes):
        had(f"chat-{number}", minute=minute)
    assert pages(ask, 3) == [["chat-6", "chat-5", "chat-4"], ["chat-3", "chat-2", "chat-1"], ["chat-0"]]


def test_a_full_last_page_is_the_last(ask, had):
    had("a")
    had("b")
    assert pages(ask, 2) == [["b", "a"]]


def test_nothing_is_skipped_or_repeated_while_conversations_come_and_go(ask, had, rows):
    for number in range(6):
        had(f"chat-{number}", minute=number)
    events = iter(
        [lambda: had("new", minute=60), lambda: rows("delete from agentkit.conversations where id = 'chat-2'")]
    )

    def something_happens():
        next(events)()

    # chat-2 ended the second page; what comes after it is found all the same.
    assert pages(ask, 2, something_happens) == [["chat-5", "chat-4"], ["chat-3", "chat-2"], ["chat-1", "chat-0"]]


def encoded(text):
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        pytest.param("?", id="no base64"),
        pytest.param("", id="empty"),
        pytest.param("AAAA", id="other bytes"),
        pytest.param("é", id="not ASCII"),
        pytest.param(encoded("2026-11-25T12:00:00+00:00"), id="no id"),
        pytest.param(encoded("2026-11-25T12:00:00 a"), id="no time zone"),
        pytest.param(encoded("2026-11-25T12:00:00+00:00 a\0"), id="NUL"),
        pytest.param(encoded("tomorrow a"), id="no time"),
        pytest.param(base64.urlsafe_b64encode(b"2026-11-25T12:00:00+00:00 \xff").decode(), id="no UTF-8"),
    ],
)
def test_a_cursor_that_is_none_of_ours_is_refused(ask, had, cursor):
    had("lease")
    assert problem(ask(ADA, "GET", LIST, params={"cursor": cursor})) == (400, "cursor_invalid")


@pytest.mark.parametrize(
    ("cursor", "found"),
    [
        pytest.param("0001-01-01T00:00:00+23:59 a", [], id="before the year 1"),
        pytest.param("9999-12-31T23:59:59-23:59 a", ["lease"], id="after the year 9999"),
    ],
)
def test_a_cursor_at_the_end_of_time_is_a_place_like_any_other(ask, had, cursor, found):
    had("lease")
    answer = ask(ADA, "GET", LIST, params={"cursor": encoded(cursor)})
    assert [item["id"] for item in answer.json()["items"]] == found


def test_a_cursor_of_another_persons_finds_only_ones_own(ask, had):
    for minute, person in enumerate([ADA, BOB, ADA, BOB]):
        had(f"chat-{minute}", person=person, minute=minute)
    cursor = ask(ADA, "GET", LIST, params={"limit": 1}).json()["next_cursor"]
    assert [item["id"] for item in ask(BOB, "GET", LIST, params={"cursor": cursor}).json()["items"]] == ["chat-1"]


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1e9"])
def test_a_page_has_1_to_100(ask, limit):
    assert problem(ask(ADA, "GET", LIST, params={"limit": limit})) == (422, "invalid")


# One conversation


def test_a_conversation_is_given_as_the_ai_sdk_has_it(ask, said):
    said("q1", "user", "When does it end?")
    said("a1", "assistant", "In 2027.", status="stopped")
    assert ask(ADA, "GET", f"{LIST}/lease").json() == {
        "id": "lease",
        "title": "The lease",
        "created_at": "2026-11-25T12:00:00Z",
        "updated_at": "2026-11-25T12:00:00Z",
        "messages": [
            {"id": "q1", "role": "user", "parts": [{"type": "text", "text": "When does it end?"}], "metadata": {}},
            {
                "id": "a1",
                "role": "assistant",
                "parts": [{"type": "text", "text": "In 2027."}],
                "metadata": {"status": "stopped"},
            },
        ],
    }


def test_what_chat_has_kept_is_what_its_client_had(ask, chat, model, embedder, ai_sdk):
    model.will(calls("search_documents", query="lease"), says("The documents do not answer it."))
    answer = chat.ask("When does it end?", chat="a-chat", message_id="q1")
    conversation = ask(ADA, "GET", f"{LIST}/a-chat").json()
    assert conversation["title"] == "When does it end?"
    question, kept = conversation["messages"]
    assert question["id"] == "q1"
    assert kept == ai_sdk.read(answer.bytes).message


def test_a_conversation_of_someone_else_or_none_is_not_found(ask, said):
    said("q1", "user", "Secret.")
    for person, identity in ((BOB, "lease"), (ADA, "none")):
        for method, options in (("GET", {}), ("PATCH", {"json": {"title": "Mine"}}), ("DELETE", {})):
            assert problem(ask(person, method, f"{LIST}/{identity}", **options)) == (404, "not_found")
    kept = ask(ADA, "GET", f"{LIST}/lease").json()
    assert (kept["title"], len(kept["messages"])) == ("The lease", 1)


def test_an_equal_id_of_someone_elses_is_another_conversation(ask, said, had):
    said("q1", "user", "Secret.")
    had("lease", person=BOB, title="Bob's")
    assert ask(BOB, "GET", f"{LIST}/lease").json()["messages"] == []
    assert ask(BOB, "DELETE", f"{LIST}/lease").status_code == 204
    assert len(ask(ADA, "GET", f"{LIST}/lease").json()["messages"]) == 1


@pytest.mark.parametrize("identity", ["a%20b", "x" * 65, "%00", "a%0a", "ü"])
def test_what_is_no_id_is_refused(ask, identity):
    for method in ("GET", "DELETE"):
        assert problem(ask(ADA, method, f"{LIST}/{identity}")) == (422, "invalid")


def test_a_stranger_is_refused(serve):
    assert problem(serve(app).get(LIST)) == (401, "token_missing")


# Renaming and deleting


@pytest.mark.parametrize("title", ["Rent", "عقد الإيجار", "🏠", "x" * 200, "'; drop table agentkit.messages; --"])
def test_a_conversation_gets_another_title_and_keeps_its_place(ask, had, title):
    had("lease", minute=0)
    had("later", minute=1)
    renamed = ask(ADA, "PATCH", f"{LIST}/lease", json={"title": title}).json()
    assert (renamed["id"], renamed["title"]) == ("lease", title)
    items = ask(ADA, "GET", LIST).json()["items"]
    assert [(item["id"], item["title"]) for item in items] == [("later", "The lease"), ("lease", title)]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"title": ""}, id="empty"),
        pytest.param({"title": " \u2003\n"}, id="blank"),
        pytest.param({"title": "x" * 201}, id="too long"),
        pytest.param({"title": "a\0"}, id="NUL"),
        pytest.param({"title": "\ud800"}, id="half of a surrogate pair"),
        pytest.param({"title": 7}, id="a number"),
        pytest.param({"title": "Rent", "owner": str(BOB.id)}, id="an unknown member"),
        pytest.param({}, id="nothing"),
    ],
)
def test_what_is_no_title_is_refused(ask, had, body):
    had("lease")
    answer = ask(ADA, "PATCH", f"{LIST}/lease", content=json.dumps(body))
    assert problem(answer) == (422, "invalid")
    assert ask(ADA, "GET", f"{LIST}/lease").json()["title"] == "The lease"


def test_a_new_answer_leaves_a_title_alone(ask, chat, model):
    model.will(says("Hello."), says("Hello."))
    chat.ask("Hi.", chat="a-chat")
    ask(ADA, "PATCH", f"{LIST}/a-chat", json={"title": "Greetings"})
    chat.ask("When does the lease end?", chat="a-chat")
    assert ask(ADA, "GET", f"{LIST}/a-chat").json()["title"] == "Greetings"


def test_deleting_takes_all_that_was_said_and_leaves_what_it_cost(ask, chat, model, rows):
    model.will(says("Hello."))
    chat.ask("Hi.", chat="a-chat")
    assert ask(ADA, "DELETE", f"{LIST}/a-chat").status_code == 204
    assert rows("select * from agentkit.messages") == rows("select * from agentkit.conversations") == []
    assert len(rows("select * from agentkit.usage_events")) == 1
    assert problem(ask(ADA, "DELETE", f"{LIST}/a-chat")) == (404, "not_found")


# Titles


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("When does it end?", "When does it end?"),
        ("  When\n\tdoes it   end? ", "When does it end?"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "…"),
        # The last word that fits whole ends at character 54.
        ("word " * 11 + "a-longer-word", "word " * 10 + "word…"),
        ("متى ينتهي عقد الإيجار؟", "متى ينتهي عقد الإيجار؟"),
    ],
)
def test_a_title_is_the_questions_beginning(text, title):
    assert title_of(text) == title
    assert len(title) <= 60
    assert not re.search(r"\s{2}", title)


def test_without_postgres_a_list_is_a_503(ask, postgres_server):
    postgres_server.stop()
    try:
        answer = ask(ADA, "GET", LIST)
        assert problem(answer) == (503, "database_unavailable")
        assert answer.headers["retry-after"]
    finally:
        postgres_server.resume()
