"""The real parts that a measured function needs, on a folder of their own, with a model that answers from a script."""

import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.local.embedder import Embedder
from infra.local.postgres import Postgres
from infra.local.redis import Redis
from tests.parts.model import ScriptedModel
from tests.parts.people import ADA, ISSUER, bearer, jwks
from tests.parts.runtime_api import url_event


@dataclass(frozen=True)
class Parts:
    """What is up."""

    folder: Path
    model: ScriptedModel
    postgres: Postgres
    redis: Redis
    embedder: Embedder

    @property
    def environment(self) -> dict[str, str]:
        """As a deployment has it: the sign-in keys are in it, and no limit is reached."""
        return {
            **self.postgres.environment,
            **self.redis.environment,
            **self.embedder.environment,
            **self.model.environment,
            "SUPABASE_URL": ISSUER,
            "SUPABASE_JWKS": jwks(),
            "RATE_LIMIT_SCALE": "1000",
        }


@contextmanager
def parts() -> Iterator[Parts]:
    """Start them all; they have ended when the block has."""
    with tempfile.TemporaryDirectory(prefix="agentkit-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        # Root runs Postgres as someone else, who has to be able to reach its data.
        folder.chmod(0o755)
        started = Postgres(folder, durable=False), Redis(folder), Embedder(folder)
        for part in started:
            part.start()
            stack.callback(part.stop)
        yield Parts(folder, stack.enter_context(ScriptedModel()), *started)


def question(text: str = "When does the lease end?", *, chat: str | None = None) -> dict[str, Any]:
    """Return the event of a question to the chat; in a chat of its own unless one is named."""
    message = {"id": uuid.uuid4().hex, "role": "user", "parts": [{"type": "text", "text": text}]}
    return signed_in("/v1/chat", {"id": chat or uuid.uuid4().hex, "messages": [message]})


def signed_in(path: str, body: Mapping[str, Any] | None = None, *, method: str = "POST") -> dict[str, Any]:
    """Return the event of a request of Ada's."""
    headers = {name.lower(): value for name, value in bearer(ADA).items()}
    headers["content-type"] = "application/json"
    return url_event(path, method=method, body=None if body is None else json.dumps(body), headers=headers)
