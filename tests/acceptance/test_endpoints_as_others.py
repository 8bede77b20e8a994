"""Ada, Bob and a stranger against every endpoint there is, as the merged OpenAPI document lists them."""

import uuid

import pytest

from infra import openapi
from tests.parts.functions import HOOK, PARAMETER, body_schema, example_of
from tests.parts.model import says
from tests.parts.people import ADA, BOB

DOCUMENT = openapi.merged()
OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]
OPEN_TO_ALL = {("get", "/v1/health"), ("get", "/v1/health/live")}
# What belongs to someone, by the column that says to whom.
TABLES = [("", f"agentkit.{name}") for name in ("documents", "conversations", "messages", "jobs", "usage_events")]
TABLES.append(("VECTOR_", "vecs.passages"))


def each(operations):
    return pytest.mark.parametrize(
        ("method", "path"), operations, ids=[f"{method.upper()} {path}" for method, path in operations]
    )


def example(method, path):
    return example_of(body_schema(DOCUMENT["paths"][path][method], DOCUMENT))


def somebodys_ids(path):
    """Ids of the right shape that nothing has."""
    return {name: str(uuid.uuid4()) for name in PARAMETER.findall(path)}


@pytest.fixture
def hers(rows, aws):
    """Everything of Ada's, wherever it is kept."""

    def kept():
        found = {
            table: rows(f"select * from {table} where owner = %s order by id", [ADA.id], database=database)
            for database, table in TABLES
        }
        objects = aws.s3.list_objects_v2(Bucket=aws.environment["STORAGE_BUCKET"]).get("Contents", [])
        return {**found, "files": [(each["Key"], each["ETag"]) for each in objects]}

    return kept


def said(answer):
    """What an answer tells, besides which request it answers."""
    body = answer.json() if answer.content else None
    return answer.status_code, {**body, "request_id": ""} if body else None


@each([(method, path) for method, path in OPERATIONS if "{" in path])
def test_anothers_things_are_as_if_they_were_not_there_and_stay_as_they_are(functions, hers, method, path):
    ids = functions.things_for(path, ADA)
    before = hers()
    assert any(before.values())
    answer = functions.ask(BOB, method, path.format(**ids), json=example(method, path))
    nothing = functions.ask(BOB, method, path.format(**somebodys_ids(path)), json=example(method, path))
    assert said(answer) == said(nothing)
    assert answer.status_code in {204, 404} or answer.json() == {"stopped": False}
    assert hers() == before


@each([("get", path) for method, path in OPERATIONS if method == "get" and "{" not in path and "health" not in path])
def test_no_list_tells_of_anothers_things(functions, method, path):
    for other in PARAMETER.findall("".join(DOCUMENT["paths"])):
        functions.things_for(f"{{{other}}}", ADA)
    assert functions.ask(ADA, method, path).json()["items"] != []
    assert functions.ask(BOB, method, path).json()["items"] == []


def test_an_answer_that_is_being_written_is_not_anothers_to_read_or_to_stop(functions, model):
    chat = uuid.uuid4().hex
    model.will(says("It ends on 30 September 2027.", hold_after=2))
    question = {"id": "q1", "role": "user", "parts": [{"type": "text", "text": "When does the lease end?"}]}
    headers = {"Authorization": f"Bearer {functions.token(ADA)}"}
    body = {"id": chat, "messages": [question]}
    with functions.clients["chat"].stream("POST", "/v1/chat", json=body, headers=headers) as answer:
        model.wait_until_held()
        resumed = functions.ask(BOB, "GET", f"/v1/chat/{chat}/stream")
        stopped = functions.ask(BOB, "POST", f"/v1/chat/{chat}/stop")
        model.let_go()
        text = answer.read().decode()
    assert (resumed.status_code, resumed.content) == (204, b"")
    assert stopped.json() == {"stopped": False}
    assert '"finishReason":"stop"' in text
    assert '"status":"stopped"' not in text


def test_a_chat_of_anothers_id_is_a_chat_of_ones_own(functions, hers):
    (chat,) = functions.things_for("{chat_id}", ADA).values()
    before = hers()
    question = {"id": "q1", "role": "user", "parts": [{"type": "text", "text": "What did she ask?"}]}
    functions.ask(BOB, "POST", "/v1/chat", json={"id": chat, "messages": [question]})
    assert hers() == before
    messages = functions.ask(BOB, "GET", f"/v1/conversations/{chat}").json()["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[0]["parts"] == question["parts"]


@each([operation for operation in OPERATIONS if operation not in OPEN_TO_ALL and operation[1] != HOOK])
def test_a_stranger_is_sent_to_sign_in_whatever_they_bring(functions, method, path):
    for body in (example(method, path), {"unknown": True}, None):
        answer = functions.ask(None, method, path.format(**somebodys_ids(path)), json=body)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")
        assert answer.headers["www-authenticate"] == 'Bearer realm="agentkit", error_description="token_missing"'
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("person", [None, ADA], ids=["a stranger", "a person"])
def test_nobody_may_speak_for_the_storage(functions, person):
    shown = {"Authorization": f"Bearer {functions.token(person)}"} if person else {}
    answer = functions.ask(None, "POST", HOOK, headers=shown, json=example("post", HOOK))
    assert (answer.status_code, answer.json()["code"]) == (401, "signature_invalid")


@each(sorted(OPEN_TO_ALL))
def test_health_is_for_everyone(functions, method, path):
    assert functions.ask(None, method, path).status_code == 200
