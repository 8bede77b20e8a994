"""A chat model that says what it was told to, in OpenAI's chat-completions protocol, streamed and whole.

    model.will(calls("search_documents", query="lease end"), says("It ends in 2027 [1]."))
    model.otherwise = looks_it_up("It ends in 2027 [1].")       whatever is asked once the script has ended

    model.will(says("The lease ends.", hold_after=2))           waits after two pieces, for a test to go on
    model.wait_until_held()
    model.let_go()

It stands at the network's edge and keeps a server's promises (tests/infra/test_model_server.py holds it to what the
real one does): https://platform.openai.com/docs/api-reference/chat/streaming. Without pytest: `with ScriptedModel()`.
"""

import asyncio
import json
import re
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from infra.local.part import LOOPBACK, free_port
from tests.parts.served import serving

MODEL = "scripted"
LONGEST_SECONDS = 30.0
MURMUR_SECONDS = 0.05
BASE = {"id": "chatcmpl-scripted", "created": 1_764_000_000, "model": MODEL}

Json = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """One answer, and how it goes wrong."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    """Names of tools and the JSON text of their arguments."""
    usage: tuple[int, int] | None = (11, 7)
    """Tokens read and written; None for a server that does not count."""
    finish: str = "stop"
    failure: tuple[int, Mapping[str, str]] | None = None
    """Status and headers of a refusal, in place of an answer."""
    body: bytes | None = None
    """What is sent in place of an answer."""
    hold_after: int | None = None
    """How many pieces are sent before it waits to be let go; 0: not even the answer's head."""
    murmurs: bool = False
    """While it waits in the middle, signs of life are sent: comments, as OpenAI sends them."""
    cut_after: int | None = None
    """How many pieces are sent before the connection breaks."""

    @property
    def deltas(self) -> list[Json]:
        """What a stream is made of: words, or the fragments of calls."""
        words: list[Json] = [{"content": word} for word in re.findall(r"\s*\S+(?:\s+$)?", self.text)]
        for index, (name, arguments) in enumerate(self.calls):
            head = {"index": index, "id": f"call_{index}_{name}", "type": "function"}
            words.append({"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]})
            middle = len(arguments) // 2
            words += [
                {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}
                for fragment in (arguments[:middle], arguments[middle:])
            ]
        return words

    @property
    def message(self) -> Json:
        """The answer as a whole."""
        whole: Json = {"role": "assistant", "content": self.text or None}
        if self.calls:
            whole["tool_calls"] = [
                {"id": f"call_{index}_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}
                for index, (name, arguments) in enumerate(self.calls)
            ]
        return whole

    @property
    def counted(self) -> Json | None:
        """The usage, as the protocol words it."""
        if self.usage is None:
            return None
        read, written = self.usage
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def says(text: str, **options: Any) -> Reply:
    """A plain answer."""
    return Reply(text=text, **options)


def calls(name: str, *, text: str = "", **arguments: Any) -> Reply:
    """One call of a tool."""
    return Reply(text=text, calls=((name, json.dumps(arguments)),), finish="tool_calls")


def refuses(status: int, **headers: str) -> Reply:
    """An error in place of an answer; headers by keyword: `retry_after="1"`."""
    return Reply(failure=(status, {name.replace("_", "-"): value for name, value in headers.items()}))


def talks_nonsense(body: bytes = b"<html>Bad gateway</html>") -> Reply:
    """A 200 that is not an answer."""
    return Reply(body=body)


Script = Callable[[Json], Reply]


def the_script_has_ended(_: Json) -> Reply:
    """Nothing more was to be asked: a refusal that no client repeats."""
    return refuses(400)


def looks_it_up(text: str, **options: Any) -> Script:
    """For any request: search for the user's words where there is a tool for it, then say that text."""

    def reply(asked: Json) -> Reply:
        last = asked["messages"][-1]
        if last["role"] == "tool" or not asked.get("tools"):
            return says(text, **options)
        return calls(asked["tools"][0]["function"]["name"], query=last["content"])

    return reply


@dataclass
class ScriptedModel:
    """The server; its port is known before it starts."""

    otherwise: Script = the_script_has_ended
    pause_seconds: float = 0.0
    """Between the pieces of a stream."""
    port: int = field(default_factory=free_port)
    asked: list[Json] = field(default_factory=list)
    """The requests' bodies, in the order of their coming."""
    _script: deque[Reply] = field(default_factory=deque)
    _held: threading.Event = field(default_factory=threading.Event)
    _let_go: asyncio.Event = field(default_factory=asyncio.Event)
    _left: threading.Event = field(default_factory=threading.Event)
    _stack: ExitStack = field(default_factory=ExitStack)
    _portal: BlockingPortal | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """Where it is and what it is called."""
        return {
            "OPENAI_BASE_URL": f"http://{LOOPBACK}:{self.port}/v1",
            "OPENAI_API_KEY": "scripted",
            "CHAT_MODEL": f"openai:{MODEL}",
        }

    def will(self, *replies: Reply) -> None:
        """Answer the next requests by these, in turn."""
        self._script.extend(replies)

    def wait_until_held(self) -> None:
        """Return once a reply has come to where it waits."""
        assert self._held.wait(LONGEST_SECONDS), "nothing was held"

    def let_go(self) -> None:
        """Let every reply that waits go on, and wait no more."""
        assert self._portal is not None
        self._portal.call(self._let_go.set)

    def wait_until_left(self) -> None:
        """Return once a client has gone before its answer was at its end."""
        assert self._left.wait(LONGEST_SECONDS), "nobody has left"

    def forget(self) -> None:
        """Be as if nothing had been asked yet, or told."""
        self.let_go()
        self.asked.clear()
        self._script.clear()
        self.otherwise, self.pause_seconds = the_script_has_ended, 0.0
        self._held, self._let_go, self._left = threading.Event(), asyncio.Event(), threading.Event()

    def start(self) -> None:
        """Return once it answers."""
        self._portal = portal = self._stack.enter_context(start_blocking_portal())
        app = Starlette(
            routes=[Route("/v1/chat/completions", self._complete, methods=["POST"]), Route("/v1/models", _models)]
        )
        self._stack.enter_context(serving(app, portal, port=self.port))
        self._stack.callback(self.let_go)

    def stop(self) -> None:
        """End it."""
        self._stack.close()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        reply = self._script.popleft() if self._script else self.otherwise(body)
        if reply.hold_after == 0 and not await self._hold_or_leave(request):
            return Response(status_code=499)
        if reply.failure is not None:
            status, headers = reply.failure
            return JSONResponse({"error": {"message": "scripted", "type": "scripted"}}, status, dict(headers))
        if reply.body is not None:
            return Response(reply.body, media_type="text/event-stream" if body.get("stream") else "application/json")
        if body.get("stream"):
            counts = bool((body.get("stream_options") or {}).get("include_usage"))
            return StreamingResponse(self._stream(reply, counts=counts), media_type="text/event-stream")
        choice = {"index": 0, "message": reply.message, "finish_reason": reply.finish}
        return JSONResponse({**BASE, "object": "chat.completion", "choices": [choice], "usage": reply.counted})

    async def _stream(self, reply: Reply, *, counts: bool) -> AsyncIterator[str]:
        try:
            for place, delta in enumerate([{"role": "assistant", "content": ""}, *reply.deltas]):
                if reply.hold_after and place == reply.hold_after + 1:
                    while reply.murmurs and not self._let_go.is_set():
                        yield ": alive\n\n"
                        await asyncio.sleep(MURMUR_SECONDS)
                    await self._hold()
                if reply.cut_after is not None and place == reply.cut_after + 1:
                    # The server breaks the connection; what was sent is not lost on the way.
                    raise ConnectionAbortedError
                yield _chunk([{"index": 0, "delta": delta, "finish_reason": None}])
                if self.pause_seconds:
                    await asyncio.sleep(self.pause_seconds)
            yield _chunk([{"index": 0, "delta": {}, "finish_reason": reply.finish}])
            if counts and reply.counted is not None:
                yield _chunk([], usage=reply.counted)
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self._left.set()
            raise

    async def _hold(self) -> None:
        self._held.set()
        await self._let_go.wait()

    async def _hold_or_leave(self, request: Request) -> bool:
        """Wait to be let go, or for the client to leave: then false."""
        leaving, holding = asyncio.create_task(_left(request)), asyncio.create_task(self._hold())
        await asyncio.wait({leaving, holding}, return_when=asyncio.FIRST_COMPLETED)
        holding.cancel()
        if leaving.done():
            self._left.set()
            return False
        leaving.cancel()
        return True


async def _left(request: Request) -> None:
    """Return once the client has gone: there is nothing else to receive after its body."""
    await request.receive()


async def _models(_: Request) -> Response:
    return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "tests"}]})


def _chunk(choices: Sequence[Json], **extra: Any) -> str:
    return f"data: {json.dumps({**BASE, 'object': 'chat.completion.chunk', 'choices': choices, **extra})}\n\n"


@pytest.fixture(scope="session")
def model_server() -> Iterator[ScriptedModel]:
    """A running server; ask for `model` instead, unless the test stops it."""
    with ScriptedModel() as server:
        yield server


@pytest.fixture
def model(model_server: ScriptedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedModel]:
    """The functions find it, and it has nothing to say yet."""
    model_server.forget()
    for name, value in model_server.environment.items():
        monkeypatch.setenv(name, value)
    yield model_server
    model_server.forget()
