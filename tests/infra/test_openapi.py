"""One OpenAPI document of all functions, and a page of it that loads nothing and runs nothing."""

import json
import re
from html.parser import HTMLParser

import pytest

from infra.openapi import merge, merged
from infra.openapi_page import example, page

HOSTILE = "<script>alert('1')</script><img src=\"https://evil.test/x.png\">"


def document(schemas=None, **operation):
    """A function's own document with one operation."""
    answer = {"description": "Done.", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}}
    schemas = schemas or {"A": {"type": "object", "title": "A", "properties": {"n": {"type": "integer"}}}}
    told = {"operationId": "do", "summary": "Do", "responses": {"200": answer}, **operation}
    return {"paths": {"/v1/do": {"post": told}}, "components": {"schemas": schemas}}


class Reader(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def whole():
    return merged()


@pytest.fixture(scope="module")
def shown(whole):
    return Reader(page(whole))


def operations(document):
    return [(method, path, told) for path, methods in document["paths"].items() for method, told in methods.items()]


def references(value):
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_every_reference_leads_to_a_schema_and_every_operation_has_a_name_of_its_own(whole):
    names = {f"#/components/schemas/{name}" for name in whole["components"]["schemas"]}
    assert set(references(whole)) <= names
    identities = [told["operationId"] for _, _, told in operations(whole)]
    assert len(identities) == len(set(identities))


def test_schemas_of_one_name_that_differ_are_kept_apart():
    def schemas(kind):
        inner = {"type": "object", "title": "Inner", "properties": {"x": {"type": kind}}}
        # `A` is word for word the same in both, and means something else in each.
        return {"Inner": inner, "A": {"type": "object", "properties": {"i": {"$ref": "#/components/schemas/Inner"}}}}

    first, second = document(schemas("string")), document(schemas("integer"))
    second["paths"] = {"/v1/other": second["paths"]["/v1/do"]}
    whole = merge([("one", "One.", first), ("two", "Two.", second)])
    for path, value in (("/v1/do", "text"), ("/v1/other", 1)):
        schema = whole["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert example(schema, whole["components"]["schemas"]) == {"i": {"x": value}}


def test_schemas_that_are_the_same_stay_one():
    whole = merge([("one", "", document()), ("two", "", document())])
    assert list(whole["components"]["schemas"]) == ["A"]


def test_every_operation_is_on_the_page(whole, shown):
    anchors = {attributes.get("id") for _, attributes in shown.tags}
    links = {attributes.get("href") for tag, attributes in shown.tags if tag == "a"}
    assert len(operations(whole)) > 10
    for method, path, told in operations(whole):
        assert told["operationId"] in anchors
        assert f"#{told['operationId']}" in links
        assert re.search(rf"{method.upper()}\s+{re.escape(path)}\s+{re.escape(told['summary'])}", shown.text)
        for parameter in told.get("parameters", ()):
            assert parameter["name"] in shown.text
    assert links <= {"/openapi.json", *(f"#{anchor}" for anchor in anchors)}


def test_the_page_loads_nothing_and_lets_nothing_run(shown):
    assert not any(
        {"src", "srcset", "background", "action", "style"} & attributes.keys() for _, attributes in shown.tags
    )
    assert {tag for tag, _ in shown.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base"})
    (policy,) = [each["content"] for _, each in shown.tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert "url(" not in shown.text
    assert "@import" not in shown.text


def test_texts_are_shown_and_never_become_markup():
    field = {"type": "string", "description": HOSTILE, "pattern": HOSTILE, "examples": [HOSTILE]}
    schemas = {"A": {"type": "object", "title": HOSTILE, "description": HOSTILE, "properties": {HOSTILE: field}}}
    parameter = {"name": HOSTILE, "in": "query", "schema": {"enum": [HOSTILE]}, "description": f"`{HOSTILE}`"}
    told = document(schemas, summary=HOSTILE, description=HOSTILE, parameters=[parameter])
    told["paths"] = {f"/v1/{HOSTILE}": told["paths"]["/v1/do"]}
    read = Reader(page(merge([("one", HOSTILE, told)])))
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "img"})
    # Summary, description, parameter, its values and description; member, its description, pattern and example.
    assert read.text.count("alert('1')") >= 9


def test_a_schema_that_refers_to_itself_comes_to_an_end():
    schemas = {
        "A": {
            "type": "object",
            "title": "A",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/components/schemas/A"}}},
        }
    }
    read = Reader(page(merge([("one", "", document(schemas))])))
    assert "children[].children" in read.text


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        pytest.param({"type": "string", "examples": ["lease"]}, "lease", id="its own"),
        pytest.param({"anyOf": [{"type": "integer", "minimum": 3}, {"type": "null"}]}, 3, id="the first of several"),
        pytest.param({"enum": ["a", "b"]}, "a", id="of a few"),
        pytest.param({"const": "text"}, "text", id="the only one"),
        pytest.param({"type": "integer", "default": 20}, 20, id="default"),
        pytest.param({"type": "array", "items": {"type": "boolean"}}, [True], id="list"),
        pytest.param({"type": ["string", "null"]}, "text", id="several types"),
        pytest.param({}, {}, id="anything"),
    ],
)
def test_an_example_is_a_value_that_the_schema_allows(schema, value):
    assert example(schema, {}) == value


def test_a_request_of_our_own_is_shown_with_its_example(shown):
    assert json.dumps("When does the lease end?") in shown.text
