"""What `create_app` promises of every function: problems, request ids, texts that can be stored, CORS answered once."""

import asyncio
import json

import pytest
from fastapi.testclient import TestClient

from agentkit import telemetry
from agentkit.errors import NotFound, Unavailable
from agentkit.http import Body, Text, create_app, lambda_handler


class Note(Body):
    text: Text


def sample_app():
    app = create_app("sample")

    @app.post("/sample")
    async def write(note: Note) -> dict[str, str]:
        return {"text": note.text}

    @app.get("/sample/missing")
    async def missing() -> None:
        raise NotFound("There is no such note.")

    @app.get("/sample/away")
    async def away() -> None:
        raise Unavailable("The notes cannot be read just now.", code="notes_unavailable", retry_after_seconds=7)

    @app.get("/sample/broken")
    async def broken() -> None:
        raise RuntimeError("password=hunter2")

    return app


@pytest.fixture
def client():
    return TestClient(sample_app(), raise_server_exceptions=False)


def test_routes_live_under_the_version(client):
    assert client.post("/v1/sample", json={"text": "hello"}).json() == {"text": "hello"}


def test_a_problem_says_what_happened_in_the_agreed_members(client):
    answer = client.get("/v1/sample/missing", headers={"X-Request-Id": "from-the-browser"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json() == {
        "type": "about:blank",
        "title": "Not found",
        "status": 404,
        "detail": "There is no such note.",
        "code": "not_found",
        "request_id": "from-the-browser",
    }


def test_a_temporary_failure_says_when_to_try_again(client):
    answer = client.get("/v1/sample/away")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["code"] == "notes_unavailable"


def test_an_unexpected_failure_tells_the_log_everything_and_the_client_nothing(client, capsys):
    app = sample_app()  # made under capsys, so that its log lines land there
    answer = TestClient(app, raise_server_exceptions=False).get("/v1/sample/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "hunter2" not in answer.text
    line, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["event"] == "request.failed"
    assert "password=hunter2" in line["exception"]
    assert line["request_id"] == answer.json()["request_id"] == answer.headers["x-request-id"]


def test_every_request_leaves_a_line_with_its_status_and_the_round_trips_it_made(capsys):
    app = create_app("sample")

    @app.get("/sample/reading")
    async def reading() -> None:
        async with asyncio.TaskGroup() as tasks:
            for service in ("redis", "postgres", "postgres"):
                tasks.create_task(wait_for(service))

    async def wait_for(service: str) -> None:
        telemetry.count_round_trip(service)

    TestClient(app).get("/v1/sample/reading")
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["path"], line["status"]) == ("request.answered", "/v1/sample/reading", 200)
    assert line["round_trips"] == {"redis": 1, "postgres": 2}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        pytest.param(rb'{"text": "a\u0000b"}', "/text", id="NUL"),
        pytest.param(rb'{"text": "\ud800"}', "/text", id="lone high surrogate"),
        pytest.param(rb'{"text": "\udc00\ud800"}', "/text", id="surrogates the wrong way round"),
        pytest.param(b'{"text": 7}', "/text", id="not a string"),
        pytest.param(b"{}", "/text", id="missing"),
        pytest.param(b'{"text": "", "tekst": ""}', "/tekst", id="misspelt member"),
    ],
)
def test_an_unusable_value_is_a_422_that_points_at_it(client, body, pointer):
    answer = client.post("/v1/sample", content=body)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_of_very_many_unusable_values_the_first_are_told(client):
    answer = client.post("/v1/sample", json={"text": "a", **{f"unknown{number}": 0 for number in range(10_000)}})
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"/unknown{number}" for number in range(20)]


def test_a_surrogate_pair_is_an_ordinary_character(client):
    assert client.post("/v1/sample", content=rb'{"text": "\ud83d\ude00"}').json() == {"text": "\U0001f600"}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "not UTF-8", "deep"])
def test_what_is_not_json_is_a_4xx_problem(client, body):
    answer = client.post("/v1/sample", content=body, headers={"Content-Type": "application/json"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code in {400, 422}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nowhere", 404), ("POST", "/v1/sample/", 404), ("DELETE", "/v1/sample", 405)],
)
def test_what_the_framework_refuses_is_a_problem_too(client, method, path, status):
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["status"] == status


@pytest.mark.parametrize("hostile", ["short", "x" * 129, "new\nline-in-it", "<script>alert</script>"])
def test_a_request_id_that_could_spoil_a_log_is_replaced(client, hostile):
    identity = client.get("/v1/sample/missing", headers={"X-Request-Id": hostile}).headers["x-request-id"]
    assert identity != hostile
    assert len(identity) == 36  # a UUID, with its four hyphens


def test_the_openapi_document_knows_problems_and_no_other_error(client):
    document = client.get("/v1/sample/openapi.json").json()
    responses = document["paths"]["/v1/sample"]["post"]["responses"]
    assert set(responses) == {"200", "4XX", "5XX"}
    assert "application/problem+json" in responses["4XX"]["content"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert {"type", "title", "status", "detail", "code"} <= set(
        document["components"]["schemas"]["ProblemDocument"]["properties"]
    )


@pytest.fixture
def allow_the_site(monkeypatch):
    monkeypatch.setenv("ALLOWED_ORIGINS", '["https://app.example"]')


def preflight(client):
    return client.options(
        "/v1/sample", headers={"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    )


def test_outside_lambda_the_app_answers_cors_for_the_allowed_origin(allow_the_site):
    answer = preflight(TestClient(sample_app()))
    assert answer.headers["access-control-allow-origin"] == "https://app.example"


def test_an_error_carries_cors_headers_so_that_the_browser_may_read_it(allow_the_site):
    client = TestClient(sample_app(), raise_server_exceptions=False)
    answer = client.get("/v1/sample/broken", headers={"Origin": "https://app.example"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (500, "https://app.example")


def test_in_lambda_the_function_url_answers_cors_and_the_app_is_silent(allow_the_site, monkeypatch):
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "sample")
    assert "access-control-allow-origin" not in preflight(TestClient(sample_app())).headers


def test_the_handler_answers_a_function_url_event(context):
    event = {
        "version": "2.0",
        "rawPath": "/v1/sample/missing",
        "rawQueryString": "",
        "headers": {"host": "x.lambda-url.eu-central-1.on.aws"},
        "requestContext": {"http": {"method": "GET", "path": "/v1/sample/missing", "sourceIp": "203.0.113.9"}},
        "isBase64Encoded": False,
    }
    answer = lambda_handler(sample_app())(event, context)
    assert answer["statusCode"] == 404
    assert json.loads(answer["body"])["request_id"] == "8476a536-e9f4-11e8-9739-2dfe598c3fcd"


@pytest.fixture
def context():
    class Context:
        aws_request_id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"

    return Context()
