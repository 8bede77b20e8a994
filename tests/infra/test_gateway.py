"""What a browser gets through the local gateway is what a function URL would give it."""

import socket
import uuid
from contextlib import AbstractContextManager
from functools import partial

import httpx
import pytest

from infra.local.gateway_server import renew_on_change
from infra.local.part import LOOPBACK
from tests.parts.chat import eventually
from tests.parts.gateway import SampleGateway, Serve
from tests.parts.runtime_api import Gate


def streaming(samples: SampleGateway, gate: Gate) -> AbstractContextManager[httpx.Response]:
    """A stream that has sent its first piece and waits at the gate."""
    gate.say_once_asked("more")
    return samples.stream("GET", "/v1/stream/pieces", params={"gate": gate.port})


def test_a_stream_passes_through_piece_by_piece(samples: SampleGateway, gate: Gate):
    with streaming(samples, gate) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers.get_list("set-cookie") == ["a=1; Path=/; SameSite=lax", "b=2; Path=/; SameSite=lax"]
        lines = response.iter_lines()
        assert next(lines) == "piece 0"
        for number in (1, 2):
            gate.say("more")
            assert next(lines) == f"piece {number}"
        gate.say("end")
        assert list(lines) == []


def test_a_stream_that_fails_midway_is_cut_and_not_completed(samples: SampleGateway, gate: Gate):
    with streaming(samples, gate) as response:
        gate.say("fail")
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()


def test_a_client_that_leaves_does_not_stop_the_function(samples: SampleGateway, gate: Gate):
    with streaming(samples, gate):
        pass
    # As on Lambda, nobody tells the function: it makes its answer to the end.
    for _ in range(5):
        gate.say("more")
    gate.say("end")
    gate.wait_until_left()


def test_a_request_reaches_the_function_as_it_was_sent(samples: SampleGateway):
    said = samples.get(
        "/v1/stream/s%65en?a=1&a=2&b=%C3%A9",
        headers=[("X-Said", "one"), ("X-Said", "two"), ("Cookie", "s=1; t=2")],
    ).json()
    assert said["path"] == "/v1/stream/seen"
    assert said["query"] == [["a", "1"], ["a", "2"], ["b", "é"]]
    assert said["cookies"] == {"s": "1", "t": "2"}
    assert said["headers"]["x-said"] == "one,two"
    assert said["headers"]["x-forwarded-port"] == str(samples.port)
    assert said["function"] == "stream"


@pytest.mark.parametrize("function", ["stream", "buffered"])
@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        pytest.param(bytes(range(256)), "application/octet-stream", id="binary"),
        pytest.param("ünï".encode(), "text/plain", id="text"),
        pytest.param(b'{"a": "\xff"}', "application/json", id="json that is not utf-8"),
        pytest.param(b"", "text/plain", id="empty"),
    ],
)
def test_a_body_arrives_unchanged_both_ways(samples: SampleGateway, function: str, body: bytes, media_type: str):
    response = samples.post(f"/v1/{function}/echo", content=body, headers={"Content-Type": media_type})
    assert response.status_code == 200
    assert response.content == body


def test_a_buffered_functions_cookies_arrive_apart(samples: SampleGateway):
    response = samples.post("/v1/buffered/echo", content=b"x")
    assert response.headers.get_list("set-cookie") == ["a=1; Path=/; SameSite=lax", "b=2; Path=/; SameSite=lax"]


def test_an_empty_answer_and_a_head_request_are_ended(samples: SampleGateway):
    assert samples.get("/v1/stream/empty").status_code == 204
    head = samples.head("/v1/stream/seen")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("size", [pytest.param(6 << 20, id="6 MB"), pytest.param((6 << 20) + 1, id="a byte more")])
def test_a_request_of_over_6_megabytes_is_refused_before_the_function(samples: SampleGateway, size: int):
    response = samples.post("/v1/stream/echo", content=b"x" * size, headers={"Content-Type": "text/plain"})
    assert response.status_code == (200 if size == 6 << 20 else 413)


def test_a_buffered_answer_of_over_6_megabytes_is_an_error(samples: SampleGateway):
    response = samples.get("/v1/buffered/large", params={"megabytes": 7})
    assert response.status_code == 502
    assert response.json()["errorType"] == "Function.ResponseSizeTooLarge"


def test_a_function_that_cannot_be_imported_says_why(samples: SampleGateway):
    response = samples.get("/v1/broken/anything")
    assert response.status_code == 502
    assert "a_package_that_was_left_out_of_the_zip" in response.json()["errorMessage"]
    assert "a_package_that_was_left_out_of_the_zip" in response.json()["log"]


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1", "/v1/", "/elsewhere"])
def test_an_unknown_function_is_a_404(samples: SampleGateway, path: str):
    assert samples.get(path).status_code == 404


def test_the_first_page_names_the_functions(samples: SampleGateway):
    page = samples.get("/").text
    assert "/v1/stream" in page
    assert "/docs" in page


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_code_that_has_no_document_just_now_is_told_why(samples: SampleGateway, path: str, tmp_path, monkeypatch):
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra" / "__init__.py").touch()
    (tmp_path / "infra" / "__main__.py").write_text("a typo\n")
    monkeypatch.setattr("infra.openapi.ROOT", tmp_path)
    response = samples.get(path)
    assert response.status_code == 500
    assert "a typo" in response.text
    assert "SyntaxError" in response.text


def test_a_websocket_is_refused(samples: SampleGateway):
    with socket.create_connection((LOOPBACK, samples.port), timeout=10) as connection:
        connection.sendall(
            b"GET /v1/stream/seen HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        # Answered as the plain request that it is beside.
        assert connection.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"


def test_a_changed_file_has_the_functions_run_their_code_anew(serve_samples: Serve, tmp_path):
    with serve_samples(None, partial(renew_on_change, folders=[tmp_path])) as samples:
        before = samples.get("/v1/stream/seen").json()["pid"]

        def changed() -> bool:
            # Again and again: the watcher may only be starting.
            (tmp_path / "app.py").write_text(uuid.uuid4().hex)
            return bool(samples.get("/v1/stream/seen").json()["pid"] != before)

        assert eventually(changed)


def test_work_in_the_background_that_fails_is_told_at_once(serve_samples: Serve, caplog):
    async def fail(_: object) -> None:
        raise OSError("the disk is full")

    with serve_samples(None, fail):
        assert eventually(lambda: "the disk is full" in caplog.text)
