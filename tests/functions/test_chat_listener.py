"""What the model writes reaches the answer, piece by piece or whole, and is counted once."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal

from agentkit import llm, settings
from agentkit.ui_writer import StreamWriter
from functions.chat import agent
from tests.parts.model import ScriptedModel, says
from tests.parts.people import ADA, caller

Answered = Callable[[llm.Usage], list[str]]


@pytest.fixture
def asked(model: ScriptedModel, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The model as the agent asks it; its connections end with the test."""
    portal.call(agent.close)
    asked: Any = llm.chat_model()
    monkeypatch.setattr(llm, "chat_model", lambda: asked)
    yield asked
    portal.call(agent.close)


@pytest.fixture
def answered(asked: Any, portal: BlockingPortal) -> Answered:
    """Have Ada's question answered; return the frames that were sent."""

    def answered(usage: llm.Usage) -> list[str]:
        sent: list[str] = []
        writer = StreamWriter(sent.append)
        portal.call(agent.answer, "When does the lease end?", [], caller(ADA), writer, usage)
        writer.close()
        return sent

    return answered


def deltas(frames: list[str]) -> int:
    return sum('"text-delta"' in frame for frame in frames)


def test_each_piece_is_sent_as_it_comes_and_the_whole_not_again(model: ScriptedModel, answered: Answered):
    model.will(says("It ends in 2027."))  # four words
    usage = llm.Usage()

    assert deltas(answered(usage)) == 4
    assert (usage.input_tokens, usage.output_tokens) == (11, 7)  # what the scripted model says that it used


def test_an_answer_that_its_provider_does_not_stream_arrives_whole(
    model: ScriptedModel, asked: Any, answered: Answered
):
    asked.streaming = False
    model.will(says("It ends in 2027."))
    usage = llm.Usage()

    frames = answered(usage)

    assert [frame for frame in frames if "It ends in 2027." in frame]
    assert deltas(frames) == 1
    assert (usage.input_tokens, usage.output_tokens) == (11, 7)


def test_a_fallback_that_is_not_streamed_is_heard_where_the_first_model_broke_off(
    model: ScriptedModel, asked: Any, answered: Answered, monkeypatch: pytest.MonkeyPatch
):
    fallback = asked.model_copy(update={"streaming": False})
    monkeypatch.setattr(llm, "chat_model", lambda name=None: fallback if name else asked)
    monkeypatch.setenv("CHAT_FALLBACK_MODEL", "openai:other")
    settings.forget()
    model.will(says("Never heard.", cut_after=0), says("It ends in 2027."))
    assert [frame for frame in answered(llm.Usage()) if "It ends in 2027." in frame]
