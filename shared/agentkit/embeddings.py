"""Texts to vectors, over any server of the OpenAI protocol's `/embeddings`, by httpx alone: search stays light.

The protocol is https://platform.openai.com/docs/api-reference/embeddings/create. Failures that pass by themselves
(429, 5xx, a connection that broke) are tried again a few times with growing, jittered pauses; others are final.
"""

import asyncio
import random
from collections.abc import Sequence
from functools import cache
from http import HTTPStatus

import httpx

from agentkit import telemetry
from agentkit.errors import Unavailable, UpstreamFailed
from agentkit.settings import EmbeddingSettings, load

BATCH = 64
TRIES = 3
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0

Vector = list[float]

log = telemetry.logger(__name__)


async def embed_one(text: str) -> Vector:
    """Return the vector of one text; otherwise as `embed`."""
    (vector,) = await embed([text])
    return vector


async def embed(texts: Sequence[str]) -> list[Vector]:
    """Return the vectors of the texts, in their order, each of `EMBEDDING_DIMENSIONS` numbers.

    Raises Unavailable when the model stays out of reach, UpstreamFailed when it answers with something unusable.
    """
    vectors: list[Vector] = []
    for start in range(0, len(texts), BATCH):
        vectors += await _embed_batch(texts[start : start + BATCH])
    return vectors


async def close() -> None:
    """Let go of this event loop's connections."""
    loop = asyncio.get_running_loop()
    client = _client(loop)
    _client.cache_clear()
    await client.aclose()


async def _embed_batch(texts: Sequence[str]) -> list[Vector]:
    settings = load(EmbeddingSettings)
    url = f"{(settings.embedding_base_url or settings.openai_base_url).rstrip('/')}/embeddings"
    body: dict[str, object] = {"model": settings.embedding_model, "input": list(texts), "encoding_format": "float"}
    # OpenAI's newer models shorten their vectors on request; other servers know one size and may refuse the word.
    if settings.embedding_model.startswith("text-embedding-3"):
        body["dimensions"] = settings.embedding_dimensions
    headers = {"Authorization": f"Bearer {settings.openai_api_key.get_secret_value()}"}
    try:
        async with asyncio.timeout(settings.embedding_timeout_seconds):
            answer = await _persistently(url, body, headers)
    except (httpx.HTTPError, TimeoutError) as error:
        log.warning("embedding.unavailable", exc_info=error)
        raise Unavailable("The embedding model cannot be reached just now.", code="embedding_unavailable") from error
    return _vectors(answer, len(texts), settings.embedding_dimensions)


async def _persistently(url: str, body: dict[str, object], headers: dict[str, str]) -> httpx.Response:
    """Return the server's answer; raises httpx.HTTPError when the last try failed too."""
    client = _client(asyncio.get_running_loop())
    for attempt in range(1, TRIES + 1):
        pause = FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret
        telemetry.count_round_trip("embedding")
        try:
            answer = await client.post(url, json=body, headers=headers)
        except httpx.TransportError:
            if attempt == TRIES:
                raise
        else:
            transient = answer.status_code == HTTPStatus.TOO_MANY_REQUESTS or answer.is_server_error
            if not transient:
                return answer
            if attempt == TRIES:
                answer.raise_for_status()
            pause = _asked_for(answer) or pause
        await asyncio.sleep(min(pause, LONGEST_PAUSE_SECONDS))
    raise AssertionError("unreachable: the last try returns or raises")


def _asked_for(answer: httpx.Response) -> float | None:
    """Return the pause in seconds that the server asks for, when it does so as a number."""
    try:
        return float(answer.headers.get("Retry-After", ""))
    except ValueError:
        return None


def _vectors(answer: httpx.Response, count: int, dimensions: int) -> list[Vector]:
    if answer.is_error:
        log.error("embedding.refused", status=answer.status_code, body=answer.text[:500])
        raise UpstreamFailed("The embedding model refused the text.", code="embedding_failed")
    try:
        entries = sorted(answer.json()["data"], key=lambda entry: entry["index"])
        vectors: list[Vector] = [entry["embedding"] for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise UpstreamFailed("The embedding model's answer cannot be read.", code="embedding_failed") from error
    if len(vectors) != count or any(len(vector) != dimensions for vector in vectors):
        log.error("embedding.misfit", wanted=(count, dimensions), got=(len(vectors), len(vectors[0]) if vectors else 0))
        raise UpstreamFailed("The embedding model's vectors do not fit this deployment.", code="embedding_failed")
    return vectors


@cache
def _client(_: asyncio.AbstractEventLoop) -> httpx.AsyncClient:
    """Return this event loop's client; its connections stay open between requests."""
    return httpx.AsyncClient(timeout=httpx.Timeout(load(EmbeddingSettings).embedding_timeout_seconds))
