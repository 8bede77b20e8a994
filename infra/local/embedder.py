"""The embedding model of the local stack, behind OpenAI's protocol."""

import sys
from collections.abc import Mapping
from pathlib import Path

from infra.local.part import LOOPBACK, Process, accepts, free_port

MODEL = "all-minilm-l6-v2"
DIMENSIONS = 384


class Embedder:
    """MiniLM in a process of its own."""

    name = "embedder"

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self._process = Process(
            self.name,
            [sys.executable, "-m", "infra.local.embedder_server", str(self.port)],
            log=folder / "logs" / "embedder.log",
            # It would report its use to its makers, and keep a name for this machine in the home folder.
            env={"ORT_DISABLE_TELEMETRY": "1"},
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """Where it is and what it is called."""
        return {
            "EMBEDDING_BASE_URL": f"http://{LOOPBACK}:{self.port}/v1",
            "EMBEDDING_MODEL": MODEL,
            "EMBEDDING_DIMENSIONS": str(DIMENSIONS),
        }

    def start(self) -> None:
        """Return once it answers."""
        self._process.start(lambda: accepts(self.port))

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def failure(self) -> str | None:
        """Why it is not running any more, or None while it runs."""
        return self._process.failure()
