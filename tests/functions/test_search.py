"""Search finds the caller's own passages that fit best, refuses what it cannot use, and survives what is down."""

import json
import uuid

import httpx
import pytest

from agentkit import database, embeddings, redis
from functions.search.app import app
from tests.parts.distance import distance_to
from tests.parts.embedding_model import KEY, Says, vectors
from tests.parts.people import ADA, ADMIN, BOB, bearer, token
from tests.parts.redis import redis_away

END = "The lease ends on 30 September 2027 unless both parties agree in writing to renew it."
RENT = "The monthly rent is 1,450 euros and is due on the third working day of each month."
DEPOSIT = "The tenant pays a deposit of two months' rent before moving in."
HOLIDAY = "Employees have 28 days of paid holiday in each calendar year."
TRAVEL = "Travel by train is booked in second class; flights need approval by the team lead."


@pytest.fixture
def client(postgres, upstash, people, serve, monkeypatch):
    monkeypatch.setenv("RATE_LIMIT_SCALE", "1000")
    return serve(app)


@pytest.fixture
def ask(client):
    """Search as a person, or as nobody: `ask("rent", limit=3)`."""

    def search(text="rent", *, person=ADA, **members):
        body = json.dumps({"text": text, **members})  # escapes what UTF-8 cannot carry
        headers = {"Content-Type": "application/json", **(bearer(person) if person else {})}
        return client.post("/v1/search", content=body, headers=headers)

    return search


@pytest.fixture
def found(ask):
    """The texts that a search finds, best first."""

    def texts(*words, **members):
        answer = ask(*words, **members)
        assert answer.status_code == 200, answer.text
        return [passage["text"] for passage in answer.json()["passages"]]

    return texts


def problem(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, answer.json()["code"]


# What it finds


def test_a_passage_comes_with_its_document_page_and_scores(ask, store):
    document = store(END, RENT, DEPOSIT)
    (best,) = ask("How much is the rent each month?", limit=1).json()["passages"]
    similarity, score = best.pop("similarity"), best.pop("score")
    assert best == {
        "id": f"{document}:00001",
        "document_id": document,
        "title": "Lease",
        "page": 2,
        "text": RENT,
    }
    assert 0 < similarity < 1
    # First in both rankings, 1 / (10 + 1) of each; of "much", "rent" and "month" it holds two.
    assert score == pytest.approx((1 + 2 / 3) / 11)


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
@pytest.mark.parametrize(
    ("question", "passage"),
    [
        ("When does the lease end?", END),
        ("How much is the rent each month?", RENT),
        ("How many days of holiday are there?", HOLIDAY),
    ],
)
def test_the_passage_that_answers_comes_first_in_every_mode(found, store, mode, question, passage):
    store(END, RENT, DEPOSIT)
    store(HOLIDAY, TRAVEL)
    assert found(question, mode=mode)[0] == passage


def test_meaning_finds_what_shares_no_word_and_words_do_not(found, store):
    store(END, RENT, HOLIDAY)
    assert found("annual vacation allowance", mode="semantic")[0] == HOLIDAY
    assert found("annual vacation allowance", mode="keyword") == []


def test_keywords_alone_know_no_similarity_and_need_no_embedding_model(ask, store, embedder):
    store(END, RENT, DEPOSIT)
    embedder.stop()
    try:
        passages = ask("deposit", mode="keyword").json()["passages"]
    finally:
        embedder.start()
    assert [(passage["text"], passage["similarity"]) for passage in passages] == [(DEPOSIT, None)]


@pytest.mark.parametrize(("members", "count"), [({}, 8), ({"limit": 1}, 1), ({"limit": 9}, 9), ({"limit": 50}, 12)])
def test_there_are_as_many_as_were_wanted_or_all_there_are(found, store, members, count):
    store(*(f"Rent of month {month}." for month in range(12)))
    assert len(found("rent", **members)) == count


def test_a_search_can_be_kept_to_some_documents(found, store):
    lease, handbook = store(END, RENT), store(HOLIDAY)
    assert found("lease", document_ids=[handbook]) == [HOLIDAY]
    assert set(found("lease", document_ids=[handbook, lease])) == {END, RENT, HOLIDAY}
    assert found("lease", document_ids=[]) == []
    assert found("lease", document_ids=[str(uuid.uuid4()) for _ in range(100)]) == []


def test_without_documents_there_are_no_passages(ask, embedder):
    assert ask().json() == {"passages": []}


# Whose it is


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
@pytest.mark.parametrize("person", [BOB, ADMIN], ids=["another", "an admin"])
def test_nobody_sees_anothers_passages(found, store, mode, person):
    document = store(END)
    assert found("When does the lease end?", person=person, mode=mode) == []
    assert found("When does the lease end?", person=person, mode=mode, document_ids=[document]) == []


def test_what_is_for_everyone_is_found_by_everyone(found, store, rows):
    store(HOLIDAY, owner=ADMIN)
    rows("""update vecs.passages set metadata = metadata || '{"audience": "everyone"}'""", database="VECTOR_")
    store(END, owner=ADA)
    assert found("holiday", person=BOB) == [HOLIDAY]
    assert set(found("holiday", person=ADA)) == {HOLIDAY, END}


# What it refuses


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        pytest.param({"text": ""}, "/text", id="no text"),
        pytest.param({"text": " \t\n\u00a0"}, "/text", id="a blank text"),
        pytest.param({"text": "x" * 2_001}, "/text", id="a text too long"),
        pytest.param({"text": "a\0b"}, "/text", id="NUL"),
        pytest.param({"text": "\ud800"}, "/text", id="half a surrogate pair"),
        pytest.param({"text": None}, "/text", id="null"),
        pytest.param({"text": ["rent"]}, "/text", id="a list of texts"),
        pytest.param({"limit": 0}, "/limit", id="none wanted"),
        pytest.param({"limit": 51}, "/limit", id="too many wanted"),
        pytest.param({"limit": 10**30}, "/limit", id="more than Postgres can count"),
        pytest.param({"limit": 1.5}, "/limit", id="half a passage"),
        pytest.param({"mode": "psychic"}, "/mode", id="another mode"),
        pytest.param({"document_ids": [str(uuid.UUID(int=n)) for n in range(101)]}, "/document_ids", id="101 ids"),
        pytest.param({"document_ids": ["lease"]}, "/document_ids/0", id="no id"),
        pytest.param({"document_ids": "lease"}, "/document_ids", id="no list"),
        pytest.param({"owner": str(BOB.id)}, "/owner", id="a member that is not known"),
    ],
)
def test_what_cannot_be_used_is_a_422_that_points_at_it(ask, members, pointer):
    answer = ask(**members)
    assert problem(answer) == (422, "invalid")
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
@pytest.mark.parametrize(
    "text",
    [
        "x" * 2_000,
        "مرحبا بالعالم",
        "متى ينتهي العقد؟ lease",
        "😀",
        "the of and",
        "a & b | !c <-> 'd",
        "'); drop",
        "\u202e",
    ],
)
def test_any_other_text_is_searched_for(ask, store, text, mode):
    store(END, RENT)
    answer = ask(text, mode=mode)
    assert answer.status_code == 200
    assert len(answer.json()["passages"]) <= 2 if mode == "keyword" else len(answer.json()["passages"]) == 2


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'"rent"', b"null"])
def test_a_body_that_is_no_question_is_a_4xx_problem(client, body):
    headers = {**bearer(ADA), "Content-Type": "application/json"}
    assert problem(client.post("/v1/search", content=body, headers=headers))[0] in {400, 422}


def test_nobody_is_served_without_signing_in(ask):
    answer = ask(person=None)
    assert problem(answer) == (401, "token_missing")
    assert answer.headers["www-authenticate"] == 'Bearer realm="agentkit", error_description="token_missing"'
    assert "ratelimit" not in answer.headers


def test_an_expired_sign_in_says_that_it_is(client):
    headers = {"Authorization": f"Bearer {token(ADA, exp=1)}"}
    answer = client.post("/v1/search", json={"text": "rent"}, headers=headers)
    assert problem(answer) == (401, "token_expired")
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_who_asks_too_often_is_told_when_to_come_back_and_costs_no_embedding(ask, embedding_model, monkeypatch):
    # 60 a minute, of which a thirtieth are left: two.
    monkeypatch.setenv("RATE_LIMIT_SCALE", str(1 / 30))
    answers = [ask(f"rent {number}") for number in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert problem(answers[2]) == (429, "rate_limited")
    assert answers[1].headers["ratelimit-policy"] == answers[2].headers["ratelimit-policy"] == '"search";q=2;w=60'
    assert answers[1].headers["ratelimit"].startswith('"search";r=0;')
    assert 0 < int(answers[2].headers["retry-after"]) <= 61
    assert ask(person=BOB).status_code == 200
    assert embedding_model.texts == [["rent 0"], ["rent 1"], ["rent"]]


# What is down


def test_an_embedding_model_that_is_stopped_is_a_503(ask, store, embedder):
    store(END)
    embedder.stop()
    try:
        answer = ask("a question that was not asked before")
    finally:
        embedder.start()
    assert problem(answer) == (503, "embedding_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert str(embedder.port) not in answer.text
    assert ask("a question that was not asked before").status_code == 200


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        pytest.param(Says(body=b"<html>Bad gateway</html>"), (502, "embedding_failed"), id="garbage"),
        pytest.param(vectors([1.0, 2.0]), (502, "embedding_failed"), id="another dimension"),
        pytest.param(Says(401, KEY.encode()), (502, "embedding_failed"), id="the key is refused"),
        pytest.param(Says(429), (503, "embedding_unavailable"), id="too many requests"),
        pytest.param(Says(500), (503, "embedding_unavailable"), id="it has failed"),
    ],
)
def test_an_embedding_model_that_fails_is_a_problem_that_tells_nothing_of_it(ask, embedding_model, says, expected):
    embedding_model.answers = [says] * 3
    answer = ask()
    assert problem(answer) == expected
    assert KEY not in answer.text
    assert "127.0.0.1" not in answer.text
    embedding_model.answers.clear()
    assert ask().status_code == 200


def test_an_embedding_model_that_says_nothing_is_a_503_when_its_time_is_up(ask, embedding_model, monkeypatch):
    monkeypatch.setenv("EMBEDDING_TIMEOUT_SECONDS", "0.2")
    embedding_model.answers = [Says(waits=True)]
    assert problem(ask()) == (503, "embedding_unavailable")


def test_without_redis_it_answers(found, store, upstash):
    store(END)
    with redis_away(upstash):
        assert [found("lease"), found("rent")] == [[END], [END]]


def test_without_redis_it_refuses_where_that_was_chosen(ask, upstash, monkeypatch):
    monkeypatch.setenv("RATE_LIMIT_FAIL", "closed")
    with redis_away(upstash):
        answer = ask()
    assert problem(answer) == (503, "redis_unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_without_postgres_it_says_when_to_try_again(ask, found, store, postgres):
    store(END)
    assert found("lease") == [END]
    postgres.stop()
    try:
        answer = ask("lease")
    finally:
        postgres.resume()
    assert problem(answer) == (503, "database_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert found("lease") == [END]


# What it costs


@pytest.fixture
async def waits(postgres, embedder, upstash, people, monkeypatch):
    """Search in a sandbox that is warm and far from everything: how often each was waited for."""
    async with (
        distance_to(postgres.port) as vectors,
        distance_to(embedder.port) as model,
        distance_to(upstash.port) as cache,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://search.test") as client,
    ):
        for variable, far, near in [
            ("VECTOR_DATABASE_URL", vectors.port, postgres.port),
            ("EMBEDDING_BASE_URL", model.port, embedder.port),
            ("UPSTASH_REDIS_REST_URL", cache.port, upstash.port),
        ]:
            here = {**postgres.environment, **embedder.environment, **upstash.environment}[variable]
            monkeypatch.setenv(variable, here.replace(f":{near}", f":{far}"))
        places = {"redis": cache, "embedding": model, "postgres": vectors}

        async def search(**members):
            for place in places.values():
                place.round_trips = 0
            answer = await client.post("/v1/search", json={"text": "rent", **members}, headers=bearer(ADA))
            assert answer.status_code == 200
            return {name: place.round_trips for name, place in places.items()}

        await search(text="to be warm")
        yield search
        for close in (database.close, redis.close, embeddings.close):
            await close()


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["hybrid", "semantic"])
async def test_a_search_waits_once_for_each(waits, mode):
    assert await waits(mode=mode) == {"redis": 1, "embedding": 1, "postgres": 1}


@pytest.mark.anyio
async def test_a_search_for_keywords_does_not_wait_for_the_embedding_model(waits):
    assert await waits(mode="keyword") == {"redis": 1, "embedding": 0, "postgres": 1}


@pytest.mark.anyio
async def test_a_question_that_is_repeated_does_not_wait_for_the_embedding_model(waits):
    await waits()
    assert await waits(mode="semantic", limit=3) == {"redis": 1, "embedding": 0, "postgres": 1}
