"""A connection to the Lambda Runtime API: HTTP/1.1 over asyncio's streams.

No client library, as it is loaded at every cold start; and none of them streams a request with trailers.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

VERSION = "/2018-06-01/runtime"
USER_AGENT = f"agentkit-runtime CPython/{sys.version_info.major}.{sys.version_info.minor}"
LARGEST_HEAD_BYTES = 1 << 20

Headers = Iterable[tuple[str, str | int]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the Runtime API said."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One connection, made when it is first needed."""

    def __init__(self, api: str) -> None:
        self.api = api
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, method: str, path: str, body: bytes = b"", headers: Headers = ()) -> Answer:
        """Make one request; one that finds its kept connection dead is made again on a new one."""
        while True:
            kept = self._writer is not None
            try:
                length: Headers = [("Content-Length", len(body))] if method == "POST" else []
                await self.send(await self.head(method, path, [*headers, *length]) + body)
                return await self.answer()
            except (OSError, EOFError):
                self.close()
                if not kept:
                    raise

    async def head(self, method: str, path: str, headers: Headers) -> bytes:
        """Return a request's first lines, having connected if need be."""
        if self._writer is None:
            host, _, port = self.api.partition(":")
            self._reader, self._writer = await asyncio.open_connection(host, int(port or 80), limit=LARGEST_HEAD_BYTES)
        lines = [f"{method} {VERSION}{path} HTTP/1.1", f"Host: {self.api}", f"User-Agent: {USER_AGENT}"]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""])
        # An error's type is named in a header, and a class may be named in any script.
        return head.encode("latin-1", "replace")

    async def send(self, data: bytes) -> None:
        """Send bytes, waiting while the other side takes no more: Lambda slows a stream down after its first 6 MB."""
        # At its end the other side takes no more either, though the kernel would take a first write without a word.
        if self._writer is None or self._reader.at_eof():
            raise ConnectionResetError("the connection to the Runtime API is closed")
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> Answer:
        """Read the answer to what was sent."""
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b"".join([chunk async for chunk in self._chunks()])
        else:
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(first.split()[1]), headers, body)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        while (await self._reader.readuntil(b"\r\n")).strip():
            pass

    def close(self) -> None:
        """Let go of the connection."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None
