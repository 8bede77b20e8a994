"""Upstash's REST protocol over a plain Redis (https://upstash.com/docs/redis/features/restapi).

    python -m infra.local.upstash_facade PORT REDIS_PORT TOKEN

`POST /` takes one command, `/pipeline` several, `/multi-exec` several in a transaction; `Upstash-Encoding: base64`
is honoured. What Upstash does not offer over REST (blocking and subscribing commands) is refused here too.
"""

import base64
import json
import re
import sys
from typing import Any

import redis.asyncio
import uvicorn
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.local.part import LOOPBACK

SESSIONS = set("SUBSCRIBE PSUBSCRIBE SSUBSCRIBE MONITOR MULTI EXEC DISCARD WATCH UNWATCH WAIT".split())
BLOCKING = set("BLPOP BRPOP BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP".split())
REFUSED = SESSIONS | BLOCKING
# Upstash's own scripts begin with a flags line that Redis 6 does not know.
SHEBANG = re.compile(r"\A#!lua[^\n]*")
ERROR_CODE = re.compile(r"[A-Z]{3,} ")
# Redis never answers a command without a name.
NAME = re.compile(r"[A-Z][A-Z0-9._-]*")

Command = list[str]


class Facade:
    """The REST endpoints, for one Redis."""

    def __init__(self, redis_port: int, token: str) -> None:
        self._token = token
        self._redis = redis.asyncio.Redis(
            host=LOOPBACK,
            port=redis_port,
            protocol=2,
            max_connections=64,
            # A Redis that is out of reach is told at once; trying again is the client's to decide.
            retry=Retry(NoBackoff(), 0),
        )
        # Replies as Redis sends them: redis-py would turn some into Python types of its own.
        self._redis.response_callbacks.clear()

    async def one(self, request: Request) -> Response:
        """Run one command."""
        return await self._answered(request, self._run_one)

    async def pipeline(self, request: Request) -> Response:
        """Run commands one after another; each has its own result or error."""
        return await self._answered(request, self._run_pipeline)

    async def transaction(self, request: Request) -> Response:
        """Run commands as one transaction: one that is malformed keeps all from running."""
        return await self._answered(request, self._run_transaction)

    async def _answered(self, request: Request, run: Any) -> Response:  # noqa: ANN401  # one of the three below
        if request.headers.get("authorization") != f"Bearer {self._token}":
            return JSONResponse({"error": "WRONGPASS invalid or missing auth token"}, 401)
        encoded = request.headers.get("upstash-encoding") == "base64"
        try:
            body = await run(json.loads(await request.body()), encoded)
        except ValueError:
            return JSONResponse({"error": "ERR failed to parse command"}, 400)
        except (RedisConnectionError, RedisTimeoutError):
            return JSONResponse({"error": "ERR the database is out of reach"}, 503)
        except RedisError as error:
            return JSONResponse(_error(error), 400)
        return JSONResponse(body, headers={"Upstash-Sync-Token": "local"})

    async def _run_one(self, body: Any, encoded: bool) -> Any:  # noqa: ANN401, FBT001  # JSON in, JSON out
        reply = await self._redis.execute_command(*_command(body))  # type: ignore[no-untyped-call]
        return {"result": _reply(reply, encoded)}

    async def _run_pipeline(self, body: Any, encoded: bool) -> Any:  # noqa: ANN401, FBT001
        async with self._redis.pipeline(transaction=False) as pipeline:
            refused: dict[int, ResponseError] = {}
            for position, each in enumerate(_commands(body)):
                try:
                    pipeline.execute_command(*_command(each))
                except ResponseError as error:
                    refused[position] = error
            replies = iter(await pipeline.execute(raise_on_error=False) if len(refused) < len(body) else ())
        return [_item(refused.get(position) or next(replies), encoded) for position in range(len(body))]

    async def _run_transaction(self, body: Any, encoded: bool) -> Any:  # noqa: ANN401, FBT001
        async with self._redis.pipeline(transaction=True) as pipeline:
            for each in _commands(body):
                pipeline.execute_command(*_command(each))
            return [_item(reply, encoded) for reply in await pipeline.execute(raise_on_error=False)]


def _commands(body: Any) -> list[Any]:  # noqa: ANN401
    if not isinstance(body, list):
        raise ResponseError("ERR failed to parse pipeline request")
    return body


def _command(body: Any) -> Command:  # noqa: ANN401
    if not isinstance(body, list) or not body:
        raise ResponseError("ERR failed to parse command")
    words = [each if isinstance(each, str) else json.dumps(each) for each in body]
    name = words[0].upper()
    if not NAME.fullmatch(name):
        raise ResponseError(f"ERR unknown command '{words[0]}'")
    if name in REFUSED or (name in {"XREAD", "XREADGROUP"} and "BLOCK" in {word.upper() for word in words}):
        raise ResponseError(f"ERR Command is not available: '{name}'")
    if name == "EVAL":
        words[1:2] = [SHEBANG.sub("", script) for script in words[1:2]]
    elif name == "SCRIPT":
        words[2:3] = [SHEBANG.sub("", script) for script in words[2:3]]
    return words


def _item(reply: Any, encoded: bool) -> dict[str, Any]:  # noqa: ANN401, FBT001
    return _error(reply) if isinstance(reply, Exception) else {"result": _reply(reply, encoded)}


def _reply(value: Any, encoded: bool) -> Any:  # noqa: ANN401, FBT001
    if isinstance(value, list | tuple):
        return [_reply(each, encoded) for each in value]
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        # Upstash leaves this one plain in either encoding.
        if value == b"OK" or not encoded:
            return value.decode(errors="replace")
        return base64.b64encode(value).decode()
    return value


def _error(error: Exception) -> dict[str, Any]:
    # redis-py takes the code off some errors that clients look for.
    said = str(error)
    if type(error).__name__ == "NoScriptError" and not said.startswith("NOSCRIPT"):
        said = f"NOSCRIPT {said}"
    return {"error": said if ERROR_CODE.match(said) else f"ERR {said}"}


def create_app(redis_port: int, token: str) -> Starlette:
    """Return the facade's app."""
    facade = Facade(redis_port, token)
    return Starlette(
        routes=[
            Route("/", facade.one, methods=["POST"]),
            Route("/pipeline", facade.pipeline, methods=["POST"]),
            Route("/multi-exec", facade.transaction, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    uvicorn.run(create_app(int(sys.argv[2]), sys.argv[3]), host=LOOPBACK, port=int(sys.argv[1]), log_level="warning")
