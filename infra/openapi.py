"""The functions' OpenAPI documents as one, and a page that shows it without any network."""

import html
import importlib
import json
import subprocess
import sys
from typing import Any

from infra.functions import ROOT, declared

SCHEMAS = "#/components/schemas/"

Json = dict[str, Any]


def merged() -> Json:
    """Import every function and return one document of them all; each function is a tag."""
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "AgentKit Functions", "version": "v1"},
        "tags": [],
        "paths": {},
        "components": {"schemas": {}, "securitySchemes": {}},
    }
    for function in declared():
        if function.queue:
            continue
        module = importlib.import_module(f"functions.{function.name}.app")
        own = _renamed(module.app.openapi(), function.name, document["components"]["schemas"])
        document["tags"].append({"name": function.name, "description": (module.__doc__ or "").partition("\n")[0]})
        for path, operations in own["paths"].items():
            for operation in operations.values():
                operation["tags"] = [function.name]
                operation["operationId"] = f"{function.name}_{operation['operationId']}"
            document["paths"].setdefault(path, {}).update(operations)
        for kind, entries in own.get("components", {}).items():
            document["components"].setdefault(kind, {}).update(entries)
    return document


def merged_in_subprocess() -> Json:
    """Return the document of the code as it is on disk now."""
    done = subprocess.run(
        [sys.executable, "-m", "infra", "openapi"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    return dict(json.loads(done.stdout))


def page(document: Json) -> str:
    """Return an HTML page of the document: every operation with its request and its answers."""
    sections = []
    for tag in document["tags"]:
        operations = "".join(
            _operation(path, method, operation, document)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if operation["tags"] == [tag["name"]]
        )
        sections.append(f"<h2>{html.escape(tag['name'])}</h2><p>{html.escape(tag['description'])}</p>{operations}")
    return PAGE.format(title=html.escape(document["info"]["title"]), body="".join(sections))


def _renamed(document: Json, function: str, taken: Json) -> Json:
    """Return the document with each schema whose name means something else already renamed after its function."""
    schemas = document.get("components", {}).get("schemas", {})
    clashing = {name for name, schema in schemas.items() if taken.get(name, schema) != schema}
    # Whoever refers to a renamed schema is another schema too, however alike the two are written.
    while more := {name for name in taken.keys() & schemas if clashing & _referred(schemas[name])} - clashing:
        clashing |= more
    names = {name: f"{function.capitalize()}{name}" for name in clashing}
    renamed = dict(_with_names(document, names))
    if schemas:
        entries = renamed["components"]["schemas"].items()
        renamed["components"]["schemas"] = {names.get(name, name): schema for name, schema in entries}
    return renamed


def _referred(value: Any) -> set[str]:  # noqa: ANN401  # any piece of a document
    """Return the names of the schemas that are referred to."""
    if isinstance(value, list):
        return {name for each in value for name in _referred(each)}
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"].removeprefix(SCHEMAS)} if isinstance(value.get("$ref"), str) else set()
    return own.union(*(_referred(each) for each in value.values()))


def _with_names(value: Any, names: dict[str, str]) -> Any:  # noqa: ANN401  # any piece of a document
    """Return it with every reference to those schemas under their new names."""
    if isinstance(value, list):
        return [_with_names(each, names) for each in value]
    if not isinstance(value, dict):
        return value
    renamed = {key: _with_names(each, names) for key, each in value.items()}
    if isinstance(reference := renamed.get("$ref"), str):
        name = reference.removeprefix(SCHEMAS)
        renamed["$ref"] = SCHEMAS + names.get(name, name)
    return renamed


def _operation(path: str, method: str, operation: Json, document: Json) -> str:
    parts = [f"<p>{html.escape(operation.get('description', ''))}</p>"]
    if parameters := operation.get("parameters"):
        names = ", ".join(f"<code>{html.escape(each['name'])}</code> ({each['in']})" for each in parameters)
        parts.append(f"<p>Parameters: {names}</p>")
    for title, holder in [("Request", operation.get("requestBody", {})), *operation["responses"].items()]:
        for media_type, content in holder.get("content", {}).items():
            schema = json.dumps(_resolved(content.get("schema", {}), document), indent=2)
            parts.append(
                f"<details><summary>{html.escape(str(title))} <code>{html.escape(media_type)}</code></summary>"
                f"<pre>{html.escape(schema)}</pre></details>"
            )
    summary = f"<b>{method.upper()}</b> <code>{html.escape(path)}</code> {html.escape(operation.get('summary', ''))}"
    return f"<details class='operation'><summary>{summary}</summary>{''.join(parts)}</details>"


def _resolved(schema: Any, document: Json, depth: int = 0) -> Any:  # noqa: ANN401  # any piece of a schema
    """Return the schema with its references filled in, a few levels down."""
    deepest = 6
    if isinstance(schema, list):
        return [_resolved(each, document, depth) for each in schema]
    if not isinstance(schema, dict) or depth > deepest:
        return schema
    if reference := schema.get("$ref"):
        target = document["components"]["schemas"].get(reference.rsplit("/", 1)[-1], {})
        return _resolved(target, document, depth + 1)
    return {key: _resolved(value, document, depth) for key, value in schema.items()}


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
  .operation {{ border: 1px solid color-mix(in srgb, currentColor 25%, transparent); border-radius: .5rem;
               margin: .5rem 0; padding: .5rem .75rem; }}
  .operation > summary {{ cursor: pointer; }}
  pre {{ overflow-x: auto; font-size: .85rem; }}
</style></head>
<body><h1>{title}</h1><p>The document itself: <a href="/openapi.json">/openapi.json</a></p>{body}</body></html>
"""
