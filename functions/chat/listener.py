"""What the model writes, heard as it writes it.

LangChain tells its callbacks of each token. LangGraph's `messages` mode is such a callback too, but hands each token on
through the graph's own queue and wakes the graph for it, which is a sixth of all that a streamed token costs.

Imports LangChain, so it is imported late.
"""

from collections.abc import Callable
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage


class Listener(BaseCallbackHandler):
    """Hands on each piece of each answer of the model, in the order of their coming."""

    # In the task that reads the model, so that nothing overtakes anything; and what goes wrong here is not passed over.
    run_inline = True
    raise_error = True

    def __init__(self, take: Callable[[BaseMessage], None]) -> None:
        self._take = take

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **_: Any) -> None:  # noqa: ANN401, ARG002  # its base's
        """Take in a piece of a message: text, part of a call, or what the answer has used."""
        if chunk is not None:
            self._take(chunk.message)
