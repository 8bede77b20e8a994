"""The AI SDK's own client in Node, one process for the whole run: what `useChat` makes of our bytes."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "streams"


@dataclass(frozen=True)
class Reading:
    """What the client made of an answer."""

    message: dict[str, Any] | None = None
    """The UI message as it ended; None when there was none."""
    errors: tuple[str, ...] = ()
    """What `onError` heard."""
    failure: str | None = None
    """What it threw for a response that is no stream."""

    @property
    def parts(self) -> list[dict[str, Any]]:
        assert self.message is not None, (self.errors, self.failure)
        parts: list[dict[str, Any]] = self.message["parts"]
        return parts


class AiSdk:
    """A Node process that reads streams."""

    def __init__(self, node: str) -> None:
        self._process = subprocess.Popen(
            [node, "check.mjs"], cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def read(self, answer: str, *, status: int = 200, resume: bool = False) -> Reading:
        """Return what the client makes of that answer to its POST, or to its GET when it resumes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"answer": answer, "status": status, "resume": resume}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "Node has ended"
        read = json.loads(line)
        return Reading(read.get("message"), tuple(read.get("errors", ())), read.get("failure"))

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()


@pytest.fixture(scope="session")
def ai_sdk() -> Iterator[AiSdk]:
    """The client, its packages installed as the lock file names them."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node 20 or newer is not on this machine")
    installed, locked = FOLDER / "node_modules" / ".installed-from", (FOLDER / "package-lock.json").read_text()
    if not installed.exists() or installed.read_text() != locked:
        done = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund"], cwd=FOLDER, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"npm ci failed, and it needs the network this once:\n{done.stderr}"
        installed.write_text(locked)
    sdk = AiSdk(node)
    yield sdk
    sdk.stop()
