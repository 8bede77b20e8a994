"""A stage for answers: each runs through `respond` to its end, and what was sent and what was saved is kept."""

import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi.responses import StreamingResponse

from agentkit import runs, ui_stream
from agentkit.ui_stream import Ending
from agentkit.ui_writer import StreamWriter
from tests.parts.people import ADA

Answer = Callable[[StreamWriter], Coroutine[Any, Any, None]]

MESSAGE_ID = "answer-1"
METADATA = {"model": "small", "usage": {"outputTokens": 3}}


@dataclass
class Performance:
    """One answer on its way to the client."""

    run: runs.Run
    response: StreamingResponse
    saved: list[tuple[Ending, list[dict[str, Any]]]]
    """What `save` was given, at each call."""
    sent: list[str] = field(default_factory=list)

    async def until(self, text: str) -> None:
        """Read on until the client has got that text."""
        while text not in "".join(self.sent):
            self.sent.append(await anext(self._body))

    async def to_the_end(self) -> str:
        """Read on to the end; return everything that was sent."""
        self.sent += [piece async for piece in self._body]
        return "".join(self.sent)

    async def leave(self) -> None:
        """Be a client that goes away."""
        await self._body.aclose()

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The answer's parts, as they were saved."""
        ((_, parts),) = self.saved
        return parts

    @property
    def ending(self) -> Ending:
        """How the answer ended, as `save` was told."""
        ((ending, _),) = self.saved
        return ending

    @property
    def _body(self) -> Any:
        return self.response.body_iterator


@pytest.fixture
def perform() -> Callable[..., Coroutine[Any, Any, Performance]]:
    """Begin an answer of Ada's, in a chat of its own unless one is named."""

    async def perform(answer: Answer, *, chat: str | None = None, fail_to_save: bool = False, **options: Any) -> Any:
        run = await runs.start(ADA.id, chat or uuid.uuid4().hex)
        saved: list[tuple[Ending, list[dict[str, Any]]]] = []

        async def save(writer: StreamWriter, ending: Ending) -> dict[str, Any]:
            saved.append((ending, writer.parts))
            if fail_to_save:
                raise OSError("secret-host:5432 is down")
            return {"status": ending, **METADATA}

        options = {"message_id": MESSAGE_ID, "seconds": 60, **options}
        return Performance(run, ui_stream.respond(run, answer, save, **options), saved)

    return perform


async def replayed(run: runs.Run) -> str:
    """What a client that resumes the run gets."""
    pieces: Any = ui_stream.replay(run).body_iterator
    return "".join([piece async for piece in pieces])
