"""The functions of this project on one port."""

from collections.abc import Mapping
from pathlib import Path

from infra.local.part import LOOPBACK, Server
from infra.local.schedule import EVERY_SECONDS


class Gateway(Server):
    """The gateway's process and, below it, the functions' sandboxes, which start once it answers and end with it."""

    name = "gateway"

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *,
        port: int | None = None,
        schedule_seconds: float = EVERY_SECONDS,
    ) -> None:
        """`environment`: of all the parts that the functions need. `schedule_seconds`: between a function's turns."""
        logs = folder / "logs"
        arguments = logs, str(schedule_seconds)
        super().__init__("infra.local.gateway_server", *arguments, port=port, log=logs / "gateway.log", env=environment)

    @property
    def environment(self) -> Mapping[str, str]:
        """Where the functions are."""
        return {"AGENTKIT_URL": f"http://{LOOPBACK}:{self.port}"}
