"""The dependency rule: a function is its own folder and `agentkit`; a light one never pays for a heavy package."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra.functions import ROOT, declared

# boto3 counts for nothing until it is used, and is loaded only then.
LIGHT = {function.name for function in declared() if function.has_url and set(function.extras) <= {"aws"}}
HEAVY_PACKAGES = {
    *("langchain", "langchain_core", "langchain_openai", "langgraph", "langsmith", "openai", "tiktoken"),
    *("numpy", "vecs", "sqlalchemy", "psycopg2", "boto3", "botocore", "supabase"),
}
PARSERS = {"pypdfium2", "mammoth", "python_calamine", "selectolax", "markdown_it"}
# What any function here needs before its own first line: the measure of what it loads beyond that.
FLOOR = "fastapi, mangum"
# The budget of import time is 2.0 times the floor's; modules are what it is made of, and their number never varies.
MODULES_OVER_FLOOR = 2.0
# The worker alone may import other functions' `tasks`.
WORKER_MAY = "tasks"


def imported(file: Path) -> set[str]:
    """Every absolute module name that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules_loaded_by(modules: str, *, then: str = "pass") -> set[str]:
    """Every module in memory after a fresh interpreter has imported those, and done that with them."""
    program = f"import sys, json, {modules}; {then}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


def loaded_by(module: str) -> set[str]:
    """Top-level packages in memory after a fresh interpreter has imported that module."""
    return {name.partition(".")[0] for name in modules_loaded_by(module)}


@pytest.mark.parametrize("function", declared(), ids=lambda function: function.name)
def test_a_function_imports_nothing_of_another(function):
    foreign = {
        name
        for file in function.folder.rglob("*.py")
        for name in imported(file)
        if name.startswith("functions.")
        and not name.startswith(f"functions.{function.name}.")
        and not (function.name == "worker" and WORKER_MAY in name.split("."))
    }
    assert foreign == set()


@pytest.mark.parametrize("function", declared(), ids=lambda function: function.name)
def test_neither_functions_nor_the_library_import_what_is_not_deployed(function):
    files = [*function.folder.rglob("*.py"), *(ROOT / "shared").rglob("*.py")]
    assert {name for file in files for name in imported(file) if name.split(".")[0] in {"infra", "tests"}} == set()


def test_the_library_imports_no_function():
    files = (ROOT / "shared").rglob("*.py")
    assert {name for file in files for name in imported(file) if name.split(".")[0] == "functions"} == set()


@pytest.mark.parametrize("function", [each for each in declared() if each.name in LIGHT], ids=lambda each: each.name)
def test_a_light_function_loads_no_heavy_package(function):
    assert loaded_by(f"functions.{function.name}.app") & (HEAVY_PACKAGES | PARSERS) == set()


@pytest.mark.parametrize(
    "function", [each for each in declared() if each.name in LIGHT | {"chat"}], ids=lambda each: each.name
)
def test_what_a_browser_waits_for_loads_at_most_twice_the_modules_of_an_empty_app(function):
    loaded = modules_loaded_by(f"functions.{function.name}.app")
    assert len(loaded) <= MODULES_OVER_FLOOR * len(modules_loaded_by(FLOOR))


def test_chat_is_ready_to_answer_before_it_loads_a_model_library():
    assert loaded_by("functions.chat.app") & (HEAVY_PACKAGES | PARSERS) == set()


def test_the_worker_loads_what_writes_and_fetches_only_when_there_is_work():
    assert loaded_by("functions.worker.app") & HEAVY_PACKAGES == set()


def test_reading_a_text_loads_no_reader_of_other_files():
    read = "functions.worker.parse.parse(b'Rent.', announced='text/plain', filename='')"
    assert modules_loaded_by("functions.worker.parse", then=read) & PARSERS == set()


def test_the_package_itself_imports_nothing():
    assert loaded_by("agentkit") & (HEAVY_PACKAGES | {"fastapi", "pydantic", "httpx"}) == set()


def test_every_folder_of_functions_is_declared_and_the_reverse():
    folders = {
        folder.name for folder in (ROOT / "functions").iterdir() if folder.is_dir() and folder.name[0] not in "_."
    }
    assert folders == {function.name for function in declared()}
