"""Make `.venv` and put the locked packages into it; does nothing when they are there already.

The Makefile runs this with the machine's own Python, so it uses the standard library alone. It installs what
`requirements-dev.txt` and `requirements-data.txt` lock, checked by hash, and the project itself in place.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
LOCKS = [ROOT / "infra" / "requirements-dev.txt", ROOT / "infra" / "requirements-data.txt"]
STAMP = VENV / "installed"
NEEDED = (3, 11)


def main() -> None:
    """Install what is missing; a failure ends with the failing command's own words."""
    if sys.version_info < NEEDED:
        sys.exit(f"Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}. Try: make PYTHON=...")
    wanted = _fingerprint()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    began = time.monotonic()
    _say("Making .venv")
    _run(sys.executable, "-m", "venv", "--clear", str(VENV))
    _say("Installing the installer (uv)")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as lock:
        lock.write(_locked("uv"))
    try:
        _run(str(BIN / "python"), "-m", "pip", "install", "-q", "--require-hashes", "--no-deps", "-r", lock.name)
    finally:
        Path(lock.name).unlink()
    _say("Installing the locked packages, models included (about 300 MB at the first time)")
    uv = [str(BIN / "uv"), "pip"]
    python = ["--python", str(BIN / "python")]
    # Compiled now: every process of the stack and of the tests starts in half the time.
    _run(*uv, "sync", *python, "--require-hashes", "--compile-bytecode", *map(str, LOCKS))
    _run(*uv, "install", "-q", *python, "--no-deps", "--editable", str(ROOT))
    STAMP.write_text(wanted)
    _say(f"Installed in {time.monotonic() - began:.0f} s")


def _fingerprint() -> str:
    """Name what an installation depends on: its Python, its place, its locks and the project's own metadata."""
    digest = hashlib.sha256(f"{sys.version_info[:3]} {ROOT}".encode())
    for file in [*LOCKS, ROOT / "pyproject.toml"]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _locked(package: str) -> str:
    """Return the lines of the lock that pin that package and its hashes."""
    found = re.search(rf"^{package}==(?:.*\\\n)*.*\n", LOCKS[0].read_text(), re.MULTILINE)
    if found is None:
        sys.exit(f"{LOCKS[0]} does not pin {package}.")
    return found.group()


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(f"Failed with status {done.returncode}: {' '.join(command)}")


def _say(line: str) -> None:
    print(f"· {line}", flush=True)


if __name__ == "__main__":
    main()
