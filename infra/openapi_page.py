"""An OpenAPI document as one page that loads nothing from anywhere: for reading, and for showing."""

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any

Json = dict[str, Any]

PROBLEM = "#/components/schemas/ProblemDocument"
# References may lead round in a circle.
DEEPEST = 5
EXAMPLE_OF_FORMAT = {
    "uuid": "4f6e2a10-9d3b-4c55-8a7e-0d2b6c1f9e33",
    "date-time": "2026-03-01T09:00:00Z",
    "date": "2026-03-01",
    "uri": "https://example.com/",
    "email": "ada@example.com",
}
EXAMPLE_OF_TYPE: Json = {"string": "text", "integer": 1, "number": 0.5, "boolean": True, "null": None}
BOUNDS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minimum": "from {}",
    "maximum": "to {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "matches {}",
}


def page(document: Json) -> str:
    """Return the HTML: every operation with its parameters, request, answers and an example of each."""
    schemas = document["components"]["schemas"]
    links, sections = [], []
    for tag in document["tags"]:
        operations = [
            (path, method, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if operation["tags"] == [tag["name"]]
        ]
        name = escape(tag["name"])
        entries = "".join(
            f'<li><a href="#{escape(operation["operationId"])}">{_method(method)} {escape(_short(path))}</a></li>'
            for path, method, operation in operations
        )
        links.append(f'<li><a href="#{name}"><b>{name}</b></a><ul>{entries}</ul></li>')
        told = "".join(_operation(*each, schemas) for each in operations)
        sections.append(f'<section id="{name}"><h2>{name}</h2><p>{_prose(tag["description"])}</p>{told}</section>')
    info = document["info"]
    return PAGE.format(
        title=escape(info["title"]),
        about=_prose(info.get("description", "")),
        style=STYLE,
        links="".join(links),
        sections="".join(sections),
        problems=_problems(schemas),
    )


def example(schema: Json, schemas: Json, depth: int = 0) -> Any:  # noqa: ANN401  # JSON
    """Return a value that the schema allows: its own example where it has one."""
    schema = _resolved(schema, schemas)
    for key in ("example", "const", "default"):
        if key in schema and schema[key] is not None:
            return schema[key]
    for key in ("examples", "enum", "anyOf", "oneOf", "allOf"):
        if schema.get(key):
            first = schema[key][0]
            return first if key in {"examples", "enum"} else example(first, schemas, depth)
    if "properties" in schema and depth < DEEPEST:
        return {name: example(each, schemas, depth + 1) for name, each in schema["properties"].items()}
    kind = schema.get("type", "object")
    if kind == "array":
        return [example(schema["items"], schemas, depth + 1)] if "items" in schema and depth < DEEPEST else []
    if kind == "object":
        return {}
    kind = kind[0] if isinstance(kind, list) else kind
    return EXAMPLE_OF_FORMAT.get(schema.get("format", ""), schema.get("minimum", EXAMPLE_OF_TYPE.get(kind)))


def _operation(path: str, method: str, operation: Json, schemas: Json) -> str:
    identity = escape(operation["operationId"])
    heading = f"{_method(method)} <code>{escape(path)}</code> <span>{escape(operation.get('summary', ''))}</span>"
    parts = [f'<article id="{identity}"><h3>{heading}</h3><p>{_prose(operation.get("description", ""))}</p>']
    if not operation.get("security"):
        parts.append("<p class='note'>Needs no sign-in.</p>")
    if parameters := operation.get("parameters"):
        rows = [
            (each["name"], f"{each['in']}, {_type(each['schema'], schemas)}", each.get("required", False), each)
            for each in parameters
        ]
        parts.append("<h4>Parameters</h4>" + _table(rows, schemas))
    request = operation.get("requestBody", {}).get("content", {})
    parts += [_content("Request", "", media, each, schemas) for media, each in request.items()]
    errors = []
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        if status.endswith("XX"):
            errors.append(f"<b>{escape(status)}</b> {_prose(answer.get('description', ''))}")
        elif not content:
            parts.append(f"<h4>{escape(status)} <span>{_prose(answer.get('description', ''))}</span></h4>")
        for media, each in {} if status.endswith("XX") else content.items():
            parts.append(_content(status, answer.get("description", ""), media, each, schemas))
    if errors:
        parts.append(f"<p class='note'>Errors: {' '.join(errors)} All are problems, told below.</p>")
    return "".join([*parts, "</article>"])


def _problems(schemas: Json) -> str:
    """Tell once what every error looks like."""
    told = _content("4XX, 5XX", "", "application/problem+json", {"schema": {"$ref": PROBLEM}}, schemas)
    return f'<section id="problems"><h2>problems</h2><article>{told}</article></section>'


def _content(title: str, description: str, media: str, content: Json, schemas: Json) -> str:
    schema = content.get("schema", {})
    said = "" if description == "Successful Response" else description
    heading = f"<h4>{escape(title)} <code>{escape(media)}</code> <span>{_prose(said)}</span></h4>"
    if not schema:
        return heading
    value = escape(json.dumps(example(schema, schemas), indent=2, ensure_ascii=False))
    about = _prose(_resolved(schema, schemas).get("description", ""))
    return (
        f"{heading}<p>{about}</p>{_table(list(_fields(schema, schemas)), schemas)}"
        f"<details><summary>Example</summary><pre>{value}</pre></details>"
    )


Row = tuple[str, str, bool, Json]


def _fields(schema: Json, schemas: Json, prefix: str = "", depth: int = 0) -> Iterator[Row]:
    """Yield every member, those within others too: its path, type, whether it is required, and its schema."""
    whole = _resolved(schema, schemas)
    for name, each in whole.get("properties", {}).items():
        yield f"{prefix}{name}", _type(each, schemas), name in whole.get("required", ()), each
        if depth < DEEPEST:
            for part, mark in _parts(each, schemas):
                yield from _fields(part, schemas, f"{prefix}{name}{mark}.", depth + 1)


def _parts(schema: Json, schemas: Json) -> Iterator[tuple[Json, str]]:
    """Yield the objects that a member may hold, with the mark of a list where it is one."""
    whole = _resolved(schema, schemas)
    if "properties" in whole:
        yield whole, ""
    if "items" in whole:
        for part, mark in _parts(whole["items"], schemas):
            yield part, f"[]{mark}"
    for each in (*whole.get("anyOf", ()), *whole.get("oneOf", ()), *whole.get("allOf", ())):
        yield from _parts(each, schemas)


def _table(rows: list[Row], schemas: Json) -> str:
    if not rows:
        return ""
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code>{'' if required else ' <i>optional</i>'}</td><td>{escape(kind)}</td>"
        f"<td>{_prose(_about(schema, schemas))}</td></tr>"
        for name, kind, required, schema in rows
    )
    return f"<div class='wide'><table>{cells}</table></div>"


def _about(schema: Json, schemas: Json) -> str:
    """Return what is said of a member, its bounds and its default."""
    whole = {**_resolved(schema, schemas), **schema}
    inner = {**whole, **_resolved(whole.get("schema", {}), schemas)}
    bounds = [BOUNDS[key].format(inner[key]) for key in BOUNDS if key in inner]
    for each in inner.get("anyOf", ()):
        bounds += [BOUNDS[key].format(each[key]) for key in BOUNDS if key in each]
    if inner.get("default") is not None:
        bounds.append(f"default {json.dumps(inner['default'])}")
    said = " ".join(str(whole.get("description", "")).split())
    return f"{said} ({'; '.join(bounds)})" if bounds else said


def _type(schema: Json, schemas: Json) -> str:
    whole = _resolved(schema, schemas)
    if "properties" in whole and "title" in whole:
        return str(whole["title"])
    if "const" in whole:
        return json.dumps(whole["const"])
    if "enum" in whole:
        return " | ".join(json.dumps(each) for each in whole["enum"])
    for key, between in (("anyOf", " | "), ("oneOf", " | "), ("allOf", " & ")):
        if key in whole:
            return between.join(_type(each, schemas) for each in whole[key])
    if whole.get("type") == "array":
        return f"list of {_type(whole.get('items', {}), schemas)}"
    kind = whole.get("type", "anything")
    kind = " | ".join(kind) if isinstance(kind, list) else str(kind)
    return f"{kind} ({whole['format']})" if "format" in whole else kind


def _resolved(schema: Json, schemas: Json) -> Json:
    """Return the schema, or the one that it refers to."""
    reference = schema.get("$ref")
    return dict(schemas.get(reference.rsplit("/", 1)[-1], {})) if reference else schema


def _method(method: str) -> str:
    return f'<span class="method {escape(method)}">{escape(method.upper())}</span>'


def _short(path: str) -> str:
    return path.removeprefix("/v1")


def _prose(text: str) -> str:
    """Return the text with `code` marked as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


STYLE = """
  :root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent);
          --soft: color-mix(in srgb, currentColor 6%, transparent);
          --dim: color-mix(in srgb, currentColor 65%, transparent); }
  * { box-sizing: border-box; }
  body { font: 15px/1.5 system-ui, sans-serif; margin: 0; padding: 0 1.5rem;
         display: grid; grid-template-columns: 17rem minmax(0, 54rem); gap: 2.5rem; }
  a { color: light-dark(#1d4ed8, #93c5fd); }
  nav { position: sticky; top: 0; height: 100vh; overflow-y: auto; padding: 1.5rem 0; font-size: .85rem; }
  nav ul { list-style: none; padding: 0; margin: 0 0 .9rem; }
  nav a { display: block; padding: .1rem 0; color: inherit; text-decoration: none;
          white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
  nav a:hover { text-decoration: underline; }
  main { padding: 1.5rem 0 6rem; }
  h1 { margin: 0 0 .5rem; }
  h2 { margin: 3rem 0 0; }
  section > p { margin-top: .25rem; color: var(--dim); }
  article { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.25rem; margin: 1rem 0; }
  article:target { outline: 2px solid #3b82f6; }
  h3 { font-size: 1rem; margin: 0; }
  h3 span:last-child, h4 span { font-weight: normal; color: var(--dim); }
  h4 { margin: 1.25rem 0 .25rem; font-size: .9rem; }
  p { margin: .5rem 0; }
  p:empty { display: none; }
  code, pre { font: .85em/1.5 ui-monospace, monospace; background: var(--soft); }
  code { border-radius: .25rem; padding: .1em .3em; }
  pre { border-radius: .4rem; padding: .75rem; overflow-x: auto; margin: .5rem 0 0; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; width: 100%; font-size: .87rem; }
  td { border-top: 1px solid var(--line); padding: .35rem .75rem .35rem 0; vertical-align: top;
       overflow-wrap: anywhere; }
  td:first-child { width: 32%; }
  td:nth-child(2) { width: 22%; color: var(--dim); }
  i, .note { color: var(--dim); font-size: .85rem; }
  summary { cursor: pointer; font-size: .85rem; margin-top: .5rem; }
  .method { display: inline-block; min-width: 3.6em; text-align: center; border-radius: .25rem; padding: 0 .4em;
            font: 700 .72rem/1.7 ui-monospace, monospace; color: #fff; background: #475569; }
  .get { background: #1d4ed8; }
  .post { background: #15803d; }
  .patch, .put { background: #b45309; }
  .delete { background: #b91c1c; }
  @media (max-width: 60rem) { body { display: block; } nav { position: static; height: auto; } }
"""
# The policy makes the browser itself keep to it: nothing is loaded, and no script runs.
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head>
<body><nav><ul>{links}<li><a href="#problems"><b>problems</b></a></li></ul></nav>
<main><h1>{title}</h1><p>{about} The whole document: <a href="/openapi.json">/openapi.json</a>.</p>
{sections}{problems}</main></body></html>
"""
