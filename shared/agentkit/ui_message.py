"""The AI SDK's wire types: what `useChat` sends, and the chunks of the stream that it reads.

Follows vercel/ai, version 6.0 (`packages/ai/src/ui-message-stream/ui-message-chunks.ts`, `ui/ui-messages.ts`,
`ui/http-chat-transport.ts`). Only chunks that version 5 knows are written: an unknown `type` ends a client's stream.
Whatever is ours travels in `data-*` parts.
"""

import json
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agentkit.http import Text

STREAM_HEADERS = {
    "x-vercel-ai-ui-message-stream": "v1",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
DONE = "data: [DONE]\n\n"
PING = ": ping\n\n"

CHAT_ID = r"^[A-Za-z0-9_-]{1,64}$"
MOST_MESSAGES = 1_000
MOST_PARTS = 200
MOST_CHARACTERS = 32_000

FinishReason = Literal["stop", "length", "content-filter", "tool-calls", "error", "other"]


class Start(TypedDict):
    """The answer begins."""

    type: Literal["start"]
    messageId: str
    messageMetadata: NotRequired[dict[str, Any]]


class Step(TypedDict):
    """One call of the model begins or ends."""

    type: Literal["start-step", "finish-step"]


class TextBoundary(TypedDict):
    """A text part, or a part of the model's reasoning, begins or ends."""

    type: Literal["text-start", "text-end", "reasoning-start", "reasoning-end"]
    id: str


class TextDelta(TypedDict):
    """More of a text part."""

    type: Literal["text-delta", "reasoning-delta"]
    id: str
    delta: str


class ToolInputStart(TypedDict):
    """The model has begun to call a tool."""

    type: Literal["tool-input-start"]
    toolCallId: str
    toolName: str


class ToolInput(TypedDict):
    """The model has called a tool."""

    type: Literal["tool-input-available"]
    toolCallId: str
    toolName: str
    input: Any


class ToolOutput(TypedDict):
    """The tool has answered."""

    type: Literal["tool-output-available"]
    toolCallId: str
    output: Any


class ToolFailure(TypedDict):
    """The tool has failed."""

    type: Literal["tool-output-error"]
    toolCallId: str
    errorText: str


class SourceDocument(TypedDict):
    """A document that the answer draws on."""

    type: Literal["source-document"]
    sourceId: str
    mediaType: str
    title: str
    filename: NotRequired[str]


class Data(TypedDict):
    """A part of ours; `type` is `data-` and its name. A transient one is shown and not kept in the message."""

    type: str
    data: Any
    id: NotRequired[str]
    transient: NotRequired[bool]


class MessageMetadata(TypedDict):
    """More about the answer."""

    type: Literal["message-metadata"]
    messageMetadata: dict[str, Any]


class Finish(TypedDict):
    """The answer is complete."""

    type: Literal["finish"]
    finishReason: FinishReason
    messageMetadata: NotRequired[dict[str, Any]]


class Abort(TypedDict):
    """The answer was stopped."""

    type: Literal["abort"]


class Error(TypedDict):
    """The answer failed."""

    type: Literal["error"]
    errorText: str


Chunk = (
    Start
    | Step
    | TextBoundary
    | TextDelta
    | ToolInputStart
    | ToolInput
    | ToolOutput
    | ToolFailure
    | SourceDocument
    | Data
    | MessageMetadata
    | Finish
    | Abort
    | Error
)

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def frame(chunk: Chunk) -> str:
    """Return the chunk as a server-sent event; half a surrogate pair, which UTF-8 cannot carry, becomes U+FFFD."""
    text = _encode(chunk)
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode() if _has_surrogate(text) else text
    return f"data: {text}\n\n"


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


class Part(BaseModel):
    """A part of a message from the client; only texts are read, the rest is left aside."""

    model_config = ConfigDict(extra="ignore")

    type: str = Field(max_length=100)
    text: Annotated[Text, Field(max_length=MOST_CHARACTERS)] | None = None


class Message(BaseModel):
    """A message from the client; only the user's own words are believed, the history is the server's."""

    model_config = ConfigDict(extra="ignore")

    id: str = Field(pattern=r"^[\x21-\x7e]{1,128}$")
    role: Literal["system", "user", "assistant"]
    parts: list[Part] = Field(max_length=MOST_PARTS)

    @property
    def text(self) -> str:
        """Its text parts, joined."""
        return "\n".join(part.text for part in self.parts if part.type == "text" and part.text)


class ChatRequest(BaseModel):
    """What `useChat` sends: all messages, or the last one alone; members of the app's own are left aside."""

    model_config = ConfigDict(extra="ignore")

    id: str = Field(pattern=CHAT_ID, description="The chat's id, chosen by the client.")
    messages: list[Message] = Field(default_factory=list, max_length=MOST_MESSAGES)
    message: Message | None = None
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    messageId: str | None = Field(None, max_length=128, description="Of the answer to make anew.")  # noqa: N815  # theirs

    @model_validator(mode="after")
    def _has_a_question(self) -> "ChatRequest":
        question = self.question
        if question is None or not question.text.strip():
            raise ValueError("the last message must be a user's, with text")
        if len(question.text) > MOST_CHARACTERS:
            raise ValueError(f"the question must have at most {MOST_CHARACTERS} characters")
        return self

    @property
    def question(self) -> Message:
        """The user's last message."""
        messages = [self.message] if self.message else self.messages
        users = [message for message in messages if message.role == "user"]
        return users[-1] if users else None  # type: ignore[return-value]  # None is refused by the validator
