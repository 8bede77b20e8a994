"""Whatever is down, an answer ends with a sentence that says so, nothing is half kept, and the chat can go on."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from agentkit import settings
from functions.chat import app as chat_app
from infra.local.part import LOOPBACK, free_port
from tests.parts.chat import eventually, kept
from tests.parts.distance import distance_to
from tests.parts.model import Reply, calls, looks_it_up, refuses, says, talks_nonsense
from tests.parts.people import ADA, bearer
from tests.parts.redis import redis_away

pytestmark = pytest.mark.usefixtures("upstash", "postgres", "embedder")

HALF = says("The lease ends in 2027.", hold_after=2)
BUSY = "The language model is busy; try again in a moment."
AWAY = "The language model cannot be reached just now."
UNUSABLE = "The language model's answer cannot be used."
REFUSED = "The language model refused the request."
# One request and two repetitions.
TRIES = 3


@pytest.fixture
def impatient(monkeypatch):
    """A silent model counts as down soon."""
    monkeypatch.setenv("CHAT_TIMEOUT_SECONDS", "1")


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Nobody waits before trying again."""
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.0)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)


def sentence(answer):
    """What the user is told, once it is clear that it names the request and nothing that strangers should not see."""
    request = answer.response.headers["x-request-id"]
    assert LOOPBACK not in answer.bytes
    told, named, nothing = answer.error.partition(f" (request {request})")
    assert (bool(named), nothing) == (True, "")
    return told


def goes_on(chat, model, chat_id="a-chat"):
    """Whether the chat answers the next question."""
    model.let_go()
    model.otherwise = lambda _: says("Yes.")
    return chat.ask("Still there?", chat=chat_id).text == "Yes."


# The model


@pytest.mark.parametrize(
    ("reply", "told", "asked"),
    [
        pytest.param(refuses(429), BUSY, TRIES, id="429"),
        pytest.param(refuses(429, retry_after_ms="1"), BUSY, TRIES, id="429 with a time to wait"),
        pytest.param(refuses(500), AWAY, TRIES, id="500"),
        pytest.param(refuses(503), AWAY, TRIES, id="503"),
        pytest.param(refuses(401), REFUSED, 1, id="401"),
        pytest.param(refuses(404), REFUSED, 1, id="404"),
        pytest.param(talks_nonsense(), UNUSABLE, 1, id="a page for people"),
        pytest.param(talks_nonsense(b"data: {\n\n"), UNUSABLE, 1, id="half of a JSON text"),
        pytest.param(talks_nonsense(b'data: {"choices": 7}\n\n'), UNUSABLE, 1, id="JSON of another kind"),
        pytest.param(talks_nonsense(b'data: {"error": {"message": "x"}}\n\n'), UNUSABLE, 1, id="an error in a stream"),
        pytest.param(talks_nonsense(b"\xff\xfe\n\n"), UNUSABLE, 1, id="no UTF-8"),
        pytest.param(talks_nonsense(b""), UNUSABLE, 1, id="nothing"),
        pytest.param(says("Hello.", cut_after=0), AWAY, 1, id="a connection that breaks at once"),
        pytest.param(says(""), "The language model gave no answer.", 1, id="an empty answer"),
        pytest.param(
            Reply(calls=(("search_documents", "query: lease"),), finish="tool_calls"),
            "The language model gave no answer.",
            1,
            id="a call in no JSON",
        ),
        pytest.param(calls("search_documents", query="\ud800"), UNUSABLE, 1, id="a call that cannot be sent back"),
    ],
)
def test_a_model_that_fails_before_it_says_anything(chat, model, rows, reply, told, asked):
    model.otherwise = lambda _: reply
    answer = chat.ask("Hi.", chat="a-chat")
    assert sentence(answer) == told
    assert len(model.asked) == asked
    assert kept(rows) == [("user", "Hi.", None)]
    assert goes_on(chat, model)


def test_a_model_that_says_nothing_counts_as_down(impatient, chat, model, rows):
    model.otherwise = lambda _: says("Hello.", hold_after=0)
    answer = chat.ask("Hi.", chat="a-chat")
    assert sentence(answer) == AWAY
    assert len(model.asked) == TRIES
    assert kept(rows) == [("user", "Hi.", None)]
    assert goes_on(chat, model)


@pytest.fixture
def half_answered(chat, model, rows, monkeypatch):
    """Whether a model that fails in the middle is told of, its half of the answer kept, and nobody else asked."""

    def half_answered(reply):
        monkeypatch.setenv("CHAT_FALLBACK_MODEL", "openai:other")
        model.will(reply)
        model.otherwise = lambda _: says("Something else.")
        answer = chat.ask("Hi.", chat="a-chat")
        assert sentence(answer) == AWAY
        assert len(model.asked) == 1
        assert answer.text == "The lease"
        assert kept(rows) == [("user", "Hi.", None), ("assistant", "The lease", "failed")]
        return goes_on(chat, model)

    return half_answered


def test_a_model_that_breaks_off_in_the_middle_is_not_asked_again(half_answered):
    assert half_answered(says("The lease ends in 2027.", cut_after=2))


def test_a_model_that_falls_silent_in_the_middle_is_not_asked_again(impatient, half_answered):
    assert half_answered(HALF)


@pytest.fixture
def replaced(chat, model, rows, monkeypatch):
    """Whether the fallback answers in place of a model that replies so."""

    def replaced(reply):
        monkeypatch.setenv("CHAT_FALLBACK_MODEL", "openai:other")
        model.otherwise = lambda asked: says("Hello.") if asked["model"] == "other" else reply
        answer = chat.ask("Hi.", chat="a-chat")
        assert answer.only("finish")["messageMetadata"]["model"] == "openai:other"
        assert [row["model"] for row in rows("select model from agentkit.usage_events")] == ["openai:other"]
        return answer.text == "Hello."

    return replaced


@pytest.mark.parametrize("reply", [refuses(400), talks_nonsense(), says("x", cut_after=0)])
def test_the_fallback_answers_where_the_first_model_has_said_nothing(replaced, reply):
    assert replaced(reply)


def test_the_fallback_answers_where_the_first_model_is_silent(impatient, replaced):
    assert replaced(says("x", hold_after=0))


def test_when_both_models_fail_the_last_one_says_why(chat, model, monkeypatch):
    monkeypatch.setenv("CHAT_FALLBACK_MODEL", "openai:other")
    model.otherwise = lambda asked: refuses(401) if asked["model"] == "other" else refuses(500)
    assert sentence(chat.ask("Hi.", chat="a-chat")) == REFUSED
    assert [asked["model"] for asked in model.asked] == ["scripted"] * TRIES + ["other"]


def test_a_model_that_is_not_there_is_told_of(chat, model, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://{LOOPBACK}:{free_port()}/v1")
    settings.forget()
    assert sentence(chat.ask("Hi.", chat="a-chat")) == AWAY


def test_a_model_that_searches_for_ever_is_ended_after_its_steps(chat, model, rows):
    model.otherwise = lambda asked: calls("search_documents", query=f"search {len(asked['messages'])}")
    answer = chat.ask("Hi.", chat="a-chat")
    assert sentence(answer) == "The model kept searching and did not come to an answer."
    assert len(model.asked) == 6  # CHAT_MAX_STEPS, as it is by default
    assert kept(rows) == [("user", "Hi.", None)]
    assert goes_on(chat, model)


def test_what_a_failed_answer_has_used_is_recorded(chat, model, rows):
    model.will(calls("search_documents", query="x"), refuses(400))
    chat.ask("Hi.", chat="a-chat")
    # The first call says that it read 11 tokens and wrote 7.
    (event,) = rows("select input_tokens, output_tokens from agentkit.usage_events")
    assert (event["input_tokens"], event["output_tokens"]) == (11, 7)


# The embedding server


def test_without_embeddings_the_answer_says_that_it_cannot_search(chat, model, rows, embedder_server):
    model.otherwise = looks_it_up("Hello.")
    embedder_server.stop()
    try:
        answer = chat.ask("Hi.", chat="a-chat")
    finally:
        embedder_server.start()
    assert sentence(answer) == "The embedding model cannot be reached just now."
    assert answer.only("tool-output-error")["errorText"] == "Interrupted."
    assert kept(rows) == [("user", "Hi.", None)]
    assert goes_on(chat, model)


# Redis


def test_without_redis_a_question_is_answered_and_kept(chat, model, rows, redis_server):
    model.will(says("Hello."))
    with redis_away(redis_server):
        answer = chat.ask("Hi.", chat="a-chat", headers={"Idempotency-Key": "once"})
    assert answer.text == "Hello."
    assert "ratelimit" not in answer.response.headers
    assert kept(rows) == [("user", "Hi.", None), ("assistant", "Hello.", "finished")]


def test_without_redis_nothing_can_be_resumed_or_stopped_and_that_is_said(chat, redis_server):
    with redis_away(redis_server):
        assert chat.resume("a-chat").problem == (503, "redis_unavailable")
        stopped = chat.http.post("/v1/chat/a-chat/stop", headers=bearer(ADA))
    assert (stopped.status_code, stopped.json()["code"]) == (503, "redis_unavailable")


def test_without_redis_a_deployment_that_fails_closed_answers_nobody(chat, model, redis_server, monkeypatch):
    monkeypatch.setenv("RATE_LIMIT_FAIL", "closed")
    with redis_away(redis_server):
        assert chat.begin("Hi.").problem == (503, "redis_unavailable")
    assert model.asked == []


def test_an_answer_outlives_a_redis_that_goes_away_in_the_middle(chat, model, rows, redis_server):
    model.will(HALF)
    answer = chat.begin("Hi.", chat="a-chat")
    answer.until_said("The lease")
    with redis_away(redis_server):
        model.let_go()
        answer.to_the_end()
    assert answer.text == "The lease ends in 2027."
    assert kept(rows)[1] == ("assistant", "The lease ends in 2027.", "finished")


# Postgres


def test_without_postgres_a_question_is_refused_and_its_chat_is_free(chat, model, rows, postgres_server):
    model.otherwise = lambda _: says("Hello.")
    postgres_server.stop()
    try:
        refused = chat.begin("Hi.", chat="a-chat", headers={"Idempotency-Key": "once"})
        assert refused.problem == (503, "database_unavailable")
        assert refused.response.headers["retry-after"]
    finally:
        postgres_server.resume()
    assert model.asked == []
    assert chat.ask("Hi.", chat="a-chat", headers={"Idempotency-Key": "once"}).text == "Hello."


def test_an_answer_that_cannot_be_kept_says_so_and_is_not_half_kept(chat, model, rows, postgres_server):
    model.will(HALF)
    answer = chat.begin("Hi.", chat="a-chat")
    answer.until_said("The lease")
    eventually(lambda: kept(rows))
    postgres_server.stop()
    try:
        model.let_go()
        answer.to_the_end()
    finally:
        postgres_server.resume()
    assert sentence(answer) == "The database cannot be reached just now."
    assert answer.all("finish") == []
    assert kept(rows) == [("user", "Hi.", None)]
    assert rows("select * from agentkit.usage_events") == []
    assert goes_on(chat, model)


def test_a_database_that_swallows_everything_does_not_hold_an_answer_up(
    chat, model, postgres, portal, monkeypatch, rows
):
    monkeypatch.setattr(chat_app, "SAVING_SECONDS", 0.2)
    with portal.wrap_async_context_manager(distance_to(postgres.port)) as far:
        url = postgres.environment["DATABASE_URL"].replace(f":{postgres.port}/", f":{far.port}/")
        monkeypatch.setenv("DATABASE_URL", url)
        model.will(HALF)
        answer = chat.begin("Hi.", chat="a-chat")
        answer.until_said("The lease")
        eventually(lambda: kept(rows) and far.all_answered)
        far.swallows = True
        model.let_go()
        answer.to_the_end()
    assert sentence(answer) == "The answer could not be saved."
    assert kept(rows) == [("user", "Hi.", None)]


WAITING = "from pg_stat_activity where wait_event_type = 'Lock'"


@pytest.fixture
def held_up(postgres):
    """Postgres answers whoever reads, and lets whoever would keep something wait, as long as this lasts."""

    @contextmanager
    def held_up() -> Iterator[None]:
        with psycopg.connect(postgres.environment["ADMIN_DATABASE_URL"]) as connection:
            connection.execute("lock table agentkit.conversations in exclusive mode")
            yield

    return held_up


@pytest.mark.parametrize(
    ("reply", "ending", "then"),
    [
        pytest.param(says("Hello.", hold_after=0), "finish", [("assistant", "Hello.", "finished")], id="answered"),
        pytest.param(Reply(failure=(401, {}), hold_after=0), "error", [], id="refused by the model"),
    ],
)
def test_a_question_that_was_not_kept_at_first_is_kept_in_the_end(chat, model, rows, held_up, reply, ending, then):
    model.will(reply)
    with held_up():
        answer = chat.begin("Hi.", chat="a-chat")
        model.wait_until_held()
        eventually(lambda: rows(f"select pg_terminate_backend(pid) {WAITING}"))
    model.let_go()
    answer.to_the_end()
    assert [each for each in ("finish", "error") if answer.all(each)] == [ending]
    assert ending == "finish" or sentence(answer) == REFUSED
    assert kept(rows) == [("user", "Hi.", None), *then]


def test_a_question_that_cannot_be_kept_does_not_hold_a_stop_up(chat, model, rows, held_up, monkeypatch):
    monkeypatch.setattr(chat_app, "SAVING_SECONDS", 0.2)
    model.will(HALF)
    with held_up():
        answer = chat.begin("Hi.", chat="a-chat")
        answer.until_said("The lease")
        eventually(lambda: rows(f"select pid {WAITING}"))
        assert chat.stop("a-chat") is True
        answer.to_the_end()
    assert sentence(answer) == "The answer could not be saved."
    assert kept(rows) == rows("select * from agentkit.usage_events") == []


def test_a_search_that_postgres_fails_in_the_middle_ends_the_answer(chat, model, rows, portal, postgres, monkeypatch):
    monkeypatch.setenv("VECTOR_DATABASE_URL", f"postgresql://nobody@{LOOPBACK}:{free_port()}/vectors")
    model.otherwise = looks_it_up("Hello.")
    answer = chat.ask("Hi.", chat="a-chat")
    assert sentence(answer) == "The database cannot be reached just now."
    assert kept(rows) == [("user", "Hi.", None)]
