"""The chat model: asked a bounded number of times, counted, priced, traced to nobody, its failures told safely."""

import os

import httpx
import pytest

from agentkit import llm
from agentkit.errors import TooManyRequests, Unavailable, UpstreamFailed
from tests.parts.model import calls, refuses, says, talks_nonsense

pytestmark = pytest.mark.anyio
TRIES = 3


@pytest.fixture
async def ask(model, monkeypatch):
    """Have the model answer; return its message, or the problem that its failure means."""
    monkeypatch.setenv("CHAT_TIMEOUT_SECONDS", "0.3")
    for name in ("MAX_RETRY_DELAY", "INITIAL_RETRY_DELAY"):
        monkeypatch.setattr(f"openai._base_client.{name}", 0.0)

    async def ask(text="Hi.", name=None):
        whole = None
        try:
            async for chunk in llm.chat_model(name).astream(text):
                whole = chunk if whole is None else whole + chunk
        except Exception as error:
            problem = llm.problem_of(error)
            if problem is None:
                raise
            return problem
        return whole

    yield ask
    await llm.close()


# Asking


async def test_an_answer_comes_in_pieces_and_is_counted(ask, model):
    model.will(says("It ends in 2027.", usage=(20, 5)))
    answer = await ask("When?")
    assert answer.text == "It ends in 2027."
    assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]) == (20, 5)
    (asked,) = model.asked
    assert (asked["model"], asked["stream"], asked["stream_options"]) == ("scripted", True, {"include_usage": True})
    assert asked["messages"] == [{"role": "user", "content": "When?"}]


async def test_its_length_is_bounded(ask, model, monkeypatch):
    monkeypatch.setenv("CHAT_MAX_OUTPUT_TOKENS", "77")
    model.will(says("Yes."))
    await ask()
    assert model.asked[0]["max_completion_tokens"] == 77


async def test_another_model_can_be_asked_by_name(ask, model):
    model.will(says("Yes."))
    await ask(name="openai:other")
    assert model.asked[0]["model"] == "other"


@pytest.mark.parametrize(
    "passing",
    [
        pytest.param(refuses(429), id="429"),
        pytest.param(refuses(500), id="500"),
        pytest.param(says("", hold_after=0), id="silence"),
    ],
)
async def test_what_passes_by_itself_is_asked_again(ask, model, passing):
    model.will(passing, passing, says("Yes."))
    assert (await ask()).text == "Yes."
    assert len(model.asked) == TRIES


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_nothing_is_asked_more_than_three_times(ask, model, status):
    model.otherwise = lambda _: refuses(status)
    await ask()
    assert len(model.asked) == TRIES


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_what_would_be_refused_again_is_asked_once(ask, model, status):
    model.otherwise = lambda _: refuses(status)
    await ask()
    assert len(model.asked) == 1


async def test_an_answer_that_breaks_off_is_not_asked_for_again(ask, model):
    model.will(says("The lease ends.", cut_after=1), says("Something else."))
    assert isinstance(await ask(), Unavailable)
    assert len(model.asked) == 1


async def test_nothing_is_traced_whatever_the_machine_is_set_to(ask, model, monkeypatch):
    other = {"LANGSMITH_API_KEY": "ls-key", "LANGSMITH_ENDPOINT": model.environment["OPENAI_BASE_URL"]}
    for name, value in {**other, "LANGSMITH_TRACING": "true", "LANGCHAIN_TRACING_V2": "true"}.items():
        monkeypatch.setenv(name, value)
    model.will(says("Yes."))
    await ask()
    from langsmith.utils import tracing_is_enabled

    assert not tracing_is_enabled()
    assert (os.environ["LANGSMITH_TRACING"], os.environ["LANGCHAIN_TRACING_V2"]) == ("false", "false")


# Failures


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        pytest.param(refuses(429), TooManyRequests, "model_busy", id="429"),
        pytest.param(refuses(500), Unavailable, "model_unavailable", id="500"),
        pytest.param(refuses(503), Unavailable, "model_unavailable", id="503"),
        pytest.param(refuses(400), UpstreamFailed, "model_failed", id="400"),
        pytest.param(refuses(401), UpstreamFailed, "model_failed", id="401"),
        pytest.param(says("", hold_after=0), Unavailable, "model_unavailable", id="silent"),
        pytest.param(says("The lease ends.", hold_after=1), Unavailable, "model_unavailable", id="falls silent"),
        pytest.param(
            says("The lease ends.", hold_after=1, murmurs=True), Unavailable, "model_unavailable", id="only murmurs"
        ),
        pytest.param(says("The lease ends.", cut_after=1), Unavailable, "model_unavailable", id="breaks off"),
        pytest.param(
            talks_nonsense(b'data: {"error": {"message": "x"}}\n\n'), UpstreamFailed, "model_failed", id="an error"
        ),
    ],
)
async def test_a_failure_is_told_as_the_problem_that_it_means(ask, model, reply, kind, code):
    model.otherwise = lambda _: reply
    problem = await ask()
    assert (type(problem), problem.code) == (kind, code)
    assert "127.0.0.1" not in problem.detail
    assert "scripted" not in problem.detail


async def test_a_busy_model_says_when_to_come_back(ask, model):
    model.otherwise = lambda _: refuses(429)
    assert int((await ask()).headers["Retry-After"]) > 0


class WrappedError(Exception):
    """What a library makes of another's failure."""


@pytest.mark.parametrize(
    "cause",
    [
        pytest.param(httpx.ConnectError("10.0.0.1 refused"), id="httpx"),
        pytest.param(ConnectionResetError("10.0.0.1"), id="the system"),
        pytest.param(TimeoutError(), id="a time limit"),
    ],
)
async def test_a_broken_connection_is_known_under_whatever_wraps_it(cause):
    error = WrappedError("10.0.0.1")
    error.__cause__ = cause
    problem = llm.problem_of(error)
    assert problem is not None
    assert (problem.status, problem.code) == (503, "model_unavailable")
    assert "10.0.0.1" not in problem.detail


async def test_what_is_not_the_providers_failure_is_none_of_its_problems():
    circle = ValueError("ours")
    circle.__cause__ = KeyError("ours too")
    circle.__cause__.__cause__ = circle
    assert llm.problem_of(circle) is None


# Usage


async def test_a_run_costs_what_its_tokens_cost(monkeypatch, model):
    monkeypatch.setenv("CHAT_INPUT_PRICE", "2.5")
    monkeypatch.setenv("CHAT_OUTPUT_PRICE", "10")
    usage = llm.Usage()
    usage.add(1_000, 100)
    usage.add(3_000, 300)
    # 4,000 tokens at 2.5 dollars a million, 400 at 10.
    assert usage.cost_usd == pytest.approx(0.010 + 0.004)


async def test_without_prices_a_run_costs_nothing(model):
    assert llm.Usage(1_000, 1_000).cost_usd == 0


async def test_an_estimate_says_that_it_is_one():
    usage = llm.Usage()
    usage.estimate("x" * 400, "y" * 40)
    # Four characters a token.
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (100, 10, True)


async def test_what_a_tools_call_used_is_counted_like_an_answer(ask, model):
    model.will(calls("search", query="x"))
    answer = await ask()
    assert answer.tool_calls[0]["args"] == {"query": "x"}
    assert answer.usage_metadata["total_tokens"] == 11 + 7
