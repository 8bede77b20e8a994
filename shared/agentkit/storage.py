"""The bucket of uploaded files, over the S3 protocol: AWS S3, Supabase Storage's S3 endpoint, moto locally.

    upload = await upload_url(key, media_type="application/pdf", size_bytes=48_211)     the browser PUTs to it
    content = await read(key, max_bytes=50_000_000)

boto3 is imported, and each blocking call made, in a thread: importing it and making a client costs more than a light
function's whole start.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from agentkit import telemetry
from agentkit.errors import ContentTooLarge, NotFound, Unavailable, UpstreamFailed
from agentkit.settings import StorageSettings, load

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

T = TypeVar("T")

UPLOAD_SECONDS = 900
DOWNLOAD_SECONDS = 300
CONNECT_SECONDS = 2
READ_SECONDS = 10
# S3 lists, and deletes, so many objects in one request.
LISTED_AT_ONCE = 1_000

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    """How a browser sends one file: this request, with exactly these headers and the file as its body."""

    url: str
    method: str
    headers: dict[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Stored:
    """What the bucket knows of an object."""

    size_bytes: int
    media_type: str
    etag: str
    """Another one means other bytes."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An object, as a listing of the bucket has it."""

    key: str
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class File:
    """An object that was read."""

    content: bytes
    etag: str


async def upload_url(key: str, *, media_type: str, size_bytes: int) -> Upload:
    """Return a request that stores one object of exactly that type and length, within 15 minutes.

    Both are signed headers, so S3 refuses any other (https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html).
    The length is not among `headers`: a browser sets it by itself and lets no script do so.
    """
    expires_at = datetime.now(UTC) + timedelta(seconds=UPLOAD_SECONDS)
    parameters = {
        "Bucket": load(StorageSettings).storage_bucket,
        "Key": key,
        "ContentType": media_type,
        "ContentLength": size_bytes,
    }
    url = await _in_thread(
        lambda: client().generate_presigned_url("put_object", Params=parameters, ExpiresIn=UPLOAD_SECONDS)
    )
    return Upload(url, "PUT", {"Content-Type": media_type}, expires_at)


async def download_url(key: str) -> str:
    """Return an address that anyone may GET the object from for five minutes."""
    parameters = {"Bucket": load(StorageSettings).storage_bucket, "Key": key}
    return await _in_thread(
        lambda: client().generate_presigned_url("get_object", Params=parameters, ExpiresIn=DOWNLOAD_SECONDS)
    )


async def head(key: str) -> Stored:
    """Return what the bucket knows of the object; raises NotFound (`object_missing`) when there is none."""
    bucket = load(StorageSettings).storage_bucket
    found = await _asked(lambda: client().head_object(Bucket=bucket, Key=key))
    return Stored(found["ContentLength"], found.get("ContentType", ""), _bare(found["ETag"]))


async def read(key: str, *, max_bytes: int) -> File:
    """Return the object; raises NotFound (`object_missing`), or ContentTooLarge before reading too many bytes."""
    bucket = load(StorageSettings).storage_bucket

    def get() -> File | None:
        answer = client().get_object(Bucket=bucket, Key=key)
        with answer["Body"] as body:
            return None if answer["ContentLength"] > max_bytes else File(body.read(), _bare(answer["ETag"]))

    file = await _asked(get)
    if file is None:
        raise ContentTooLarge(f"The file has more than {max_bytes:,} bytes.")
    return file


async def write(key: str, content: bytes, *, media_type: str) -> str:
    """Store the object, replacing one of the same key; return its ETag."""
    bucket = load(StorageSettings).storage_bucket
    stored = await _asked(lambda: client().put_object(Bucket=bucket, Key=key, Body=content, ContentType=media_type))
    return _bare(stored["ETag"])


async def delete(key: str) -> None:
    """The object is gone; it need not have been there."""
    bucket = load(StorageSettings).storage_bucket
    await _asked(lambda: client().delete_object(Bucket=bucket, Key=key))


async def listed(*, after: str, limit: int = LISTED_AT_ONCE) -> list[Listed]:
    """Return the objects whose keys come after that one, in the order of the keys' bytes; at most `limit`, or 1,000."""
    bucket = load(StorageSettings).storage_bucket
    page = await _asked(lambda: client().list_objects_v2(Bucket=bucket, StartAfter=after, MaxKeys=limit))
    return [Listed(each["Key"], each["LastModified"]) for each in page.get("Contents", ())]


async def delete_many(keys: Sequence[str]) -> None:
    """The objects, at most 1,000, are gone; they need not have been there.

    Raises UpstreamFailed (`storage_refused`) when the storage keeps one of them.
    """
    bucket = load(StorageSettings).storage_bucket
    objects: list[ObjectIdentifierTypeDef] = [{"Key": key} for key in keys]
    if not objects:
        return
    answer = await _asked(lambda: client().delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True}))
    if kept := answer.get("Errors"):
        log.error("storage.kept", objects=len(kept), codes=sorted({each.get("Code", "") for each in kept}))
        raise UpstreamFailed("The file storage refused our request.", code="storage_refused")


@cache
def client() -> "S3Client":
    """Return this process's client."""
    import boto3  # 475 ms of CPU that only the first use pays
    from botocore.config import Config

    settings = load(StorageSettings)
    endpoint = settings.storage_endpoint_url
    secret = settings.storage_secret_access_key
    key_id = settings.storage_access_key_id
    elsewhere = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        signature_version="s3v4",
        # A server that is not AWS has one name, not one for each bucket.
        s3={"addressing_style": "path" if elsewhere else "virtual"},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 2, "mode": "standard"},
        # Else boto3 adds checksums that S3-compatible servers refuse, and that a presigned URL would ask of a browser.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.storage_region,
        aws_access_key_id=key_id.get_secret_value() if key_id else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=config,
    )


def close() -> None:
    """Let go of the client: the next call reads the environment as it is then."""
    if client.cache_info().currsize:
        client().close()
    client.cache_clear()


def _bare(etag: str) -> str:
    """Return an ETag without its quotes, as the storage's notifications have it."""
    return etag.strip('"')


async def _asked(call: Callable[[], T]) -> T:
    """Make one request in a thread and translate its failures."""
    telemetry.count_round_trip("storage")
    return await _in_thread(call)


async def _in_thread(call: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(call)
    except Exception as error:
        translated = _translated(error)
        if translated is error:
            raise
        raise translated from error


def _translated(error: Exception) -> Exception:
    from botocore.exceptions import BotoCoreError, ClientError  # loaded by the call that failed

    if isinstance(error, BotoCoreError):
        return Unavailable("Files cannot be reached just now.", code="storage_unavailable")
    if not isinstance(error, ClientError):
        return error
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    code = error.response["Error"]["Code"]
    if code in {"NoSuchKey", "404"}:
        return NotFound("The file is not in the storage.", code="object_missing")
    if status >= 500 or code in {"SlowDown", "Throttling", "RequestTimeout"}:  # noqa: PLR2004
        return Unavailable("Files cannot be reached just now.", code="storage_unavailable")
    # Wrong credentials, bucket or policy: ours to mend, and never told to strangers.
    log.error("storage.refused", code=code, status=status, operation=error.operation_name)
    return UpstreamFailed("The file storage refused our request.", code="storage_refused")
