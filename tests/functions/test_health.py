"""Health says what is down and nothing more, to anyone, for the price of one look every few seconds."""

import asyncio
import socket
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from agentkit import database, redis, settings
from functions.health import app as health
from infra.local.part import LOOPBACK, free_port
from tests.parts.redis import redis_away
from tests.parts.served import serving

EVERYTHING = {"database", "vectors", "redis", "sign_in", "model", "embeddings", "storage", "queue"}


@pytest.fixture(autouse=True)
def nothing_found_yet(monkeypatch):
    monkeypatch.setattr(health, "_kept", None)


@pytest.fixture
def parts(postgres, upstash, signin, embedding_model, model, aws):
    """Everything that the functions need, running."""
    return SimpleNamespace(
        postgres=postgres, redis=upstash, signin=signin, model=model, embedding_model=embedding_model, aws=aws
    )


@pytest.fixture
def ask(serve):
    client = serve(health.app)
    return lambda: client.get("/v1/health")


@pytest.fixture
def passes(monkeypatch):
    """Let time pass, as far as findings are kept."""
    now = 1_800_000_000.0

    def passes(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(health, "time", SimpleNamespace(time=lambda: now, perf_counter=time.perf_counter))
    return passes


@contextmanager
def stopped(part):
    part.stop()
    try:
        yield
    finally:
        part.resume() if hasattr(part, "resume") else part.start()


def test_everything_is_well_and_says_how_long_it_took(ask, parts):
    answer = ask()
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["status"], found["down"]) == ("ok", [])
    assert set(found["dependencies"]) == EVERYTHING
    assert all(each["status"] == "ok" and each["latency_ms"] > 0 for each in found["dependencies"].values())
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("part", "down"),
    [
        ("postgres", ["database", "vectors"]),
        ("redis", ["redis"]),
        ("signin", ["sign_in"]),
        ("aws", ["storage", "queue"]),
    ],
)
def test_what_is_stopped_is_named(ask, parts, part, down):
    with redis_away(parts.redis) if part == "redis" else stopped(getattr(parts, part)):
        answer = ask()
    assert answer.status_code == 503
    found = answer.json()
    assert (found["status"], found["down"]) == ("down", down)
    assert {name for name, each in found["dependencies"].items() if each["status"] == "down"} == set(down)


@pytest.mark.parametrize(
    ("variable", "down"),
    [
        ("OPENAI_BASE_URL", "model"),
        ("EMBEDDING_BASE_URL", "embeddings"),
        ("STORAGE_ENDPOINT_URL", "storage"),
        ("AWS_ENDPOINT_URL_S3", "storage"),
        ("AWS_ENDPOINT_URL_SQS", "queue"),
        ("DATABASE_URL", "database"),
        ("VECTOR_DATABASE_URL", "vectors"),
        ("SUPABASE_URL", "sign_in"),
        ("UPSTASH_REDIS_REST_URL", "redis"),
    ],
)
def test_an_address_where_nobody_is_or_none_at_all_is_down(ask, parts, passes, monkeypatch, variable, down):
    for address in (f"http://{LOOPBACK}:{free_port()}", "not an address", "http://[", "http://\u200b"):
        monkeypatch.setenv(variable, address)
        settings.forget()
        passes(60)
        assert ask().json()["down"] == [down]


def test_a_collection_that_is_not_there_is_down(ask, parts, monkeypatch):
    monkeypatch.setenv("EMBEDDING_COLLECTION", "nowhere")
    assert ask().json()["down"] == ["vectors"]


def test_without_any_settings_everything_is_down_and_nothing_is_a_500(ask, monkeypatch):
    for kind in settings.Settings.__subclasses__():
        for name in kind.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{LOOPBACK}:{free_port()}")
    answer = ask()
    assert answer.status_code == 503
    assert set(answer.json()["down"]) == EVERYTHING


@pytest.mark.parametrize(
    ("status", "down"),
    [
        (200, []),
        (404, ["sign_in"]),  # a server of the OpenAI protocol need not list its models
        (401, ["sign_in", "model", "embeddings"]),  # the key is refused, so every question would be
        (403, ["sign_in", "model", "embeddings"]),
        (500, ["sign_in", "model", "embeddings", "storage", "queue"]),
        (302, ["sign_in"]),
    ],
)
def test_an_answer_counts_for_what_the_functions_could_do_with_it(ask, parts, portal, monkeypatch, status, down):
    async def answer(_):
        return Response(status_code=status)

    with serving(Starlette(routes=[Route("/{path:path}", answer)]), portal) as port:
        for variable in ("SUPABASE_URL", "OPENAI_BASE_URL", "EMBEDDING_BASE_URL", "AWS_ENDPOINT_URL"):
            monkeypatch.setenv(variable, f"http://{LOOPBACK}:{port}")
        assert ask().json()["down"] == down


def test_a_redis_that_refuses_every_command_is_down(ask, parts, portal, monkeypatch):
    async def refuse(_):
        return Response('{"error": "ERR max requests limit exceeded"}', 400)

    with serving(Starlette(routes=[Route("/pipeline", refuse, methods=["POST"])]), portal) as port:
        monkeypatch.setenv("UPSTASH_REDIS_REST_URL", f"http://{LOOPBACK}:{port}")
        assert ask().json()["down"] == ["redis"]


def test_what_never_answers_is_down_when_its_time_is_up(ask, parts, monkeypatch):
    monkeypatch.setattr(health, "TIME_LIMIT_SECONDS", 0.2)
    with socket.create_server((LOOPBACK, 0)) as silent:
        port = silent.getsockname()[1]
        for variable in ("OPENAI_BASE_URL", "UPSTASH_REDIS_REST_URL"):
            monkeypatch.setenv(variable, f"http://{LOOPBACK}:{port}")
        monkeypatch.setenv("DATABASE_URL", f"postgresql://{LOOPBACK}:{port}/app")
        found = ask().json()
    assert {"model", "redis", "database"} <= set(found["down"])
    assert found["dependencies"]["model"]["latency_ms"] >= 200


def test_it_tells_no_address_no_error_and_no_secret(ask, parts, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://{LOOPBACK}:{free_port()}")
    with redis_away(parts.redis), stopped(parts.postgres):
        found = ask().json()
    assert found["down"] == ["database", "vectors", "redis", "model"]
    # A name, one of two words and a number: there is no place where anything else could stand.
    assert set(found) == {"status", "down", "dependencies"}
    assert all(set(each) == {"status", "latency_ms"} for each in found["dependencies"].values())


def test_it_spends_no_tokens(ask, parts):
    assert ask().status_code == 200
    assert (parts.model.asked, parts.embedding_model.asked) == ([], [])


def test_a_finding_is_kept_for_five_seconds_whatever_happens(ask, parts, passes):
    assert ask().status_code == 200
    with redis_away(parts.redis):
        passes(5)
        assert ask().status_code == 200
        passes(0.1)
        assert ask().json()["down"] == ["redis"]
    passes(5)
    assert ask().status_code == 503


def test_a_finding_from_the_future_is_not_kept(ask, parts, passes):
    assert ask().status_code == 200
    passes(-3600)
    with redis_away(parts.redis):
        assert ask().status_code == 503


@pytest.mark.anyio
async def test_many_who_ask_at_once_cost_no_more_than_one(parts):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(health.app), base_url="http://health.test") as client:
        answers = await asyncio.gather(*(client.get("/v1/health") for _ in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert parts.embedding_model.listed == 1
    for close in (database.close, redis.close):
        await close()


def test_a_look_whether_it_lives_asks_nobody(serve, monkeypatch):
    monkeypatch.setattr(health, "_checks", None)
    answer = serve(health.app).get("/v1/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
