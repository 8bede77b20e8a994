"""The real S3 and SQS protocols, as moto speaks them; one server for the whole run."""

from collections.abc import Iterator

import httpx
import pytest

from agentkit import jobs, storage
from infra.local.aws import Aws


@pytest.fixture(scope="session")
def aws_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """A running server; ask for `aws` instead, unless the test stops it."""
    server = Aws(tmp_path_factory.mktemp("aws-part"), max_receives=3)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def aws(aws_server: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An empty bucket, empty queues, and a function's environment to reach them."""
    for name, value in aws_server.environment.items():
        monkeypatch.setenv(name, value)
    httpx.post(f"{aws_server.url}/moto-api/reset").raise_for_status()
    aws_server.prepare()
    yield aws_server
    storage.close()
    jobs.close()
