"""The functions of this project on one port."""

import sys
from collections.abc import Mapping
from pathlib import Path

from infra.local.part import LOOPBACK, Process, accepts, free_port


class Gateway:
    """The gateway's process and, below it, the functions' sandboxes."""

    name = "gateway"

    def __init__(self, folder: Path, environment: Mapping[str, str], *, port: int | None = None) -> None:
        """`environment`: of all the parts that the functions need."""
        self.port = port or free_port()
        logs = folder / "logs"
        self._process = Process(
            self.name,
            [sys.executable, "-m", "infra.local.gateway_server", str(self.port), logs],
            log=logs / "gateway.log",
            env=environment,
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """Where the functions are."""
        return {"AGENTKIT_URL": f"http://{LOOPBACK}:{self.port}"}

    def start(self) -> None:
        """Return once it answers; the functions' sandboxes start behind it."""
        self._process.start(lambda: accepts(self.port))

    def stop(self) -> None:
        """End it and every sandbox."""
        self._process.stop()

    def failure(self) -> str | None:
        """Why it is not running any more, or None while it runs."""
        return self._process.failure()
