"""A network with distance: an answer comes back only once the asker has nothing more to say, and each is counted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from infra.local.part import LOOPBACK

# Longer than a client needs to write what it can write without an answer.
SILENCE_SECONDS = 0.05


class Distance:
    """A way to a port on this machine, as if it were far."""

    def __init__(self, to: int) -> None:
        self.port = 0
        self.round_trips = 0
        """How often somebody has waited for an answer since it was last set to 0."""
        self.swallows = False
        """While true nothing arrives anywhere, and nobody is told."""
        self.swallowed = asyncio.Event()
        """Set once something has been swallowed."""
        self.before_answering: Callable[[], Awaitable[object]] | None = None
        """Awaited with each answer in hand, before it comes back."""
        self._to = to
        self._asked_at = self._answered_at = 0.0

    @property
    def all_answered(self) -> bool:
        """Whether whatever was asked has been answered."""
        return self._answered_at >= self._asked_at

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either side ends it."""
        far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self._to)
        try:
            with suppress(ConnectionError):
                await asyncio.gather(self._there(reader, far_writer), self._back(far_reader, writer))
        finally:
            writer.transport.abort()
            far_writer.transport.abort()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            self._asked_at = asyncio.get_running_loop().time()
            if self.swallows:
                self.swallowed.set()
            else:
                writer.write(data)
        writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            while (silence := asyncio.get_running_loop().time() - self._asked_at) < SILENCE_SECONDS:
                await asyncio.sleep(SILENCE_SECONDS - silence)
            with suppress(TimeoutError):
                while more := await asyncio.wait_for(reader.read(65_536), SILENCE_SECONDS):  # the rest of the answer
                    data += more
            self.round_trips += 1
            if self.before_answering is not None:
                await self.before_answering()
            if not self.swallows:
                writer.write(data)
                self._answered_at = asyncio.get_running_loop().time()
        writer.close()


@asynccontextmanager
async def distance_to(port: int) -> AsyncIterator[Distance]:
    """Forward connections to that port, from afar; what is still connected at the end is cut off."""
    distance = Distance(port)
    connections: set[asyncio.Task[None]] = set()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())  # type: ignore[arg-type]  # the server runs each in a task
        with suppress(asyncio.CancelledError):
            await distance.connect(reader, writer)

    server = await asyncio.start_server(connect, LOOPBACK, 0)
    distance.port = server.sockets[0].getsockname()[1]
    try:
        yield distance
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
