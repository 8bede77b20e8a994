"""The least that can stand before a model: its bytes, passed on as they come."""

import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from mangum import Mangum

app = FastAPI()
client = httpx.AsyncClient(timeout=60)
URL = os.environ["OPENAI_BASE_URL"] + "/chat/completions"


@app.post("/v1/chat")
async def chat(body: dict[str, Any]) -> StreamingResponse:
    """Ask the model the last message, and pass on what it answers."""
    asked = {"role": "user", "content": body["messages"][-1]["parts"][0]["text"]}
    return StreamingResponse(answer({"model": "any", "stream": True, "messages": [asked]}))


async def answer(body: dict[str, Any]) -> AsyncIterator[bytes]:
    """Yield the model's bytes."""
    async with client.stream("POST", URL, json=body) as answered:
        async for piece in answered.aiter_raw():
            yield piece


handler = Mangum(app, lifespan="off")
