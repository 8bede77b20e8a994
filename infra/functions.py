"""Which functions there are, as `pyproject.toml` declares them under `[tool.agentkit.functions]`."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Function:
    """One deployed function."""

    name: str
    extras: tuple[str, ...] = ()
    """The project's extras that its zip carries."""
    streams: bool = False
    """It runs under `agentkit.runtime` and its answers are streamed."""
    queue: str | None = None
    """Whose messages SQS invokes it with: `jobs` or `dead-letter`."""
    schedule: str | None = None
    """How often EventBridge invokes it, as an expression of its own: `rate(5 minutes)`."""

    @property
    def has_url(self) -> bool:
        """Whether people call it; else only queues and schedules do, and it works as the service."""
        return self.queue is None and self.schedule is None

    @property
    def handler(self) -> str:
        """Lambda's handler setting."""
        return f"functions.{self.name}.app.handler"

    @property
    def folder(self) -> Path:
        """Where its code is."""
        return ROOT / "functions" / self.name


@cache
def declared() -> tuple[Function, ...]:
    """Return every declared function, by name."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["agentkit"]["functions"]
    return tuple(
        Function(name, **{**entry, "extras": tuple(entry.get("extras", ()))}) for name, entry in sorted(table.items())
    )
