"""The AI SDK's wire types: what `useChat` sends, and the chunks of the stream that it reads.

Follows vercel/ai, ai 6.0.324 (`packages/ai/src/ui-message-stream/ui-message-chunks.ts`, `ui/ui-messages.ts`,
`ui/http-chat-transport.ts`). Only chunks that version 5 knows are written: an unknown `type` ends a client's stream.
Whatever is ours travels in `data-*` parts.

A chunk is a plain dictionary and a frame is its JSON: checked by the type checker, and as cheap as Python makes it.
"""

import json
import math
import re
from json.encoder import encode_basestring
from typing import Any, Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict, Field, model_validator

STREAM_HEADERS = {
    "x-vercel-ai-ui-message-stream": "v1",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
DONE = "data: [DONE]\n\n"
PING = ": ping\n\n"

CHAT_ID = r"^[A-Za-z0-9_-]{1,64}$"
MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,128}")
MOST_MESSAGES = 1_000
MOST_CHARACTERS = 32_000

EXAMPLE: dict[str, Any] = {
    "id": "kitchen-table",
    "messages": [{"id": "q1", "role": "user", "parts": [{"type": "text", "text": "When does the lease end?"}]}],
    "trigger": "submit-message",
}

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


class ToolInputDelta(TypedDict):
    """More of the call's arguments, as JSON text."""

    type: Literal["tool-input-delta"]
    toolCallId: str
    inputTextDelta: str


class ToolInput(TypedDict):
    """The model has called a tool."""

    type: Literal["tool-input-available"]
    toolCallId: str
    toolName: str
    input: Any


class ToolInputFailure(TypedDict):
    """The model has called a tool in a way that cannot be understood."""

    type: Literal["tool-input-error"]
    toolCallId: str
    toolName: str
    input: Any
    errorText: str


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


class SourceUrl(TypedDict):
    """A page that the answer draws on."""

    type: Literal["source-url"]
    sourceId: str
    url: str
    title: NotRequired[str]


class SourceDocument(TypedDict):
    """A document that the answer draws on."""

    type: Literal["source-document"]
    sourceId: str
    mediaType: str
    title: str
    filename: NotRequired[str]


class File(TypedDict):
    """A file that belongs to the answer, such as a picture."""

    type: Literal["file"]
    url: str
    mediaType: str


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
    | ToolInputDelta
    | ToolInput
    | ToolInputFailure
    | ToolOutput
    | ToolFailure
    | SourceUrl
    | SourceDocument
    | File
    | Data
    | MessageMetadata
    | Finish
    | Abort
    | Error
)

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def frame(chunk: Chunk) -> str:
    """Return the chunk as a server-sent event; its strings must be `storable`."""
    return f"data: {_encode(chunk)}\n\n"


def delta_frame(kind: Literal["text-delta", "reasoning-delta"], part_id: str, delta: str) -> str:
    """Return what `frame` returns for a TextDelta, 15 times as fast: most of a stream is these."""
    return f'data: {{"type":"{kind}","id":"{part_id}","delta":{encode_basestring(delta)}}}\n\n'


def storable(text: str) -> str:
    """Return the text as UTF-8 and Postgres can carry it.

    A NUL and half of a surrogate pair become U+FFFD; two halves that belong together, the character that they mean.
    """
    if text.isascii():
        return text.replace("\0", "\ufffd") if "\0" in text else text
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", "\ufffd")


def storable_json(value: Any) -> Any:  # noqa: ANN401  # JSON
    """Return the JSON value with its texts made storable, and null for a number that JSON does not know.

    Members that the AI SDK's parser takes for an attack are left out: one of them, in what a model calls a tool with,
    would end the stream (`packages/provider-utils/src/secure-json-parse.ts`).
    """
    match value:
        case str():
            return storable(value)
        case dict():
            members = {storable(str(name)): storable_json(member) for name, member in value.items()}
            members.pop("__proto__", None)
            if isinstance(constructor := members.get("constructor"), dict):
                constructor.pop("prototype", None)
            return members
        case list() | tuple():
            return [storable_json(member) for member in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


class Part(BaseModel):
    """A part of a message; only texts are read, every other kind is left aside."""

    model_config = ConfigDict(extra="ignore")

    type: str
    text: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, part: Any) -> Any:  # noqa: ANN401  # whatever was sent
        return {"type": part.get("type")} if isinstance(part, dict) and part.get("type") != "text" else part


class Message(BaseModel):
    """A message from the client.

    Of a chat only the user's last message is read, and has to be usable: a `useChat` that once sent something else goes
    on sending it. What others are said to have said is dropped unread, because the history is the server's own.
    """

    model_config = ConfigDict(extra="ignore")

    id: str = ""
    role: Literal["system", "user", "assistant"]
    parts: list[Part] = []

    @model_validator(mode="before")
    @classmethod
    def _users_alone(cls, message: Any) -> Any:  # noqa: ANN401  # whatever was sent
        if isinstance(message, dict) and message.get("role") in ("system", "assistant"):
            return {"role": message["role"]}
        return message

    @property
    def text(self) -> str:
        """Its text parts, joined."""
        return "\n".join(part.text for part in self.parts if part.type == "text" and part.text)


class ChatRequest(BaseModel):
    """What `useChat` sends: all messages, or the last one alone; members of the app's own are left aside."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [EXAMPLE]})

    id: str = Field(pattern=CHAT_ID, description="The chat's id, chosen by the client.")
    messages: list[Message] = Field(default_factory=list, max_length=MOST_MESSAGES)
    message: Message | None = Field(None, description="The user's new message, instead of all `messages`.")
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    messageId: str | None = Field(None, max_length=128, description="Of the answer to make anew.")  # noqa: N815  # theirs

    @model_validator(mode="after")
    def _has_a_question(self) -> "ChatRequest":
        question = self._last_of_users()
        if question is None or not question.text.strip():
            raise ValueError("there must be a user's message, and the last of them must have text")
        if len(question.text) > MOST_CHARACTERS:
            raise ValueError(f"the question must have at most {MOST_CHARACTERS:,} characters")
        if question.text != storable(question.text):
            raise ValueError("the question must not contain a NUL character or half of a surrogate pair")
        if not MESSAGE_ID.fullmatch(question.id):
            raise ValueError("the question's id must have 1 to 128 visible ASCII characters")
        return self

    @property
    def question(self) -> Message:
        """The user's last message: it has an id and a text."""
        question = self._last_of_users()
        assert question is not None  # noqa: S101  # the validator has seen to it
        return question

    def _last_of_users(self) -> Message | None:
        messages = self.messages if self.message is None else [self.message]
        return next((message for message in reversed(messages) if message.role == "user"), None)
