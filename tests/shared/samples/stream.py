"""A function that streams, piece by piece as the test lets it: `gate` is a port where the test listens."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from mangum import Mangum
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

routes = FastAPI()
seen: dict[str, int] = {"disconnects": 0, "stopped": 0}


@routes.get("/v1/stream/pieces")
async def pieces(gate: int) -> Response:
    """Send `piece 0`, `piece 1`, … one for each line from the gate, and then fail or end as its last line says."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate)

    async def said() -> AsyncIterator[str]:
        number = 0
        try:
            while (line := await reader.readline()) == b"more\n":
                yield f"piece {number}\n"
                number += 1
            if line == b"fail\n":
                raise ValueError("the model went away " + "é" * 5_000)
        except asyncio.CancelledError:
            seen["stopped"] += 1
            raise
        finally:
            writer.close()

    response = StreamingResponse(said(), media_type="text/event-stream")
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


@routes.get("/v1/stream/big")
async def big(megabytes: int) -> Response:
    """Send that many megabytes."""

    async def blocks() -> AsyncIterator[bytes]:
        for number in range(megabytes * 16):
            yield bytes([number % 256]) * 65_536

    return StreamingResponse(blocks(), media_type="application/octet-stream")


@routes.api_route("/v1/stream/seen", methods=["GET", "HEAD"])
async def what_was_seen(request: Request) -> dict[str, object]:
    """Say what this sandbox lived through, and what it knows of this request."""
    context = request.scope["aws.context"]
    return {
        **seen,
        "pid": os.getpid(),
        "path": request.url.path,
        "query": request.query_params.multi_items(),
        "cookies": request.cookies,
        "headers": {name: value for name, value in request.headers.items() if name.startswith("x-")},
        "request_id": context.aws_request_id,
        "function": context.function_name,
        "remaining_ms": context.get_remaining_time_in_millis(),
    }


@routes.post("/v1/stream/echo")
async def echo(request: Request) -> Response:
    """Send the body back."""
    return Response(await request.body(), media_type="application/octet-stream")


@routes.get("/v1/stream/empty")
async def empty() -> Response:
    """Say nothing, successfully."""
    return Response(status_code=204)


@routes.get("/v1/stream/boom")
async def boom() -> Response:
    """Fail before the first byte."""
    raise RuntimeError("before the first byte")


@routes.get("/v1/stream/crash")
async def crash() -> Response:
    """End the sandbox, as a lack of memory would."""
    print("about to crash", flush=True)  # noqa: T201  # the last line of its log
    os._exit(3)


@routes.get("/v1/stream/hang")
async def hang() -> Response:
    """Never answer."""
    await asyncio.Event().wait()
    return Response()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Count what Starlette says of clients that left."""
    try:
        await routes(scope, receive, send)
    except ClientDisconnect:
        seen["disconnects"] += 1
        raise


handler = Mangum(app, lifespan="off")


async def _raw(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError("no answer at all")


async def _foreign(scope: Scope, receive: Receive, send: Send) -> None:
    raise type("Ошибка", (Exception,), {})("не вышло")


async def _half(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})


failing = Mangum(_raw, lifespan="off")
foreign = Mangum(_foreign, lifespan="off")
half = Mangum(_half, lifespan="off")


def on_queue(event: dict[str, list[dict[str, str]]], context: object) -> dict[str, list[dict[str, str]]]:
    """A plain handler with an event loop of its own, as the worker has."""

    async def failed() -> list[dict[str, str]]:
        await asyncio.sleep(0)
        return [{"itemIdentifier": each["messageId"]} for each in event["Records"] if each["body"] == "bad"]

    return {"batchItemFailures": asyncio.run(failed())}


async def on_anything(event: object, context: object) -> object:
    """An asynchronous plain handler."""
    await asyncio.sleep(0)
    return {"event": event, "base64": base64.b64encode(b"x").decode()}
