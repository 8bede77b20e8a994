"""Chunks encoded per second: ours beside pydantic-ai's Vercel adapter, in the same run, over the same text.

    python -m infra bench encoding

Two ways of counting. `encode`: a piece of text to its server-sent event, with whatever object that takes in between.
`whole`: a token as the agent gives it, through what keeps order and open parts (theirs: `transform_stream`), to its
event.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable

from pydantic_ai.messages import PartDeltaEvent, PartEndEvent, PartStartEvent, TextPart, TextPartDelta
from pydantic_ai.ui.vercel_ai import VercelAIEventStream
from pydantic_ai.ui.vercel_ai.response_types import BaseChunk, TextDeltaChunk

from agentkit.ui_message import delta_frame
from agentkit.ui_writer import StreamWriter
from tests.bench.row import Row

TOKENS = [" The", " lease", " ends", " on", " 30", " September", " 2027", ",", " “as", " agreed”", ".\n"] * 2_000
REPEATS = 5
PART = "text-1"


def run() -> list[Row]:
    """Encode the same text in each way; some seconds."""
    return [
        _row("encode", _encode, _encode_theirs),
        _row("whole", _write, lambda: asyncio.run(_transform_theirs())),
    ]


def _row(name: str, ours: Callable[[], Iterable[str]], theirs: Callable[[], Iterable[str]]) -> Row:
    fast, slow = _rates(ours, theirs)
    beside = slow, "pydantic-ai"
    return Row(
        "encoding", f"{name}, best", fast, "chunks/s", REPEATS, *beside, budget=1.0, bounds="ratio", at_least=True
    )


def _rates(*ways: Callable[[], Iterable[str]]) -> list[float]:
    """Return each way's chunks per second; they take turns, so that a busy machine hurts all alike."""
    best = [float("inf")] * len(ways)
    for _ in range(REPEATS):
        for place, way in enumerate(ways):
            began = time.perf_counter()
            sent = way()
            best[place] = min(best[place], time.perf_counter() - began)
            assert sum(" lease" in piece for piece in sent) == TOKENS.count(" lease")
    return [len(TOKENS) / seconds for seconds in best]


def _encode() -> list[str]:
    return [delta_frame("text-delta", PART, token) for token in TOKENS]


def _encode_theirs() -> list[str]:
    stream: VercelAIEventStream[None, str] = VercelAIEventStream()
    chunks: list[BaseChunk] = [TextDeltaChunk(id=PART, delta=token) for token in TOKENS]
    return [stream.encode_event(chunk) for chunk in chunks]


def _write() -> list[str]:
    sent: list[str] = []
    writer = StreamWriter(sent.append)
    for token in TOKENS:
        writer.text(token)
    writer.close()
    return sent


async def _transform_theirs() -> list[str]:
    stream: VercelAIEventStream[None, str] = VercelAIEventStream()

    async def events() -> AsyncIterator[PartStartEvent | PartDeltaEvent | PartEndEvent]:
        yield PartStartEvent(index=0, part=TextPart(""))
        for token in TOKENS:
            yield PartDeltaEvent(index=0, delta=TextPartDelta(token))
        yield PartEndEvent(index=0, part=TextPart("".join(TOKENS)))

    return [piece async for piece in stream.encode_stream(stream.transform_stream(events()))]
