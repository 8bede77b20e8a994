"""The real embedding model, one for the whole run."""

from collections.abc import Iterator

import pytest

from infra.local.embedder import Embedder


@pytest.fixture(scope="session")
def embedder_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedder]:
    """A running server; ask for `embedder` instead, unless the test stops it."""
    server = Embedder(tmp_path_factory.mktemp("embedder-part"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def embedder(embedder_server: Embedder, monkeypatch: pytest.MonkeyPatch) -> Embedder:
    """The functions find it."""
    for name, value in embedder_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENAI_API_KEY", "not-needed-here")
    return embedder_server
