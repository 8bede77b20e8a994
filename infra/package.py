"""A function's zip: what goes into it, how large it is, and building it.

A zip holds `agentkit/`, `functions/__init__.py`, `functions/<name>/` and the packages that its lock pins, for the
target's Python and processor whatever machine builds it; that of a function that streams also holds `stream_wrapper`,
which AWS_LAMBDA_EXEC_WRAPPER names. Each module's bytecode lies beside it, where a Python of the target's version was
there to compile it: /var/task can only be read, so no cold start keeps what it compiles. Lambda takes at most 250 MB
unpacked.
"""

import importlib.metadata
import importlib.util
import marshal
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from infra.functions import ROOT, Function, declared
from infra.locks import pinned_here, requirements_of

BUILD = ROOT / ".build"
TARGET_PYTHON = "3.13"
# Where Lambda unpacks a zip, and so what tracebacks name.
TASK_ROOT = "/var/task"
PLATFORMS = {"x86_64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
# Pure Python, published as source alone: everything else must come as a wheel for the target, never be built here.
SOURCE_ONLY = ("--no-binary", "flupy", "--no-binary", "vecs")
# At the root of the zip, so that Lambda finds it as /var/task/stream_wrapper.
WRAPPER = ROOT / "infra" / "stream_wrapper"
# The same input gives the same bytes: every file in a zip carries the earliest time that zip can write.
EPOCH = (1980, 1, 1, 0, 0, 0)
# The services of AWS that we call, and those that boto3 itself asks for credentials.
AWS_SERVICES = "s3|sqs|sso|sso-oidc|signin|sts"
# Of the packages, what nothing imports or reads: this machine's bytecode, console scripts, their own tests (7 MB of
# numpy's), the descriptions of AWS's other services (18 MB of botocore), and what the installer notes of itself and of
# this machine. METADATA and entry points are read, licences travel along.
LEFT_OUT = re.compile(
    r"(.*/)?(__pycache__|tests)/|.*\.pyc$|bin/|\.\./|\.lock$"
    rf"|botocore/data/(?!({AWS_SERVICES})/)[^/]+/"
    r"|[^/]+\.dist-info/(RECORD|INSTALLER|REQUESTED|[^/]+\.json)$"
)
# Of ours, what is of use only to those who work on it.
NOT_CODE = shutil.ignore_patterns("__pycache__", ".*", "requirements.txt")
WITHOUT_BYTECODE = f"""\
No bytecode: no CPython {TARGET_PYTHON} was found to compile it (python{TARGET_PYTHON} on PATH, or --interpreter).
Every cold start compiles each module that it loads, which more than doubles its CPU time: measured on a small machine,
search takes 0.7 s, not 0.3, and chat 3.0 s, not 1.4, until it can ask its model."""

Fill = Callable[[Function, Path], None]
"""Puts the packages that a function's lock pins into a folder."""


def installed_bytes(function: Function, *, bytecode: bool = False) -> int:
    """Return the unpacked size of that function's zip, from the packages installed here.

    bytecode: with that of each module too, as this Python compiles it.
    """
    files = [Path(str(file.locate())) for file in installed_files(function)]
    files += [file for folder in (ROOT / "shared" / "agentkit", function.folder) for file in folder.rglob("*.py")]
    total = sum(file.stat().st_size for file in files)
    if bytecode:
        total += sum(_bytecode_bytes(file) for file in files if file.suffix == ".py")
    return total


def installed_files(function: Function) -> Iterator[importlib.metadata.PackagePath]:
    """Yield what is installed here of that function's packages, as far as its zip carries it."""
    for name in pinned_here(requirements_of(function)):
        for file in importlib.metadata.distribution(name).files or ():
            if not _is_left_out(file):
                yield file


def installed(function: Function, tree: Path) -> None:
    """Fill the tree with what is installed here: for a zip that runs on this machine, without the network."""
    for file in installed_files(function):
        copy = tree / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(file.locate()), copy)


def downloaded(architecture: str) -> Fill:
    """Return what fills a tree for Lambda's Python on that processor; it needs a package index."""

    def fill(function: Function, tree: Path) -> None:
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
                *("--only-binary", ":all:", *SOURCE_ONLY, "--python-version", TARGET_PYTHON),
                *("--python-platform", PLATFORMS[architecture], "--target", str(tree)),
                *("--requirements", str(requirements_of(function))),
            ],
            check=True,
        )

    return fill


def compiler(interpreter: str | None = None) -> str | None:
    """Return a Python whose bytecode Lambda's can run: the named one, else this one, else one on PATH; None without."""
    wanted = f"cpython-{TARGET_PYTHON.replace('.', '')}"
    candidates = [interpreter] if interpreter else [sys.executable, f"python{TARGET_PYTHON}"]
    return next((python for python in candidates if _bytecode_tag(python) == wanted), None)


def build(function: Function, fill: Fill, archive: Path, *, python: str | None) -> None:
    """Write that function's zip, its packages put there by `fill`.

    python: compiles its modules; None for a zip without bytecode.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        tree = Path(scratch)
        fill(function, tree)
        for file in [file for file in _files(tree) if _is_left_out(file.relative_to(tree))]:
            file.unlink()
        shutil.copytree(ROOT / "shared" / "agentkit", tree / "agentkit", ignore=NOT_CODE)
        (tree / "functions").mkdir()
        shutil.copy(ROOT / "functions" / "__init__.py", tree / "functions")
        shutil.copytree(function.folder, tree / "functions" / function.name, ignore=NOT_CODE)
        if function.streams:
            shutil.copy(WRAPPER, tree)
        if python is not None:
            _compile(tree, python)
        _zip(tree, archive)


def unpacked_bytes(archive: Path) -> tuple[int, int]:
    """Return a zip's unpacked size, without the bytecode in it and with that."""
    with zipfile.ZipFile(archive) as zipped:
        entries = zipped.infolist()
    plain = sum(entry.file_size for entry in entries if not entry.filename.endswith(".pyc"))
    return plain, sum(entry.file_size for entry in entries)


def main(names: list[str], architecture: str, interpreter: str | None = None) -> int:
    """Build the named functions' zips (all when none is named) and print their sizes.

    interpreter: the Python that compiles them, if another than `compiler` would find.
    """
    known = {function.name: function for function in declared()}
    if unknown := sorted(set(names) - set(known)):
        print(f"No function is called {', '.join(unknown)}; there are {', '.join(known)}.", file=sys.stderr)
        return 2
    python = compiler(interpreter)
    if interpreter and python is None:
        print(f"{interpreter} is not a CPython {TARGET_PYTHON}, which the functions run on.", file=sys.stderr)
        return 2
    print(f"{'function':<14}{'zip MB':>8}{'unpacked':>10}{'with bytecode':>15}")
    for name in names or known:
        archive = BUILD / f"{name}-{architecture}.zip"
        try:
            build(known[name], downloaded(architecture), archive, python=python)
        except subprocess.CalledProcessError:
            # uv, or the compiler, has said why.
            print(f"The zip of {name} could not be put together; there is no new one.", file=sys.stderr)
            return 1
        plain, whole = unpacked_bytes(archive)
        with_bytecode = f"{whole / 1e6:.1f}" if python else "none"
        print(f"{name:<14}{archive.stat().st_size / 1e6:>8.1f}{plain / 1e6:>10.1f}{with_bytecode:>15}", flush=True)
    if python is None:
        print(WITHOUT_BYTECODE)
    return 0


def _is_left_out(file: PurePath) -> bool:
    return LEFT_OUT.match(file.as_posix()) is not None


def _bytecode_bytes(module: Path) -> int:
    compiled = Path(importlib.util.cache_from_source(module))
    if compiled.exists():
        return compiled.stat().st_size
    with warnings.catch_warnings():
        # What a package's own source is warned of is not ours to mend.
        warnings.simplefilter("ignore")
        return len(marshal.dumps(compile(module.read_bytes(), module, "exec")))


def _bytecode_tag(python: str) -> str:
    """Name the bytecode that this Python writes; "" when it does not run, as a pyenv shim of no chosen version."""
    command = [python, "-I", "-S", "-c", "import compileall, sys; print(sys.implementation.cache_tag)"]
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _compile(tree: Path, python: str) -> None:
    """Put each module's bytecode beside it.

    Never checked against the source, for nothing changes in /var/task and all times in a zip are the same. By one
    process: what marshal writes depends on which strings the modules before left behind, so with two workers two of
    chat's 3,910 differed from build to build; with one, none.
    """
    done = subprocess.run(
        [
            # What a package's own source is warned of is not ours to mend.
            *(python, "-I", "-S", "-W", "ignore", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"),
            *("-s", str(tree), "-p", TASK_ROOT, str(tree)),
        ],
        check=False,
    )
    # 1: it has printed which module is for another Python (packages carry such); that one stays without.
    if done.returncode != 1:
        done.check_returncode()


def _zip(tree: Path, archive: Path) -> None:
    # Under its name only once it is whole.
    unfinished = archive.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(_files(tree)):
            entry = zipfile.ZipInfo(file.relative_to(tree).as_posix(), EPOCH)
            executable = file.stat().st_mode & stat.S_IXUSR
            entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, file.read_bytes())
    unfinished.replace(archive)


def _files(tree: Path) -> list[Path]:
    return [path for path in tree.rglob("*") if path.is_file()]
