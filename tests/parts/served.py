"""An app behind a real HTTP server, so that a test can read an answer while it is being written."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from anyio.from_thread import BlockingPortal
from starlette.types import ASGIApp

from agentkit import database, embeddings, redis
from infra.local.part import LOOPBACK, free_port


@contextmanager
def serving(app: ASGIApp, portal: BlockingPortal, *, port: int | None = None) -> Iterator[int]:
    """Serve the app on that loopback port, a free one by default, on that portal's loop; yield the port."""
    port = port or free_port()
    config = uvicorn.Config(app, LOOPBACK, port, log_level="critical", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    running: Any = portal.start_task_soon(server.serve)
    portal.call(_started, server)
    try:
        yield port
    finally:
        server.should_exit = True
        running.result()


async def _started(server: uvicorn.Server) -> None:
    while not server.started:
        await asyncio.sleep(0.01)


Serve = Callable[[ASGIApp], httpx.Client]


@pytest.fixture(scope="session")
def _servers(portal: BlockingPortal) -> Iterator[Callable[[ASGIApp], int]]:
    """One server for each app, for the whole run: a sandbox that answers request after request on one loop."""
    ports: dict[int, int] = {}
    with ExitStack() as stack:

        def port_of(app: ASGIApp) -> int:
            if id(app) not in ports:
                ports[id(app)] = stack.enter_context(serving(app, portal))
            return ports[id(app)]

        yield port_of


@pytest.fixture
def serve(_servers: Callable[[ASGIApp], int], portal: BlockingPortal) -> Iterator[Serve]:
    """Return a client of that function's app; its connections to the other parts end with the test."""
    with ExitStack() as stack:

        def client(app: ASGIApp) -> httpx.Client:
            base = f"http://{LOOPBACK}:{_servers(app)}"
            opened: AbstractContextManager[httpx.Client] = httpx.Client(base_url=base, timeout=60)
            return stack.enter_context(opened)

        yield client
        for close in (database.close, redis.close, embeddings.close):
            portal.call(close)
