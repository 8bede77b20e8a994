"""Our streaming loop and AWS's own client, as AWS's emulator of the Runtime API takes them."""

import json

import pytest

from infra.functions import declared
from tests.parts.emulator import Emulate, Emulated, buffered_command
from tests.parts.people import ADA, ISSUER, jwks, token
from tests.parts.runtime_api import Gate, url_event

SAMPLES = "tests.shared.samples"
SEEN = url_event("/v1/stream/seen")
COOKIES = ["a=1; Path=/; SameSite=lax", "b=2; Path=/; SameSite=lax"]
EVERY_BYTE = bytes(range(256)) + b"\0" * 8
# The emulator takes no more in one answer, streamed or not.
LARGEST_BYTES = 6_291_556


def sandbox_of(emulated: Emulated) -> int:
    """The process that answers just now."""
    pid: int = json.loads(emulated.streamed(SEEN)[1])["pid"]
    return pid


def test_a_stream_arrives_whole_behind_its_prelude(emulated: Emulated, gate: Gate):
    gate.say_once_asked("more", "more", "more", "end")
    prelude, body = emulated.streamed(url_event("/v1/stream/pieces", f"gate={gate.port}"))
    assert prelude == {
        "statusCode": 200,
        "headers": {"content-type": "text/event-stream; charset=utf-8"},
        "cookies": COOKIES,
    }
    assert body == b"piece 0\npiece 1\npiece 2\n"


def test_a_failure_after_the_first_byte_leaves_what_was_said_and_the_loop_goes_on(emulated: Emulated, gate: Gate):
    before = sandbox_of(emulated)
    gate.say_once_asked("more", "fail")
    _, body = emulated.streamed(url_event("/v1/stream/pieces", f"gate={gate.port}"))
    assert body == b"piece 0\n"
    assert sandbox_of(emulated) == before


def test_a_failure_before_the_first_byte_is_the_invocations_error_and_the_loop_goes_on(emulate: Emulate):
    failing = emulate(f"{SAMPLES}.stream.failing")
    errors = [failing.invoke(SEEN).json() for _ in range(2)]
    assert [(error["errorType"], error["errorMessage"]) for error in errors] == [
        ("LookupError", "no answer at all"),
        ("LookupError", "no answer at all"),
    ]
    assert errors[0]["requestId"] != errors[1]["requestId"]


def test_a_binary_body_arrives_unchanged_both_ways(emulated: Emulated):
    prelude, body = emulated.streamed(url_event("/v1/stream/echo", method="POST", body=EVERY_BYTE))
    assert body == EVERY_BYTE
    assert prelude["headers"]["content-type"] == "application/octet-stream"


def test_an_answer_without_a_body_is_ended(emulated: Emulated):
    assert emulated.streamed(url_event("/v1/stream/empty")) == ({"statusCode": 204, "headers": {}}, b"")


def test_the_request_and_its_deadline_reach_the_app(emulated: Emulated):
    event = url_event("/v1/stream/s%65en", "a=1&a=2", cookies=["s=1", "t=2"], headers={"x-said": "yes"})
    said = json.loads(emulated.streamed(event)[1])
    assert (said["path"], said["query"], said["cookies"]) == (
        "/v1/stream/seen",
        [["a", "1"], ["a", "2"]],
        {"s": "1", "t": "2"},
    )
    # The emulator was given 30 s for each invocation.
    assert 0 < said["remaining_ms"] <= 30_000


def test_an_answer_of_over_6_megabytes_is_refused_and_the_loop_goes_on(emulated: Emulated):
    before = sandbox_of(emulated)
    error = emulated.invoke(url_event("/v1/stream/big", "megabytes=8")).json()
    assert error["errorType"] == "Function.ResponseSizeTooLarge"
    assert str(LARGEST_BYTES) in error["errorMessage"]
    assert sandbox_of(emulated) == before


@pytest.mark.parametrize("event", [b"", b"not json"], ids=["nothing", "text"])
def test_an_event_that_is_not_json_is_an_error_and_the_loop_goes_on(emulated: Emulated, event: bytes):
    before = sandbox_of(emulated)
    assert emulated.invoke(event).json()["errorType"] == "JSONDecodeError"
    assert sandbox_of(emulated) == before


def test_a_handler_that_cannot_be_loaded_is_an_init_error(emulate: Emulate):
    answer = emulate(f"{SAMPLES}.broken.handler").invoke(SEEN)
    assert answer.status_code == 502
    assert answer.json()["errorType"] == "ModuleNotFoundError"
    assert "a_package_that_was_left_out_of_the_zip" in answer.json()["errorMessage"]


def test_a_queues_event_goes_to_a_plain_handler(emulate: Emulate):
    records = [{"messageId": "1", "body": "bad"}, {"messageId": "2", "body": "good"}]
    answer = emulate(f"{SAMPLES}.stream.on_queue").invoke({"Records": records})
    assert answer.json() == {"batchItemFailures": [{"itemIdentifier": "1"}]}


@pytest.fixture(scope="module")
def chat(emulate: Emulate) -> Emulated:
    """The real chat function, which knows whom to trust and reaches nothing else."""
    (function,) = [each for each in declared() if each.name == "chat"]
    return emulate(function.handler, environment={"SUPABASE_URL": ISSUER, "SUPABASE_JWKS": jwks()})


def test_chat_refuses_a_stranger_with_a_problem(chat: Emulated):
    prelude, body = chat.streamed(url_event("/v1/chat", method="POST", body=b"{}"))
    assert prelude["statusCode"] == 401
    assert prelude["headers"]["content-type"] == "application/problem+json"
    assert prelude["headers"]["www-authenticate"].startswith("Bearer")
    assert json.loads(body)["code"] == "token_missing"


def test_chat_answers_for_a_path_that_is_not_there(chat: Emulated):
    prelude, body = chat.streamed(url_event("/v1/chat/a%2Fb/nothing"))
    assert prelude["statusCode"] == 404
    assert json.loads(body)["code"] == "not_found"


def test_chat_says_what_is_wrong_with_a_message(chat: Emulated):
    ada = {"authorization": f"Bearer {token(ADA)}", "content-type": "application/json"}
    prelude, body = chat.streamed(url_event("/v1/chat", method="POST", body="{}", headers=ada))
    assert prelude["statusCode"] == 422
    assert "/id" in {each["pointer"] for each in json.loads(body)["errors"]}


def test_aws_own_client_answers_under_the_emulator_too(emulate: Emulate):
    handler = f"{SAMPLES}.buffered.handler"
    buffered = emulate(handler, buffered_command(handler))
    answer = buffered.invoke(url_event("/v1/buffered/echo", method="POST", body="hello")).json()
    assert (answer["statusCode"], answer["body"], answer["cookies"]) == (200, "hello", COOKIES)
