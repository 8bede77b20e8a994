"""Locked requirements with hashes: one file for each function, one for the local stack and the tests.

    functions/<name>/requirements.txt   what that function's zip carries
    infra/requirements-dev.txt          everything, for people and CI
    infra/requirements-data.txt         packages used only for the files in them (models, the Lambda emulator)

The files hold versions and hashes and no download host, so they serve behind any index.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.functions import ROOT, Function, declared

PROJECT = "agentkit-functions"
DEV = ROOT / "infra" / "requirements-dev.txt"
DATA_SOURCE = ROOT / "infra" / "requirements-data.in"
DATA = ROOT / "infra" / "requirements-data.txt"
PINNED = re.compile(r"^(?P<requirement>[A-Za-z0-9._-]+==[^\\\n]+?)\s*\\?$", re.MULTILINE)


def lock() -> None:
    """Resolve every lock file anew, keeping the versions that still fit.

    Functions are deployed with the versions that the tests run with, though alone they might have newer ones.
    """
    _compile(ROOT / "pyproject.toml", DEV, "--extra", "dev")
    for function in declared():
        extras = [word for extra in function.extras for word in ("--extra", extra)]
        _compile(
            ROOT / "pyproject.toml", requirements_of(function), *extras, "--constraint", str(DEV.relative_to(ROOT))
        )
    _compile(DATA_SOURCE, DATA, "--no-deps")


def requirements_of(function: Function) -> Path:
    """Return the path of that function's lock."""
    return function.folder / "requirements.txt"


def pinned_here(lock: Path) -> dict[str, str]:
    """Return package to version, as this Python installs them from that lock."""
    return {
        canonicalize_name(each.name): _version(each)
        for each in _pins(lock)
        if each.marker is None or each.marker.evaluate()
    }


def faults() -> list[str]:
    """Return what is wrong with the locks and with what is installed from them, a sentence each.

    Needs no network, so it says nothing about versions newer than the locked ones.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base, extras = project["dependencies"], project["optional-dependencies"]
    of_functions = {
        requirements_of(function): [*base, *(line for extra in function.extras for line in extras[extra])]
        for function in declared()
    }
    everything = [*base, *(line for extra in extras.values() for line in extra)]
    data = [line.partition("#")[0] for line in DATA_SOURCE.read_text().splitlines() if line.partition("#")[0].strip()]
    return [
        *(sentence for lock, wanted in {**of_functions, DEV: everything, DATA: data}.items()
          for sentence in lock_faults(lock, wanted)),
        *(sentence for lock in of_functions for sentence in differences(lock, DEV)),
        *(sentence for lock in (DEV, DATA) for sentence in installation_faults(lock)),
    ]  # fmt: skip


def lock_faults(lock: Path, wanted: Sequence[str]) -> list[str]:
    """Return what is wrong with one lock: a requirement not locked or outside its range, a download host in it."""
    if not lock.exists():
        return [f"{_name(lock)} is missing; run `make lock`."]
    locked: dict[str, set[str]] = {}
    # A universal lock may hold one version for each range of Pythons.
    for pin in _pins(lock):
        locked.setdefault(canonicalize_name(pin.name), set()).add(_version(pin))
    sentences = []
    for requirement in map(Requirement, wanted):
        if requirement.name == PROJECT:
            continue
        versions = locked.get(canonicalize_name(requirement.name), ())
        if not any(requirement.specifier.contains(version) for version in versions):
            sentences.append(f"{_name(lock)} does not lock {requirement}; run `make lock`.")
    if re.search(r"https?://", lock.read_text()):
        sentences.append(f"{_name(lock)} names a download host.")
    return sentences


def differences(lock: Path, tested: Path) -> list[str]:
    """Return which packages of one lock are other ones than those of the lock that the tests run with."""
    if not (lock.exists() and tested.exists()):
        return []
    with_tests = pinned_here(tested)
    return [
        f"{_name(lock)} locks {name} {version}, and {_name(tested)} {with_tests.get(name, 'none')}; run `make lock`."
        for name, version in pinned_here(lock).items()
        if with_tests.get(name) != version
    ]


def installation_faults(lock: Path) -> list[str]:
    """Return which packages of that lock are not installed here as it says."""
    if not lock.exists():
        return []
    return [
        f"{_name(lock)} locks {name} {version}, and {found or 'nothing of it'} is installed; run `make install`."
        for name, version in pinned_here(lock).items()
        if (found := _installed(name)) != version
    ]


def _pins(lock: Path) -> list[Requirement]:
    return [Requirement(line) for line in PINNED.findall(lock.read_text())]


def _version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    return specifier.version


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _name(lock: Path) -> str:
    return os.path.relpath(lock, ROOT)


def _compile(source: Path, lock: Path, *options: str) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
            *("--generate-hashes", "--no-emit-index-url", "--custom-compile-command", "make lock"),
            *options,
            *(_name(source), "--output-file", _name(lock)),
        ],
        cwd=ROOT,
        check=True,
    )
