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


# No package carries Supabase's sign-in server: the tests that need one run where this names it.
MAY_BE_ABSENT = "GOTRUE_BINARY"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI everything else can run, so a skipped test is a failure there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None or exitstatus != 0:
        return
    if any(MAY_BE_ABSENT not in str(skipped.longrepr) for skipped in reporter.stats.get("skipped", ())):
        reporter.write_line("A test was skipped that CI can run.", red=True)
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
