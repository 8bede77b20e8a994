"""Word from Supabase Storage that a file is there: a database webhook on `storage.objects`.

    POST /v1/documents/hooks/storage    StorageEvent -> Noted

What it says: https://supabase.com/docs/guides/database/webhooks#payload. It is signed as Standard Webhooks are
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md) or, as Supabase's
dashboard can send fixed headers only, brings the secret itself as a bearer token.

It is passed on to the worker: here nobody is signed in, and nobody's rows can be seen.
"""

import asyncio
import base64
import hmac
import json
import re
import time
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, status
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agentkit import jobs, telemetry
from agentkit.errors import NotFound, Unauthorized, Unavailable
from agentkit.http import Text
from agentkit.settings import QueueSettings, StorageSettings, WebhookSettings, load

# A signed request that is older is someone's who has overheard it.
TOLERANCE_SECONDS = 300
UNIX_SECONDS = re.compile(r"[0-9]{1,12}")

EXAMPLE: dict[str, Any] = {
    "type": "INSERT",
    "table": "objects",
    "schema": "storage",
    "record": {
        "id": "0b8f3c1e-6c1d-4a55-9a4e-0d8c7f0f8b11",
        "bucket_id": "documents",
        "name": "00000000-0000-4000-8000-00000000000a/lease.pdf",
        "owner_id": "00000000-0000-4000-8000-00000000000a",
        "updated_at": "2026-11-25T10:15:00.123Z",
        "metadata": {"size": 48211, "mimetype": "application/pdf", "eTag": '"c561896a1d6e0e2f"'},
    },
    "old_record": None,
}

log = telemetry.logger(__name__)
router = APIRouter()


def _text(value: object) -> str:
    """Return what is a text: pydantic would take a number for seconds since 1970."""
    if not isinstance(value, str):
        raise ValueError("must be a text")  # noqa: TRY004  # pydantic's own protocol
    return value


class ObjectMetadata(BaseModel):
    """What the storage knows of a file."""

    size: int | None = Field(None, ge=0, strict=True)
    etag: str | None = Field(None, alias="eTag")


class StoredObject(BaseModel):
    """A row of `storage.objects`."""

    bucket_id: str
    name: Text = Field(max_length=1_024, description="Its path in the bucket.")
    updated_at: Annotated[datetime, BeforeValidator(_text)] | None = None
    metadata: ObjectMetadata | None = None

    @property
    def etag(self) -> str | None:
        """Without its quotes, as the bucket's own protocol compares it."""
        return self.metadata.etag.strip('"') if self.metadata and self.metadata.etag else None


class StorageEvent(BaseModel):
    """A change of `storage.objects`."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    type: Literal["INSERT", "UPDATE", "DELETE"]
    table: Literal["objects"]
    schema_: Literal["storage"] = Field(alias="schema")
    record: StoredObject | None = Field(None, description="As it is now; null once it is deleted.")
    old_record: StoredObject | None = Field(None, description="As it was before; null when it is new.")

    @property
    def uploaded(self) -> StoredObject | None:
        """The file in our bucket that is new, or another than before; None for any other change."""
        now, before = self.record, self.old_record
        if now is None or now.bucket_id != load(StorageSettings).storage_bucket:
            return None
        same = before is not None and (now.name, now.etag) == (before.name, before.etag)
        return None if same else now


class Noted(BaseModel):
    """The change was understood."""

    forwarded: bool = Field(description="Whether it is of a file that may have to be read.")


Secret = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, scheme_name="WebhookSecret", description="`STORAGE_WEBHOOK_SECRET`.")),
]
Signature = Annotated[
    str | None,
    Depends(
        APIKeyHeader(
            name="webhook-signature",
            auto_error=False,
            scheme_name="WebhookSignature",
            description="Of Standard Webhooks, with `webhook-id` and `webhook-timestamp`.",
        )
    ),
]


async def sent_by_the_storage(request: Request, credentials: Secret, signature: Signature) -> None:
    """Return when the request has the secret or a signature by it; raises Unauthorized, NotFound where none is set."""
    configured = load(WebhookSettings).storage_webhook_secret
    if configured is None:
        raise NotFound("This deployment takes no webhooks: STORAGE_WEBHOOK_SECRET is not set.")
    secret = configured.get_secret_value()
    if signature is not None:
        genuine = _signed(request, signature, await request.body(), secret)
    else:
        shown = credentials.credentials if credentials else ""
        genuine = hmac.compare_digest(shown.encode(), secret.encode())
    if not genuine:
        raise Unauthorized(
            "Sign the request by the webhook's secret, or send that as bearer token.",
            code="signature_invalid",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _signed(request: Request, signatures: str, body: bytes, secret: str) -> bool:
    identity, sent_at = request.headers.get("webhook-id", ""), request.headers.get("webhook-timestamp", "")
    if not UNIX_SECONDS.fullmatch(sent_at) or abs(time.time() - int(sent_at)) > TOLERANCE_SECONDS:
        return False
    coded = secret.startswith("whsec_")
    key = base64.b64decode(secret.removeprefix("whsec_")) if coded else secret.encode()
    expected = base64.b64encode(hmac.digest(key, f"{identity}.{sent_at}.".encode() + body, "sha256"))
    # Several while a secret is being changed.
    given = [each.removeprefix("v1,") for each in signatures.split() if each.startswith("v1,")]
    return any(hmac.compare_digest(each.encode(), expected) for each in given)


@router.post(
    "/documents/hooks/storage", status_code=status.HTTP_202_ACCEPTED, dependencies=[Depends(sent_by_the_storage)]
)
async def note_storage_event(event: StorageEvent) -> Noted:
    """Have an uploaded file read, whose document waits for it or that is in its owner's folder."""
    file = event.uploaded
    if file is None:
        return Noted(forwarded=False)
    said = {
        "bucket": file.bucket_id,
        "key": file.name,
        "size_bytes": file.metadata.size if file.metadata else None,
        "etag": file.etag,
        "at": file.updated_at.isoformat() if file.updated_at else None,
    }
    body = json.dumps({"version": 1, "uploaded": said})
    url = load(QueueSettings).jobs_queue_url
    telemetry.count_round_trip("queue")
    try:
        await asyncio.to_thread(lambda: jobs.client().send_message(QueueUrl=url, MessageBody=body))
    except Exception as error:
        log.error("queue.refused", exc_info=error)
        raise Unavailable("The file cannot be handed to the worker just now.", code="queue_unavailable") from error
    return Noted(forwarded=True)
