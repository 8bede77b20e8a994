"""A function that answers in one piece, as most do."""

import os

from fastapi import FastAPI, Request
from fastapi.responses import Response
from mangum import Mangum

app = FastAPI()


@app.get("/v1/buffered/pid")
def pid() -> int:
    """Say which sandbox this is."""
    return os.getpid()


@app.post("/v1/buffered/echo")
async def echo(request: Request) -> Response:
    """Send the body back, byte by byte the same."""
    response = Response(await request.body(), media_type=request.headers.get("content-type"))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


@app.get("/v1/buffered/large")
def large(megabytes: int) -> Response:
    """Send that many megabytes."""
    return Response(b"x" * (megabytes << 20), media_type="text/plain")


handler = Mangum(app, lifespan="off")
