"""Every function as its callers meet it: served side by side, with all real parts, by people who have signed in."""

import importlib
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal

from functions.chat import agent
from infra.functions import declared
from infra.local.aws import Aws
from infra.local.embedder import Embedder
from infra.local.postgres import Postgres
from infra.local.redis import Redis
from infra.local.signin import PASSWORD, SignIn
from tests.parts.model import ScriptedModel, looks_it_up
from tests.parts.people import ADA, Person
from tests.parts.served import Serve

HTTP_FUNCTIONS = [function.name for function in declared() if function.has_url]
# Not for people: the storage calls it, and shows its secret.
HOOK = "/v1/documents/hooks/storage"
HOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PARAMETER = re.compile(r"{(\w+)}")


def app_of(function: str) -> Any:
    """The FastAPI app of that function."""
    return importlib.import_module(f"functions.{function}.app").app


def resolved(piece: Any, document: dict[str, Any]) -> Any:
    """A piece of an OpenAPI document with every reference filled in."""
    if isinstance(piece, list):
        return [resolved(each, document) for each in piece]
    if not isinstance(piece, dict):
        return piece
    if "$ref" in piece:
        target: Any = document
        for step in piece["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return resolved(target, document)
    return {key: resolved(each, document) for key, each in piece.items()}


def body_schema(operation: dict[str, Any], document: dict[str, Any]) -> Any:
    """The schema of what an operation takes, or None when it takes nothing."""
    body = resolved(operation.get("requestBody"), document)
    return body["content"]["application/json"]["schema"] if body else None


def example_of(schema: Any) -> Any:
    """The schema's own example, or one of the examples of the members that have to be there."""
    if schema is None:
        return None
    members = schema["properties"]
    [example] = schema.get("examples") or [{name: members[name]["examples"][0] for name in schema["required"]}]
    return example


@dataclass
class Functions:
    """All that have a URL; the first part of a path says which one is meant, as at the gateway."""

    signin: SignIn
    model: ScriptedModel
    clients: dict[str, httpx.Client]
    _tokens: dict[str, str] = field(default_factory=dict)

    def token(self, person: Person) -> str:
        """An access token of a session of that person's."""
        if person.email not in self._tokens:
            answer = httpx.post(
                f"{self.signin.environment['SUPABASE_URL']}/auth/v1/token?grant_type=password",
                headers={"apikey": self.signin.environment["SUPABASE_PUBLISHABLE_KEY"]},
                json={"email": person.email, "password": PASSWORD},
            )
            self._tokens[person.email] = answer.raise_for_status().json()["access_token"]
        return self._tokens[person.email]

    def ask(
        self, person: Person | None, method: str, path: str, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        """Make a request as that person, or as nobody."""
        client = self.clients[path.split("/")[2]]
        return client.request(method, path, headers={**self.credentials(person, path), **(headers or {})}, **options)

    def credentials(self, person: Person | None, path: str) -> dict[str, str]:
        """What that person shows there: an access token; whoever calls the storage's hook shows its secret."""
        if person is None:
            return {}
        return {"Authorization": f"Bearer {HOOK_SECRET if path == HOOK else self.token(person)}"}

    def things_for(self, path: str, person: Person = ADA) -> dict[str, str]:
        """Give that person what the path's parameters name; return the ids by the parameters' names."""
        makers = {
            "document_id": self._document,
            "job_id": lambda owner: self._job(owner, over=path.endswith(("/events", "/retry"))),
            "conversation_id": self._conversation,
            "chat_id": self._conversation,
        }
        return {name: makers[name](person) for name in PARAMETER.findall(path)}

    def _document(self, person: Person) -> str:
        content = b"# Lease\n\nThe lease ends on 30 September 2027."
        new = {"filename": "lease.md", "media_type": "text/markdown", "size_bytes": len(content)}
        document: dict[str, Any] = self.ask(person, "POST", "/v1/documents", json=new).json()
        upload = document["upload"]
        httpx.put(upload["url"], headers=upload["headers"], content=content).raise_for_status()
        return str(document["id"])

    def _job(self, person: Person, *, over: bool) -> str:
        """One that waits for a worker, or was ended before one came: its events end, and it can be retried."""
        document = self._document(person)
        job = self.ask(person, "POST", f"/v1/documents/{document}/ingest").json()["job_id"]
        if over:
            self.ask(person, "POST", f"/v1/jobs/{job}/cancel").raise_for_status()
        return str(job)

    def _conversation(self, person: Person) -> str:
        chat = uuid.uuid4().hex
        question = {"id": uuid.uuid4().hex, "role": "user", "parts": [{"type": "text", "text": "When does it end?"}]}
        answer = self.ask(person, "POST", "/v1/chat", json={"id": chat, "messages": [question]})
        assert answer.text.endswith("data: [DONE]\n\n"), answer.text
        return chat


@pytest.fixture
def functions(
    postgres: Postgres,
    upstash: Redis,
    signin: SignIn,
    embedder: Embedder,
    model: ScriptedModel,
    aws: Aws,
    serve: Serve,
    portal: BlockingPortal,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Functions]:
    """All of them, with nothing in any part yet, limits that nobody reaches, and a model that searches and answers."""
    monkeypatch.setenv("RATE_LIMIT_SCALE", "100000")
    monkeypatch.setenv("STORAGE_WEBHOOK_SECRET", HOOK_SECRET)
    model.otherwise = looks_it_up("It ends in 2027 [1].")
    yield Functions(signin, model, {name: serve(app_of(name)) for name in HTTP_FUNCTIONS})
    portal.call(agent.close)
