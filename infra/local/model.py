"""The language model of the local stack, behind OpenAI's protocol."""

from collections.abc import Mapping
from pathlib import Path

from infra.local.part import LOOPBACK, Server, free_port

MODEL = "smollm2-135m-instruct"


class Model(Server):
    """SmolLM2 in a process of its own."""

    name = "model"

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        super().__init__("infra.local.model_server", str(free_port()), port=port, log=folder / "logs" / "model.log")

    @property
    def environment(self) -> Mapping[str, str]:
        """Where it is and what it is called; it asks for no key, but clients want to send one."""
        return {
            "OPENAI_BASE_URL": f"http://{LOOPBACK}:{self.port}/v1",
            "OPENAI_API_KEY": "local",
            "CHAT_MODEL": f"openai:{MODEL}",
        }
