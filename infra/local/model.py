"""The language model of the local stack, behind OpenAI's protocol."""

import sys
from collections.abc import Mapping
from pathlib import Path

from infra.local.part import LOOPBACK, Process, accepts, free_port

MODEL = "smollm2-135m-instruct"


class Model:
    """SmolLM2 in a process of its own."""

    name = "model"

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self._process = Process(
            self.name,
            [sys.executable, "-m", "infra.local.model_server", str(self.port), str(free_port())],
            log=folder / "logs" / "model.log",
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """Where it is and what it is called; it asks for no key, but clients want to send one."""
        return {
            "OPENAI_BASE_URL": f"http://{LOOPBACK}:{self.port}/v1",
            "OPENAI_API_KEY": "local",
            "CHAT_MODEL": f"openai:{MODEL}",
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
