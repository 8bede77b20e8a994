"""A function's zip: what goes into it, how large it is, and building it.

A zip holds `agentkit/`, `functions/__init__.py`, `functions/<name>/` and the packages that its lock pins, for the
target's Python and processor whatever machine builds it. Lambda takes at most 250 MB unpacked.
"""

import compileall
import importlib.metadata
import importlib.util
import marshal
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from infra.functions import ROOT, Function, declared
from infra.locks import requirements_of

BUILD = ROOT / ".build"
TARGET_PYTHON = "3.13"
PLATFORMS = {"x86_64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
# Pure Python, published as source alone: everything else must come as a wheel for the target, never be built here.
SOURCE_ONLY = ("--no-binary", "flupy", "--no-binary", "vecs")
# The same input gives the same bytes: every file in a zip carries the earliest time that zip can write.
EPOCH = (1980, 1, 1, 0, 0, 0)
# 7 MB of numpy's own tests; nothing imports them.
PRUNED = re.compile(r"numpy/(.*/)?tests/")
UNCOMPILED = shutil.ignore_patterns("__pycache__")
PINNED_LINE = re.compile(r"^(?P<requirement>[A-Za-z0-9._-]+==[^\\\n]+?)\s*\\?$", re.MULTILINE)


def locked_packages(function: Function) -> list[str]:
    """Return the names of the packages that this Python installs for that function."""
    requirements = [Requirement(line) for line in PINNED_LINE.findall(requirements_of(function).read_text())]
    return [each.name for each in requirements if each.marker is None or each.marker.evaluate()]


def installed_bytes(function: Function, *, bytecode: bool = False) -> int:
    """Return the unpacked size of that function's zip, from the packages installed here.

    bytecode: with that of each module too, as this Python compiles it.
    """
    files = list(_carried(function))
    total = sum(file.stat().st_size for file in files)
    if bytecode:
        total += sum(_bytecode_bytes(file) for file in files if file.suffix == ".py")
    return total


def build(function: Function, architecture: str = "x86_64") -> tuple[Path, int, int]:
    """Build that function's zip; return its path and its unpacked size in bytes, without and with bytecode."""
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        tree = Path(scratch)
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
                *("--only-binary", ":all:", *SOURCE_ONLY, "--python-version", TARGET_PYTHON),
                *("--python-platform", PLATFORMS[architecture], "--target", str(tree)),
                *("--requirements", str(requirements_of(function))),
            ],
            check=True,
        )
        shutil.rmtree(tree / "bin", ignore_errors=True)
        for tests in [path for path in tree.glob("numpy/**/tests") if path.is_dir()]:
            shutil.rmtree(tests)
        (tree / ".lock").unlink(missing_ok=True)
        shutil.copytree(ROOT / "shared" / "agentkit", tree / "agentkit", ignore=UNCOMPILED)
        (tree / "functions").mkdir()
        shutil.copy(ROOT / "functions" / "__init__.py", tree / "functions")
        shutil.copytree(function.folder, tree / "functions" / function.name, ignore=UNCOMPILED)
        archive = BUILD / f"{function.name}-{architecture}.zip"
        _zip(tree, archive)
        plain = _size(tree)
        compileall.compile_dir(tree, quiet=2, workers=os.cpu_count() or 1)
        return archive, plain, _size(tree)


def main(names: list[str], architecture: str) -> int:
    """Build the named functions' zips (all when none is named) and print their sizes."""
    known = {function.name: function for function in declared()}
    if unknown := sorted(set(names) - set(known)):
        print(f"No function is called {', '.join(unknown)}; there are {', '.join(known)}.", file=sys.stderr)
        return 2
    print(f"{'function':<14}{'zip MB':>8}{'unpacked':>10}{'with bytecode':>15}")
    for name in names or known:
        archive, plain, compiled = build(known[name], architecture)
        print(f"{name:<14}{archive.stat().st_size / 1e6:>8.1f}{plain / 1e6:>10.1f}{compiled / 1e6:>15.1f}")
    return 0


def _carried(function: Function) -> Iterator[Path]:
    for name in locked_packages(function):
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            # `..` leads to console scripts, which a zip does not carry.
            carried = ".." not in file.parts and path.suffix != ".pyc" and not PRUNED.match(str(file))
            if carried and path.exists():
                yield path
    for folder in (ROOT / "shared" / "agentkit", function.folder):
        yield from folder.rglob("*.py")


def _bytecode_bytes(module: Path) -> int:
    compiled = Path(importlib.util.cache_from_source(module))
    if compiled.exists():
        return compiled.stat().st_size
    with warnings.catch_warnings():
        # What a package's own source is warned of is not ours to mend.
        warnings.simplefilter("ignore")
        return len(marshal.dumps(compile(module.read_bytes(), module, "exec")))


def _zip(tree: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(path for path in tree.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(str(file.relative_to(tree)), EPOCH)
            entry.external_attr = (0o755 if os.access(file, os.X_OK) else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, file.read_bytes())


def _size(tree: Path) -> int:
    return sum(file.stat().st_size for file in tree.rglob("*") if file.is_file())
