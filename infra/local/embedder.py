"""The embedding model of the local stack, behind OpenAI's protocol."""

from collections.abc import Mapping
from pathlib import Path

from infra.local.part import LOOPBACK, Server

MODEL = "all-minilm-l6-v2"
DIMENSIONS = 384


class Embedder(Server):
    """MiniLM in a process of its own."""

    name = "embedder"

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        super().__init__(
            "infra.local.embedder_server",
            port=port,
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
