"""The storage's word that a file is there is believed when it is signed, and passed on to the worker."""

import base64
import hmac
import json
import time
from types import SimpleNamespace

import pytest

from agentkit.settings import ConfigurationError, WebhookSettings, load
from functions.documents import hooks
from functions.documents.app import app
from infra.local.part import free_port
from tests.parts.people import ADA, bearer

# The specification's own example (standard-webhooks/standard-webhooks, its libraries' tests).
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, SENT_AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

KEY = f"{ADA.id}/lease.pdf"
RECORD = {
    "id": "0b8f3c1e-6c1d-4a55-9a4e-0d8c7f0f8b11",
    "bucket_id": "documents",
    "name": KEY,
    "owner": str(ADA.id),
    "owner_id": str(ADA.id),
    "version": "5d1f",
    "created_at": "2026-11-25T10:15:00.123456+00:00",
    "updated_at": "2026-11-25T10:15:00.123456+00:00",
    "last_accessed_at": "2026-11-25T10:15:00.123456+00:00",
    "path_tokens": [str(ADA.id), "lease.pdf"],
    "user_metadata": None,
    "metadata": {
        "eTag": '"c561896a1d6e0e2f"',
        "size": 48_211,
        "mimetype": "application/pdf",
        "cacheControl": "max-age=3600",
        "lastModified": "2026-11-25T10:15:00.000Z",
        "contentLength": 48_211,
        "httpStatusCode": 200,
    },
}
INSERTED = {"type": "INSERT", "table": "objects", "schema": "storage", "record": RECORD, "old_record": None}


def changed(**changes):
    return {**RECORD, **changes}


def signed(body, *, secret=SECRET, at=None, identity="msg_1"):
    """The headers of a webhook, as the specification makes them."""
    at = int(time.time()) if at is None else at
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{identity}.{at}.".encode() + body, "sha256")
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


@pytest.fixture
def tell(aws, serve, monkeypatch):
    """Say that something has happened in the storage, as the dashboard's webhook does unless headers are given."""
    monkeypatch.setenv("STORAGE_WEBHOOK_SECRET", SECRET)
    client = serve(app)

    def post(event=INSERTED, *, headers=None, content=None):
        body = json.dumps(event).encode() if content is None else content
        shown = {"Authorization": f"Bearer {SECRET}"} if headers is None else headers
        return client.post("/v1/documents/hooks/storage", content=body, headers=shown)

    return post


@pytest.fixture
def forwarded(aws):
    """What the worker is told of."""

    def receive():
        answer = aws.sqs.receive_message(QueueUrl=aws.environment["JOBS_QUEUE_URL"], MaxNumberOfMessages=10)
        return [json.loads(message["Body"]) for message in answer.get("Messages", [])]

    return receive


def problem(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_a_new_file_is_passed_on_to_the_worker(tell, forwarded):
    answer = tell()
    assert (answer.status_code, answer.json()) == (202, {"forwarded": True})
    assert forwarded() == [
        {
            "version": 1,
            "uploaded": {
                "bucket": "documents",
                "key": KEY,
                "size_bytes": 48_211,
                "etag": "c561896a1d6e0e2f",
                "at": "2026-11-25T10:15:00.123456+00:00",
            },
        }
    ]


@pytest.mark.parametrize(
    ("event", "passed_on"),
    [
        pytest.param({**INSERTED, "record": changed(metadata=None)}, True, id="not known in detail yet"),
        pytest.param(
            {**INSERTED, "type": "UPDATE", "old_record": changed(metadata={"eTag": '"0"'})}, True, id="other bytes"
        ),
        pytest.param({**INSERTED, "type": "UPDATE", "old_record": changed(name="a.pdf")}, True, id="moved"),
        pytest.param({**INSERTED, "type": "UPDATE", "old_record": RECORD}, False, id="as it was"),
        pytest.param({**INSERTED, "type": "DELETE", "record": None, "old_record": RECORD}, False, id="deleted"),
        pytest.param({**INSERTED, "record": changed(bucket_id="avatars")}, False, id="another bucket"),
    ],
)
def test_only_what_may_have_to_be_read_is_passed_on(tell, forwarded, event, passed_on):
    answer = tell(event)
    assert (answer.status_code, answer.json()) == (202, {"forwarded": passed_on})
    assert len(forwarded()) == int(passed_on)


@pytest.mark.parametrize("event", [{**INSERTED, "table": "buckets"}, {**INSERTED, "record": {"id": 1}}, {}, []])
def test_what_is_no_change_of_a_file_is_refused(tell, forwarded, event):
    assert problem(tell(event)) == (422, "invalid")
    assert forwarded() == []


# Whether it is to be believed


def test_the_specifications_own_example_is_believed(tell, monkeypatch):
    monkeypatch.setattr(hooks, "time", SimpleNamespace(time=lambda: SENT_AT))
    headers = {"webhook-id": ID, "webhook-timestamp": str(SENT_AT), "webhook-signature": SIGNATURE}
    # Believed, and then found to tell of no file.
    assert problem(tell(content=BODY, headers=headers)) == (422, "invalid")
    assert problem(tell(content=BODY + b" ", headers=headers)) == (401, "signature_invalid")


def test_a_signed_event_is_passed_on(tell, forwarded):
    body = json.dumps(INSERTED).encode()
    assert tell(content=body, headers=signed(body)).status_code == 202
    assert len(forwarded()) == 1


def test_one_of_several_signatures_is_enough(tell):
    body = json.dumps(INSERTED).encode()
    headers = signed(body)
    headers["webhook-signature"] = f"v1a,AAAA v1,bm9wZQ== {headers['webhook-signature']}"
    assert tell(content=body, headers=headers).status_code == 202


@pytest.mark.parametrize("seconds", [-299, 299])
def test_clocks_may_differ_by_five_minutes(tell, seconds):
    body = json.dumps(INSERTED).encode()
    assert tell(content=body, headers=signed(body, at=int(time.time()) + seconds)).status_code == 202


UNSIGNED = {
    "nothing": {},
    "another secret": {"Authorization": "Bearer whsec_AAAAAAAAAAAAAAAAAAAAAAAA"},
    "an empty token": {"Authorization": "Bearer"},
    "another scheme": {"Authorization": f"Basic {SECRET}"},
    "a person's token": bearer(ADA),
    "another's signature": signed(json.dumps(INSERTED).encode(), secret="whsec_" + "A" * 32),
    "too old": signed(json.dumps(INSERTED).encode(), at=int(time.time()) - 301),
    "too new": signed(json.dumps(INSERTED).encode(), at=int(time.time()) + 900),
    "another body's": signed(b"{}"),
    "no time": {**signed(json.dumps(INSERTED).encode()), "webhook-timestamp": ""},
    "a time that is no number": {**signed(json.dumps(INSERTED).encode()), "webhook-timestamp": "now"},
    "another id": {**signed(json.dumps(INSERTED).encode()), "webhook-id": "msg_2"},
    "no signature of that version": {**signed(json.dumps(INSERTED).encode()), "webhook-signature": "v2,AAAA"},
    "a bad signature, and the secret": {
        **signed(b"{}"),
        "Authorization": f"Bearer {SECRET}",
    },
}


@pytest.mark.parametrize("headers", UNSIGNED.values(), ids=UNSIGNED)
def test_what_is_not_the_storages_is_refused(tell, forwarded, headers):
    answer = tell(headers=headers)
    assert problem(answer) == (401, "signature_invalid")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert forwarded() == []


def test_without_a_secret_nothing_is_taken(tell, forwarded, monkeypatch):
    monkeypatch.delenv("STORAGE_WEBHOOK_SECRET")
    for headers in ({}, {"Authorization": "Bearer"}, signed(json.dumps(INSERTED).encode())):
        assert problem(tell(headers=headers)) == (404, "not_found")
    assert forwarded() == []


@pytest.mark.parametrize("secret", ["short", "whsec_not base64 at all"])
def test_a_secret_that_is_none_is_refused_at_start(monkeypatch, secret):
    monkeypatch.setenv("STORAGE_WEBHOOK_SECRET", secret)
    with pytest.raises(ConfigurationError, match="STORAGE_WEBHOOK_SECRET") as refused:
        load(WebhookSettings)
    assert secret not in str(refused.value)


def test_a_queue_out_of_reach_is_told(tell, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free_port()}")
    answer = tell()
    assert problem(answer) == (503, "queue_unavailable")
    assert int(answer.headers["retry-after"]) > 0
