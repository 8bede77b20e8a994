"""A zip holds what its function needs and nothing else, always the same bytes, and answers on its own."""

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from infra import package
from infra.functions import ROOT, Function, declared
from infra.locks import pinned_here, requirements_of
from infra.package import AWS_SERVICES, WRAPPER, build, downloaded, installed, installed_bytes, unpacked_bytes
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
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
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
            build(FUNCTIONS[name], installed, folder / "function.zip", python=sys.executable)
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
    # Of those whose bytecode differs from build to build when several processes share the work (Python 3.12, 3.13).
    pin = f"langchain-core=={distribution('langchain-core').version}"
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
    plain, whole = unpacked_bytes(built(name).archive)
    assert whole == sum(file.stat().st_size for file in built(name).folder.rglob("*") if file.is_file())
    # The fast sum counts our Python files alone: the wrapper, `py.typed` and `functions/__init__.py` are the rest.
    assert abs(plain - installed_bytes(FUNCTIONS[name])) < 10_000
    # Here a module's bytecode names where the module is installed, there its place in /var/task.
    assert installed_bytes(FUNCTIONS[name], bytecode=True) == pytest.approx(whole, rel=0.01)


@pytest.mark.parametrize("streams", [False, True])
def test_the_same_input_gives_the_same_bytes(small, tmp_path, streams):
    archives = [tmp_path / "one.zip", tmp_path / "elsewhere" / "other-name.zip"]
    for archive, mode in zip(archives, (0o600, 0o664), strict=True):
        # Neither the time, nor the place, nor who may read it here is part of the input.
        (small.folder / "app.py").chmod(mode)
        os.utime(small.folder / "app.py", (mode, mode))
        build(replace(small, streams=streams), installed, archive, python=sys.executable)
    digests = {hashlib.sha256(archive.read_bytes()).hexdigest() for archive in archives}
    assert len(digests) == 1


@pytest.mark.parametrize("name", BUILT)
def test_each_modules_bytecode_lies_beside_it(built, name):
    names = {entry.filename for entry in built(name).entries}
    modules = {each for each in names if each.endswith(".py")}
    assert {each for each in names if each.endswith(".pyc")} == set(map(cache_from_source, modules))


@pytest.mark.parametrize("name", BUILT)
def test_bytecode_names_its_module_in_var_task_and_is_never_checked(built, name):
    folder = built(name).folder
    # PEP 552: after the magic number 32 bits, the first for a hash of the source, the second for its check.
    unchecked = (0b01).to_bytes(4, "little")
    faults = []
    for module in folder.rglob("*.py"):
        place = module.relative_to(folder).as_posix()
        compiled = Path(cache_from_source(module)).read_bytes()
        if (
            compiled[4:8] != unchecked
            or f"/var/task/{place}".encode() not in compiled
            or bytes(folder.parent) in compiled
        ):
            faults.append(place)
    assert faults == []


@pytest.mark.parametrize("name", BUILT)
def test_a_zip_holds_its_own_function_the_library_and_the_locked_packages(built, name):
    names = {entry.filename for entry in built(name).entries}
    ours = {path.split("/")[1] for path in names if path.startswith("functions/")}
    assert ours == {"__init__.py", "__pycache__", name}
    assert "agentkit/runtime.py" in names
    packages = {path.split("-")[0].lower().replace("_", "-") for path in names if ".dist-info/METADATA" in path}
    assert packages == {each.replace(".", "-") for each in pinned_here(requirements_of(FUNCTIONS[name]))}


@pytest.mark.parametrize("name", BUILT)
def test_a_zip_holds_nothing_that_only_a_workshop_needs(built, name):
    folders = {"tests", "infra", "bin", ".venv", ".local"}
    files = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "requirements.txt"}
    paths = [Path(entry.filename) for entry in built(name).entries]
    assert [path for path in paths if folders & set(path.parts[:-1]) or path.name in files] == []


def test_a_secret_beside_the_code_stays_at_home(small, tmp_path):
    (small.folder / ".env").write_text("OPENAI_API_KEY=sk-secret")
    (small.folder / ".cache").mkdir()
    (small.folder / ".cache" / "token").write_text("secret")
    (small.folder / "query.sql").write_text("select 1")
    build(small, installed, tmp_path / "small.zip", python=None)
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


@pytest.mark.parametrize("name", BUILT)
def test_a_cold_start_compiles_no_module(built, name):
    program = (
        "import importlib.machinery, sys\n"
        "def refuse(loader, data, path, **_): raise AssertionError(f'{path} is compiled')\n"
        "importlib.machinery.SourceFileLoader.source_to_code = refuse\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "importlib.import_module(sys.argv[2])\n"
    )
    zip_ = built(name)
    command = [sys.executable, "-I", "-S", "-B", "-c", program, zip_.folder, f"functions.{name}.app"]
    assert subprocess.run(command, capture_output=True, check=False).stderr == b""


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        pytest.param("chat", ["langchain", "langchain_openai"], id="chat"),
        pytest.param("worker", ["vecs", "boto3", "pypdfium2", "mammoth", "python_calamine", "selectolax"], id="worker"),
    ],
)
def test_what_a_handler_loads_later_is_in_its_zip_too(built, name, packages):
    program = f"import sys; sys.path.insert(0, sys.argv[1]); import {', '.join(packages)}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", program, built(name).folder], capture_output=True, check=False
    )
    assert done.stderr == b""


@pytest.mark.parametrize("name", ["documents", "worker"])
def test_a_zips_boto3_knows_the_services_that_we_call_and_signs_addresses(built, name):
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import boto3\n"
        "aws = boto3.Session('AKIAIOSFODNN7EXAMPLE', 'secret', region_name='eu-central-1')\n"
        "hosts = [aws.client(service).meta.endpoint_url for service in ('s3', 'sqs', 'sts')]\n"
        "object = {'Bucket': 'uploads', 'Key': 'a.pdf'}\n"
        "print(json.dumps([*hosts, aws.client('s3').generate_presigned_url('put_object', Params=object)]))\n"
    )
    command = [sys.executable, "-I", "-S", "-B", "-c", program, built(name).folder]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.stderr == b""
    *hosts, address = json.loads(done.stdout)
    assert hosts == [f"https://{service}.eu-central-1.amazonaws.com" for service in ("s3", "sqs", "sts")]
    assert address.startswith("https://uploads.s3.amazonaws.com/a.pdf?X-Amz-Algorithm=AWS4-HMAC-SHA256&")


def test_every_service_of_aws_that_our_code_calls_is_in_the_zip():
    sources = [*(ROOT / "shared").rglob("*.py"), *(ROOT / "functions").rglob("*.py")]
    named = {name for source in sources for name in re.findall(r'\.client\(\s*"([\w-]+)"', source.read_text())}
    assert {"s3", "sqs"} <= named <= set(AWS_SERVICES.split("|"))


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
def cli(monkeypatch, small, tmp_path, capsys):
    """Build the one function by name, for this Python; returns the status, what was printed, and complaints."""
    monkeypatch.setattr(package, "declared", lambda: [small])
    monkeypatch.setattr(package, "BUILD", tmp_path / "build")
    monkeypatch.setattr(package, "TARGET_PYTHON", HERE)
    monkeypatch.setattr(package, "downloaded", lambda _: installed)

    def run(*names, interpreter=None):
        status = package.main(list(names), "x86_64", interpreter)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def on_path(monkeypatch, tmp_path):
    """Put a command of that name, a shell script, before all others."""

    def put(name, script):
        folder = tmp_path / "commands"
        folder.mkdir(exist_ok=True)
        command = folder / name
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        return str(command)

    return put


def compiled_modules(archive):
    """Return which of our own modules have bytecode in that zip."""
    with zipfile.ZipFile(archive) as zipped:
        return {name for name in zipped.namelist() if name.endswith(".pyc") and name.startswith("functions/")}


def test_the_table_tells_each_zips_sizes(cli, tmp_path):
    status, table, _ = cli("small")
    head, line = table.splitlines()
    assert (status, head.split()[0]) == (0, "function")
    archive = tmp_path / "build" / "small-x86_64.zip"
    with zipfile.ZipFile(archive) as zipped:
        sizes = {entry.filename: entry.file_size for entry in zipped.infolist()}
    plain = sum(size for name, size in sizes.items() if not name.endswith(".pyc"))
    measured = [archive.stat().st_size, plain, sum(sizes.values())]
    assert line.split() == ["small", *(f"{size / 1e6:.1f}" for size in measured)]


def test_a_python_of_lambdas_version_on_the_path_compiles_when_this_one_cannot(cli, tmp_path, monkeypatch, on_path):
    on_path(f"python{HERE}", f'exec "{sys.executable}" "$@"')
    monkeypatch.setattr(sys, "executable", on_path("python-of-another-version", "echo cpython-27"))
    status, table, _ = cli("small")
    assert (status, len(table.splitlines())) == (0, 2)
    assert compiled_modules(tmp_path / "build" / "small-x86_64.zip") != set()


def test_without_lambdas_python_the_zip_is_built_and_the_table_says_what_it_lacks(cli, tmp_path, monkeypatch, on_path):
    monkeypatch.setattr(package, "TARGET_PYTHON", "3.99")
    # pyenv answers so for a version that it has and that is not chosen.
    on_path("python3.99", "echo 'pyenv: python3.99: command not found' >&2; exit 127")
    status, table, complaint = cli("small")
    _, line, *footnote = table.splitlines()
    assert (status, line.split()[-1], complaint) == (0, "none", "")
    assert footnote[0].startswith("No bytecode: ")
    assert compiled_modules(tmp_path / "build" / "small-x86_64.zip") == set()


@pytest.mark.parametrize("script", ["echo cpython-27", "exit 127", None])
def test_a_named_python_that_is_not_lambdas_is_refused(cli, tmp_path, on_path, script):
    other = on_path("other-python", script) if script else str(tmp_path / "not-there")
    status, _, complaint = cli("small", interpreter=other)
    assert (status, complaint) == (2, f"{other} is not a CPython {HERE}, which the functions run on.\n")
    assert not (tmp_path / "build").exists()


def test_a_module_for_another_python_stays_without_bytecode(small, tmp_path, capfd):
    (small.folder / "template.py").write_text("print 'of long ago'\n")
    build(small, installed, tmp_path / "small.zip", python=sys.executable)
    assert compiled_modules(tmp_path / "small.zip") == {
        cache_from_source("functions/__init__.py"),
        cache_from_source("functions/small/app.py"),
    }
    assert "/var/task/functions/small/template.py" in capfd.readouterr().out


def test_an_unknown_function_is_named(cli, tmp_path):
    status, _, complaint = cli("small", "serch")
    assert (status, complaint) == (2, "No function is called serch; there are small.\n")
    assert not (tmp_path / "build").exists()


@pytest.fixture
def last_zip(tmp_path):
    """The zip that an earlier build left."""
    archive = tmp_path / "build" / "small-x86_64.zip"
    archive.parent.mkdir()
    archive.write_bytes(b"the last one")
    return archive


def test_packages_that_cannot_be_had_leave_the_last_zip_alone(monkeypatch, cli, last_zip):
    def fail(function, tree):
        raise subprocess.CalledProcessError(2, "uv")

    monkeypatch.setattr(package, "downloaded", lambda _: fail)
    status, _, complaint = cli("small")
    assert status == 1
    assert complaint == "The zip of small could not be put together; there is no new one.\n"
    assert [(path, path.read_bytes()) for path in last_zip.parent.iterdir()] == [(last_zip, b"the last one")]


def test_a_compiler_that_is_killed_leaves_the_last_zip_alone(cli, last_zip, on_path):
    # It answers for its version, and dies of the rest.
    dying = on_path(
        "dying-python", f'case "$*" in *" -m compileall "*) kill -9 $$;; esac; exec "{sys.executable}" "$@"'
    )
    status, _, complaint = cli("small", interpreter=dying)
    assert (status, complaint) == (1, "The zip of small could not be put together; there is no new one.\n")
    assert [(path, path.read_bytes()) for path in last_zip.parent.iterdir()] == [(last_zip, b"the last one")]
