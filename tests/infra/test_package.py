"""A zip holds what its function needs and nothing else, always the same bytes, and answers on its own."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from pathlib import Path

import pytest

from infra import package
from infra.functions import Function, declared
from infra.locks import pinned_here, requirements_of
from infra.package import WRAPPER, build, downloaded, installed, installed_bytes
from tests.parts.emulator import streaming_command
from tests.parts.people import ISSUER, jwks
from tests.parts.runtime_api import url_event

# Unpacked, without bytecode and with it. Lambda's own limit is 250 MB.
BUDGETS = {"chat": (120_000_000, 180_000_000)}
ANY_BUDGET = (200_000_000, 200_000_000)

FUNCTIONS = {function.name: function for function in declared()}
# One that is light, the one that streams, and the one that carries most.
BUILT = ["search", "chat", "worker"]
DOCUMENT = url_event("/v1/search/openapi.json")
# As /var/task is.
ONLY_READ = {"PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True)
class Unpacked:
    """A built zip, and where it was unpacked."""

    function: Function
    archive: Path
    folder: Path

    @property
    def entries(self) -> list[zipfile.ZipInfo]:
        """What is in the zip."""
        with zipfile.ZipFile(self.archive) as archive:
            return archive.infolist()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack it as Lambda does, file modes included."""
    with zipfile.ZipFile(archive) as zipped:
        for entry in zipped.infolist():
            Path(zipped.extract(entry, folder)).chmod(stat.S_IMODE(entry.external_attr >> 16))


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Build a declared function's zip, once for the run, from the packages installed here."""
    ready = {}

    def make(name):
        if name not in ready:
            folder = tmp_path_factory.mktemp(f"zip-of-{name}")
            build(FUNCTIONS[name], installed, folder / "function.zip")
            unpack(folder / "function.zip", folder / "task")
            ready[name] = Unpacked(FUNCTIONS[name], folder / "function.zip", folder / "task")
        return ready[name]

    return make


@pytest.fixture
def small(tmp_path):
    """A function of one package and one file, in a folder of its own."""

    class Small(Function):
        @property
        def folder(self):
            return tmp_path / "small"

    function = Small("small")
    function.folder.mkdir()
    (function.folder / "app.py").write_text("def handler(event, context):\n    return event\n")
    pin = f"mangum=={distribution('mangum').version}"
    requirements_of(function).write_text(f"{pin} \\\n    --hash=sha256:{'0' * 64}\n")
    return function


@pytest.fixture(scope="session")
def var_runtime(tmp_path_factory):
    """What a managed runtime brings beside the function: AWS's own client, and nothing else."""
    folder = tmp_path_factory.mktemp("var-runtime")
    for name in ("awslambdaric", "simplejson", "snapshot-restore-py"):
        for file in distribution(name).files or ():
            if ".." not in file.parts:
                copy = folder / file
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(Path(str(file.locate())).read_bytes())
    return folder


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory):
    """A command that runs this Python without what is installed for it."""
    command = tmp_path_factory.mktemp("bin") / "python"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -P "$@"\n')
    command.chmod(0o755)
    return command


@pytest.mark.parametrize("function", declared(), ids=lambda function: function.name)
def test_a_functions_zip_stays_within_its_budget(function):
    plain, compiled = BUDGETS.get(function.name, ANY_BUDGET)
    assert installed_bytes(function) <= plain
    assert installed_bytes(function, bytecode=True) <= compiled


@pytest.mark.parametrize("name", BUILT)
def test_the_size_that_the_budgets_hold_is_that_of_the_zip(built, name):
    in_zip = sum(entry.file_size for entry in built(name).entries)
    # The fast sum counts our Python files alone: the wrapper, `py.typed` and `functions/__init__.py` are the rest.
    assert abs(in_zip - installed_bytes(FUNCTIONS[name])) < 10_000


@pytest.mark.parametrize("streams", [False, True])
def test_the_same_input_gives_the_same_bytes(small, tmp_path, streams):
    archives = [tmp_path / "one.zip", tmp_path / "elsewhere" / "other-name.zip"]
    for archive, mode in zip(archives, (0o600, 0o664), strict=True):
        # Neither the time, nor the place, nor who may read it here is part of the input.
        (small.folder / "app.py").chmod(mode)
        os.utime(small.folder / "app.py", (mode, mode))
        build(replace(small, streams=streams), installed, archive)
    digests = {hashlib.sha256(archive.read_bytes()).hexdigest() for archive in archives}
    assert len(digests) == 1


@pytest.mark.parametrize("name", BUILT)
def test_a_zip_holds_its_own_function_the_library_and_the_locked_packages(built, name):
    names = {entry.filename for entry in built(name).entries}
    ours = {path.split("/")[1] for path in names if path.startswith("functions/")}
    assert ours == {"__init__.py", name}
    assert "agentkit/runtime.py" in names
    packages = {path.split("-")[0].lower().replace("_", "-") for path in names if ".dist-info/METADATA" in path}
    assert packages == {each.replace(".", "-") for each in pinned_here(requirements_of(FUNCTIONS[name]))}


@pytest.mark.parametrize("name", BUILT)
def test_a_zip_holds_nothing_that_only_a_workshop_needs(built, name):
    folders = {"tests", "__pycache__", "infra", "bin", ".venv", ".local"}
    files = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "requirements.txt"}
    paths = [Path(entry.filename) for entry in built(name).entries]
    assert [
        path for path in paths if folders & set(path.parts[:-1]) or path.name in files or path.suffix == ".pyc"
    ] == []


def test_a_secret_beside_the_code_stays_at_home(small, tmp_path):
    (small.folder / ".env").write_text("OPENAI_API_KEY=sk-secret")
    (small.folder / ".cache").mkdir()
    (small.folder / ".cache" / "token").write_text("secret")
    (small.folder / "query.sql").write_text("select 1")
    build(small, installed, tmp_path / "small.zip")
    with zipfile.ZipFile(tmp_path / "small.zip") as archive:
        assert [each for each in archive.namelist() if each.startswith("functions/small")] == [
            "functions/small/app.py",
            "functions/small/query.sql",
        ]


@pytest.mark.parametrize("name", BUILT)
def test_every_file_may_be_read_by_lambda_and_only_programs_run(built, name):
    modes = {entry.external_attr >> 16 for entry in built(name).entries}
    assert modes <= {stat.S_IFREG | 0o644, stat.S_IFREG | 0o755}
    ours = [entry for entry in built(name).entries if entry.filename.startswith(("agentkit/", "functions/"))]
    assert {entry.external_attr >> 16 for entry in ours} == {stat.S_IFREG | 0o644}


def test_only_what_streams_carries_the_wrapper_at_its_root_ready_to_run(built):
    (wrapper,) = [entry for entry in built("chat").entries if entry.filename == "stream_wrapper"]
    assert wrapper.external_attr >> 16 == stat.S_IFREG | 0o755
    assert (built("chat").folder / "stream_wrapper").read_bytes() == WRAPPER.read_bytes()
    assert "stream_wrapper" not in {entry.filename for entry in built("search").entries}


@pytest.mark.parametrize("name", BUILT)
def test_a_handler_loads_from_nothing_but_its_zip(built, name):
    program = (
        "import importlib, json, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "module, _, name = sys.argv[2].rpartition('.')\n"
        "handler = getattr(importlib.import_module(module), name)\n"
        "import agentkit\n"
        "print(json.dumps([callable(handler), agentkit.__file__]))\n"
    )
    folder = built(name).folder
    command = [sys.executable, "-I", "-S", "-B", "-W", "error", "-c", program, folder, FUNCTIONS[name].handler]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.stderr == b""
    assert json.loads(done.stdout.splitlines()[-1]) == [True, str(folder / "agentkit" / "__init__.py")]


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        pytest.param("chat", ["langchain", "langchain_openai"], id="chat"),
        pytest.param("worker", ["vecs", "boto3", "pypdf", "selectolax", "markdown_it"], id="worker"),
    ],
)
def test_what_a_handler_loads_later_is_in_its_zip_too(built, name, packages):
    program = f"import sys; sys.path.insert(0, sys.argv[1]); import {', '.join(packages)}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", program, built(name).folder], capture_output=True, check=False
    )
    assert done.stderr == b""


def test_a_zip_answers_under_the_runtime_client_that_lambda_brings(built, start_sandbox, var_runtime, bare_python):
    zip_ = built("search")
    sandbox = start_sandbox(
        zip_.function.handler,
        aws=True,
        python=bare_python,
        environment={
            "PYTHONPATH": os.pathsep.join(map(str, (zip_.folder, var_runtime))),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    answer = sandbox.call(DOCUMENT).json
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"])["info"]["title"] == "AgentKit search"


def test_a_zip_streams_by_the_wrapper_that_it_carries(built, emulate, bare_python):
    zip_ = built("chat")
    chat = emulate(
        zip_.function.handler,
        streaming_command(bare_python, zip_.folder / "stream_wrapper"),
        task_root=zip_.folder,
        environment={"SUPABASE_URL": ISSUER, "SUPABASE_JWKS": jwks(), **ONLY_READ, "PYTHONPATH": ""},
    )
    prelude, body = chat.streamed(url_event("/v1/chat", method="POST", body=b"{}"))
    assert (prelude["statusCode"], json.loads(body)["code"]) == (401, "token_missing")


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_packages_are_fetched_by_hash_for_lambdas_python_and_processor(monkeypatch, small, architecture):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: commands.append((command, options)))
    downloaded(architecture)(small, Path("tree"))
    ((command, options),) = commands
    assert options == {"check": True}
    words = list(map(str, command))
    after = {word: words[words.index(word) + 1] for word in ("--python-version", "--python-platform", "--requirements")}
    machine = {"x86_64": "x86_64", "arm64": "aarch64"}[architecture]
    assert after["--python-version"] == "3.13"
    assert after["--python-platform"].startswith(f"{machine}-manylinux")
    assert after["--requirements"] == str(requirements_of(small))
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(words)


@pytest.fixture
def cli(monkeypatch, tmp_path, capsys):
    """Build by name, of packages as they are installed here; returns the status, what was printed, and complaints."""
    monkeypatch.setattr(package, "BUILD", tmp_path)
    monkeypatch.setattr(package, "downloaded", lambda _: installed)

    def run(*names):
        status = package.main(list(names), "x86_64")
        return status, *capsys.readouterr()

    return run


def test_the_table_tells_each_zips_sizes(cli, tmp_path):
    status, table, _ = cli("health")
    head, line = table.splitlines()
    assert (status, head.split()[0]) == (0, "function")
    name, zipped, *_ = line.split()
    assert (name, zipped) == ("health", f"{(tmp_path / 'health-x86_64.zip').stat().st_size / 1e6:.1f}")


def test_an_unknown_function_is_named(cli, tmp_path):
    status, _, complaint = cli("health", "serch")
    assert status == 2
    assert complaint.startswith("No function is called serch; there are chat, ")
    assert list(tmp_path.iterdir()) == []


def test_packages_that_cannot_be_had_leave_the_last_zip_alone(monkeypatch, cli, tmp_path):
    def fail(function, tree):
        raise subprocess.CalledProcessError(2, "uv")

    monkeypatch.setattr(package, "downloaded", lambda _: fail)
    (tmp_path / "health-x86_64.zip").write_bytes(b"the last one")
    status, _, complaint = cli("health")
    assert status == 1
    assert complaint == "The packages of health could not be put together; there is no new zip.\n"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("health-x86_64.zip", b"the last one")]
