"""The OpenAPI documents tell the truth: whatever is asked, each function answers as its document says."""

import sys
from types import ModuleType
from typing import Any

import pytest
import schemathesis
from fastapi.openapi.models import OpenAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from pydantic import create_model
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from agentkit.http import create_app
from infra import openapi
from infra.functions import Function
from tests.parts.functions import HOOK, HTTP_FUNCTIONS, app_of, body_schema, example_of, resolved
from tests.parts.people import ADA

DOCUMENTS: dict[str, Any] = {name: app_of(name).openapi() for name in HTTP_FUNCTIONS}
OPERATIONS = [
    (name, method, path)
    for name, document in DOCUMENTS.items()
    for path, methods in document["paths"].items()
    for method in methods
]
# Of each operation and mode; the same ones each time.
EXAMPLES = 10
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}

each_operation = pytest.mark.parametrize(
    ("name", "method", "path"), OPERATIONS, ids=[f"{method.upper()} {path}" for _, method, path in OPERATIONS]
)


def body_of(name, method, path):
    """The schema of what the operation takes, or None."""
    return body_schema(DOCUMENTS[name]["paths"][path][method], DOCUMENTS[name])


# Each function's document


def fuzzed(name, path, method, mode):
    """Requests of that operation: as documented, or spoiled. Who asks is no part of it: that is not for chance."""
    document = {**DOCUMENTS[name], "components": {**DOCUMENTS[name]["components"], "securitySchemes": {}}}
    config = SchemathesisConfig.from_dict({"generation": {"allow-extra-parameters": False}})
    operation: Any = schemathesis.openapi.from_dict(document, config=config)[path][method.upper()]
    return operation.as_strategy(generation_mode=mode)


@each_operation
def test_whatever_is_asked_is_answered_as_the_document_says(functions, name, method, path):
    there = functions.things_for(path)
    address, headers = str(functions.clients[name].base_url), functions.credentials(ADA, path)

    def answer(case):
        # What a document cannot say of a text (a cursor that is ours, no NUL) may well be refused.
        case.call_and_validate(base_url=address, headers=headers, excluded_checks=[positive_data_acceptance])

    steady = settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @steady
    @given(case=fuzzed(name, path, method, GenerationMode.POSITIVE), exists=st.booleans())
    def ask_well(case, exists):
        if exists:
            case.path_parameters = {key: there[key] for key in case.path_parameters or {}}
        answer(case)

    @steady
    @given(case=fuzzed(name, path, method, GenerationMode.NEGATIVE))
    def ask_badly(case):
        answer(case)

    ask_well()
    if "parameters" in DOCUMENTS[name]["paths"][path][method] or body_of(name, method, path):
        ask_badly()


@pytest.mark.parametrize("name", HTTP_FUNCTIONS)
def test_a_document_is_openapi(name):
    OpenAPI.model_validate(DOCUMENTS[name])


@each_operation
def test_an_operation_says_that_its_errors_are_problems(name, method, path):
    responses = DOCUMENTS[name]["paths"][path][method]["responses"]
    assert responses["4XX"]["content"] == responses["5XX"]["content"] == PROBLEM


@each_operation
def test_an_operation_says_what_it_does_and_who_may_ask(name, method, path):
    operation = DOCUMENTS[name]["paths"][path][method]
    assert operation["description"]
    asked: list[Any] = [{"WebhookSecret": []}, {"WebhookSignature": []}] if path == HOOK else [{"HTTPBearer": []}]
    assert operation.get("security") == (None if name == "health" else asked)


@each_operation
def test_an_example_fits_its_schema_and_is_accepted(functions, name, method, path):
    schema = body_of(name, method, path)
    example = example_of(schema)
    if schema is not None:
        Draft202012Validator(schema).validate(example)
    answer = functions.ask(ADA, method, path.format(**functions.things_for(path)), json=example)
    assert answer.is_success, answer.text
    documented = DOCUMENTS[name]["paths"][path][method]["responses"]
    assert str(answer.status_code) in documented


# All of them as one


def test_the_merged_document_holds_every_operation_of_every_function_once():
    merged = openapi.merged()
    found = [
        (operation["tags"], method, path)
        for path, methods in merged["paths"].items()
        for method, operation in methods.items()
    ]
    assert sorted(found) == sorted(([name], method, path) for name, method, path in OPERATIONS)
    assert [tag["name"] for tag in merged["tags"]] == HTTP_FUNCTIONS
    identities = [operation["operationId"] for methods in merged["paths"].values() for operation in methods.values()]
    assert len(set(identities)) == len(OPERATIONS)
    OpenAPI.model_validate(merged)


@each_operation
def test_the_merged_document_says_of_an_operation_what_its_function_says(name, method, path):
    merged = openapi.merged()
    ours = {"tags": 0, "operationId": 0}
    said = resolved(merged["paths"][path][method], merged) | ours
    assert said == resolved(DOCUMENTS[name]["paths"][path][method], DOCUMENTS[name]) | ours


def test_functions_that_mean_different_things_by_one_name_are_both_told(monkeypatch):
    functions = {"first": made("first", int), "second": made("second", str)}
    for name, app in functions.items():
        module = ModuleType(name)
        module.app = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"functions.{name}.app", module)
    monkeypatch.setattr(openapi, "declared", lambda: [Function(name) for name in functions])
    merged = openapi.merged()
    for name, app in functions.items():
        own = app.openapi()
        for way in ("responses", "requestBody"):
            said = merged["paths"][f"/v1/{name}"]["post"][way]
            assert resolved(said, merged) == resolved(own["paths"][f"/v1/{name}"]["post"][way], own)


def made(name, kind):
    """A function whose `Page` of `Item`s is written like every other's, and its `Item` is not."""
    item: Any = create_model("Item", value=(kind, ...))
    page: Any = create_model("Page", items=(list[item], ...))
    app = create_app(name)

    @app.post(f"/{name}")
    async def exchange(body: page) -> page:
        return body

    return app
