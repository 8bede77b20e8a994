"""An embedding model behind OpenAI's protocol that says what a test wants: the right thing, a wrong one, or nothing."""

import base64
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from infra.local.part import LOOPBACK
from tests.parts.beside import beside

DIMENSIONS = 384
KEY = "sk-the-key-of-this-deployment"


@dataclass(frozen=True)
class Says:
    """One answer of the model's."""

    status: int = 200
    body: bytes | None = None
    """None: the texts' vectors, as they should be."""
    headers: dict[str, str] = field(default_factory=dict)
    waits: bool = False
    """Say nothing until the test is over."""


def direction(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """The vector that this model has for a text; texts of different lengths have different ones."""
    return [float(len(text)), 1.0, *[0.0] * (dimensions - 2)]


def vectors(*embeddings: Any, indices: list[Any] | None = None) -> Says:
    """An answer of those vectors, in their order unless other places are named."""
    places = indices or list(range(len(embeddings)))
    data = [{"index": place, "embedding": each} for place, each in zip(places, embeddings, strict=True)]
    return Says(body=json.dumps({"object": "list", "data": data}).encode())


def base64_of(vector: list[float]) -> str:
    """The other form of the protocol: little-endian 4-byte floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


class EmbeddingModel(ThreadingHTTPServer):
    """Gives the answers that were prepared, one a request, and then right ones."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.answers: list[Says] = []
        self.asked: list[dict[str, Any]] = []
        """The bodies of the requests for vectors."""
        self.headers: list[dict[str, str]] = []
        self.listed = 0
        """How often it was asked which models there are, which costs nothing."""
        self.over = threading.Event()
        self.seconds = 0.0
        """How long each answer takes it."""

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{LOOPBACK}:{self.server_port}/v1"

    @property
    def texts(self) -> list[list[str]]:
        """The texts of each request."""
        return [body["input"] for body in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingModel
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.listed += 1
        self._answer(200, b'{"object": "list", "data": []}', {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        says = self.server.answers.pop(0) if self.server.answers else Says()
        self.server.over.wait(self.server.seconds)
        if says.waits:
            self.server.over.wait()
        content = says.body
        if content is None:
            dimensions = body.get("dimensions", DIMENSIONS)
            content = vectors(*(direction(text, dimensions) for text in body["input"])).body or b""
        self._answer(says.status, content, says.headers)

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(model: EmbeddingModel) -> Iterator[EmbeddingModel]:
    """It answers inside."""
    with beside(model):
        try:
            yield model
        finally:
            model.over.set()


@pytest.fixture
def embedding_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingModel]:
    """The functions find it, and no pause between their tries is long."""
    with serving(EmbeddingModel()) as model:
        monkeypatch.setenv("EMBEDDING_BASE_URL", model.url)
        monkeypatch.setenv("EMBEDDING_MODEL", "small")
        monkeypatch.setenv("EMBEDDING_DIMENSIONS", str(DIMENSIONS))
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setattr("agentkit.embeddings.FIRST_PAUSE_SECONDS", 0.001)
        yield model
