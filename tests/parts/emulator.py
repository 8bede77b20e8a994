"""AWS's runtime interface emulator: the Runtime API as Lambda has it, in AWS's own program, with one sandbox at it.

It takes streamed answers, and hands them out whole. The program is part of the `aws-sam-cli` package
(`samcli/local/rapid`), which `infra/requirements-data.txt` locks.
"""

import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.functions import ROOT
from infra.local.part import LOOPBACK, Process, accepts, free_port
from infra.local.runtime_api import PRELUDE_END
from tests.parts.runtime_api import LONGEST_SECONDS, PATIENCE_SECONDS

ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
INVOKE = "/2015-03-31/functions/function/invocations"
WRAPPER = ROOT / "infra" / "stream_wrapper"
# What Lambda's bootstrap gives a wrapper after its interpreter: the loop that it would have run.
LAMBDAS_LOOP = "/var/runtime/bootstrap.py"


def program() -> Path:
    """The emulator for this machine's processor."""
    name = f"samcli/local/rapid/aws-lambda-rie-{ARCHITECTURES[platform.machine().lower()]}"
    found = Path(str(importlib.metadata.distribution("aws-sam-cli").locate_file(name)))
    assert found.is_file(), f"{found} is missing, though infra/requirements-data.txt locks its package"
    return found


def streaming_command(interpreter: str | Path = sys.executable, wrapper: Path = WRAPPER) -> Sequence[str | Path]:
    """What Lambda runs where AWS_LAMBDA_EXEC_WRAPPER names our wrapper."""
    return [wrapper, interpreter, LAMBDAS_LOOP]


def buffered_command(handler: str) -> Sequence[str | Path]:
    """AWS's own client."""
    return [sys.executable, "-m", "awslambdaric", handler]


class Emulated(httpx.Client):
    """A function under the emulator."""

    def __init__(self, port: int, process: Process) -> None:
        super().__init__(base_url=f"http://{LOOPBACK}:{port}", timeout=PATIENCE_SECONDS)
        self.process = process

    def invoke(self, event: object) -> httpx.Response:
        """Have the event answered; bytes are sent as they are."""
        return self.post(INVOKE, content=event if isinstance(event, bytes) else json.dumps(event).encode())

    def streamed(self, event: object) -> tuple[dict[str, Any], bytes]:
        """Have the event answered by a stream; return its prelude and what followed the eight NUL bytes."""
        prelude, found, body = self.invoke(event).content.partition(PRELUDE_END)
        assert found, prelude
        return json.loads(prelude), body


Emulate = Callable[..., Emulated]


@pytest.fixture(scope="session")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulate]:
    """Start the emulator with a handler: under our streaming loop, unless another command is given."""
    logs = tmp_path_factory.mktemp("emulators")
    started: list[Emulated] = []

    def start(
        handler: str,
        command: Sequence[str | Path] | None = None,
        *,
        task_root: Path = ROOT,
        environment: dict[str, str] | None = None,
    ) -> Emulated:
        port, runtime_api_port = free_port(), free_port()
        process = Process(
            f"emulator of {handler}",
            [
                *(program(), "--runtime-interface-emulator-address", f"{LOOPBACK}:{port}"),
                *("--runtime-api-address", f"{LOOPBACK}:{runtime_api_port}", *(command or streaming_command())),
            ],
            log=logs / f"{len(started)}.log",
            env={
                "_HANDLER": handler,
                "AWS_LAMBDA_FUNCTION_NAME": "sample",
                "AWS_LAMBDA_FUNCTION_TIMEOUT": str(int(LONGEST_SECONDS)),
                "LAMBDA_TASK_ROOT": str(task_root),
                **(environment or {}),
            },
        )
        process.start(lambda: accepts(port))
        started.append(Emulated(port, process))
        return started[-1]

    yield start
    for emulated in started:
        emulated.close()
        # It ends its sandbox before itself.
        emulated.process.stop()


@pytest.fixture(scope="session")
def emulated(emulate: Emulate) -> Emulated:
    """The streaming sample under our loop."""
    return emulate("tests.shared.samples.stream.handler")
