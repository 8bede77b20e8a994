"""Locked requirements with hashes: one file for each function, one for the local stack and the tests.

    functions/<name>/requirements.txt   what that function's zip carries
    infra/requirements-dev.txt          everything, for people and CI
    infra/requirements-data.txt         packages used only for the files in them (models, the Lambda emulator)

The files hold versions and hashes and no download host, so they serve behind any index.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.functions import ROOT, Function, declared

DEV = ROOT / "infra" / "requirements-dev.txt"
DATA_SOURCE = ROOT / "infra" / "requirements-data.in"
DATA = ROOT / "infra" / "requirements-data.txt"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def lock() -> None:
    """Resolve every lock file anew, keeping the versions that still fit."""
    for function in declared():
        extras = [word for extra in function.extras for word in ("--extra", extra)]
        _compile(ROOT / "pyproject.toml", requirements_of(function), *extras)
    _compile(ROOT / "pyproject.toml", DEV, "--extra", "dev")
    _compile(DATA_SOURCE, DATA, "--no-deps")


def requirements_of(function: Function) -> Path:
    """Return the path of that function's lock."""
    return function.folder / "requirements.txt"


def pins(lock: Path) -> dict[str, set[str]]:
    """Return package to versions; a universal lock may hold one version for each range of Pythons."""
    found: dict[str, set[str]] = {}
    for name, version in PINNED.findall(lock.read_text()):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def faults() -> list[str]:
    """Return what is wrong with the locks, a sentence each: a requirement not locked, or locked outside its range.

    Needs no network, so it says nothing about versions newer than the locked ones.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    sentences = []
    wanted = [(requirements_of(function), ["", *function.extras]) for function in declared()]
    wanted.append((DEV, ["", *extras]))
    for lock, groups in wanted:
        if not lock.exists():
            sentences.append(f"{lock.relative_to(ROOT)} is missing; run `make lock`.")
            continue
        locked = pins(lock)
        for group in groups:
            for line in extras[group] if group else project["dependencies"]:
                requirement = Requirement(line)
                name = canonicalize_name(requirement.name)
                if name == project["name"]:
                    continue
                if not any(requirement.specifier.contains(version) for version in locked.get(name, ())):
                    sentences.append(f"{lock.relative_to(ROOT)} does not lock {line}; run `make lock`.")
        if re.search(r"https?://", lock.read_text()):
            sentences.append(f"{lock.relative_to(ROOT)} names a download host.")
    return sentences


def _compile(source: Path, lock: Path, *options: str) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
            *("--generate-hashes", "--no-emit-index-url", "--custom-compile-command", "make lock"),
            *options,
            *(str(source.relative_to(ROOT)), "--output-file", str(lock.relative_to(ROOT))),
        ],
        cwd=ROOT,
        check=True,
    )
