"""A chat completion request, as far as the local model honours it.

https://platform.openai.com/docs/api-reference/chat/create
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

MOST_OUTPUT_TOKENS = 192
# A sequence of more than six tokens that it has just written is made unlikely, and more so the longer it is
# (https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md, `dry_*`). Looking further back would forbid
# the passage's own words.
NO_REPETITION = {"dry_multiplier": 1.0, "dry_base": 1.75, "dry_allowed_length": 6, "dry_penalty_last_n": 80}
END_OF_ANSWER = ["\n\n", "<passage>"]

Json = dict[str, Any]


class Function(BaseModel):
    """A tool's function."""

    name: str
    description: str = ""
    parameters: Json = {}

    @property
    def properties(self) -> Json:
        """Its arguments, by name."""
        return dict(self.parameters.get("properties", {}))


class Tool(BaseModel):
    """A tool that the model may call."""

    function: Function


class Named(BaseModel):
    """A choice that names its function."""

    class Target(BaseModel):
        """The function."""

        name: str

    function: Target


class Asked(BaseModel):
    """A chat completion request, as far as it is honoured: https://platform.openai.com/docs/api-reference/chat/create."""

    messages: list[Json] = Field(min_length=1)
    tools: list[Tool] = []
    tool_choice: Literal["auto", "none", "required"] | Named = "auto"
    stream: bool = False
    stream_options: Json | None = None
    response_format: Json | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def chosen_tool_exists(self) -> Self:
        """Refuse a choice of a function that is not among the tools."""
        if isinstance(self.tool_choice, Named) and not self.choices:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name}, which is none of the tools")
        return self

    @property
    def choices(self) -> list[Function]:
        """The functions that may be called."""
        functions = [tool.function for tool in self.tools]
        if isinstance(self.tool_choice, Named):
            return [each for each in functions if each.name == self.tool_choice.function.name]
        return functions

    @property
    def answers_a_tool(self) -> bool:
        """Whether a tool has just said what was asked of it."""
        return self.messages[-1].get("role") == "tool"

    @property
    def wants_call(self) -> bool:
        """Whether the reply may be a tool's call."""
        return bool(self.tools) and self.tool_choice != "none" and not self.answers_a_tool

    @property
    def counts(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool((self.stream_options or {}).get("include_usage"))

    @property
    def sampling(self) -> Json:
        """What llama.cpp is asked besides the messages."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        wanted = self.max_completion_tokens or self.max_tokens or MOST_OUTPUT_TOKENS
        given = {"top_p": self.top_p, "seed": self.seed, "response_format": self.response_format}
        return {
            "temperature": self.temperature or 0,
            "max_tokens": min(wanted, MOST_OUTPUT_TOKENS),
            "cache_prompt": True,
            **({**NO_REPETITION, "stop": [*END_OF_ANSWER, *stops]} if self.answers_a_tool else {"stop": stops}),
            **{name: value for name, value in given.items() if value is not None},
        }
