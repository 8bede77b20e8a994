"""What every test may ask for: the real parts of the local stack, started once, and an environment to itself.

A part's fixture lives in the `tests/parts/` module named after it, so a test file states what it needs by the fixtures
that it takes.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkit import settings

pytest_plugins = [
    f"tests.parts.{module.stem}" for module in sorted((Path(__file__).parent / "parts").glob("[a-z]*.py"))
]


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as the functions do."""
    return "asyncio"


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    """Each test reads the environment that it set."""
    settings.forget()
    yield
    settings.forget()
