"""What every test may ask for: the real parts of the local stack, started once, and an environment to itself.

A part's fixture lives in the `tests/parts/` module named after it, so a test file states what it needs by the fixtures
that it takes.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkit import settings

# All of them at once: one may import another, in whatever order they are loaded.
pytest.register_assert_rewrite("tests.parts")
pytest_plugins = [
    f"tests.parts.{module.stem}" for module in sorted((Path(__file__).parent / "parts").glob("[a-z]*.py"))
]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI everything can run, so a skipped test is a failure there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and exitstatus == 0:
        reporter.write_line("A test was skipped, and CI can run every one of them.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


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
