"""The chat model, by name, through LangChain: bounded in time, tried again where it helps, its failures translated.

    model = chat_model()            `CHAT_MODEL`, such as `openai:gpt-5-mini`

Importing this module costs nothing; LangChain and the provider's client (over a second of CPU) load with the first
call, so a function can have answered its first byte by then. A provider's client retries 429, 5xx and broken
connections by itself, with growing and jittered pauses, before the first token; a stream that breaks later is not
repeated, as the user has read half of it.
"""

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from agentkit.errors import Problem, TooManyRequests, Unavailable, UpstreamFailed
from agentkit.settings import ModelSettings, load

if TYPE_CHECKING:
    from httpx import AsyncClient
    from langchain_core.language_models import BaseChatModel

RETRIES = 2
CONNECT_TIMEOUT_SECONDS = 5.0
TOKENS_PER_MILLION = 1_000_000
# In English; only where a provider does not count for us.
CHARACTERS_PER_TOKEN = 4
UNUSABLE = "The language model's answer cannot be used."


@dataclass
class Usage:
    """What a run has used; counted by the provider where it counts, estimated from the length where it does not."""

    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    counted_characters: int = 0
    """How much of what was said the provider has counted; it does at the end of a call, which may never come."""
    model: str = ""
    """The one that answered, when it was not the deployment's own."""

    def add(self, input_tokens: int, output_tokens: int) -> None:
        """Add one call's tokens."""
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def estimate(self, read: str, written: str) -> None:
        """Add what nobody has counted, from lengths in characters."""
        self.input_tokens += len(read) // CHARACTERS_PER_TOKEN
        self.output_tokens += len(written) // CHARACTERS_PER_TOKEN
        self.estimated = True

    @property
    def cost_usd(self) -> float:
        """At the configured prices, US dollars."""
        settings = load(ModelSettings)
        spent = self.input_tokens * settings.chat_input_price + self.output_tokens * settings.chat_output_price
        return spent / TOKENS_PER_MILLION


def chat_model(name: str | None = None) -> "BaseChatModel":
    """Return the model of that `provider:model` name, the deployment's own by default; no request is made yet."""
    # Prompts and answers go to the model's provider and to nobody else, whatever a machine's environment says.
    os.environ["LANGSMITH_TRACING"] = os.environ["LANGCHAIN_TRACING_V2"] = "false"
    import httpx
    from langchain.chat_models import init_chat_model

    settings = load(ModelSettings)
    name = name or settings.chat_model
    options: dict[str, Any] = {}
    if name.startswith("openai:"):
        options = {
            "base_url": settings.openai_base_url,
            "api_key": settings.openai_api_key.get_secret_value(),
            "timeout": httpx.Timeout(settings.chat_timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS),
            # A server that sends signs of life and no words is down as well.
            "stream_chunk_timeout": settings.chat_timeout_seconds,
            "http_async_client": _connections(),
            "stream_usage": True,
        }
    model: BaseChatModel = init_chat_model(
        name, max_retries=RETRIES, max_tokens=settings.chat_max_output_tokens, **options
    )
    if hasattr(model, "streaming"):
        # Then its callbacks hear each token, whoever calls it.
        model.streaming = True
    return model


@cache
def _connections() -> "AsyncClient":
    """Return the client that all models of the OpenAI protocol share; each request brings its own time limits."""
    import httpx

    return httpx.AsyncClient(follow_redirects=True)


async def close() -> None:
    """Let go of the connections; models made before are of no more use."""
    client = _connections()
    _connections.cache_clear()
    await client.aclose()


def problem_of(error: BaseException) -> Problem | None:
    """Return the problem that a provider's failure means to the client; None for what is not the provider's.

    Looks at the standard HTTP clients' errors and at the status that providers' own errors carry.
    """
    import httpx

    causes = _causes(error)
    for cause in causes:
        status = getattr(cause, "status_code", None)
        if isinstance(status, int):
            return _problem_of_status(status)
        if isinstance(cause, httpx.HTTPError | ConnectionError | TimeoutError):
            return Unavailable("The language model cannot be reached just now.", code="model_unavailable")
    # Asked last: a provider wraps the broken connection in an error of its own.
    if any(type(cause).__module__.split(".")[0] in {"openai", "anthropic"} for cause in causes):
        return UpstreamFailed(UNUSABLE, code="model_failed")
    return None


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__
    return found


def _problem_of_status(status: int) -> Problem:
    too_many, server_error = 429, 500
    if status == too_many:
        return TooManyRequests(
            "The language model is busy; try again in a moment.", code="model_busy", headers={"Retry-After": "10"}
        )
    if status >= server_error:
        return Unavailable("The language model cannot be reached just now.", code="model_unavailable")
    return UpstreamFailed("The language model refused the request.", code="model_failed")
