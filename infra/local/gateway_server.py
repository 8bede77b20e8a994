"""One port for every function: HTTP requests become function URL events, the functions' answers HTTP responses.

    python -m infra.local.gateway_server PORT LOGS SCHEDULE_SECONDS

`/v1/<function>/…` goes to that function. `/openapi.json` is the functions' merged OpenAPI document and `/docs` a page
of it. Like Lambda it refuses bodies over 6 MB before a function sees them, and lets an answer be made to its end
when its client has left. Messages are brought from the queues to their functions, schedules are kept, and changed code
replaces the sandboxes.
"""

import asyncio
import base64
import contextlib
import json
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from infra import openapi, openapi_page
from infra.functions import ROOT
from infra.local.lambdas import Lambdas, Throttled
from infra.local.part import LOOPBACK
from infra.local.poller import poll
from infra.local.runtime_api import PRELUDE_END, FunctionFailed, Invocation
from infra.local.schedule import keep_time

LARGEST_BODY = 6 * 1024 * 1024
WATCHED = [ROOT / "functions", ROOT / "shared"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
TEXT_TYPES = ("text/", "application/json", "application/x-www-form-urlencoded")
# Of the connection between two machines, and no business of the response's.
HOP_BY_HOP = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}

log = logging.getLogger(__name__)

Background = Callable[[Lambdas], Coroutine[Any, Any, None]]
"""Work that goes on beside the answers."""


class Gateway:
    """The endpoints."""

    def __init__(self, lambdas: Lambdas) -> None:
        self._lambdas = lambdas

    async def call(self, request: Request) -> Response:
        """Have a function answer the request."""
        name = request.path_params["function"]
        function = self._lambdas.functions.get(name)
        if function is None or not function.function.has_url:
            return _failure(404, f"There is no function called {name}.")
        try:
            event = await _event(request)
            invocation = await self._lambdas.invoke(name, event)
            return await _streamed(invocation) if invocation.streamed else _buffered(await invocation.payload())
        except ClientDisconnect:
            return Response(status_code=499)
        except OverflowError:
            return _failure(413, "Request must be smaller than 6291456 bytes for the InvokeFunction operation")
        except Throttled:
            return _failure(429, "Rate Exceeded.")
        except FunctionFailed as failure:
            # Lambda tells a client nothing but this; a developer's own machine may say why.
            return _failure(502, "Internal Server Error", **failure.document)

    async def home(self, _: Request) -> Response:
        """List what is here."""
        functions = [name for name, each in self._lambdas.functions.items() if each.function.has_url]
        lines = ["AgentKit Functions, local stack", "", "  /docs", "  /openapi.json"]
        lines += [f"  /v1/{name}" for name in functions]
        return Response("\n".join([*lines, ""]), media_type="text/plain")

    async def document(self, _: Request) -> Response:
        """Return the merged OpenAPI document, as the code has it now."""
        return await _documented(JSONResponse)

    async def docs(self, _: Request) -> Response:
        """Return a page of all operations."""
        return await _documented(lambda document: HTMLResponse(openapi_page.page(document)))


async def _documented(response: Callable[[dict[str, Any]], Response]) -> Response:
    """Return that response to the functions' document, or why the code has none just now."""
    try:
        return response(await asyncio.to_thread(openapi.merged_in_subprocess))
    except subprocess.CalledProcessError as error:
        return Response(f"The functions cannot be imported.\n\n{error.stderr}", 500, media_type="text/plain")


async def _event(request: Request) -> bytes:
    """Return the request as a function URL event, payload format 2.0; raises OverflowError for a body over 6 MB."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise OverflowError
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        if name != "cookie":
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    text = request.headers.get("content-type", "").startswith(TEXT_TYPES) and _is_utf8(body)
    # A function URL leaves the path's and the query's percent-encoding as it is.
    path = request.scope["raw_path"].decode("ascii").partition("?")[0]
    identity = str(uuid.uuid4())
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": request.scope["query_string"].decode("ascii"),
        "headers": {**headers, "x-forwarded-proto": "http", "x-forwarded-port": str(request.scope["server"][1])},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "local",
            "domainName": request.headers.get("host", ""),
            "domainPrefix": "local",
            "http": {
                "method": request.method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": request.client.host if request.client else "",
                "userAgent": request.headers.get("user-agent", ""),
            },
            "requestId": identity,
            "routeKey": "$default",
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime()),
            "timeEpoch": time.time_ns() // 1_000_000,
        },
        "isBase64Encoded": bool(body) and not text,
    }
    if cookies := "; ".join(request.headers.getlist("cookie")):
        event["cookies"] = [cookie.strip() for cookie in cookies.split(";")]
    if body:
        event["body"] = body.decode() if text else base64.b64encode(body).decode()
    return json.dumps(event).encode()


async def _streamed(invocation: Invocation) -> Response:
    """Return the response that a streaming function has begun; its pieces pass through as they come."""
    pieces = invocation.pieces()
    head = b""
    async for piece in pieces:
        head += piece
        if PRELUDE_END in head:
            break
    prelude, found, first = head.partition(PRELUDE_END)
    if not found:
        raise FunctionFailed({"errorType": "Runtime.InvalidResponse", "errorMessage": "the answer has no prelude"})
    said = json.loads(prelude)

    async def body() -> AsyncIterator[bytes]:
        if first:
            yield first
        async for piece in pieces:
            yield piece

    return _with_cookies(StreamingResponse(body(), said["statusCode"], _kept(said["headers"])), said)


def _buffered(payload: bytes) -> Response:
    said = json.loads(payload)
    if not isinstance(said, dict) or "statusCode" not in said:
        return Response(payload, media_type="application/json")
    body = said.get("body") or ""
    content = base64.b64decode(body) if said.get("isBase64Encoded") else body.encode()
    return _with_cookies(Response(content, said["statusCode"], _kept(said.get("headers", {}))), said)


def _kept(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}


def _with_cookies(response: Response, said: dict[str, Any]) -> Response:
    for cookie in said.get("cookies", ()):
        response.headers.append("set-cookie", cookie)
    return response


def _failure(status: int, message: str, **members: Any) -> Response:  # noqa: ANN401  # JSON
    return JSONResponse({"Message": message, **members}, status)


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


async def renew_on_change(lambdas: Lambdas, folders: Sequence[Path] = WATCHED) -> None:
    """Have the functions run their code as it is now, whenever a Python file in those folders changes."""
    import watchfiles

    async for _ in watchfiles.awatch(*folders, watch_filter=watchfiles.PythonFilter()):
        lambdas.renew()


def create_app(lambdas: Lambdas, *background: Background) -> Starlette:
    """Return the gateway, with that work in its background."""
    gateway = Gateway(lambdas)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work(lambdas)) for work in background]
        for task in tasks:
            task.add_done_callback(_tell_its_failure)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await lambdas.stop()

    return Starlette(
        routes=[
            Route("/", gateway.home),
            Route("/openapi.json", gateway.document),
            Route("/docs", gateway.docs),
            Route("/v1/{function}", gateway.call, methods=METHODS),
            Route("/v1/{function}/{rest:path}", gateway.call, methods=METHODS),
        ],
        lifespan=lifespan,
    )


def _tell_its_failure(task: asyncio.Task[None]) -> None:
    # At once: until the gateway stops nobody else asks how its background fares.
    if not task.cancelled() and (error := task.exception()):
        log.error("background.ended", exc_info=error)


if __name__ == "__main__":
    uvicorn.run(
        create_app(
            Lambdas(os.environ, Path(sys.argv[2])),
            Lambdas.warm,
            renew_on_change,
            lambda lambdas: poll(lambdas, os.environ),
            lambda lambdas: keep_time(lambdas, every_seconds=float(sys.argv[3])),
        ),
        host=LOOPBACK,
        port=int(sys.argv[1]),
        log_level="warning",
        # Streams of clients that stay would keep it from ending.
        timeout_graceful_shutdown=1,
        ws="none",
    )
