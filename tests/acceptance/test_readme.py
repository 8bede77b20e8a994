"""What the README says can be relied on: its example works, its tables are complete and true."""

import re
import tomllib
from types import ModuleType
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from agentkit import settings
from functions.worker.extract import MAX_CHARACTERS
from functions.worker.formats import archive, docx, json_text, mail, pdf, pptx, xlsx
from infra import openapi
from infra.functions import ROOT, Function
from tests.parts.people import ADA, BOB, bearer

README = (ROOT / "README.md").read_text()


def section(title):
    """The text under that heading, up to the next."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def block(title, language):
    """The one code block of that language under that heading."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", section(title), re.DOTALL)
    return found


def table(title):
    """The rows of the table under that heading, each a list of its cells."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# Adding a capability

EXAMPLE = block("Adding a capability", "python")


@pytest.fixture
def echo(postgres, upstash, people, serve):
    """The README's function, as if it stood in functions/echo/app.py."""
    module: Any = ModuleType("functions.echo.app")
    exec(compile(EXAMPLE, "functions/echo/app.py", "exec"), module.__dict__)  # noqa: S102  # our own README
    client = serve(module.app)

    def ask(person=ADA, **body):
        return client.post("/v1/echo", json=body, headers=bearer(person) if person else {})

    return ask


def test_a_capability_takes_less_than_forty_lines():
    assert len(EXAMPLE.splitlines()) + len(block("Adding a capability", "toml").splitlines()) < 40


def test_its_declaration_is_one_that_the_project_reads():
    (declared,) = tomllib.loads(block("Adding a capability", "toml"))["tool"]["agentkit"]["functions"].items()
    name, entry = declared
    assert Function(name, **entry).handler == "functions.echo.app.handler"


def test_it_answers_as_the_person_whom_postgres_knows(echo):
    answer = echo(text="hello")
    assert (answer.status_code, answer.json()) == (200, {"text": f"{ADA.id}: hello"})
    assert echo(BOB, text="hello").json() == {"text": f"{BOB.id}: hello"}


@pytest.mark.parametrize("body", [{}, {"text": ""}, {"text": "x" * 201}, {"text": "a\0b"}, {"text": "a", "to": "b"}])
def test_it_refuses_what_it_cannot_use(echo, body):
    answer = echo(**body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


def test_it_serves_nobody_without_signing_in(echo):
    answer = echo(None, text="hello")
    assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")


def test_it_refuses_who_asks_more_than_ten_times_a_minute(echo):
    assert [echo(text="hello").status_code for _ in range(11)] == [200] * 10 + [429]


# The functions


def test_the_functions_are_those_that_there_are_with_all_their_routes():
    told = set()
    for name, routes in table("The functions"):
        # `GET`, `DELETE /v1/documents/{id}` are two routes of one path.
        methods: list[str] = []
        for method, path in re.findall(r"`([A-Z]+)(?: (/v1/[^`]+))?`", routes):
            methods.append(method)
            if path:
                told |= {(name.strip("`"), each, path) for each in methods}
                methods = []
    served = {
        (operation["tags"][0], method.upper(), re.sub(r"{\w+}", "{id}", path))
        for path, operations in openapi.merged()["paths"].items()
        for method, operation in operations.items()
    }
    assert told == served


# Documents

LIMITS = [
    f"{pdf.MAX_PAGES:,} pages",
    f"{docx.MAX_XML_BYTES // 1_000_000} MB of XML",
    f"{pptx.MAX_SLIDES:,} slides",
    f"{xlsx.MAX_CELLS // 1_000_000} million cells a sheet",
    f"{json_text.MAX_DEPTH} levels",
    f"{mail.MAX_DEPTH} levels",
    f"{archive.MAX_BYTES // 1_000_000} MB unpacked",
    f"{MAX_CHARACTERS // 1_000_000} million characters",
]


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_is_the_readers_own(limit):
    assert limit in section("Documents")


def test_each_code_is_one_that_work_fails_with():
    folders = ("functions/worker", "functions/maintenance", "shared")
    code = "\n".join(file.read_text() for folder in folders for file in (ROOT / folder).rglob("*.py"))
    # The table of kinds has three columns, that of codes two.
    (_, *codes) = [row[0] for row in table("Documents") if len(row) == 2 and not row[0].startswith("-")]
    told = {name for cell in codes for name in re.findall(r"`([a-z_]+)`", cell)}
    assert len(told) > 15
    assert {name for name in told if f'"{name}"' not in code and f"'{name}'" not in code} == set()


# Configuration


def told_variables():
    """Each variable of the README's table, with the default it names."""
    for names, _, defaults in table("Configuration"):
        variables = re.findall(r"`([A-Z_]+)`", names)
        told = [default.strip() for default in defaults.split(",")] if len(variables) > 1 else [defaults]
        yield from zip(variables, told if len(told) > 1 else told * len(variables), strict=True)


# Read where there are no settings yet: before the first line is logged.
ELSEWHERE = {"LOG_LEVEL": "INFO"}
# Words for a default that is no value.
WORDS = {"fetched": None, "OpenAI's": "https://api.openai.com/v1", "`OPENAI_BASE_URL`": None, "boto3's own": None}


def fields():
    """Every setting by its variable, with its default; None for none."""
    kinds = settings.Settings.__subclasses__()
    for kind in kinds:
        kinds += kind.__subclasses__()
        for name, field in kind.model_fields.items():
            yield name.upper(), None if field.default is PydanticUndefined else field.default


def test_every_variable_is_a_setting_and_every_setting_is_told():
    assert {name for name, _ in told_variables()} == {name for name, _ in fields()} | set(ELSEWHERE)


def test_every_default_is_the_settings_own():
    actual = {**ELSEWHERE, **dict(fields())}
    for name, told in told_variables():
        default = actual[name]
        assert not isinstance(default, SecretStr)
        if default in (None, ()):
            assert WORDS.get(told, told or None) is None, name
        else:
            assert WORDS.get(told, told) == (f"{default:.10g}" if isinstance(default, int | float) else default), name
