"""A person's browser, as far as the demonstration needs one: sign in, upload, ask, read the stream."""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from infra.demo.events import Watch, follow

MEDIA_TYPES = {".pdf": "application/pdf", ".md": "text/markdown"}
INGEST_SECONDS = 120.0


@dataclass
class Answer:
    """One streamed answer and when its pieces came; times are seconds from sending the request."""

    request_id: str
    text: str = ""
    pieces: int = 0
    """In how many the text came; a model's stream has one for each token."""
    citations: list[dict[str, Any]] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    first_byte: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Ingestion:
    """A document that is ready, and the job that made it so."""

    document: dict[str, Any]
    job: dict[str, Any]
    told: list[dict[str, Any]]
    """The job's states on the way, as its events told them."""


class Person:
    """Someone signed in at Supabase, talking to the functions over HTTP."""

    def __init__(self, environment: Mapping[str, str], name: str) -> None:
        answer = httpx.post(
            f"{environment['SUPABASE_URL']}/auth/v1/token",
            params={"grant_type": "password"},
            headers={"apikey": environment["SUPABASE_PUBLISHABLE_KEY"]},
            json={
                "email": environment[f"DEMO_{name.upper()}_EMAIL"],
                "password": environment[f"DEMO_{name.upper()}_PASSWORD"],
            },
        )
        answer.raise_for_status()
        self._http = httpx.Client(
            base_url=environment["AGENTKIT_URL"],
            headers={"Authorization": f"Bearer {answer.json()['access_token']}"},
            timeout=120,
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def documents(self) -> list[dict[str, Any]]:
        """Return the newest documents this person may see."""
        return list(self._call("GET", "/v1/documents", params={"limit": 100})["items"])

    def forget(self, document_id: str) -> None:
        """Delete a document, its passages and its file."""
        self._http.delete(f"/v1/documents/{document_id}").raise_for_status()

    def sees(self, document_id: str) -> bool:
        """Say whether this person can read that document."""
        return self._http.get(f"/v1/documents/{document_id}").is_success

    def upload(self, file: Path, title: str, watch: Watch) -> Ingestion:
        """Upload a file the way a browser does, have it ingested, and return once the document is ready.

        `watch` gets the job's state at each event, and may raise. Raises RuntimeError with the job's own error when
        the file cannot be read, and when it takes too long.
        """
        content = file.read_bytes()
        new = {
            "filename": file.name,
            "media_type": MEDIA_TYPES[file.suffix],
            "size_bytes": len(content),
            "title": title,
        }
        created = self._call("POST", "/v1/documents", json=new)
        return self._ingest(created["id"], file.name, content, created["upload"], watch)

    def upload_again(self, document_id: str, file: Path, watch: Watch) -> Ingestion:
        """Put a file in the place of the document's; otherwise as `upload`."""
        content = file.read_bytes()
        upload = self._call("POST", f"/v1/documents/{document_id}/upload", json={"size_bytes": len(content)})
        return self._ingest(document_id, file.name, content, upload, watch)

    def _ingest(
        self, document_id: str, filename: str, content: bytes, upload: Mapping[str, Any], watch: Watch
    ) -> Ingestion:
        httpx.request(upload["method"], upload["url"], headers=upload["headers"], content=content).raise_for_status()
        job_id = self._call("POST", f"/v1/documents/{document_id}/ingest")["job_id"]
        deadline = time.monotonic() + INGEST_SECONDS

        def watch_the_clock(state: dict[str, Any]) -> None:
            watch(state)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{filename} was not ready within {INGEST_SECONDS:g} s.")

        followed = follow(self._http, job_id, filename, watch_the_clock)
        return Ingestion(self._call("GET", f"/v1/documents/{document_id}"), followed.job, followed.told)

    def search(self, text: str) -> list[dict[str, Any]]:
        """Return the passages of this person's documents that fit best."""
        return list(self._call("POST", "/v1/search", json={"text": text, "limit": 5})["passages"])

    def ask(self, question: str, on_text: Callable[[str], None]) -> Answer:
        """Ask in a new conversation, as `useChat` does; `on_text` gets each piece of the answer as it comes."""
        answer = Answer(request_id=uuid.uuid4().hex)
        message = {"id": uuid.uuid4().hex, "role": "user", "parts": [{"type": "text", "text": question}]}
        body = {"id": uuid.uuid4().hex, "messages": [message], "trigger": "submit-message"}
        began = time.perf_counter()
        headers = {"X-Request-Id": answer.request_id}
        with self._http.stream("POST", "/v1/chat", json=body, headers=headers) as response:
            if response.is_error:
                response.read()
                raise RuntimeError(f"chat answered {response.status_code}: {response.text}")
            for line in response.iter_lines():
                now = time.perf_counter() - began
                answer.first_byte = answer.first_byte or now
                if line == "data: [DONE]":
                    answer.ended = True
                elif line.startswith("data: "):
                    _take(answer, json.loads(line.removeprefix("data: ")), now, on_text)
        return answer

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401  # httpx's own options
        response = self._http.request(method, path, **options)
        if response.is_error:
            raise RuntimeError(f"{method} {path} answered {response.status_code}: {response.text}")
        return dict(response.json())


def _take(answer: Answer, chunk: dict[str, Any], now: float, on_text: Callable[[str], None]) -> None:
    """Add one chunk of the UI message stream to the answer."""
    match chunk["type"]:
        case "text-delta":
            answer.first_token = answer.first_token or now
            answer.last_token = now
            answer.text += chunk["delta"]
            answer.pieces += 1
            on_text(chunk["delta"])
        case "source-document":
            answer.sources.append(chunk)
        case "data-citation":
            answer.citations.append(chunk["data"])
        case "error":
            answer.errors.append(chunk["errorText"])
