"""Files come and go by the S3 protocol; what is missing or out of reach is said clearly."""

import hashlib
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from agentkit import storage
from agentkit.errors import ContentTooLarge, NotFound, Unavailable, UpstreamFailed
from infra.local.part import free_port

pytestmark = pytest.mark.anyio

KEY = "owner/document/Süße Lease (final).pdf"


@pytest.fixture(autouse=True)
def fresh_client():
    storage.close()
    yield
    storage.close()


@pytest.fixture
def on_amazon(monkeypatch):
    """A function's environment in AWS; nothing is sent there."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("STORAGE_BUCKET", "documents")


async def test_what_a_browser_uploads_can_be_read(aws):
    upload = await storage.upload_url(KEY, media_type="application/pdf", size_bytes=5)
    async with httpx.AsyncClient() as browser:
        answer = await browser.request(upload.method, upload.url, headers=upload.headers, content=b"%PDF-")
    assert answer.status_code == 200
    etag = hashlib.md5(b"%PDF-").hexdigest()  # noqa: S324  # S3's own, of an object uploaded in one piece
    assert await storage.head(KEY) == storage.Stored(size_bytes=5, media_type="application/pdf", etag=etag)
    assert await storage.read(KEY, max_bytes=5) == storage.File(b"%PDF-", etag)


async def test_an_upload_is_bound_to_its_type_and_length_and_expires(on_amazon):
    before = datetime.now(UTC)
    upload = await storage.upload_url(KEY, media_type="application/pdf", size_bytes=5)
    query = parse_qs(urlsplit(upload.url).query)
    assert query["X-Amz-SignedHeaders"] == ["content-length;content-type;host"]
    assert query["X-Amz-Expires"] == ["900"]
    assert before + timedelta(seconds=900) <= upload.expires_at <= datetime.now(UTC) + timedelta(seconds=900)
    assert upload.headers == {"Content-Type": "application/pdf"}


async def test_an_upload_asks_a_browser_for_no_checksum(on_amazon):
    upload = await storage.upload_url(KEY, media_type="application/pdf", size_bytes=5)
    assert "checksum" not in upload.url.lower()


async def test_amazon_is_addressed_by_bucket_and_region(on_amazon):
    upload = await storage.upload_url("key", media_type="text/plain", size_bytes=1)
    assert urlsplit(upload.url).netloc == "documents.s3.eu-central-1.amazonaws.com"
    assert urlsplit(upload.url).path == "/key"


async def test_supabase_storage_has_its_own_address_and_credentials_beside_amazons(on_amazon, monkeypatch):
    monkeypatch.setenv("STORAGE_ENDPOINT_URL", "https://project.storage.supabase.co/storage/v1/s3")
    monkeypatch.setenv("STORAGE_REGION", "eu-west-1")
    monkeypatch.setenv("STORAGE_ACCESS_KEY_ID", "supabase-key")
    monkeypatch.setenv("STORAGE_SECRET_ACCESS_KEY", "supabase-secret")
    address = urlsplit(await storage.download_url("key"))
    assert (address.netloc, address.path) == ("project.storage.supabase.co", "/storage/v1/s3/documents/key")
    (credential,) = parse_qs(address.query)["X-Amz-Credential"]
    assert credential.startswith("supabase-key/")
    assert "/eu-west-1/s3/" in credential


async def test_anyone_with_the_address_can_download_for_a_while(aws):
    await storage.write(KEY, b"hello", media_type="text/plain")
    address = await storage.download_url(KEY)
    async with httpx.AsyncClient() as browser:
        assert (await browser.get(address)).content == b"hello"
    assert parse_qs(urlsplit(address).query)["X-Amz-Expires"] == ["300"]


async def test_a_missing_object_is_said_to_be_missing(aws):
    for call in (storage.head(KEY), storage.read(KEY, max_bytes=10)):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.code == "object_missing"


async def test_more_bytes_than_asked_for_are_not_read(aws):
    await storage.write(KEY, b"123456", media_type="text/plain")
    with pytest.raises(ContentTooLarge):
        await storage.read(KEY, max_bytes=5)


async def test_deleting_can_be_repeated(aws):
    await storage.write(KEY, b"hello", media_type="text/plain")
    await storage.delete(KEY)
    await storage.delete(KEY)
    with pytest.raises(NotFound):
        await storage.head(KEY)


async def test_a_storage_out_of_reach_is_unavailable(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable) as caught:
        await storage.head(KEY)
    assert caught.value.code == "storage_unavailable"


async def test_a_bucket_that_is_not_there_is_no_missing_file(aws, monkeypatch):
    monkeypatch.setenv("STORAGE_BUCKET", "no-such-bucket")
    with pytest.raises(UpstreamFailed) as caught:
        await storage.read(KEY, max_bytes=10)
    assert caught.value.code == "storage_refused"
    assert "no-such-bucket" not in caught.value.detail


async def test_objects_are_listed_in_the_order_of_their_keys_bytes_from_where_the_last_page_ended(aws):
    before = datetime.now(UTC) - timedelta(seconds=1)
    for key in ("b", "Z", "ä", "a/1", "a-1"):
        await storage.write(key, b"hello", media_type="text/plain")
    first = await storage.listed(after="", limit=2)
    rest = await storage.listed(after=first[-1].key, limit=10)
    assert [each.key for each in (*first, *rest)] == ["Z", "a-1", "a/1", "b", "ä"]
    assert all(before <= each.stored_at for each in first)
    assert await storage.listed(after="ä", limit=10) == []


async def test_many_objects_are_deleted_at_once_and_need_not_be_there(aws):
    for key in (KEY, "b", "c"):
        await storage.write(key, b"hello", media_type="text/plain")
    await storage.delete_many([KEY, "b", "not there"])
    assert [each.key for each in await storage.listed(after="", limit=10)] == ["c"]
    await storage.delete_many([])


async def test_an_object_that_the_storage_keeps_is_told_of(aws, monkeypatch, caplog):
    refused = {"Errors": [{"Key": "c", "Code": "AccessDenied", "Message": "no"}]}
    monkeypatch.setattr(storage.client(), "delete_objects", lambda **_: refused)
    with pytest.raises(UpstreamFailed) as caught:
        await storage.delete_many(["b", "c"])
    assert caught.value.code == "storage_refused"
    (told,) = [record.facts for record in caplog.records if record.message == "storage.kept"]
    assert told == {"objects": 1, "codes": ["AccessDenied"]}
