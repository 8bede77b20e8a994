"""What one writes by hand with LangChain and FastAPI: a chat that streams, and nothing that a product needs beside it.

No sign-in, no limits, no history, no resume, no stop, no citations. The same model, the same prompt, a search tool of
the same name, and the text in the AI SDK's own form: what our chat costs beyond this is the price of what it adds.
"""

import json
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from mangum import Mangum

app = FastAPI()


@tool
async def search_documents(query: str) -> str:
    """Search the user's documents for passages that answer a question."""
    return f"No passage was found for {query!r}."


agent: Any = create_agent(
    ChatOpenAI(model=os.environ["CHAT_MODEL"].removeprefix("openai:"), stream_usage=True),
    [search_documents],
    system_prompt="You answer questions about the user's documents. Search them before you answer.",
)


@app.post("/v1/chat")
async def chat(body: dict[str, Any]) -> StreamingResponse:
    """Stream the answer to the last message."""
    question = "".join(part["text"] for part in body["messages"][-1]["parts"] if part["type"] == "text")
    return StreamingResponse(answer(question), media_type="text/event-stream")


async def answer(question: str) -> AsyncIterator[str]:
    """Yield the answer's server-sent events."""
    identity = uuid.uuid4().hex
    yield event({"type": "start", "messageId": identity})
    yield event({"type": "text-start", "id": "text"})
    async for message, _ in agent.astream({"messages": [("user", question)]}, stream_mode="messages"):
        if message.text:
            yield event({"type": "text-delta", "id": "text", "delta": message.text})
    yield event({"type": "text-end", "id": "text"})
    yield event({"type": "finish"})
    yield "data: [DONE]\n\n"


def event(chunk: dict[str, str]) -> str:
    """Return one server-sent event."""
    return f"data: {json.dumps(chunk)}\n\n"


handler = Mangum(app, lifespan="off")
