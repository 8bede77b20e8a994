"""A web address becomes a document: fetched, kept, named by the page itself, and fetched again when asked again."""

import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agentkit import settings
from infra.local.aws import BUCKET
from infra.local.part import LOOPBACK
from tests.parts.beside import beside
from tests.parts.people import ADA

PAGE = b"<!doctype html><title>Opening hours</title><h1>Hours</h1><p>The harbour office opens at nine.</p>"


class Site(ThreadingHTTPServer):
    """Has one page; everything else is missing, its robots.txt too."""

    daemon_threads = True

    def __init__(self):
        super().__init__((LOOPBACK, 0), Answers)
        self.page = PAGE
        self.status = 200

    @property
    def url(self):
        return f"http://{LOOPBACK}:{self.server_port}/hours"


class Answers(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self):
        there = self.path == "/hours"
        self.send_response(self.server.status if there else 404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.server.page if there else b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    """A site on loopback, which this deployment allows."""
    monkeypatch.setenv("FETCH_ALLOWED_NETWORKS", f'["{LOOPBACK}/32"]')
    settings.forget()
    server = Site()
    with beside(server):
        yield server


@pytest.fixture
def name_address(rows, aws, embedding_model):
    """Leave a document of that address and its job, as `documents` does; returns both ids."""

    def put(url, *, title=None):
        document = uuid.uuid4()
        rows(
            "insert into agentkit.documents"
            " (id, owner, title, filename, media_type, size_bytes, status, object_key, source_url)"
            " values (%s, %s, %s, 'page', 'text/html', 0, 'queued', %s, %s)",
            [document, ADA.id, title or url[:300], f"{ADA.id}/{document}/page", url],
        )
        return document, ask_again(rows, document)

    return put


def ask_again(rows, document):
    job = uuid.uuid4()
    rows(
        "insert into agentkit.jobs (id, owner, kind, document_id) values (%s, %s, 'ingest', %s)",
        [job, ADA.id, document],
    )
    return job


def test_a_page_is_read_kept_and_named_by_itself(site, name_address, deliver, document, stored, aws):
    document_id, job = name_address(site.url)
    assert deliver(job) == 0
    row = document(document_id)
    assert (row["status"], row["title"], row["media_type"]) == ("ready", "Opening hours", "text/html")
    assert row["size_bytes"] == len(PAGE)
    assert [each["text"] for each in stored(document_id)] == ["Hours\n\nThe harbour office opens at nine."]
    assert stored(document_id)[0]["title"] == "Opening hours"
    kept = aws.s3.get_object(Bucket=BUCKET, Key=row["object_key"])
    assert kept["Body"].read() == PAGE


def test_a_page_keeps_the_name_that_its_owner_gave_it(site, name_address, deliver, document):
    document_id, job = name_address(site.url, title="When the office opens")
    deliver(job)
    assert document(document_id)["title"] == "When the office opens"


def test_a_page_of_a_long_address_is_named_by_itself_too(site, name_address, deliver, document):
    document_id, job = name_address(f"{site.url}#{'a' * 400}")
    deliver(job)
    assert document(document_id)["title"] == "Opening hours"


def test_the_longest_address_that_documents_take_is_fetched(site, name_address, deliver, document):
    document_id, job = name_address(f"{site.url}#{'a' * (2_048 - len(site.url) - 1)}")
    deliver(job)
    assert document(document_id)["status"] == "ready"


def test_a_page_is_fetched_again_when_it_is_asked_for_again(site, name_address, deliver, document, stored, rows):
    document_id, job = name_address(site.url)
    deliver(job)
    site.page = PAGE.replace(b"nine", b"ten")
    assert deliver(ask_again(rows, document_id)) == 0
    assert [each["text"] for each in stored(document_id)] == ["Hours\n\nThe harbour office opens at ten."]


def test_a_page_is_not_kept_that_is_more_than_its_owner_may_keep(
    site, name_address, upload, deliver, document, aws, monkeypatch
):
    upload(b"x" * 100)
    monkeypatch.setenv("USER_MAX_BYTES", str(99 + len(PAGE)))
    settings.forget()
    document_id, job = name_address(site.url)
    assert deliver(job) == 0
    row = document(document_id)
    assert (row["status"], row["error_code"], row["size_bytes"]) == ("failed", "quota_exceeded", 0)
    assert "Contents" not in aws.s3.list_objects_v2(Bucket=BUCKET, Prefix=row["object_key"])


def test_a_page_that_has_not_changed_is_still_of_the_kind_that_it_is(site, name_address, deliver, document, rows):
    site.page = b"# Hours\n\nThe harbour office opens at nine."
    document_id, job = name_address(site.url)
    deliver(job)
    deliver(ask_again(rows, document_id))
    assert (document(document_id)["status"], document(document_id)["media_type"]) == ("ready", "text/markdown")


def test_a_page_that_is_not_there_says_so_and_is_not_tried_again(site, name_address, deliver, document):
    site.status = 404
    document_id, job = name_address(site.url)
    assert deliver(job) == 0
    assert (document(document_id)["status"], document(document_id)["error_code"]) == ("failed", "url_refused")


def test_a_site_that_is_out_of_order_is_tried_again_later(site, name_address, deliver, document):
    site.status = 503
    document_id, job = name_address(site.url)
    assert deliver(job) == 1
    site.status = 200
    assert deliver(job, receives=2) == 0
    assert document(document_id)["status"] == "ready"


def test_an_address_of_the_inside_is_refused(name_address, deliver, document, monkeypatch):
    monkeypatch.delenv("FETCH_ALLOWED_NETWORKS", raising=False)
    settings.forget()
    document_id, job = name_address("http://169.254.169.254/latest/meta-data/")
    assert deliver(job) == 0
    assert (document(document_id)["status"], document(document_id)["error_code"]) == ("failed", "url_forbidden")
