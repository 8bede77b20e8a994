"""The streaming loop, as the Lambda Runtime API sees it."""

import json

import pytest

from tests.parts.runtime_api import Gate, Sandbox, Start, url_event

SAMPLES = "tests.shared.samples"
SEEN = url_event("/v1/stream/seen")
EIGHT_NULS = b"\0" * 8


def seen(sandbox: Sandbox) -> dict[str, object]:
    return dict(json.loads(sandbox.call(SEEN).streamed))


def test_each_piece_is_sent_when_the_app_yields_it(streaming: Sandbox, gate: Gate):
    next_piece = streaming.pieces(streaming.send(url_event("/v1/stream/pieces", f"gate={gate.port}")))
    gate.say("more")
    first = next_piece()
    while not first.endswith(b"piece 0\n"):
        first += next_piece()
    # The app is waiting at the gate now: what comes later was not made yet.
    for number in (1, 2):
        gate.say("more")
        assert next_piece() == f"piece {number}\n".encode()
    gate.say("end")
    with pytest.raises(StopAsyncIteration):
        next_piece()


def test_a_streamed_answer_has_the_wire_format_of_aws_own_client(streaming: Sandbox, gate: Gate):
    invocation = streaming.send(url_event("/v1/stream/pieces", f"gate={gate.port}"))
    gate.say("more")
    gate.say("end")
    answer = streaming.answer(invocation)
    assert {name: answer.headers.get(name) for name in (
        "lambda-runtime-function-response-mode", "content-type", "transfer-encoding", "connection",
    )} == {
        "lambda-runtime-function-response-mode": "streaming",
        "content-type": "application/vnd.awslambda.http-integration-response",
        "transfer-encoding": "chunked",
        "connection": "close",
    }  # fmt: skip
    assert answer.body == (
        b'{"statusCode":200,"headers":{"content-type":"text/event-stream; charset=utf-8"},'
        b'"cookies":["a=1; Path=/; SameSite=lax","b=2; Path=/; SameSite=lax"]}' + EIGHT_NULS + b"piece 0\n"
    )
    assert answer.trailers == {}
    assert answer.failure is None


def test_the_invocation_id_is_echoed(streaming: Sandbox):
    invocation = streaming.send(SEEN)
    answer = streaming.answer(invocation)
    assert answer.headers["lambda-runtime-invocation-id"] == f"attempt-{invocation.id}"


def test_the_app_knows_its_request_and_how_long_it_may_take(streaming: Sandbox):
    invocation = streaming.send(
        url_event("/v1/stream/seen", "a=1&a=2&b=%C3%A9", cookies=["s=1", "t=2"], headers={"x-said": "yes"})
    )
    said = json.loads(streaming.answer(invocation).streamed)
    assert said["query"] == [["a", "1"], ["a", "2"], ["b", "é"]]
    assert said["cookies"] == {"s": "1", "t": "2"}
    assert said["headers"]["x-said"] == "yes"
    assert said["request_id"] == invocation.id
    assert said["function"] == "sample"
    # The Runtime API gave it 30 s.
    assert 0 < said["remaining_ms"] <= 30_000


def test_a_path_is_percent_decoded_once(streaming: Sandbox):
    answer = streaming.call(url_event("/v1/stream/s%65en%2541"))
    assert answer.prelude["statusCode"] == 404
    assert json.loads(streaming.call(url_event("/v1/stream/s%65en")).streamed)["path"] == "/v1/stream/seen"


def test_a_binary_body_arrives_unchanged(streaming: Sandbox):
    every_byte = bytes(range(256)) + EIGHT_NULS
    answer = streaming.call(url_event("/v1/stream/echo", method="POST", body=every_byte))
    assert answer.streamed == every_byte


def test_an_answer_without_a_body_is_ended(streaming: Sandbox):
    answer = streaming.call(url_event("/v1/stream/empty"))
    assert answer.prelude["statusCode"] == 204
    assert answer.streamed == b""


def test_a_head_request_is_ended(streaming: Sandbox):
    assert streaming.call(url_event("/v1/stream/seen", method="HEAD")).prelude["statusCode"] == 200


def test_a_stream_of_32_megabytes_arrives_whole(streaming: Sandbox):
    answer = streaming.call(url_event("/v1/stream/big", "megabytes=32"))
    assert answer.streamed == b"".join(bytes([number % 256]) * 65_536 for number in range(32 * 16))


def test_a_failure_after_the_first_byte_travels_in_trailers_that_the_runtime_api_can_carry(
    streaming: Sandbox, gate: Gate
):
    invocation = streaming.send(url_event("/v1/stream/pieces", f"gate={gate.port}"))
    gate.say("more")
    gate.say("fail")
    answer = streaming.answer(invocation)
    assert answer.streamed == b"piece 0\n"
    assert answer.trailers["lambda-runtime-function-error-type"] == "ValueError"
    assert answer.trailing_error["errorMessage"].startswith("the model went away")
    # The Runtime API breaks at 4 kB of trailers.
    assert len(answer.trailers["lambda-runtime-function-error-body"]) <= 2_048


def test_a_failure_before_the_first_byte_is_the_invocations_error(start_sandbox: Start):
    sandbox = start_sandbox(f"{SAMPLES}.stream.failing")
    invocation = sandbox.send(SEEN)
    answer = sandbox.answer(invocation)
    assert answer.failure is not None
    assert (answer.failure["errorType"], answer.failure["errorMessage"]) == ("LookupError", "no answer at all")
    assert answer.failure["requestId"] == invocation.id
    assert "in _raw" in answer.failure["stackTrace"][-1]
    assert answer.headers["lambda-runtime-function-error-type"] == "LookupError"
    assert answer.headers["lambda-runtime-invocation-id"] == f"attempt-{invocation.id}"
    # And the loop goes on.
    assert sandbox.call(SEEN).failure is not None


def test_an_unhandled_error_is_a_500_page_that_does_not_tell_why(streaming: Sandbox):
    answer = streaming.call(url_event("/v1/stream/boom"))
    assert answer.prelude["statusCode"] == 500
    assert b"before the first byte" not in answer.streamed
    assert answer.failure is None


def test_an_app_that_stops_halfway_is_a_failure_in_trailers(start_sandbox: Start):
    answer = start_sandbox(f"{SAMPLES}.stream.half").call(SEEN)
    assert answer.streamed == b"half"
    assert answer.trailers["lambda-runtime-function-error-type"] == "RuntimeError"


def test_a_broken_stream_is_a_disconnect_for_the_app_and_the_loop_goes_on(start_sandbox: Start, gate: Gate):
    sandbox = start_sandbox(f"{SAMPLES}.stream.handler")
    before = seen(sandbox)
    next_piece = sandbox.pieces(sandbox.send(url_event("/v1/stream/pieces", f"gate={gate.port}")))
    gate.say("more")
    next_piece()
    sandbox.hang_up()
    gate.say("more")
    gate.wait_until_left()
    after = seen(sandbox)
    assert after["pid"] == before["pid"]
    assert after["disconnects"] == 1


def test_an_app_that_is_silent_when_its_stream_breaks_is_cancelled(start_sandbox: Start, gate: Gate):
    sandbox = start_sandbox(f"{SAMPLES}.stream.handler")
    next_piece = sandbox.pieces(sandbox.send(url_event("/v1/stream/pieces", f"gate={gate.port}")))
    gate.say("more")
    next_piece()
    sandbox.hang_up()
    # It waits at the gate, and nobody lets it go on.
    gate.wait_until_left()
    assert seen(sandbox)["stopped"] == 1


def test_an_early_refusal_ends_the_stream_and_the_loop_goes_on(streaming: Sandbox):
    before = seen(streaming)
    # More than the sockets between them hold, so that it cannot all be on its way before the refusal is heard.
    answer = streaming.call(url_event("/v1/stream/big", "megabytes=64"), largest_bytes=1 << 20)
    assert answer.failure is not None
    assert answer.failure["errorType"] == "Function.ResponseSizeTooLarge"
    after = seen(streaming)
    assert after["pid"] == before["pid"]
    assert after["disconnects"] == int(str(before["disconnects"])) + 1


def test_a_queues_event_goes_to_a_plain_handler_that_may_run_a_loop_of_its_own(start_sandbox: Start):
    sandbox = start_sandbox(f"{SAMPLES}.stream.on_queue")
    answer = sandbox.call({"Records": [{"messageId": "1", "body": "bad"}, {"messageId": "2", "body": "good"}]})
    assert answer.json == {"batchItemFailures": [{"itemIdentifier": "1"}]}
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["content-type"] == "application/json"


def test_a_plain_handler_may_be_asynchronous(start_sandbox: Start):
    assert start_sandbox(f"{SAMPLES}.stream.on_anything").call([1, None]).json == {"event": [1, None], "base64": "eA=="}


@pytest.mark.parametrize("event", [b"", b"not json", b"\xff"], ids=["nothing", "text", "not utf-8"])
def test_an_event_that_is_not_json_is_an_error_and_the_loop_goes_on(streaming: Sandbox, event: bytes):
    before = seen(streaming)
    answer = streaming.answer(streaming.send_raw(event))
    assert answer.failure is not None
    assert answer.failure["errorType"] in {"JSONDecodeError", "UnicodeDecodeError"}
    assert seen(streaming)["pid"] == before["pid"]


def test_an_error_named_in_another_script_is_told_and_the_loop_goes_on(start_sandbox: Start):
    sandbox = start_sandbox(f"{SAMPLES}.stream.foreign")
    for _ in range(2):
        failure = sandbox.call(SEEN).failure
        assert failure is not None
        assert (failure["errorType"], failure["errorMessage"]) == ("Ошибка", "не вышло")


def test_an_event_that_the_handler_cannot_take_is_an_error_and_the_loop_goes_on(streaming: Sandbox):
    assert streaming.call({"Records": []}).failure is not None
    assert streaming.call(SEEN).failure is None


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        pytest.param("broken.handler", "ModuleNotFoundError", id="a package is missing"),
        pytest.param("nowhere.handler", "ModuleNotFoundError", id="the module is missing"),
        pytest.param("stream.nothing", "AttributeError", id="the handler is missing"),
    ],
)
def test_a_handler_that_cannot_be_loaded_is_an_init_error(start_sandbox: Start, handler: str, kind: str):
    sandbox = start_sandbox(f"{SAMPLES}.{handler}")
    assert sandbox.wait_for_end() == 1
    assert sandbox.api.init_error is not None
    assert sandbox.api.init_error["errorType"] == kind


def test_a_snapshot_is_taken_between_its_hooks(start_sandbox: Start):
    sandbox = start_sandbox(f"{SAMPLES}.snapshot.handler", environment={"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"})
    assert sandbox.call({}).json == ["before", "after"]
    assert sandbox.api.restores == 1


def test_without_snapstart_no_snapshot_is_asked_for(start_sandbox: Start):
    sandbox = start_sandbox(f"{SAMPLES}.snapshot.handler")
    assert sandbox.call({}).json == []
    assert sandbox.api.restores == 0


def test_a_hook_that_fails_after_a_restore_is_reported(start_sandbox: Start):
    sandbox = start_sandbox(
        f"{SAMPLES}.snapshot.handler",
        environment={"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start", "FAIL_AFTER_RESTORE": "1"},
    )
    assert sandbox.wait_for_end() == 1
    assert sandbox.api.init_error is not None
    assert sandbox.api.init_error["errorMessage"] == "no entropy"


def test_a_kept_connection_that_died_is_replaced(streaming: Sandbox):
    before = seen(streaming)
    streaming.hang_up()
    assert seen(streaming)["pid"] == before["pid"]


def test_nothing_of_an_event_is_logged(start_sandbox: Start):
    sandbox = start_sandbox(f"{SAMPLES}.stream.failing")
    sandbox.call(url_event("/v1/stream/echo", "q=in-the-query", method="POST", body="in-the-body"))
    sandbox.call({"Records": [{"body": "in-the-record"}]})
    log = sandbox.process.log_tail(1_000)
    assert "no answer at all" in log
    assert not [secret for secret in ("in-the-query", "in-the-body", "in-the-record") if secret in log]
