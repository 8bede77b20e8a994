"""How the agent asks its model: a failure before anything was said goes to the fallback; the last one is a problem.

Once the user has read the beginning of an answer nobody else may begin it anew: LangChain's own fallback would, and
the two would stand one after the other. Imports LangChain, so it is imported late.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage

from agentkit import llm, telemetry
from agentkit.errors import Problem, UpstreamFailed

log = telemetry.logger(__name__)

Handler = Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]


class Attempts(AgentMiddleware):
    """Asks the agent's model, then the fallback where there is one; raises the Problem that the failure means."""

    def __init__(
        self, fallback: BaseChatModel | None, *, said: Callable[[], int], replaced: Callable[[], None]
    ) -> None:
        """Take the fallback, how much the user has read so far, and whom to tell when the fallback is asked."""
        super().__init__()
        self._fallback = fallback
        self._said = said
        self._replaced = replaced

    async def awrap_model_call(self, request: ModelRequest[Any], handler: Handler) -> ModelResponse[Any] | AIMessage:
        """Make one call of the model."""
        before = self._said()
        try:
            return await _attempt(request, handler)
        except Problem as problem:
            if self._fallback is None or self._said() > before:
                raise
            log.warning("model.replaced", code=problem.code, exc_info=problem)
        self._replaced()
        return await _attempt(request.override(model=self._fallback), handler)


async def _attempt(request: ModelRequest[Any], handler: Handler) -> ModelResponse[Any]:
    try:
        return await handler(request)
    except Exception as error:
        # What is told by no status and no broken connection is an answer that nobody can read.
        raise llm.problem_of(error) or UpstreamFailed(llm.UNUSABLE, code="model_failed") from error
