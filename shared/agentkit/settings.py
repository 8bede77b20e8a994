"""What a deployment configures: one small class per service we talk to, read from the environment on first use.

A function names only the services it uses, so it starts with exactly the variables it needs. Secrets are
`SecretStr` and have no defaults: a missing one is an error that names the variable, never a guess.
"""

import base64
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

S = TypeVar("S", bound="Settings")


class ConfigurationError(RuntimeError):
    """The environment lacks a variable, or one has an unusable value; the message names each."""


class Settings(BaseSettings):
    """Settings of one service; field names are the variables' names in lower case."""

    # An empty variable is how a template says "not set".
    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)


class HttpSettings(Settings):
    """How the functions present themselves to browsers."""

    allowed_origins: tuple[str, ...] = ()
    """Origins that browsers may call from, as a JSON list. Used locally; in Lambda the function URL answers CORS."""
    netlify_signing_secret: SecretStr | None = None
    """Verifies `x-nf-sign` on requests that came through Netlify's proxy, when set."""


class SupabaseSettings(Settings):
    """The Supabase project whose users we serve."""

    supabase_url: str
    supabase_jwks: str | None = None
    """The project's public keys (a JWKS document), so that a cold start needs no request for them."""
    supabase_jwt_secret: SecretStr | None = None
    """The legacy HS256 secret, only for projects that still sign with it."""
    supabase_publishable_key: SecretStr | None = None
    """Sent as `apikey` when a session is checked with Supabase."""


class DatabaseSettings(Settings):
    """The two databases; they may be one."""

    database_url: SecretStr
    """Conversations, documents, jobs, usage."""
    vector_database_url: SecretStr
    """Passages (pgvector)."""


class RedisSettings(Settings):
    """Upstash Redis, over its REST protocol."""

    upstash_redis_rest_url: str
    upstash_redis_rest_token: SecretStr


class RateLimitSettings(Settings):
    """How strictly callers are limited."""

    rate_limit_scale: float = Field(1.0, gt=0)
    """Multiplies every limit: 1 in production, more for a load test."""
    rate_limit_fail: str = Field("open", pattern="^(open|closed)$")
    """What happens while Redis is away: `open` lets callers through, `closed` answers 503."""


class ModelSettings(Settings):
    """The chat model and its limits."""

    chat_model: str
    """`provider:model`, such as `openai:gpt-5-mini`."""
    chat_fallback_model: str | None = None
    """Asked when the first model stays down after its retries."""
    openai_api_key: SecretStr
    openai_base_url: str = "https://api.openai.com/v1"
    """Any server of the OpenAI protocol."""
    chat_timeout_seconds: float = Field(60, gt=0)
    """Longest silence of the model before a request counts as failed; up to three are made."""
    chat_max_output_tokens: int = Field(2_048, gt=0)
    chat_max_steps: int = Field(6, gt=0)
    """Model calls in one run at most."""
    chat_input_price: float = Field(0, ge=0)
    """US dollars for a million input tokens, for the usage records."""
    chat_output_price: float = Field(0, ge=0)
    """US dollars for a million output tokens."""


class CollectionSettings(Settings):
    """The collection of passages that this deployment reads and writes."""

    embedding_collection: str = Field("passages", pattern="^[a-z][a-z0-9_]{0,25}$")
    """Its table in the schema `vecs`; `python -m infra reembed` makes another for another embedding model.

    Its index's name holds it too, and has room for 26 letters.
    """

    @field_validator("embedding_collection")
    @classmethod
    def _serves(cls, name: str) -> str:
        if "staged" in name:
            raise ValueError("a name with `staged` in it is kept for what belongs to another collection")
        return name

    @property
    def staged(self) -> str:
        """The collection beside it, where documents that are being ingested gather their passages."""
        return "staged" if self.embedding_collection == "passages" else f"{self.embedding_collection}_staged"


class EmbeddingSettings(CollectionSettings):
    """The embedding model; its dimension is the collection's."""

    embedding_model: str
    embedding_dimensions: int = Field(1536, gt=0, le=2000)
    """Numbers in a vector; pgvector's HNSW takes at most 2,000."""
    embedding_timeout_seconds: float = Field(20, gt=0)
    embedding_base_url: str | None = None
    """Where it is served, when not at `OPENAI_BASE_URL`."""
    embedding_price: float = Field(0, ge=0)
    """US dollars for a million tokens, for what a job has cost."""
    openai_api_key: SecretStr
    openai_base_url: str = "https://api.openai.com/v1"


class StorageSettings(Settings):
    """The bucket that holds uploaded files.

    Endpoint, region and credentials are boto3's own variables, unless the bucket is elsewhere than the queue: with
    Supabase Storage, set all four here.
    """

    storage_bucket: str
    storage_endpoint_url: str | None = None
    storage_region: str | None = None
    storage_access_key_id: SecretStr | None = None
    storage_secret_access_key: SecretStr | None = None
    max_upload_bytes: int = Field(50_000_000, gt=0)


class WebhookSettings(Settings):
    """How the storage's webhook is known."""

    storage_webhook_secret: SecretStr | None = Field(None, min_length=16)
    """Standard Webhooks' `whsec_` and base64, or any other; no webhooks are taken without one."""

    @field_validator("storage_webhook_secret")
    @classmethod
    def _decodable(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret and secret.get_secret_value().startswith("whsec_"):
            base64.b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)
        return secret


class FetchSettings(Settings):
    """How web addresses are fetched that someone wants to be a document."""

    fetch_seconds: float = Field(30, gt=0)
    """Longest that one address may take in all, its redirects and robots.txt included."""
    fetch_silence_seconds: float = Field(10, gt=0)
    """Longest wait for a site's connection and the head of its answer together, and for each further part of it."""
    fetch_user_agent: str = Field("AgentKit-Functions/0.1", pattern="^[A-Za-z_-]+(/[ -~]*)?$")
    """What we say we are; sites name what stands before the slash in their robots.txt. Add a page about you, as
    `Name/1.0 (+https://…)`."""
    fetch_allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks that may be fetched from although they are not public, at any port, as a JSON list."""


class QueueSettings(Settings):
    """The queue that carries work to the worker."""

    jobs_queue_url: str
    jobs_deadline_seconds: int = Field(21_600, gt=0)
    """After so long a job is failed, however far it has come."""


class WorkerSettings(Settings):
    """What the worker knows of the queue that invokes it."""

    jobs_max_receives: int = Field(5, ge=1)
    """The queue's own `maxReceiveCount`: the delivery after which a message goes to the dead-letter queue."""
    jobs_lease_seconds: float = Field(60, ge=1)
    """A worker that has not been heard of for so long is followed by another."""


class MaintenanceSettings(Settings):
    """How long `maintenance` leaves things alone, and how much it mends by itself."""

    maintenance_grace_hours: float = Field(24, ge=0)
    """An upload may take so long to come, a file to get its document, a failed job to be tried again where it broke
    off."""
    maintenance_job_days: float = Field(30, ge=1)
    """Finished jobs are kept for so long."""
    maintenance_max_repairs: int = Field(100, ge=0)
    """Documents that are ingested again in one run at most because passages of theirs are missing."""

    @property
    def grace_seconds(self) -> float:
        """The hours of grace in seconds."""
        return self.maintenance_grace_hours * 3_600


class QuotaSettings(Settings):
    """How much one person may keep."""

    user_max_documents: int = Field(1_000, ge=0)
    user_max_bytes: int = Field(2_000_000_000, ge=0)
    user_max_pages: int = Field(50_000, ge=0)
    user_max_passages: int = Field(200_000, ge=0)


class ParseSettings(Settings):
    """What reading one document may take before it is given up."""

    parse_seconds: float = Field(120, gt=0)
    """Of the clock, and of the processor."""
    parse_memory_bytes: int = Field(512_000_000, ge=64_000_000)
    """Of address space, beyond what the readers themselves take."""


class ChunkSettings(Settings):
    """How a document's text is divided into passages."""

    # The defaults find best in MiniLM's window (`make bench`, quality): nDCG@10 of hybrid search is 0.900, of 400/80
    # 0.885. 1,200/200 and 850/0 come to the same: the window cuts the former, and sentences are seldom short enough to
    # be repeated. In a larger window, 850 is still what a reader checks at a glance.
    passage_characters: int = Field(850, ge=200, le=8_000)
    """Characters in a passage at most, some four to a token."""
    passage_overlap_characters: int = Field(160, ge=0, validate_default=True)
    """What a passage may repeat of the one before, in whole sentences of the paragraph that goes on; 0 for nothing."""
    embedding_window_tokens: int = Field(256, ge=128)
    """Tokens that the embedding model reads of a text; it would leave the rest out without a word."""

    @field_validator("passage_overlap_characters")
    @classmethod
    def _less_than_half(cls, overlap: int, info: ValidationInfo) -> int:
        if 2 * overlap >= info.data.get("passage_characters", cls.model_fields["passage_characters"].default):
            raise ValueError("must be less than half of PASSAGE_CHARACTERS")
        return overlap


_read: dict[type[Settings], Settings] = {}


def load(kind: type[S]) -> S:
    """Return the settings of that kind, reading the environment at the first call.

    Raises ConfigurationError naming each variable that is missing or unusable; values are never repeated.
    """
    found = _read.get(kind)
    if found is None:
        try:
            found = _read[kind] = kind()
        except ValidationError as error:
            faults = "; ".join(f"{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors())
            raise ConfigurationError(f"{kind.__name__}: {faults}") from None
    return found  # type: ignore[return-value]  # the table maps a kind to its own instance


def forget() -> None:
    """Drop what was read, so that the next `load` sees the environment as it is then."""
    _read.clear()
