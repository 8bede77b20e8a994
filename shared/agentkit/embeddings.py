"""Texts to vectors, over any server of the OpenAI protocol's `/embeddings`, by httpx alone: search stays light.

The protocol is https://platform.openai.com/docs/api-reference/embeddings/create. Failures that pass by themselves
(429, 5xx, a connection that broke) are tried again a few times with growing, jittered pauses; others are final.

The vectors of the last questions stay in the process, by hash and model: a question repeated with another mode or
limit is embedded once. They are not kept in Redis, where each search would wait for it once more than its budget has,
to save something that takes about as long.
"""

import asyncio
import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from agentkit import telemetry
from agentkit.errors import Unavailable, UpstreamFailed
from agentkit.settings import EmbeddingSettings, load

BATCH = 64
TRIES = 3
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
# 1,536 numbers take some 50 kB as Python holds them.
QUESTIONS_KEPT = 100
# Postgres keeps four bytes of a number; what they cannot hold is no part of a vector.
LARGEST = 3.4e38
# Of English text, where the server does not say how much it has read.
CHARACTERS_OF_A_TOKEN = 4

Vector = list[float]

log = telemetry.logger(__name__)
_questions: dict[str, Vector] = {}
# Connections belong to the event loop that opened them.
_connections: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}


@dataclass(frozen=True, slots=True)
class Embedded:
    """Texts as directions, and what it took."""

    vectors: list[Vector]
    """In the texts' order, each of `EMBEDDING_DIMENSIONS` numbers."""
    tokens: int
    """As the server counts them; a quarter of the characters where it does not."""


async def embed_one(text: str) -> Vector:
    """Return the vector of one question, which costs nothing when it is one of the last; otherwise as `embed`."""
    key = _key(text)
    vector = _questions.pop(key, None) or (await embed([text])).vectors[0]
    # The one used last stands last, and the first one goes.
    _questions[key] = vector
    if len(_questions) > QUESTIONS_KEPT:
        del _questions[next(iter(_questions))]
    return vector


async def embed(texts: Sequence[str]) -> Embedded:
    """Return the vectors of the texts and how many tokens were read for them.

    Raises Unavailable when the model stays out of reach, UpstreamFailed when it answers with something unusable.
    """
    batches = [await _embed_batch(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    vectors = [vector for batch in batches for vector in batch.vectors]
    return Embedded(vectors, sum(batch.tokens for batch in batches))


def content_hash(text: str) -> str:
    """Return what stands for that text's vector: SHA-256 over model, dimensions and text, in hexadecimal.

    Where the model is served is no part of it: a server that moves makes no document anew.
    """
    settings = load(EmbeddingSettings)
    recipe = f"{settings.embedding_model} {settings.embedding_dimensions} "
    return hashlib.sha256((recipe + text).encode(errors="replace")).hexdigest()


async def close() -> None:
    """Let go of this event loop's connections and of the last questions' vectors."""
    _questions.clear()
    if client := _connections.pop(asyncio.get_running_loop(), None):
        await client.aclose()


async def _embed_batch(texts: Sequence[str]) -> Embedded:
    settings = load(EmbeddingSettings)
    url = f"{_address(settings)}/embeddings"
    body: dict[str, object] = {"model": settings.embedding_model, "input": list(texts), "encoding_format": "float"}
    # OpenAI's newer models shorten their vectors on request; other servers know one size and may refuse the word.
    if settings.embedding_model.startswith("text-embedding-3"):
        body["dimensions"] = settings.embedding_dimensions
    # JSON may hold halves of surrogate pairs, UTF-8 may not.
    content = json.dumps(body, ensure_ascii=False).encode(errors="replace")
    headers = {
        "Authorization": f"Bearer {settings.openai_api_key.get_secret_value()}",
        "Content-Type": "application/json",
    }
    try:
        async with asyncio.timeout(settings.embedding_timeout_seconds):
            answer = await _persistently(url, content, headers)
    except (httpx.HTTPError, TimeoutError) as error:
        log.warning("embedding.unavailable", exc_info=error)
        raise Unavailable("The embedding model cannot be reached just now.", code="embedding_unavailable") from error
    return _read(answer, texts, settings.embedding_dimensions)


async def _persistently(url: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
    """Return the server's answer; raises httpx.HTTPError when the last try failed too."""
    client = _connection()
    for attempt in range(1, TRIES + 1):
        pause = FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret
        telemetry.count_round_trip("embedding")
        try:
            answer = await client.post(url, content=content, headers=headers)
        except httpx.TransportError:
            if attempt == TRIES:
                raise
        else:
            transient = answer.status_code == HTTPStatus.TOO_MANY_REQUESTS or answer.is_server_error
            if not transient:
                return answer
            if attempt == TRIES:
                answer.raise_for_status()
            pause = max(pause, _asked_for(answer))
        await asyncio.sleep(min(pause, LONGEST_PAUSE_SECONDS))
    raise AssertionError("unreachable: the last try returns or raises")


def _asked_for(answer: httpx.Response) -> int:
    """Return the pause in seconds that the server asks for; 0 when it asks for none, or not by a number."""
    try:
        return int(answer.headers.get("Retry-After", ""))
    except ValueError:
        return 0


def _read(answer: httpx.Response, texts: Sequence[str], dimensions: int) -> Embedded:
    if not answer.is_success:
        log.error("embedding.refused", status=answer.status_code, body=answer.text[:500])
        raise UpstreamFailed("The embedding model refused the text.", code="embedding_failed")
    try:
        body = answer.json()
        entries = sorted(body["data"], key=lambda entry: entry["index"])
        places = [entry["index"] for entry in entries]
        vectors: list[Vector] = [entry["embedding"] for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        log.error("embedding.unreadable", exc_info=error)
        raise UpstreamFailed("The embedding model's answer cannot be read.", code="embedding_failed") from error
    if places != list(range(len(texts))) or not all(_is_vector(vector, dimensions) for vector in vectors):
        sizes = sorted({len(vector) for vector in vectors if isinstance(vector, list)})
        log.error("embedding.misfit", texts=len(texts), dimensions=dimensions, places=places, sizes=sizes)
        raise UpstreamFailed("The embedding model's vectors do not fit this deployment.", code="embedding_failed")
    return Embedded(vectors, _tokens(body) or math.ceil(sum(map(len, texts)) / CHARACTERS_OF_A_TOKEN))


def _tokens(body: dict[str, Any]) -> int:
    """Return how many tokens the server says that it has read; 0 when it does not say."""
    usage = body.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) and tokens > 0 else 0


def _is_vector(value: object, dimensions: int) -> bool:
    """Say whether that is a direction that Postgres can keep: neither NaN nor all zeros, which have no cosine."""
    return (
        isinstance(value, list)
        and len(value) == dimensions
        and all(isinstance(number, int | float) and -LARGEST < number < LARGEST for number in value)
        and any(value)
    )


def _key(text: str) -> str:
    """Return what stands for that text at the present server: a hash, so that nobody's words stay behind."""
    return f"{_address(load(EmbeddingSettings))} {content_hash(text)}"


def _address(settings: EmbeddingSettings) -> str:
    return (settings.embedding_base_url or settings.openai_base_url).rstrip("/")


def _connection() -> httpx.AsyncClient:
    """Return this event loop's client; its connections stay open between requests."""
    loop = asyncio.get_running_loop()
    if loop not in _connections:
        # The limit is on all tries together, in `_embed_batch`; httpx would start anew for each of its phases.
        _connections[loop] = httpx.AsyncClient(timeout=None)  # noqa: S113
    return _connections[loop]
