"""The local sign-in server, one for the whole run."""

from collections.abc import Iterator

import pytest

from agentkit import auth
from infra.local.signin import SignIn


@pytest.fixture(scope="session")
def signin_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignIn]:
    """A running server; ask for `signin` instead, unless the test stops it."""
    server = SignIn(tmp_path_factory.mktemp("signin-part"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def signin(signin_server: SignIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[SignIn]:
    """The functions find it, and know nothing of it yet."""
    auth.forget()
    for name, value in signin_server.environment.items():
        monkeypatch.setenv(name, value)
    yield signin_server
    auth.forget()
