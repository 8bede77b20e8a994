"""What a very small model is told, so that it calls tools and answers from what they found.

It is shown how calls and answers look, reads the tool's best finding last, and gets no more than its window holds. None
of it is for large models, so none of it is in the functions.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from infra.local.model_request import Function, Json

# Some 3.5 characters a token in English; the rest of the window is for the answer. Other scripts have more tokens.
PROMPT_CHARACTERS = 10_000
LEAST_CHARACTERS = 500
# Unbounded strings in a schema can run on to the end of the window.
LONGEST_STRING = 120
LONGEST_ANSWER = 400

# Shown as turns of the conversation: told as a rule, the model repeats the example's own words.
CALLS = (
    ("What colour is the company's logo?", "company logo colour"),
    ("How long does the warranty on the battery last?", "battery warranty length"),
    ("Who signs off an expense report above 500 euros?", "who signs off expense report above 500 euros"),
)
ANSWERS = (
    (
        "[1] Brand guide, page 2: The logo is dark green on white. It is never stretched.",
        "What colour is the company's logo?",
        "The company's logo is dark green on white.",
    ),
    (
        "[1] Bicycle manual, page 9: The frame has a warranty of ten years, the battery of 30 months.",
        "How long does the warranty on the battery last?",
        "The warranty on the battery lasts 30 months.",
    ),
)
PASSAGE = re.compile(r"<passage>\n(.*?)\n</passage>", re.DOTALL)


def flattened(messages: list[Json]) -> list[Json]:
    """Return the messages as the model's template knows them: a tool's answer becomes context before the question.

    The first is the system's, though it may be empty.
    """
    flat: list[Json] = [{"role": "system", "content": ""}]
    for message in messages:
        content = _text(message.get("content"))
        role = message.get("role")
        if role == "tool":
            question = next((each for each in reversed(flat) if each["role"] == "user"), None)
            if question is not None:
                question["content"] = _question(_best_last(content), question["content"])
        elif role in {"system", "developer"}:
            flat[0]["content"] += content
        elif role in {"user", "assistant"} and content:
            flat.append({"role": role, "content": content})
    return flat


def _text(content: Any) -> str:  # noqa: ANN401  # a text or parts
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _question(context: str, question: str) -> str:
    return f"{context}\n\nQuestion: {question}"


def _best_last(content: str) -> str:
    """Return a tool's answer with the passages of the chat function's search in reverse order, and without fences."""
    passages = PASSAGE.findall(content)
    return "\n\n".join(reversed(passages)) if passages else content


def fitted(messages: list[Json], room: int) -> list[Json]:
    """Return what fits into that many characters: the system's words and the newest messages, cut if they must be."""
    system = {**messages[0], "content": messages[0]["content"][: room // 2]}
    room -= len(system["content"])
    kept: list[Json] = []
    for message in reversed(messages[1:]):
        if not kept:
            # The question stands at the end.
            message = {**message, "content": message["content"][-room:]}  # noqa: PLW2901
        elif len(message["content"]) > room:
            break
        room -= len(message["content"])
        kept.append(message)
    return [system, *reversed(kept)]


def shown_answers() -> list[Json]:
    """Return turns that show answers from what a tool found."""
    return _turns([(_question(context, question), answer) for context, question, answer in ANSWERS])


def shown_calls(function: Function) -> list[Json]:
    """Return turns that show calls of the function."""
    argument = next(iter(function.properties), "input")
    return _turns(
        [(question, json.dumps({"name": function.name, "arguments": {argument: value}})) for question, value in CALLS]
    )


def _turns(pairs: Sequence[tuple[str, str]]) -> list[Json]:
    return [
        message
        for question, answer in pairs
        for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    ]


def told(functions: Sequence[Function]) -> Json:
    """Return the system's words about the tools."""
    listed = "\n".join(f"- {each.name}({', '.join(each.properties)}): {each.description}" for each in functions)
    content = f"Available tools:\n{listed}\nReply with one JSON object that calls a tool."
    return {"role": "system", "content": content}


def schema(functions: Sequence[Function], *, may_answer: bool) -> Json:
    """Return what a reply may be: a call of one of the functions, or a plain answer too."""
    branches = [
        _object({"name": {"const": each.name}, "arguments": _bounded({"type": "object", **each.parameters})})
        for each in functions
    ]
    if may_answer:
        branches.append(_object({"answer": {"type": "string", "maxLength": LONGEST_ANSWER}}))
    return {"anyOf": branches}


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _bounded(schema: Any) -> Any:  # noqa: ANN401  # any piece of a schema
    """Return the schema with an end to every string and list."""
    if isinstance(schema, list):
        return [_bounded(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    bounded = {name: _bounded(value) for name, value in schema.items()}
    kinds = bounded.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "string" in kinds and "enum" not in bounded:
        least = bounded.setdefault("minLength", 1)
        bounded["maxLength"] = max(least, min(bounded.get("maxLength", LONGEST_STRING), LONGEST_STRING))
    if "array" in kinds:
        bounded.setdefault("maxItems", 8)
    return bounded
