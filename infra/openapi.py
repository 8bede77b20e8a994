"""The functions' OpenAPI documents as one."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

from infra.functions import ROOT, declared

REFERENCE = "#/components/schemas/"
ABOUT = (
    "Sign in at Supabase and send its access token: `Authorization: Bearer …`. Every error is "
    "`application/problem+json` with a stable `code`; send `X-Request-Id` to find a request in the logs again."
)

Json = dict[str, Any]


def merged() -> Json:
    """Import every function that has a URL and return one document of them all; each function is a tag."""
    modules = {each.name: importlib.import_module(f"functions.{each.name}.app") for each in declared() if each.has_url}
    return merge((name, module.__doc__ or "", module.app.openapi()) for name, module in modules.items())


def merged_in_subprocess() -> Json:
    """Return the document of the code as it is on disk now."""
    done = subprocess.run(
        [sys.executable, "-m", "infra", "openapi"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    return dict(json.loads(done.stdout))


def merge(functions: Iterable[tuple[str, str, Json]]) -> Json:
    """Return one document of several functions', each given by name, description and document.

    A schema whose name another function has for a different one is renamed after its function.
    """
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "AgentKit Functions", "version": "v1", "description": ABOUT},
        "tags": [],
        "paths": {},
        "components": {"schemas": {}},
    }
    for name, description, whole in functions:
        own = _renamed(whole, name, document["components"]["schemas"])
        document["tags"].append({"name": name, "description": description.partition("\n")[0]})
        for path, operations in own["paths"].items():
            for operation in operations.values():
                operation["tags"] = [name]
                operation["operationId"] = f"{name}_{operation['operationId']}"
            document["paths"].setdefault(path, {}).update(operations)
        for kind, entries in own.get("components", {}).items():
            document["components"].setdefault(kind, {}).update(entries)
    return document


def _renamed(document: Json, function: str, taken: Json) -> Json:
    """Return a copy of the document in which no name of `taken` means another schema than there."""
    schemas: Json = document.get("components", {}).get("schemas", {})
    names: dict[str, str] = {}

    def rename(value: str) -> str:
        name = value.removeprefix(REFERENCE)
        return f"{REFERENCE}{names.get(name, name)}" if value.startswith(REFERENCE) else value

    # A schema that refers to a renamed one differs too by that, so it is done until nothing more follows.
    while clashing := [
        name for name in schemas.keys() & taken.keys() - names.keys() if _mapped(schemas[name], rename) != taken[name]
    ]:
        names |= {name: f"{function.capitalize()}{name}" for name in clashing}
    renamed: Json = _mapped(document, rename)
    if schemas:
        own = renamed["components"]["schemas"]
        renamed["components"]["schemas"] = {names.get(name, name): schema for name, schema in own.items()}
    return renamed


def _mapped(value: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401  # JSON
    """Return a copy of the value with every text in it changed."""
    if isinstance(value, dict):
        return {name: _mapped(each, change) for name, each in value.items()}
    if isinstance(value, list):
        return [_mapped(each, change) for each in value]
    return change(value) if isinstance(value, str) else value
