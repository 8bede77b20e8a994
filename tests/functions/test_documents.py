"""Documents are given, listed and taken away by their owner alone, and read by whom they are for."""

import asyncio
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import jwt
import pytest
from fastapi.testclient import TestClient

from agentkit import auth, database, jobs, redis, storage
from agentkit.documents import NewDocument, added, adding
from agentkit.errors import Conflict
from agentkit.paging import cursor_after
from functions.documents import media
from functions.documents.app import app
from infra.local.part import free_port
from tests.parts.beside import beside
from tests.parts.people import ADA, ADMIN, BOB, caller, jwks, token
from tests.parts.redis import raw

LEASE = {"filename": "Lease (final).pdf", "media_type": "application/pdf", "size_bytes": 5}
CONTENT = b"%PDF-"


class Supabase(ThreadingHTTPServer):
    """Says whether a session exists: all do but those in `ended`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), SessionHandler)
        self.ended: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"


class SessionHandler(BaseHTTPRequestHandler):
    server: Supabase

    def do_GET(self):
        claims = jwt.decode(self.headers["Authorization"].split()[1], options={"verify_signature": False})
        self.send_response(403 if claims["session_id"] in self.server.ended else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def supabase():
    server = Supabase()
    with beside(server):
        yield server


@pytest.fixture
def client(postgres, aws, redis_server, supabase, monkeypatch):
    """The function as Lambda would run it: one event loop, its connections kept between requests."""
    for name, value in redis_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RATE_LIMIT_SCALE", "1000")
    monkeypatch.setenv("SUPABASE_URL", supabase.url)
    monkeypatch.setenv("SUPABASE_JWKS", jwks())
    raw(redis_server).flushall()
    auth._sessions.clear()
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
        assert client.portal is not None
        client.portal.call(database.close)
        client.portal.call(redis.close)


@pytest.fixture
def ask(client, supabase):
    """Make a request as a person: `ask(ADA, "POST", "/v1/documents", json=…)`."""

    def request(person, method, path, *, headers=None, **options):
        bearer = token(person, iss=f"{supabase.url}/auth/v1")
        return client.request(method, path, headers={"Authorization": f"Bearer {bearer}", **(headers or {})}, **options)

    return request


@pytest.fixture
def messages(aws):
    """The messages in the queue, parsed."""

    def receive():
        answer = aws.sqs.receive_message(
            QueueUrl=aws.environment["JOBS_QUEUE_URL"], MaxNumberOfMessages=10, VisibilityTimeout=0
        )
        return [json.loads(message["Body"]) for message in answer.get("Messages", [])]

    return receive


@pytest.fixture
def uploaded(ask):
    """A document of that person's whose file is there; returns its id."""

    def make(person=ADA, **changes):
        created = ask(person, "POST", "/v1/documents", json={**LEASE, **changes}).json()
        upload = created["upload"]
        httpx.request(upload["method"], upload["url"], headers=upload["headers"], content=CONTENT).raise_for_status()
        return created["id"]

    return make


def problem(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


# Giving a file


def test_a_new_document_waits_for_its_file_and_says_how_to_upload_it(ask, aws):
    before = datetime.now(UTC)
    answer = ask(ADA, "POST", "/v1/documents", json=LEASE)
    assert answer.status_code == 201
    created = answer.json()
    assert created["status"] == "awaiting_upload"
    assert created["upload"]["method"] == "PUT"
    assert created["upload"]["headers"] == {"Content-Type": "application/pdf"}
    lifetime = datetime.fromisoformat(created["upload"]["expires_at"]) - before
    assert timedelta(minutes=15) <= lifetime < timedelta(minutes=16)
    document = ask(ADA, "GET", f"/v1/documents/{created['id']}").json()
    assert document | {"id": 0, "created_at": 0, "updated_at": 0} == {
        "id": 0,
        "title": "Lease (final)",
        "filename": "Lease (final).pdf",
        "media_type": "application/pdf",
        "size_bytes": 5,
        "source_url": None,
        "audience": "owner",
        "status": "awaiting_upload",
        "pages": None,
        "passages": None,
        "error": None,
        "created_at": 0,
        "updated_at": 0,
    }


def test_an_uploaded_file_is_queued_for_the_worker(ask, uploaded, messages):
    document_id = uploaded()
    answer = ask(ADA, "POST", f"/v1/documents/{document_id}/ingest", headers={"X-Request-Id": "from-the-browser"})
    assert answer.status_code == 202
    (message,) = messages()
    assert message == {
        "version": 1,
        "job_id": answer.json()["job_id"],
        "kind": "ingest",
        "request_id": "from-the-browser",
    }
    assert ask(ADA, "GET", f"/v1/documents/{document_id}").json()["status"] == "queued"


def test_a_text_is_stored_and_queued_at_once(ask, messages, rows):
    # 10 letters, one of them two bytes.
    answer = ask(ADA, "POST", "/v1/documents/text", json={"title": "Notes", "text": "# Tür\n\nZu."})
    assert answer.status_code == 202
    accepted = answer.json()
    assert [message["job_id"] for message in messages()] == [accepted["job_id"]]
    document = ask(ADA, "GET", f"/v1/documents/{accepted['id']}").json()
    assert (document["status"], document["media_type"], document["size_bytes"]) == ("queued", "text/markdown", 10 + 1)
    (row,) = rows("select object_key from agentkit.documents")
    assert row["object_key"].startswith(f"{ADA.id}/{accepted['id']}/")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"media_type": "image/png"}, (415, "unsupported_media_type"), id="an image"),
        pytest.param({"filename": "a.png", "media_type": ""}, (415, "unsupported_media_type"), id="an image's ending"),
        pytest.param({"filename": "a", "media_type": ""}, (415, "unsupported_media_type"), id="nothing to go by"),
        pytest.param({"size_bytes": 50_000_001}, (413, "content_too_large"), id="too large"),
        pytest.param({"size_bytes": 10**30}, (413, "content_too_large"), id="more than Postgres can count"),
        pytest.param({"size_bytes": 0}, (422, "invalid"), id="empty"),
        pytest.param({"size_bytes": -1}, (422, "invalid"), id="less than empty"),
        pytest.param({"filename": ""}, (422, "invalid"), id="no filename"),
        pytest.param({"filename": "   "}, (422, "invalid"), id="a blank filename"),
        pytest.param({"filename": "a\0b.pdf"}, (422, "invalid"), id="NUL"),
        pytest.param({"filename": "\ud800.pdf"}, (422, "invalid"), id="half a surrogate pair"),
        pytest.param({"title": "x" * 301}, (422, "invalid"), id="a title too long"),
        pytest.param({"audience": "nobody"}, (422, "invalid"), id="another audience"),
        pytest.param({"owner": str(BOB.id)}, (422, "invalid"), id="an unknown member"),
    ],
)
def test_what_cannot_be_a_document_is_refused(ask, rows, changes, expected):
    body = json.dumps({**LEASE, **changes})
    answer = ask(ADA, "POST", "/v1/documents", content=body, headers={"Content-Type": "application/json"})
    assert problem(answer) == expected
    assert rows("select * from agentkit.documents") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", (422, "invalid"), id="empty"),
        pytest.param(" \n\t ", (422, "invalid"), id="blank"),
        pytest.param("a\0b", (422, "invalid"), id="NUL"),
        pytest.param("ü" * 2_000_001, (413, "content_too_large"), id="4,000,002 bytes"),
    ],
)
def test_what_is_no_text_is_refused(ask, rows, text, expected):
    answer = ask(ADA, "POST", "/v1/documents/text", json={"title": "Notes", "text": text})
    assert problem(answer) == expected
    assert rows("select * from agentkit.documents") == []


@pytest.mark.parametrize("media_type", ["text/html; charset=utf-8", "TEXT/HTML"])
def test_a_media_type_is_known_in_any_spelling(ask, media_type):
    answer = ask(ADA, "POST", "/v1/documents", json={**LEASE, "media_type": media_type})
    assert answer.json()["upload"]["headers"] == {"Content-Type": "text/html"}


@pytest.mark.parametrize(
    ("filename", "announced", "expected"),
    [
        # What browsers and systems are known to say.
        ("notes.md", "", "text/markdown"),
        ("notes.md", "text/x-markdown", "text/markdown"),
        ("notes.MD", "application/octet-stream", "text/markdown"),
        ("notes", "text/x-markdown", "text/markdown"),
        ("plan.docx", "application/x-zip-compressed", media.ENDINGS[".docx"]),
        ("plan.pptx", "application/zip", media.ENDINGS[".pptx"]),
        ("prices.csv", "application/vnd.ms-excel", "text/csv"),
        ("prices.xlsx", "application/vnd.ms-excel", media.ENDINGS[".xlsx"]),
        ("book.epub", "application/octet-stream", "application/epub+zip"),
        ("letter.eml", "", "message/rfc822"),
        ("lines.jsonl", "text/plain", "text/plain"),
        ("page.xhtml", "application/xhtml+xml", "text/html"),
        ("server.log", "text/x-log", "text/plain"),
    ],
)
def test_where_the_media_type_says_nothing_the_ending_decides(ask, filename, announced, expected):
    body = {"filename": filename, "media_type": announced, "size_bytes": 5}
    answer = ask(ADA, "POST", "/v1/documents", json=body)
    assert answer.json()["upload"]["headers"] == {"Content-Type": expected}


def test_the_media_type_may_be_left_out(ask):
    answer = ask(ADA, "POST", "/v1/documents", json={"filename": "lease.pdf", "size_bytes": 5})
    assert answer.json()["upload"]["headers"] == {"Content-Type": "application/pdf"}


@pytest.mark.parametrize("filename", ["../../etc/passwd", "..", "a/b\\c.pdf", "مستند.pdf", "x" * 255, "%00?&#.pdf"])
def test_no_filename_leads_out_of_its_owners_folder(ask, rows, filename):
    created = ask(ADA, "POST", "/v1/documents", json={**LEASE, "filename": filename}).json()
    (row,) = rows("select object_key, filename from agentkit.documents")
    owner, document, name = row["object_key"].split("/")
    assert (owner, document, row["filename"]) == (str(ADA.id), created["id"], filename)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert 0 < len(name) <= 100
    assert set(name) != {"."}


# A web address

PAGE = {"url": "https://example.com/handbook?page=2"}


def test_a_web_address_is_queued_for_the_worker(ask, messages):
    answer = ask(ADA, "POST", "/v1/documents/url", json=PAGE)
    assert answer.status_code == 202
    accepted = answer.json()
    assert [message["job_id"] for message in messages()] == [accepted["job_id"]]
    document = ask(ADA, "GET", f"/v1/documents/{accepted['id']}").json()
    assert (document["source_url"], document["title"]) == (PAGE["url"], PAGE["url"])
    assert (document["status"], document["size_bytes"]) == ("queued", 0)


def test_a_web_address_may_be_given_a_title(ask):
    accepted = ask(ADA, "POST", "/v1/documents/url", json={**PAGE, "title": "Handbook"}).json()
    assert ask(ADA, "GET", f"/v1/documents/{accepted['id']}").json()["title"] == "Handbook"


def test_the_longest_address_has_a_title_of_its_beginning(ask):
    # 2,048 characters: 20 and the rest.
    url = "https://example.com/" + "x" * 2_028
    accepted = ask(ADA, "POST", "/v1/documents/url", json={"url": url}).json()
    document = ask(ADA, "GET", f"/v1/documents/{accepted['id']}").json()
    assert (document["source_url"], document["title"]) == (url, url[:300])


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "//example.com", "https://", "https:///page", "https://:443/", "http://[::1"),
        *("ftp://example.com", "file:///etc/passwd", "javascript:alert(1)", "https://example.com:99999"),
        *("https://ada@example.com", "https://ada:secret@example.com", "https://:@example.com"),
        *("https://example.com/a b", "https://example.com\n.evil.test", " https://example.com", "https://a\0b"),
        "https://example.com/" + "x" * 2_029,
    ],
)
def test_what_is_no_web_address_is_refused(ask, rows, url):
    answer = ask(ADA, "POST", "/v1/documents/url", json={"url": url})
    assert problem(answer) == (422, "invalid")
    assert answer.json()["errors"][0]["pointer"] == "/url"
    assert rows("select * from agentkit.documents") == []


def test_a_web_address_is_fetched_again_without_an_upload(ask, rows, messages):
    accepted = ask(ADA, "POST", "/v1/documents/url", json=PAGE).json()
    rows("update agentkit.jobs set status = 'ready'")
    rows("update agentkit.documents set status = 'ready'")
    again = ask(ADA, "POST", f"/v1/documents/{accepted['id']}/ingest")
    assert again.status_code == 202
    assert {message["job_id"] for message in messages()} == {accepted["job_id"], again.json()["job_id"]}


def test_a_repeated_key_makes_one_document_of_a_web_address_whatever_was_found_there(ask, rows):
    request = {"json": PAGE, "headers": {"Idempotency-Key": "once"}}
    first = ask(ADA, "POST", "/v1/documents/url", **request).json()
    rows("update agentkit.documents set title = 'Handbook', filename = 'h.pdf', size_bytes = 9, status = 'ready'")
    rows("update agentkit.jobs set status = 'ready'")
    assert ask(ADA, "POST", "/v1/documents/url", **request).json() == first
    other = ask(ADA, "POST", "/v1/documents/url", json={"url": "https://example.com/"}, headers=request["headers"])
    assert problem(other) == (422, "idempotency_key_reused")
    assert len(rows("select * from agentkit.documents")) == 1


# A newer file


def test_a_newer_file_takes_the_place_of_the_first(ask, uploaded, rows, kept, messages):
    document_id = uploaded()
    rows("update agentkit.documents set status = 'ready', passages = 3")
    upload = ask(ADA, "POST", f"/v1/documents/{document_id}/upload", json={"size_bytes": 7})
    assert upload.status_code == 200
    assert upload.json()["headers"] == {"Content-Type": "application/pdf"}
    # What is found stays that of the first, until the newer one has been read.
    assert ask(ADA, "GET", f"/v1/documents/{document_id}").json()["status"] == "ready"
    httpx.put(upload.json()["url"], headers=upload.json()["headers"], content=b"%PDF-2.").raise_for_status()
    assert list(kept().values()) == [b"%PDF-2."]
    assert ask(ADA, "POST", f"/v1/documents/{document_id}/ingest").status_code == 202
    assert len(messages()) == 1


def test_before_the_newer_file_has_come_there_is_nothing_to_read(ask, uploaded, messages):
    document_id = uploaded()
    ask(ADA, "POST", f"/v1/documents/{document_id}/upload", json={"size_bytes": 7})
    assert problem(ask(ADA, "POST", f"/v1/documents/{document_id}/ingest")) == (409, "upload_size_mismatch")
    assert messages() == []


def test_a_newer_file_may_be_of_another_kind(ask, uploaded):
    new = {"size_bytes": 7, "media_type": "text/x-markdown"}
    upload = ask(ADA, "POST", f"/v1/documents/{uploaded()}/upload", json=new).json()
    assert upload["headers"] == {"Content-Type": "text/markdown"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size_bytes": 0}, (422, "invalid")),
        ({"size_bytes": 50_000_001}, (413, "content_too_large")),
        ({"media_type": "image/png"}, (415, "unsupported_media_type")),
    ],
)
def test_a_newer_file_that_we_would_not_take_is_refused(ask, uploaded, rows, changes, expected):
    document_id = uploaded()
    before = rows("select * from agentkit.documents")
    answer = ask(ADA, "POST", f"/v1/documents/{document_id}/upload", json={"size_bytes": 7, **changes})
    assert problem(answer) == expected
    assert rows("select * from agentkit.documents") == before


def test_what_is_fetched_from_the_web_takes_no_file(ask):
    accepted = ask(ADA, "POST", "/v1/documents/url", json=PAGE).json()
    answer = ask(ADA, "POST", f"/v1/documents/{accepted['id']}/upload", json={"size_bytes": 7})
    assert problem(answer) == (409, "fetched_from_the_web")


# Having it read


def test_a_file_that_was_not_uploaded_cannot_be_ingested(ask, messages):
    created = ask(ADA, "POST", "/v1/documents", json=LEASE).json()
    answer = ask(ADA, "POST", f"/v1/documents/{created['id']}/ingest")
    assert problem(answer) == (409, "upload_missing")
    assert messages() == []


def test_a_file_of_another_size_than_promised_cannot_be_ingested(ask, uploaded, messages):
    document_id = uploaded(size_bytes=6)
    answer = ask(ADA, "POST", f"/v1/documents/{document_id}/ingest")
    assert problem(answer) == (409, "upload_size_mismatch")
    assert messages() == []


def test_a_queue_out_of_reach_leaves_no_job_that_waits_for_ever(ask, uploaded, rows, monkeypatch):
    document_id = uploaded()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free_port()}")
    answer = ask(ADA, "POST", f"/v1/documents/{document_id}/ingest")
    assert problem(answer) == (503, "queue_unavailable")
    assert answer.headers["retry-after"]
    (job,) = rows("select * from agentkit.jobs")
    assert (job["status"], job["error_code"]) == ("failed", "queue_unavailable")
    document = ask(ADA, "GET", f"/v1/documents/{document_id}").json()
    assert (document["status"], document["error"]["code"]) == ("failed", "queue_unavailable")


def test_after_the_queue_is_back_the_document_can_be_ingested(ask, uploaded, rows, messages, monkeypatch):
    document_id = uploaded()
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free_port()}")
        ask(ADA, "POST", f"/v1/documents/{document_id}/ingest")
    jobs.close()
    answer = ask(ADA, "POST", f"/v1/documents/{document_id}/ingest")
    assert [message["job_id"] for message in messages()] == [answer.json()["job_id"]]
    document = ask(ADA, "GET", f"/v1/documents/{document_id}").json()
    assert (document["status"], document["error"]) == ("queued", None)


# Asking twice


def test_asking_twice_for_an_ingestion_finds_the_same_job(ask, uploaded, rows):
    document_id = uploaded()
    first, second = (ask(ADA, "POST", f"/v1/documents/{document_id}/ingest").json() for _ in range(2))
    assert first == second
    assert len(rows("select * from agentkit.jobs")) == 1


def test_a_finished_ingestion_can_be_asked_for_again(ask, uploaded, rows):
    document_id = uploaded()
    first = ask(ADA, "POST", f"/v1/documents/{document_id}/ingest").json()
    rows("update agentkit.jobs set status = 'ready'")
    rows("update agentkit.documents set status = 'ready'")
    assert ask(ADA, "POST", f"/v1/documents/{document_id}/ingest").json() != first


def test_a_key_finds_its_job_even_when_that_is_over(ask, uploaded, rows, messages):
    document_id = uploaded()
    key = {"Idempotency-Key": "once"}
    first = ask(ADA, "POST", f"/v1/documents/{document_id}/ingest", headers=key).json()
    rows("update agentkit.jobs set status = 'ready'")
    rows("update agentkit.documents set status = 'ready'")
    assert ask(ADA, "POST", f"/v1/documents/{document_id}/ingest", headers=key).json() == first
    assert ask(ADA, "GET", f"/v1/documents/{document_id}").json()["status"] == "ready"
    assert len(messages()) == 1


def test_a_key_cannot_be_used_for_another_ingestion(ask, uploaded):
    key = {"Idempotency-Key": "once"}
    ask(ADA, "POST", f"/v1/documents/{uploaded()}/ingest", headers=key)
    answer = ask(ADA, "POST", f"/v1/documents/{uploaded()}/ingest", headers=key)
    assert problem(answer) == (422, "idempotency_key_reused")


def test_a_repeated_key_makes_one_document(ask, rows):
    key = {"Idempotency-Key": "once"}
    first, second = (ask(ADA, "POST", "/v1/documents", json=LEASE, headers=key) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] == second.json()["id"]
    assert len(rows("select * from agentkit.documents")) == 1


def test_a_key_cannot_be_used_for_another_document(ask):
    key = {"Idempotency-Key": "once"}
    ask(ADA, "POST", "/v1/documents", json=LEASE, headers=key)
    answer = ask(ADA, "POST", "/v1/documents", json={**LEASE, "size_bytes": 6}, headers=key)
    assert problem(answer) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("key", ["", "a b", "a\tb", "clé".encode(), "x" * 129])
def test_a_key_that_is_not_visible_ascii_is_refused(ask, rows, key):
    answer = ask(ADA, "POST", "/v1/documents", json=LEASE, headers={"Idempotency-Key": key})
    assert problem(answer) == (422, "invalid")
    assert rows("select * from agentkit.documents") == []


def test_two_people_may_use_the_same_key(ask):
    key = {"Idempotency-Key": "once"}
    ids = {ask(person, "POST", "/v1/documents", json=LEASE, headers=key).json()["id"] for person in (ADA, BOB)}
    assert len(ids) == 2


def test_a_repeated_key_makes_one_document_of_a_text(ask, rows, messages):
    key = {"Idempotency-Key": "once"}
    body = {"title": "Notes", "text": "The door is blue."}
    first, second = (ask(ADA, "POST", "/v1/documents/text", json=body, headers=key).json() for _ in range(2))
    assert first == second
    assert len(rows("select * from agentkit.documents")) == 1
    assert {message["job_id"] for message in messages()} == {first["job_id"]}


@pytest.fixture
def kept(aws):
    """What each file in the bucket holds, by its key."""

    def ask():
        bucket = aws.environment["STORAGE_BUCKET"]
        found = aws.s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {each["Key"]: aws.s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in found}

    return ask


@pytest.mark.parametrize("changes", [{"text": "The door is red."}, {"title": "Notes on the door"}])
def test_anything_else_under_the_same_key_is_refused_and_the_first_text_stays(ask, rows, kept, changes):
    key = {"Idempotency-Key": "once"}
    first = {"title": "Notes", "text": "The door is blue."}
    ask(ADA, "POST", "/v1/documents/text", json=first, headers=key)
    answer = ask(ADA, "POST", "/v1/documents/text", json={**first, **changes}, headers=key)
    assert problem(answer) == (422, "idempotency_key_reused")
    (row,) = rows("select object_key from agentkit.documents")
    assert kept() == {row["object_key"]: b"The door is blue."}


def test_a_repeated_text_that_cannot_be_recorded_just_now_keeps_its_file(ask, rows, kept, postgres):
    request = {"json": {"title": "Notes", "text": "The door is blue."}, "headers": {"Idempotency-Key": "once"}}
    ask(ADA, "POST", "/v1/documents/text", **request)
    postgres.stop()
    try:
        answer = ask(ADA, "POST", "/v1/documents/text", **request)
    finally:
        postgres.resume()
    assert problem(answer) == (503, "database_unavailable")
    (row,) = rows("select object_key from agentkit.documents")
    assert kept() == {row["object_key"]: b"The door is blue."}


# Who may do what


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/documents/{}"),
        ("POST", "/v1/documents/{}/ingest"),
        ("POST", "/v1/documents/{}/upload"),
        ("DELETE", "/v1/documents/{}"),
    ],
)
def test_anothers_document_is_not_found(ask, uploaded, rows, method, path):
    document_id = uploaded(ADA)
    body = {"size_bytes": 7} if path.endswith("upload") else None
    assert problem(ask(BOB, method, path.format(document_id), json=body)) == (404, "not_found")
    assert problem(ask(ADMIN, method, path.format(document_id), json=body)) == (404, "not_found")
    assert len(rows("select * from agentkit.documents")) == 1


def test_a_list_holds_nothing_of_anothers(ask, uploaded):
    uploaded(ADA)
    assert ask(BOB, "GET", "/v1/documents").json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/documents", LEASE),
        ("/v1/documents/text", {"title": "Notes", "text": "For all."}),
        ("/v1/documents/url", PAGE),
    ],
)
def test_only_an_admin_gives_documents_to_everyone(ask, rows, path, body):
    assert problem(ask(ADA, "POST", path, json={**body, "audience": "everyone"})) == (403, "forbidden")
    assert rows("select * from agentkit.documents") == []
    assert ask(ADMIN, "POST", path, json={**body, "audience": "everyone"}).is_success


def test_a_document_for_everyone_is_read_by_all_and_changed_by_its_owner_alone(ask, uploaded):
    document_id = uploaded(ADMIN, audience="everyone")
    assert ask(BOB, "GET", f"/v1/documents/{document_id}").json()["audience"] == "everyone"
    assert [item["id"] for item in ask(BOB, "GET", "/v1/documents").json()["items"]] == [document_id]
    assert problem(ask(BOB, "DELETE", f"/v1/documents/{document_id}")) == (404, "not_found")
    assert problem(ask(BOB, "POST", f"/v1/documents/{document_id}/ingest")) == (404, "not_found")


def test_who_is_no_longer_an_admin_has_nothing_read_to_everyone(ask, uploaded, rows, messages):
    document_id = uploaded(ADA)
    rows("update agentkit.documents set audience = 'everyone'")
    assert problem(ask(ADA, "POST", f"/v1/documents/{document_id}/ingest")) == (403, "forbidden")
    assert rows("select * from agentkit.jobs") == []
    assert messages() == []


def test_who_is_no_longer_an_admin_replaces_nothing_that_everyone_reads(ask, uploaded, rows):
    document_id = uploaded(ADA)
    rows("update agentkit.documents set audience = 'everyone'")
    answer = ask(ADA, "POST", f"/v1/documents/{document_id}/upload", json={"size_bytes": 7})
    assert problem(answer) == (403, "forbidden")


def test_an_admin_whose_session_has_ended_gives_nothing_to_everyone(ask, supabase):
    supabase.ended.add("5a30b3f6-0c9b-4f9e-9a5e-3f1d3c8e2b11")
    answer = ask(ADMIN, "POST", "/v1/documents", json={**LEASE, "audience": "everyone"})
    assert problem(answer) == (401, "token_invalid")


def test_nobody_is_served_without_signing_in(client):
    assert problem(client.get("/v1/documents")) == (401, "token_missing")


# Lists


def test_documents_are_listed_newest_first_in_pages(ask, rows):
    made = [ask(ADA, "POST", "/v1/documents", json=LEASE).json()["id"] for _ in range(5)]
    # Two at the same moment: the id decides, and neither is lost between pages.
    rows("update agentkit.documents set created_at = '2026-01-01' where id = any(%s::uuid[])", [made[:2]])
    seen, cursor, sizes = [], None, []
    while True:
        page = ask(ADA, "GET", "/v1/documents", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["id"] for item in page["items"]]
        sizes.append(len(page["items"]))
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sizes == [2, 2, 1]
    assert seen == [*made[:1:-1], *sorted(made[:2], reverse=True)]


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "garbage", "AAAA", "===", "%00", "\0"),
        cursor_after(datetime(2026, 1, 1, tzinfo=UTC), "nobody"),
        cursor_after(datetime(2026, 1, 1), uuid.UUID(int=1)),  # noqa: DTZ001  # a time of nowhere
    ],
)
def test_a_cursor_that_is_not_ours_is_refused(ask, cursor):
    assert problem(ask(ADA, "GET", "/v1/documents", params={"cursor": cursor})) == (400, "cursor_invalid")


@pytest.mark.parametrize("wanted", [0, 101, "many"])
def test_a_page_has_1_to_100_documents(ask, wanted):
    assert problem(ask(ADA, "GET", "/v1/documents", params={"limit": wanted})) == (422, "invalid")


# Taking it away


def passage(rows, document_id, owner=ADA):
    metadata = {"owner": str(owner.id), "document_id": str(document_id), "text": "The lease ends."}
    rows(
        "insert into vecs.passages (id, vec, metadata) values (%s, %s, %s)",
        [f"{document_id}:00000", str([1.0] + [0.0] * 383), json.dumps(metadata)],
        database="VECTOR_",
    )


def test_deleting_removes_row_passages_and_file(ask, uploaded, rows, aws):
    document_id, other = uploaded(), uploaded()
    passage(rows, document_id)
    passage(rows, other)
    assert ask(ADA, "DELETE", f"/v1/documents/{document_id}").status_code == 204
    assert [str(row["id"]) for row in rows("select id from agentkit.documents")] == [other]
    left = rows("select document_id from vecs.passages", database="VECTOR_")
    assert [str(row["document_id"]) for row in left] == [other]
    (kept,) = aws.s3.list_objects_v2(Bucket=aws.environment["STORAGE_BUCKET"])["Contents"]
    assert other in kept["Key"]
    assert problem(ask(ADA, "GET", f"/v1/documents/{document_id}")) == (404, "not_found")


@pytest.mark.parametrize("status", ["queued", "parsing", "embedding", "indexing"])
def test_deleting_ends_the_work_on_it(ask, uploaded, rows, status):
    document_id = uploaded()
    ask(ADA, "POST", f"/v1/documents/{document_id}/ingest")
    rows("update agentkit.jobs set status = %s, holder = gen_random_uuid()", [status])
    ask(ADA, "DELETE", f"/v1/documents/{document_id}")
    (job,) = rows("select * from agentkit.jobs")
    assert (job["status"], job["holder"]) == ("cancelled", None)
    assert job["finished_at"] is not None


def test_deleting_leaves_finished_work_and_that_on_others_as_it_is(ask, uploaded, rows):
    document_id, other = uploaded(), uploaded()
    for each in (document_id, other):
        ask(ADA, "POST", f"/v1/documents/{each}/ingest")
    rows("update agentkit.jobs set status = 'failed' where document_id = %s", [document_id])
    before = rows("select * from agentkit.jobs order by id")
    ask(ADA, "DELETE", f"/v1/documents/{document_id}")
    assert rows("select * from agentkit.jobs order by id") == before


def test_a_deletion_that_broke_off_leaves_nothing_to_find_and_can_be_repeated(ask, uploaded, rows, monkeypatch):
    document_id = uploaded()
    passage(rows, document_id)
    storage.close()
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        assert problem(ask(ADA, "DELETE", f"/v1/documents/{document_id}")) == (503, "storage_unavailable")
    assert rows("select * from vecs.passages", database="VECTOR_") == []
    storage.close()
    assert ask(ADA, "DELETE", f"/v1/documents/{document_id}").status_code == 204
    assert rows("select * from agentkit.documents") == []


def test_passages_that_a_worker_writes_during_the_deletion_go_too(ask, uploaded, rows, monkeypatch):
    document_id = uploaded()
    delete = storage.delete

    async def delete_while_a_worker_writes(key):
        passage(rows, document_id)
        await delete(key)

    monkeypatch.setattr(storage, "delete", delete_while_a_worker_writes)
    assert ask(ADA, "DELETE", f"/v1/documents/{document_id}").status_code == 204
    assert rows("select * from vecs.passages", database="VECTOR_") == []


def test_a_database_that_is_stopped_is_a_problem_and_no_500(ask, postgres):
    postgres.stop()
    try:
        answer = ask(ADA, "POST", "/v1/documents", json=LEASE)
    finally:
        postgres.resume()
    assert problem(answer) == (503, "database_unavailable")
    assert ask(ADA, "POST", "/v1/documents", json=LEASE).status_code == 201


def test_redis_out_of_reach_stops_nobody(ask, monkeypatch):
    monkeypatch.setenv("UPSTASH_REDIS_REST_URL", f"http://127.0.0.1:{free_port()}")
    assert ask(ADA, "GET", "/v1/documents").status_code == 200


def test_a_text_that_cannot_be_recorded_leaves_no_file(ask, postgres, kept):
    postgres.stop()
    try:
        answer = ask(ADA, "POST", "/v1/documents/text", json={"title": "Notes", "text": "The door is blue."})
    finally:
        postgres.resume()
    assert problem(answer) == (503, "database_unavailable")
    assert kept() == {}


def test_a_token_that_outlived_its_session_deletes_nothing(ask, uploaded, supabase, rows):
    document_id = uploaded()
    supabase.ended.add("5a30b3f6-0c9b-4f9e-9a5e-3f1d3c8e2b11")
    assert problem(ask(ADA, "DELETE", f"/v1/documents/{document_id}")) == (401, "token_invalid")
    assert len(rows("select * from agentkit.documents")) == 1


# Limits


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/documents", LEASE),
        ("/v1/documents/text", {"title": "Notes", "text": "12345"}),
        ("/v1/documents/url", PAGE),
    ],
)
def test_who_has_as_many_documents_as_one_may_keep_gets_no_other(ask, rows, kept, messages, monkeypatch, path, body):
    monkeypatch.setenv("USER_MAX_DOCUMENTS", "1")
    first = ask(ADA, "POST", "/v1/documents", json=LEASE).json()
    answer = ask(ADA, "POST", path, json=body, headers={"Idempotency-Key": "another"})
    assert problem(answer) == (409, "quota_exceeded")
    assert (answer.json()["limit"], answer.json()["most"]) == ("documents", 1)
    assert len(rows("select * from agentkit.documents")) == 1
    assert (kept(), messages()) == ({}, [])
    # Nobody else's documents count, and there is room again once one is gone.
    assert ask(BOB, "POST", path, json=body).is_success
    ask(ADA, "DELETE", f"/v1/documents/{first['id']}")
    assert ask(ADA, "POST", path, json=body).is_success


def test_who_has_as_many_bytes_as_one_may_keep_gets_no_more(ask, monkeypatch):
    # Two of 5 bytes fit into 10, and one byte more does not.
    monkeypatch.setenv("USER_MAX_BYTES", "10")
    for _ in range(2):
        assert ask(ADA, "POST", "/v1/documents", json=LEASE).status_code == 201
    answer = ask(ADA, "POST", "/v1/documents", json={**LEASE, "size_bytes": 1})
    assert problem(answer) == (409, "quota_exceeded")
    assert (answer.json()["limit"], answer.json()["most"]) == ("bytes", 10)


def test_a_newer_file_counts_instead_of_the_first(ask, uploaded, monkeypatch):
    monkeypatch.setenv("USER_MAX_BYTES", "10")
    document_id = uploaded()
    assert ask(ADA, "POST", f"/v1/documents/{document_id}/upload", json={"size_bytes": 10}).status_code == 200
    answer = ask(ADA, "POST", f"/v1/documents/{document_id}/upload", json={"size_bytes": 11})
    assert problem(answer) == (409, "quota_exceeded")
    assert ask(ADA, "GET", f"/v1/documents/{document_id}").json()["size_bytes"] == 10


def test_a_repeated_key_finds_its_document_also_where_there_is_no_room_for_another(ask, monkeypatch):
    monkeypatch.setenv("USER_MAX_DOCUMENTS", "1")
    request = {"json": LEASE, "headers": {"Idempotency-Key": "once"}}
    first, second = (ask(ADA, "POST", "/v1/documents", **request) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]


def test_many_at_once_pass_no_limit_together(postgres, monkeypatch, rows):
    monkeypatch.setenv("USER_MAX_DOCUMENTS", "3")

    def add(number):
        new = NewDocument(
            id=uuid.uuid4(),
            title="Lease",
            filename="lease.pdf",
            media_type="application/pdf",
            size_bytes=5,
            object_key=f"key-{number}",
        )

        async def one_request():
            try:
                added(await database.fetch_all(caller(ADA), adding(ADA.id, new)))
            except Conflict as conflict:
                return conflict.code
            finally:
                await database.close()

        return asyncio.run(one_request())

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(add, range(16)))
    assert (outcomes.count(None), outcomes.count("quota_exceeded")) == (3, 13)
    assert len(rows("select * from agentkit.documents")) == 3


def test_requests_are_counted(ask, monkeypatch):
    monkeypatch.setenv("RATE_LIMIT_SCALE", str(1 / 30))
    answers = [ask(BOB, "DELETE", f"/v1/documents/{uuid.uuid4()}") for _ in range(2)]
    assert [problem(answer) for answer in answers] == [(404, "not_found"), (429, "rate_limited")]
    assert int(answers[1].headers["retry-after"]) > 0
