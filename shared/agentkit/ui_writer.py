"""An answer as it is written: each moment of it as the AI SDK's chunks, and the message that they add up to.

    writer = StreamWriter(send)
    writer.start(message_id)
    writer.text("Hello")             send gets text-start and text-delta
    writer.close()                   send gets text-end
    writer.parts                     [{"type": "text", "text": "Hello", "state": "done"}]

Parts may be begun in any order; what the protocol wants closed before is closed. What is saved is what the client has:
`parts` are those of the message that the AI SDK makes of the chunks, in the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from agentkit.ui_message import Chunk, Data, SourceDocument, delta_frame, frame, storable, storable_json


@dataclass
class StreamWriter:
    """Chunks in the protocol's order, whatever order things happen in; open parts are known, so all can be closed."""

    send: Callable[[str], None]
    """Takes each frame as soon as it is written."""
    parts: list[dict[str, Any]] = field(default_factory=list)
    """The answer so far as an AI SDK message's parts, to be saved; complete once `close` was called."""
    _prose: dict[str, Any] | None = None
    """The text or reasoning part that is being written; its text is in `_pieces` until it ends."""
    _prose_id: str = ""
    _pieces: list[str] = field(default_factory=list)
    _proses: int = 0
    _pending_tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    _in_step: bool = False
    _closed: bool = False

    @property
    def said(self) -> str:
        """All text so far, without reasoning."""
        done = "".join(part["text"] for part in self.parts if part["type"] == "text")
        return done + "".join(self._pieces) if self._prose and self._prose["type"] == "text" else done

    def write(self, chunk: Chunk) -> None:
        """Send one chunk as it is. Raises RuntimeError once the answer was closed: whoever writes on is late."""
        self._send(frame(chunk))

    def start(self, message_id: str) -> None:
        """Begin the answer."""
        self.write({"type": "start", "messageId": message_id})

    def start_step(self) -> None:
        """Begin a call of the model; one that is open is ended first."""
        self.end_step()
        self.write({"type": "start-step"})
        self._in_step = True
        self.parts.append({"type": "step-start"})

    def end_step(self) -> None:
        """End the model's call, with its text."""
        self.end_prose()
        if self._in_step:
            self.write({"type": "finish-step"})
            self._in_step = False

    def text(self, delta: str) -> None:
        """Add to the text, opening a part when none is open."""
        if delta:
            self._add("text", storable(delta))

    def reasoning(self, delta: str) -> None:
        """Add to what the model lets be seen of its reasoning, opening a part when none is open."""
        if delta:
            self._add("reasoning", storable(delta))

    def end_prose(self) -> None:
        """Close the text or reasoning part, if one is open."""
        if self._prose is not None:
            part, self._prose = self._prose, None
            part["text"] = "".join(self._pieces)
            self._pieces.clear()
            self.write({"type": "text-end" if part["type"] == "text" else "reasoning-end", "id": self._prose_id})

    def tool_input(self, call_id: str, name: str, arguments: Any) -> None:  # noqa: ANN401  # JSON
        """Say that the model calls a tool."""
        self.end_prose()
        call_id, name, arguments = storable(call_id), storable(name), storable_json(arguments)
        self.write({"type": "tool-input-start", "toolCallId": call_id, "toolName": name})
        self.write({"type": "tool-input-available", "toolCallId": call_id, "toolName": name, "input": arguments})
        part = {"type": f"tool-{name}", "toolCallId": call_id, "state": "input-available", "input": arguments}
        self._pending_tools[call_id] = part
        self.parts.append(part)

    def tool_output(self, call_id: str, output: Any) -> None:  # noqa: ANN401  # JSON
        """Say what the tool answered; a call that is not open is passed over."""
        call_id = storable(call_id)
        part = self._pending_tools.pop(call_id, None)
        if part is not None:
            output = storable_json(output)
            self.write({"type": "tool-output-available", "toolCallId": call_id, "output": output})
            part.update(state="output-available", output=output)

    def tool_failure(self, call_id: str, sentence: str) -> None:
        """Say that the tool failed; a call that is not open is passed over."""
        call_id = storable(call_id)
        part = self._pending_tools.pop(call_id, None)
        if part is not None:
            sentence = storable(sentence)
            self.write({"type": "tool-output-error", "toolCallId": call_id, "errorText": sentence})
            part.update(state="output-error", errorText=sentence)

    def source_document(self, source_id: str, title: str, media_type: str) -> None:
        """Name a document that the answer draws on."""
        chunk: SourceDocument = {
            "type": "source-document",
            "sourceId": source_id,
            "mediaType": media_type,
            "title": storable(title),
        }
        self.write(chunk)
        self.parts.append({**chunk})

    def data(self, name: str, value: Any, *, part_id: str | None = None, transient: bool = False) -> None:  # noqa: ANN401  # JSON
        """Send a part of ours. One with the id of an earlier one takes its place; a transient one is not kept."""
        chunk: Data = {"type": f"data-{name}", "data": storable_json(value)}
        if part_id is not None:
            chunk["id"] = part_id
        if transient:
            self.write({**chunk, "transient": True})
            return
        self.write(chunk)
        same = (part for part in self.parts if part_id is not None and part.get("id") == part_id)
        earlier = next((part for part in same if part["type"] == chunk["type"]), None)
        if earlier is None:
            self.parts.append({**chunk})
        else:
            earlier["data"] = chunk["data"]

    def close(self) -> None:
        """Close whatever is open, so that the parts can be saved: a tool that has not answered was interrupted."""
        for call_id in list(self._pending_tools):
            self.tool_failure(call_id, "Interrupted.")
        self.end_step()
        self._closed = True

    def _add(self, kind: Literal["text", "reasoning"], delta: str) -> None:
        if self._prose is None or self._prose["type"] != kind:
            self.end_prose()
            self._proses += 1
            self._prose_id = f"{kind}-{self._proses}"
            self.write({"type": "text-start" if kind == "text" else "reasoning-start", "id": self._prose_id})
            self._prose = {"type": kind, "text": "", "state": "done"}
            if kind == "reasoning":
                self._prose["id"] = self._prose_id
            self.parts.append(self._prose)
        self._send(delta_frame("text-delta" if kind == "text" else "reasoning-delta", self._prose_id, delta))
        self._pieces.append(delta)

    def _send(self, frames: str) -> None:
        if self._closed:
            raise RuntimeError("the answer has ended")
        self.send(frames)
