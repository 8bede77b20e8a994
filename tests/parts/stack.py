"""The whole local stack, one for the whole run: its real parts, and a model that says what it is told to."""

from collections.abc import Iterator

import pytest

from infra.local.stack import Stack
from tests.parts.model import ScriptedModel
from tests.parts.postgres import open_folder


@pytest.fixture(scope="session")
def stack(model_server: ScriptedModel) -> Iterator[Stack]:
    """A running stack; ask for `model` as well and tell it what to say."""
    with open_folder() as folder:
        stack = Stack(folder)
        with pytest.MonkeyPatch.context() as environment:
            for name, value in model_server.environment.items():
                environment.setenv(name, value)
            stack.start()
        yield stack
        stack.stop()
