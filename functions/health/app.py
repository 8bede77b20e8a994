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
from http import HTTPStatus
from typing import Literal

import httpx
from fastapi import Response
from pydantic import BaseModel, Field, SecretStr

from agentkit import database, passages, redis, telemetry
from agentkit.http import create_app, lambda_handler
from agentkit.settings import (
    EmbeddingSettings,
    ModelSettings,
    QueueSettings,
    StorageSettings,
    SupabaseSettings,
    load,
)

TIME_LIMIT_SECONDS = 2.0
KEPT_SECONDS = 5.0
KEY_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}

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
    found = await _finding()
    response.headers["Cache-Control"] = "no-store"
    if found.down:
        response.status_code = 503
    return found


Check = Callable[[], Awaitable[object]]
# When by the wall clock, because the monotonic one may stand still while a sandbox is frozen; and what was found.
_kept: tuple[float, Health] | None = None
_examination: asyncio.Task[Health] | None = None


async def _finding() -> Health:
    """Return the last finding while it is fresh, else a new one, which all who ask meanwhile share."""
    global _examination  # noqa: PLW0603  # one for all callers of this sandbox
    if _kept is not None and 0 <= time.time() - _kept[0] <= KEPT_SECONDS:
        return _kept[1]
    if _examination is None or _examination.done():
        _examination = asyncio.create_task(_examine_all())
    return await asyncio.shield(_examination)


async def _examine_all() -> Health:
    global _kept  # noqa: PLW0603  # likewise
    async with httpx.AsyncClient(timeout=TIME_LIMIT_SECONDS) as client:
        checks = _checks(client)
        findings = await asyncio.gather(*(_examine(name, check) for name, check in checks.items()))
    dependencies = dict(zip(checks, findings, strict=True))
    down = [name for name, finding in dependencies.items() if finding.status == "down"]
    health = Health(status="down" if down else "ok", down=down, dependencies=dependencies)
    _kept = time.time(), health
    return health


async def _examine(name: str, check: Check) -> Dependency:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(TIME_LIMIT_SECONDS):
            await check()
    except Exception as error:  # whatever it is, the functions cannot use that dependency either
        log.warning("dependency.down", dependency=name, exc_info=error)
        status: Literal["ok", "down"] = "down"
    else:
        status = "ok"
    return Dependency(status=status, latency_ms=round((time.perf_counter() - began) * 1000, 1))


def _checks(client: httpx.AsyncClient) -> Mapping[str, Check]:
    return {
        "database": lambda: database.ping(database.Database.APP),
        "vectors": passages.ping,
        "redis": _redis,
        "sign_in": lambda: _sign_in(client),
        "model": lambda: _model(client),
        "embeddings": lambda: _embeddings(client),
        "storage": lambda: _storage(client),
        "queue": lambda: _queue(client),
    }


async def _redis() -> None:
    (reply,) = await redis.pipeline([["PING"]])
    if isinstance(reply, redis.CommandError):
        raise redis.RedisUnavailable


async def _sign_in(client: httpx.AsyncClient) -> None:
    address = f"{load(SupabaseSettings).supabase_url.rstrip('/')}/auth/v1/.well-known/jwks.json"
    # Open to all: whoever refuses it is not the project's sign-in.
    (await client.get(address)).raise_for_status()


async def _model(client: httpx.AsyncClient) -> None:
    settings = load(ModelSettings)
    await _answers(client, f"{settings.openai_base_url.rstrip('/')}/models", settings.openai_api_key)


async def _embeddings(client: httpx.AsyncClient) -> None:
    settings = load(EmbeddingSettings)
    base = settings.embedding_base_url or settings.openai_base_url
    await _answers(client, f"{base.rstrip('/')}/models", settings.openai_api_key)


async def _storage(client: httpx.AsyncClient) -> None:
    aws = f"https://s3.{os.environ.get('AWS_REGION', 'us-east-1')}.amazonaws.com"
    await _answers(client, load(StorageSettings).storage_endpoint_url or _endpoint("S3") or aws)


async def _queue(client: httpx.AsyncClient) -> None:
    await _answers(client, _endpoint("SQS") or load(QueueSettings).jobs_queue_url)


def _endpoint(service: str) -> str | None:
    """Return where that service is served in AWS's place, by boto3's own variables."""
    return os.environ.get(f"AWS_ENDPOINT_URL_{service}") or os.environ.get("AWS_ENDPOINT_URL")


async def _answers(client: httpx.AsyncClient, url: str, key: SecretStr | None = None) -> None:
    """Return when something at that address answers and takes the key; otherwise raise httpx.HTTPError."""
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    response = await client.get(url, headers=headers)
    # Without a key a refusal is an answer: someone is at home. With ours it means that nothing will work.
    if response.is_server_error or (key and response.status_code in KEY_REFUSED):
        response.raise_for_status()


handler = lambda_handler(app)
