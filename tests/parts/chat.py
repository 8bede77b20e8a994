"""The chat function as a browser meets it: questions asked over HTTP, answers read chunk by chunk."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx
import psycopg
import pytest
from anyio.from_thread import BlockingPortal
from psycopg.types.json import Jsonb
from starlette.types import Receive, Scope, Send

from agentkit.embeddings import embed
from agentkit.passages import Passage
from functions.chat import agent
from functions.chat.app import app
from infra.local.postgres import Postgres
from tests.parts.people import ADA, Person, bearer
from tests.parts.postgres import Rows
from tests.parts.served import Serve

Json = dict[str, Any]
T = TypeVar("T")

LONGEST_SECONDS = 30.0


@dataclass
class Answer:
    """An answer on its way."""

    response: httpx.Response
    chunks: list[Json] = field(default_factory=list)
    bytes: str = ""

    def __post_init__(self) -> None:
        self._lines = self.response.iter_lines()

    def until(self, kind: str) -> Json:
        """Read on to the next chunk of that type, and return it."""
        for line in self._lines:
            self.bytes += line + "\n"
            if line.startswith("data: {"):
                self.chunks.append(json.loads(line.removeprefix("data: ")))
                if self.chunks[-1]["type"] == kind:
                    return self.chunks[-1]
        raise AssertionError(f"no {kind} in {self.bytes}")

    def until_said(self, text: str) -> None:
        """Read on until the answer has said that."""
        while text not in self.text:
            self.until("text-delta")

    def to_the_end(self) -> "Answer":
        """Read on to the end."""
        for line in self._lines:
            self.bytes += line + "\n"
            if line.startswith("data: {"):
                self.chunks.append(json.loads(line.removeprefix("data: ")))
        return self

    def all(self, kind: str) -> list[Json]:
        """The chunks of that type."""
        return [chunk for chunk in self.chunks if chunk["type"] == kind]

    def only(self, kind: str) -> Json:
        """The one chunk of that type."""
        (chunk,) = self.all(kind)
        return chunk

    @property
    def text(self) -> str:
        """What the answer says."""
        return "".join(chunk["delta"] for chunk in self.all("text-delta"))

    @property
    def error(self) -> str:
        """The sentence that it ended with."""
        assert self.bytes.endswith("data: [DONE]\n\n")
        sentence: str = self.only("error")["errorText"]
        return sentence

    @property
    def problem(self) -> tuple[int, str]:
        """Status and code of a refusal."""
        assert self.response.headers["content-type"] == "application/problem+json"
        self.response.read()
        return self.response.status_code, self.response.json()["code"]


class ChatClient:
    """People who ask. Each question is one of `useChat`'s requests, in a chat of its own unless one is named."""

    def __init__(self, http: httpx.Client, stack: ExitStack) -> None:
        self.http = http
        self._stack = stack

    def begin(
        self,
        text: str,
        *,
        chat: str | None = None,
        person: Person = ADA,
        message_id: str | None = None,
        earlier: Sequence[Json] = (),
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Ask, and return as soon as the answer has a status."""
        question = {"id": message_id or uuid.uuid4().hex, "role": "user", "parts": [{"type": "text", "text": text}]}
        body = {"id": chat or uuid.uuid4().hex, "messages": [*earlier, question], "trigger": "submit-message"}
        return self.send(json.dumps(body), person=person, headers=headers)

    def send(self, body: str, *, person: Person = ADA, headers: dict[str, str] | None = None) -> Answer:
        """Send that body, and return as soon as there is a status."""
        sent = {**bearer(person), "Content-Type": "application/json", **(headers or {})}
        return Answer(self._stack.enter_context(self.http.stream("POST", "/v1/chat", content=body, headers=sent)))

    def ask(self, text: str, **options: Any) -> Answer:
        """Ask, and return the whole answer."""
        answer = self.begin(text, **options)
        assert answer.response.status_code == 200, answer.response.read()
        return answer.to_the_end()

    def resume(self, chat: str, *, person: Person = ADA) -> Answer:
        """Come back to a chat whose answer is being written."""
        opened = self.http.stream("GET", f"/v1/chat/{chat}/stream", headers=bearer(person))
        return Answer(self._stack.enter_context(opened))

    def stop(self, chat: str, *, person: Person = ADA) -> bool:
        """Ask the answer to stop, and return whether there was one."""
        stopped: bool = self.http.post(f"/v1/chat/{chat}/stop", headers=bearer(person)).json()["stopped"]
        return stopped


class Sandbox:
    """The app in a place that ends an invocation at a given time, as Lambda does."""

    def __init__(self) -> None:
        self.seconds_left: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what is not at its end in time is cut off."""
        if self.seconds_left is not None:
            left = int(self.seconds_left * 1000)
            scope["aws.context"] = SimpleNamespace(get_remaining_time_in_millis=lambda: left, aws_request_id=None)
        async with asyncio.timeout(self.seconds_left):
            await app(scope, receive, send)


@pytest.fixture(scope="session")
def _sandbox() -> Sandbox:
    return Sandbox()


@pytest.fixture
def sandbox(_sandbox: Sandbox) -> Iterator[Sandbox]:
    """Where the chat function runs."""
    yield _sandbox
    _sandbox.seconds_left = None


@pytest.fixture
def chat(
    serve: Serve, sandbox: Sandbox, people: None, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ChatClient]:
    """The function, with whatever model, Redis, Postgres and embedder the test's other fixtures have brought up."""
    monkeypatch.setenv("RATE_LIMIT_SCALE", "1000")
    with ExitStack() as stack:
        yield ChatClient(serve(sandbox), stack)
    portal.call(agent.close)


def eventually(look: Callable[[], T]) -> T:
    """Return what `look` sees, once it is something."""
    ends = time.monotonic() + LONGEST_SECONDS
    while not (seen := look()):
        assert time.monotonic() < ends, "nothing came"
        time.sleep(0.01)
    return seen


def kept(rows: Rows) -> list[tuple[str, str, str | None]]:
    """The messages of all chats: who, what was said, and how it ended by its metadata."""
    return [
        (row["role"], "".join(part.get("text", "") for part in row["parts"]), row["metadata"].get("status"))
        for row in rows("select role, parts, metadata from agentkit.messages order by ordinal")
    ]


@pytest.fixture
def store(postgres: Postgres, embedder: object, portal: BlockingPortal) -> Callable[..., str]:
    """Store a document's passages, each a page, as the worker does; return the document's id."""

    def passages_of(*texts: str, owner: Person = ADA, title: str = "Lease") -> str:
        document = uuid.uuid4()
        passages = [
            Passage(document, owner.id, place, text, title, start=0, end=len(text), page=place + 1)
            for place, text in enumerate(texts)
        ]
        vectors = portal.call(embed, texts).vectors
        with psycopg.connect(postgres.environment["ADMIN_VECTOR_DATABASE_URL"], autocommit=True) as connection:
            connection.cursor().executemany(
                "insert into vecs.passages (id, vec, metadata) values (%s, %s::vector, %s)",
                [(each.id, str(vector), Jsonb(each.metadata)) for each, vector in zip(passages, vectors, strict=True)],
            )
        return str(document)

    return passages_of
