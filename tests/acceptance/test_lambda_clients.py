"""Each function that does not stream, under AWS's own runtime client: the events and answers are Lambda's."""

import base64
import json
import uuid

import pytest

from infra.functions import declared
from infra.local.part import LOOPBACK, free_port
from tests.parts.people import ADA, ISSUER, bearer, jwks
from tests.parts.runtime_api import url_event

BUFFERED = {function.name: function for function in declared() if not function.streams}
WITH_URL = [name for name, function in BUFFERED.items() if function.has_url]
SAMPLES = "tests.shared.samples"
JSON = {"content-type": "application/json"}
QUESTION = {"text": "When does the lease end?"}
EVERY_BYTE = bytes(range(256))
# Payload format 2.0 (https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads).
MEMBERS = {"statusCode", "headers", "body", "isBase64Encoded", "cookies"}


@pytest.fixture(scope="module")
def sandbox(start_sandbox, postgres_server, redis_server, embedder_server, aws_server):
    """The sandbox of a declared function, with the real parts that it needs, each role with its own logins."""
    nobody = f"http://{LOOPBACK}:{free_port()}"
    stack = {
        "SUPABASE_URL": ISSUER,
        "SUPABASE_JWKS": jwks(),
        "OPENAI_API_KEY": "not-needed-here",
        "OPENAI_BASE_URL": f"{nobody}/v1",
        **postgres_server.environment,
        **redis_server.environment,
        **embedder_server.environment,
        **aws_server.environment,
    }
    started = {}

    def of(name):
        if name not in started:
            environment = dict(stack)
            if not BUFFERED[name].has_url:
                environment |= {each: stack[f"WORKER_{each}"] for each in ("DATABASE_URL", "VECTOR_DATABASE_URL")}
            if name == "health":
                # It alone would ask the address that the others only compare.
                environment |= {"SUPABASE_URL": nobody}
            started[name] = start_sandbox(BUFFERED[name].handler, aws=True, environment=environment)
        return started[name]

    return of


@pytest.fixture(scope="module")
def sample(start_sandbox):
    """The sample that answers in one piece."""
    return start_sandbox(f"{SAMPLES}.buffered.handler", aws=True)


@pytest.fixture
def ask(sandbox):
    """Ask a function by its URL; returns the answer's status, its headers, and the document in its body."""

    def ask(name, path, **options):
        answer = sandbox(name).call(url_event(path, **options)).json
        assert set(answer) <= MEMBERS
        assert answer["isBase64Encoded"] is False
        return answer["statusCode"], answer["headers"], json.loads(answer["body"])

    return ask


@pytest.fixture
def first_guarded(ask):
    """The first operation in a function's own document that asks who is calling: its path and its method."""

    def find(name):
        _, _, document = ask(name, f"/v1/{name}/openapi.json")
        return next(
            (path.replace("{", "").replace("}", ""), method.upper())
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if operation.get("security")
        )

    return find


@pytest.mark.parametrize("name", WITH_URL)
def test_a_function_answers_for_itself(ask, name):
    status, headers, document = ask(name, f"/v1/{name}/openapi.json")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert document["info"]["title"] == f"AgentKit {name}"


@pytest.mark.parametrize("name", sorted(set(WITH_URL) - {"health"}))
def test_a_function_refuses_a_stranger_with_a_problem(ask, first_guarded, name):
    path, method = first_guarded(name)
    status, headers, problem = ask(name, path, method=method, headers=JSON, body="{}")
    assert (status, headers["content-type"]) == (401, "application/problem+json")
    assert headers["www-authenticate"].startswith("Bearer")
    assert (problem["status"], problem["code"]) == (401, "token_missing")
    assert problem["request_id"] == headers["x-request-id"]


@pytest.mark.parametrize("name", WITH_URL)
def test_a_path_that_is_not_there_is_a_problem(ask, name):
    status, headers, problem = ask(name, f"/v1/{name}/caf%C3%A9/%2e%2e/%00", headers=bearer(ADA))
    assert (status, headers["content-type"], problem["code"]) == (404, "application/problem+json", "not_found")


def test_a_path_is_percent_decoded_once(ask):
    assert ask("health", "/v1/health/l%69ve")[::2] == (200, {"status": "ok"})
    assert ask("health", "/v1/health/l%2569ve")[0] == 404


@pytest.mark.parametrize(
    "body", [pytest.param(json.dumps(QUESTION), id="text"), pytest.param(json.dumps(QUESTION).encode(), id="base64")]
)
def test_search_takes_a_body_either_way(postgres, ask, body):
    status, headers, answer = ask(
        "search", "/v1/search", method="POST", headers={**bearer(ADA), **JSON, "x-request-id": "request-1"}, body=body
    )
    assert (status, answer) == (200, {"passages": []})
    assert headers["x-request-id"] == "request-1"
    assert "ratelimit" in headers


def test_one_sandbox_answers_again_and_again_from_the_real_database(postgres, ask):
    # Its connection lives on one event loop from the first to the last.
    for _ in range(4):
        assert ask("conversations", "/v1/conversations", headers=bearer(ADA))[::2] == (
            200,
            {"items": [], "next_cursor": None},
        )


@pytest.mark.parametrize(("name", "path"), [("documents", "/v1/documents"), ("conversations", "/v1/conversations")])
def test_what_is_not_there_is_a_problem_of_the_function(postgres, ask, name, path):
    status, _, problem = ask(name, f"{path}/{uuid.uuid4()}", headers=bearer(ADA))
    assert (status, problem["code"]) == (404, "not_found")


def test_health_says_what_is_down(ask):
    status, headers, found = ask("health", "/v1/health")
    assert (status, headers["cache-control"]) == (503, "no-store")
    # Nobody serves these two here.
    assert found["down"] == ["sign_in", "model"]


def test_a_binary_answer_is_base64_and_a_text_is_not(sample):
    def echo(body, media_type):
        event = url_event("/v1/buffered/echo", method="POST", body=body, headers={"content-type": media_type})
        answer = sample.call(event).json
        return answer["isBase64Encoded"], answer["body"], answer["headers"]["content-type"]

    binary = base64.b64encode(EVERY_BYTE).decode()
    assert echo(EVERY_BYTE, "application/octet-stream") == (True, binary, "application/octet-stream")
    assert echo("ünï", "text/plain; charset=utf-8") == (False, "ünï", "text/plain; charset=utf-8")


def test_cookies_leave_beside_the_headers(sample):
    answer = sample.call(url_event("/v1/buffered/echo", method="POST", body="x")).json
    assert answer["cookies"] == ["a=1; Path=/; SameSite=lax", "b=2; Path=/; SameSite=lax"]
    assert "set-cookie" not in answer["headers"]


@pytest.mark.parametrize("event", [{"Records": []}, {}, [], None], ids=["a queue's", "empty", "a list", "nothing"])
def test_an_event_of_another_source_is_an_error_and_the_sandbox_goes_on(sandbox, ask, event):
    assert sandbox("health").call(event).failure is not None
    assert ask("health", "/v1/health/live")[0] == 200


def test_what_nobody_caught_is_a_problem_that_does_not_tell_why(start_sandbox, redis_server):
    # A function whose deployment forgot its database.
    sandbox = start_sandbox(
        BUFFERED["conversations"].handler,
        aws=True,
        environment={
            "SUPABASE_URL": ISSUER,
            "SUPABASE_JWKS": jwks(),
            "DATABASE_URL": "",
            **redis_server.environment,
        },
    )
    answer = sandbox.call(url_event("/v1/conversations", headers=bearer(ADA))).json
    assert (answer["statusCode"], answer["headers"]["content-type"]) == (500, "application/problem+json")
    assert "DATABASE_URL" not in answer["body"]
    # Those who run it are told.
    assert "DATABASE_URL" in sandbox.process.log_tail(1_000)


def test_a_module_that_cannot_be_imported_is_an_init_error(start_sandbox):
    sandbox = start_sandbox(f"{SAMPLES}.broken.handler", aws=True)
    assert sandbox.wait_for_end() == 1
    assert sandbox.api.init_error["errorType"] == "Runtime.ImportModuleError"
    assert "a_package_that_was_left_out_of_the_zip" in sandbox.api.init_error["errorMessage"]


def test_a_setting_that_cannot_be_used_at_start_is_an_init_error_that_names_it(start_sandbox):
    sandbox = start_sandbox(BUFFERED["health"].handler, aws=True, environment={"ALLOWED_ORIGINS": "not json"})
    assert sandbox.wait_for_end() == 1
    assert "allowed_origins" in sandbox.api.init_error["errorMessage"].lower()
    assert "not json" not in sandbox.api.init_error["errorMessage"]


def record(message_id, body):
    """One message, as SQS hands it to a function (https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html)."""
    return {
        "messageId": message_id,
        "receiptHandle": "MessageReceiptHandle",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1523232000000",
            "SenderId": "123456789012",
            "ApproximateFirstReceiveTimestamp": "1523232000001",
        },
        "messageAttributes": {},
        "md5OfBody": "7b270e59b47ff90a553787216d55d91d",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:jobs",
        "awsRegion": "eu-central-1",
    }


def test_the_worker_names_the_messages_that_it_cannot_read_and_takes_the_others(postgres, aws, sandbox):
    of_no_job = json.dumps({"version": 1, "job_id": str(uuid.uuid4()), "kind": "ingest"})
    bodies = {
        "text": "not json",
        "gone": of_no_job,
        "empty": "{}",
        "newer": json.dumps({**json.loads(of_no_job), "version": 2}),
        "odd id": json.dumps({**json.loads(of_no_job), "job_id": "../1"}),
        "gone too": of_no_job,
    }
    event = {"Records": [record(name, body) for name, body in bodies.items()]}
    for _ in range(2):
        answer = sandbox("worker").call(event)
        assert answer.failure is None
        failed = [each["itemIdentifier"] for each in answer.json["batchItemFailures"]]
        assert failed == ["text", "empty", "newer", "odd id"]


def test_the_worker_reports_an_event_that_is_no_queues_and_goes_on(postgres, aws, sandbox):
    failure = sandbox("worker").call(url_event("/v1/worker")).failure
    assert failure is not None
    assert failure["errorType"] == "KeyError"
    assert sandbox("worker").call({"Records": []}).json == {"batchItemFailures": []}
