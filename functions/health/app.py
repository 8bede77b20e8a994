"""Health: whether everything is there that the other functions need.

    GET /v1/health/live   200 while this function runs; asks nobody
    GET /v1/health        200, or 503 naming what is down; each dependency with its latency

Both are open to everyone, so that a monitor needs no account; what they say is kept for a few seconds, so that many
callers cost the dependencies no more than one. Nothing here reads a person's data or spends model tokens.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

import httpx
from fastapi import Response
from pydantic import BaseModel, Field, SecretStr

from agentkit import database, redis, telemetry
from agentkit.errors import Problem
from agentkit.http import create_app, lambda_handler
from agentkit.settings import ConfigurationError, EmbeddingSettings, ModelSettings, SupabaseSettings, load

TIME_LIMIT_SECONDS = 2.0
KEPT_SECONDS = 5.0

app = create_app("health")
log = telemetry.logger(__name__)


class Live(BaseModel):
    """This function runs."""

    status: Literal["ok"] = "ok"


class Dependency(BaseModel):
    """One service that the functions need."""

    status: Literal["ok", "down"]
    latency_ms: float = Field(description="How long its answer, or its failure, took.")


class Health(BaseModel):
    """All dependencies together."""

    status: Literal["ok", "down"]
    down: list[str] = Field(description="Names of the dependencies that are down.")
    dependencies: dict[str, Dependency]


@app.get("/health/live")
async def live() -> Live:
    """Say that this function runs."""
    return Live()


@app.get("/health", responses={503: {"model": Health, "description": "Something is down."}})
async def health(response: Response) -> Health:
    """Ask every dependency at once and say how each is."""
    found = await _examined()
    response.headers["Cache-Control"] = "no-store"
    if found.down:
        response.status_code = 503
    return found


Check = Callable[[], Awaitable[object]]
_kept: tuple[float, Health] | None = None


async def _examined() -> Health:
    """Return the last finding while it is fresh, a new one after that."""
    global _kept  # noqa: PLW0603  # one finding for all callers of this sandbox
    if _kept is None or time.monotonic() - _kept[0] > KEPT_SECONDS:
        async with httpx.AsyncClient(timeout=TIME_LIMIT_SECONDS) as client:
            checks = _checks(client)
            findings = await asyncio.gather(*(_examine(name, check) for name, check in checks.items()))
        dependencies = dict(zip(checks, findings, strict=True))
        down = [name for name, finding in dependencies.items() if finding.status == "down"]
        _kept = time.monotonic(), Health(status="down" if down else "ok", down=down, dependencies=dependencies)
    return _kept[1]


async def _examine(name: str, check: Check) -> Dependency:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(TIME_LIMIT_SECONDS):
            await check()
    except (TimeoutError, OSError, httpx.HTTPError, ConfigurationError, Problem) as error:
        log.warning("dependency.down", dependency=name, exc_info=error)
        status: Literal["ok", "down"] = "down"
    else:
        status = "ok"
    return Dependency(status=status, latency_ms=round((time.perf_counter() - began) * 1000, 1))


def _checks(client: httpx.AsyncClient) -> Mapping[str, Check]:
    return {
        "database": lambda: database.ping(database.Database.APP),
        "vectors": lambda: database.ping(database.Database.VECTORS),
        "redis": lambda: redis.pipeline([["PING"]]),
        "sign_in": lambda: _sign_in(client),
        "model": lambda: _model(client),
        "embeddings": lambda: _embeddings(client),
        "storage": lambda: _storage(client),
    }


async def _sign_in(client: httpx.AsyncClient) -> None:
    await _answers(client, f"{load(SupabaseSettings).supabase_url}/auth/v1/.well-known/jwks.json")


async def _model(client: httpx.AsyncClient) -> None:
    settings = load(ModelSettings)
    await _answers(client, f"{settings.openai_base_url}/models", settings.openai_api_key)


async def _embeddings(client: httpx.AsyncClient) -> None:
    settings = load(EmbeddingSettings)
    base = settings.embedding_base_url or settings.openai_base_url
    await _answers(client, f"{base}/models", settings.openai_api_key)


async def _storage(client: httpx.AsyncClient) -> None:
    region = os.environ.get("AWS_REGION", "us-east-1")
    await _answers(client, os.environ.get("AWS_ENDPOINT_URL") or f"https://s3.{region}.amazonaws.com")


async def _answers(client: httpx.AsyncClient, url: str, token: SecretStr | None = None) -> None:
    """Return when something at that address answers; raise httpx.HTTPError when nothing does, or only a failure."""
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    response = await client.get(url, headers=headers)
    # A refusal for want of credentials is an answer: someone is at home.
    if response.is_server_error:
        response.raise_for_status()


handler = lambda_handler(app)
