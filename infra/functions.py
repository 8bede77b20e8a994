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
    queue: bool = False
    """SQS invokes it; it has no URL."""

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
        Function(name, tuple(entry.get("extras", ())), entry.get("streams", False), entry.get("queue", False))
        for name, entry in sorted(table.items())
    )
