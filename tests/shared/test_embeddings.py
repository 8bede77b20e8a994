"""Texts become vectors in their order, or a clear problem soon; the last questions cost nothing."""

import asyncio
import json
import math

import pytest

from agentkit import embeddings, settings, telemetry
from agentkit.embeddings import Embedded, content_hash, embed, embed_one
from agentkit.errors import Problem, Unavailable, UpstreamFailed
from infra.local.part import free_port
from tests.parts.embedding_model import DIMENSIONS, KEY, Says, base64_of, direction, vectors

pytestmark = pytest.mark.anyio

GOOD = direction("rent")


@pytest.fixture(autouse=True)
async def connections():
    yield
    await embeddings.close()


async def problem_of(work):
    with pytest.raises(Problem) as raised:
        await work
    return raised.value


# What it asks for


async def test_a_request_is_what_the_protocol_says(embedding_model):
    assert (await embed(["rent"])).vectors == [GOOD]
    assert embedding_model.asked == [{"model": "small", "input": ["rent"], "encoding_format": "float"}]
    (headers,) = embedding_model.headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"


async def test_a_model_that_can_shorten_its_vectors_is_asked_to(embedding_model, monkeypatch):
    monkeypatch.setenv("EMBEDDING_MODEL", "text-embedding-3-small")
    await embed(["rent"])
    assert embedding_model.asked[0]["dimensions"] == DIMENSIONS


async def test_a_slash_at_the_addresss_end_makes_no_difference(embedding_model, monkeypatch):
    monkeypatch.setenv("EMBEDDING_BASE_URL", f"{embedding_model.url}/")
    assert (await embed(["rent"])).vectors == [GOOD]


async def test_it_is_served_where_the_chat_model_is_unless_said_otherwise(embedding_model, monkeypatch):
    monkeypatch.delenv("EMBEDDING_BASE_URL")
    monkeypatch.setenv("OPENAI_BASE_URL", embedding_model.url)
    assert (await embed(["rent"])).vectors == [GOOD]


async def test_many_texts_travel_in_batches_and_keep_their_order(embedding_model):
    texts = ["x" * length for length in range(1, 131)]
    assert (await embed(texts)).vectors == [direction(text) for text in texts]
    # 130 = 64 + 64 + 2
    assert embedding_model.texts == [texts[:64], texts[64:128], texts[128:]]


async def test_no_texts_ask_nobody(embedding_model):
    assert await embed([]) == Embedded([], 0)
    assert embedding_model.asked == []


async def test_vectors_that_come_in_another_order_are_put_right(embedding_model):
    embedding_model.answers = [vectors(direction("bb"), direction("a"), indices=[1, 0])]
    assert (await embed(["a", "bb"])).vectors == [direction("a"), direction("bb")]


async def test_half_of_a_surrogate_pair_is_sent_as_a_question_mark(embedding_model):
    await embed(["rent \ud83d"])
    assert embedding_model.texts == [["rent ?"]]


async def test_each_request_is_counted(embedding_model):
    embedding_model.answers = [Says(503)]
    with telemetry.counting_round_trips() as counted:
        await embed(["rent"])
    assert counted == {"embedding": 2}


# What it took


def told(usage):
    """An answer that says that much about what it took."""
    body = {"data": [{"index": 0, "embedding": GOOD}], "usage": usage}
    return Says(body=json.dumps(body).encode())


async def test_tokens_are_those_that_the_server_counted(embedding_model):
    embedding_model.answers = [told({"prompt_tokens": 7, "total_tokens": 9})]
    assert (await embed(["rent"])).tokens == 7


@pytest.mark.parametrize("usage", [None, {}, [], "7", {"prompt_tokens": None}, {"prompt_tokens": -7}], ids=str)
async def test_a_server_that_does_not_count_has_read_a_quarter_of_the_characters(embedding_model, usage):
    embedding_model.answers = [told(usage)]
    # 13 characters are three tokens and a bit.
    assert (await embed(["the rent 2027"])).tokens == 4


async def test_tokens_of_all_batches_are_counted_together(embedding_model):
    # 65 texts of 8 characters travel in two requests: 64 * 8 / 4 + 8 / 4.
    assert (await embed(["the rent"] * 65)).tokens == 130


# What stands for a text


async def test_a_content_hash_is_of_the_text_and_of_what_makes_its_vector(embedding_model, monkeypatch):
    first = content_hash("rent")
    # printf 'small 384 rent' | sha256sum
    assert first == "6a78d7c5b585bc92e153a37c9f2cbc89d51e5b2af995a48803496c91a9e1ce51"
    assert content_hash("rents") != first
    for variable, value in {"EMBEDDING_MODEL": "large", "EMBEDDING_DIMENSIONS": "385"}.items():
        with monkeypatch.context() as other:
            other.setenv(variable, value)
            settings.forget()
            assert content_hash("rent") != first
        settings.forget()
    monkeypatch.setenv("EMBEDDING_BASE_URL", "https://moved.test/v1")
    settings.forget()
    assert content_hash("rent") == first


# What it makes of a wrong answer


def spoiled(number):
    return [number, *GOOD[1:]]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Says(body=b"<html>502 Bad Gateway</html>"), id="not JSON"),
        pytest.param(Says(body=b"\xff\xfe"), id="not UTF-8"),
        pytest.param(Says(body=b"[" * 100_000), id="deeper than can be read"),
        pytest.param(Says(body=b"[]"), id="a list"),
        pytest.param(Says(body=b'{"data": null}'), id="no data"),
        pytest.param(Says(body=b'{"data": [{"index": 0}]}'), id="no vector"),
        pytest.param(Says(301, headers={"Location": "http://elsewhere.test/"}), id="vectors on a redirect"),
        pytest.param(vectors(), id="none"),
        pytest.param(vectors(GOOD, GOOD), id="one too many"),
        pytest.param(vectors(GOOD, indices=[1]), id="another text's"),
        pytest.param(vectors(GOOD, indices=["0"]), id="a place that is no number"),
        pytest.param(vectors(GOOD[:-1]), id="a dimension too few"),
        pytest.param(vectors([*GOOD, 0.0]), id="a dimension too many"),
        pytest.param(vectors(base64_of(GOOD)), id="base64, which was not asked for"),
        pytest.param(vectors("x" * DIMENSIONS), id="a text as long as a vector"),
        pytest.param(vectors(None), id="null"),
        pytest.param(vectors(spoiled("1")), id="text among the numbers"),
        pytest.param(vectors(spoiled(None)), id="null among the numbers"),
        pytest.param(vectors(spoiled(math.nan)), id="NaN"),
        pytest.param(vectors(spoiled(math.inf)), id="infinity"),
        pytest.param(vectors(spoiled(1e39)), id="more than four bytes hold"),
        pytest.param(vectors(spoiled(10**400)), id="more than eight bytes hold"),
        pytest.param(vectors([0.0] * DIMENSIONS), id="no direction"),
    ],
)
async def test_an_answer_that_is_no_vector_is_a_502_and_not_asked_for_again(embedding_model, answer):
    embedding_model.answers = [answer]
    problem = await problem_of(embed(["rent"]))
    assert (type(problem), problem.code) == (UpstreamFailed, "embedding_failed")
    assert len(embedding_model.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refusal_is_final(embedding_model, status):
    embedding_model.answers = [Says(status, b"{}")]
    problem = await problem_of(embed(["rent"]))
    assert (type(problem), problem.code) == (UpstreamFailed, "embedding_failed")
    assert len(embedding_model.asked) == 1


async def test_a_batch_that_fails_fails_the_whole(embedding_model):
    embedding_model.answers = [Says(), Says(400)]
    await problem_of(embed(["x"] * 65))


# What passes by itself


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_failure_that_passes_is_tried_again(embedding_model, status):
    embedding_model.answers = [Says(status), Says(status)]
    assert (await embed(["rent"])).vectors == [GOOD]
    assert embedding_model.texts == [["rent"]] * 3


@pytest.mark.parametrize("status", [429, 500])
async def test_a_failure_that_stays_is_a_503_after_three_tries(embedding_model, status):
    embedding_model.answers = [Says(status)] * 9
    problem = await problem_of(embed(["rent"]))
    assert (type(problem), problem.code) == (Unavailable, "embedding_unavailable")
    assert int(problem.headers["Retry-After"]) > 0
    assert len(embedding_model.asked) == 3


async def test_nobody_there_is_a_503(embedding_model, monkeypatch):
    monkeypatch.setenv("EMBEDDING_BASE_URL", f"http://127.0.0.1:{free_port()}/v1")
    with telemetry.counting_round_trips() as counted:
        problem = await problem_of(embed(["rent"]))
    assert (problem.status, problem.code) == (503, "embedding_unavailable")
    assert counted == {"embedding": 3}


async def test_a_silent_model_is_a_503_when_the_time_is_up(embedding_model, monkeypatch):
    monkeypatch.setenv("EMBEDDING_TIMEOUT_SECONDS", "0.1")
    embedding_model.answers = [Says(waits=True)]
    problem = await problem_of(embed(["rent"]))
    assert (problem.status, problem.code) == (503, "embedding_unavailable")


async def test_the_time_is_that_of_all_tries_together(embedding_model, monkeypatch):
    monkeypatch.setenv("EMBEDDING_TIMEOUT_SECONDS", "0.1")
    embedding_model.answers = [Says(503), Says(429, headers={"Retry-After": "60"}), Says()]
    assert (await problem_of(embed(["rent"]))).code == "embedding_unavailable"


@pytest.mark.parametrize(
    ("asked", "longest"),
    [
        ("3", 3.0),
        ("60", 5.0),
        # By none of these: ours, which grows from 0.2 and 0.4 s by at most twice each.
        *((unusable, 0.8) for unusable in ("", "0", "-1", "nan", "inf", "Wed, 25 Nov 2026 07:28:00 GMT", "9" * 5_000)),
    ],
)
async def test_a_pause_that_is_asked_for_is_kept_up_to_a_bound(embedding_model, monkeypatch, asked, longest):
    pauses, sleep, here = [], asyncio.sleep, asyncio.get_running_loop()

    async def note(seconds):
        # Servers that other tests have left running sleep on loops of their own.
        pauses.append(seconds) if asyncio.get_running_loop() is here else await sleep(seconds)

    monkeypatch.setattr(embeddings, "FIRST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(asyncio, "sleep", note)
    embedding_model.answers = [Says(429, headers={"Retry-After": asked}), Says(429, headers={"Retry-After": asked})]
    await embed(["rent"])
    assert len(pauses) == 2
    assert 0.2 <= pauses[0] <= pauses[1] <= longest


# What it tells nobody


@pytest.mark.parametrize("answer", [Says(401, KEY.encode()), Says(body=KEY.encode()), Says(500, KEY.encode())])
async def test_a_problem_holds_neither_key_nor_address_nor_what_the_model_said(embedding_model, answer):
    embedding_model.answers = [answer] * 3
    told = json.dumps((await problem_of(embed(["rent"]))).body("request"))
    assert KEY not in told
    assert str(embedding_model.server_port) not in told


# The last questions


async def test_a_repeated_question_is_embedded_once(embedding_model):
    first = await embed_one("rent")
    with telemetry.counting_round_trips() as counted:
        assert await embed_one("rent") == first == GOOD
    assert counted == {}
    assert embedding_model.texts == [["rent"]]


@pytest.mark.parametrize("variable", ["EMBEDDING_MODEL", "EMBEDDING_BASE_URL"])
async def test_another_model_is_asked_anew(embedding_model, monkeypatch, variable):
    await embed_one("rent")
    monkeypatch.setenv("OPENAI_BASE_URL", embedding_model.url.replace("127.0.0.1", "localhost"))
    monkeypatch.setenv("EMBEDDING_MODEL", "large") if variable == "EMBEDDING_MODEL" else monkeypatch.delenv(variable)
    settings.forget()
    await embed_one("rent")
    assert len(embedding_model.asked) == 2


async def test_the_question_asked_longest_ago_is_forgotten_first(embedding_model):
    for number in range(100):
        await embed_one(f"question {number}")
    await embed_one("question 0")
    await embed_one("one more")
    assert len(embedding_model.asked) == 101
    await embed_one("question 0")
    assert len(embedding_model.asked) == 101
    await embed_one("question 1")
    assert len(embedding_model.asked) == 102


async def test_a_failure_is_not_kept(embedding_model):
    embedding_model.answers = [Says(400)]
    await problem_of(embed_one("rent"))
    assert await embed_one("rent") == GOOD


async def test_nobodys_words_stay_behind(embedding_model):
    await embed_one("my secret")
    assert "my secret" not in repr(embeddings._questions)


async def test_documents_are_embedded_each_time(embedding_model):
    await embed(["rent"])
    await embed(["rent"])
    assert len(embedding_model.asked) == 2
