"""The local gateway with the tests' own functions behind it, on a loop of its own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
from anyio.from_thread import BlockingPortal

from infra.functions import ROOT, Function
from infra.local.gateway_server import Background, create_app
from infra.local.lambdas import Lambdas, Limits
from infra.local.part import LOOPBACK
from tests.parts.served import serving


class Sample(Function):
    """One of tests/shared/samples, in the place of a declared function."""

    @property
    def handler(self) -> str:
        """Lambda's handler setting."""
        return f"tests.shared.samples.{self.name}.handler"


SAMPLES = [Sample("stream", streams=True), Sample("buffered"), Sample("broken")]


class SampleGateway(httpx.Client):
    """A client of the gateway."""

    def __init__(self, port: int, lambdas: Lambdas, logs: Path, portal: BlockingPortal) -> None:
        super().__init__(base_url=f"http://{LOOPBACK}:{port}", timeout=30)
        self.port = port
        self.lambdas = lambdas
        self.logs = logs
        self.portal = portal


Serve = Callable[..., AbstractContextManager[SampleGateway]]


@pytest.fixture(scope="session")
def serve_samples(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Serve the sample functions for a while, with limits of the test's choosing."""

    @contextmanager
    def serve(limits: Limits | None = None, *background: Background) -> Iterator[SampleGateway]:
        logs = tmp_path_factory.mktemp("gateway")
        lambdas = Lambdas({"PYTHONPATH": str(ROOT), "ADMIN_SECRET": "no"}, logs, SAMPLES, limits)
        app = create_app(lambdas, *background)
        with serving(app, portal) as port, SampleGateway(port, lambdas, logs, portal) as client:
            yield client

    return serve


@pytest.fixture(scope="module")
def samples(serve_samples: Serve) -> Iterator[SampleGateway]:
    """The gateway with the sample functions, as they are by default."""
    with serve_samples() as client:
        yield client
