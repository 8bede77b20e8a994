"""Sandboxes come, queue, break and go as Lambda's do."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

from infra.local.gateway import Gateway
from infra.local.lambdas import Limits
from tests.parts.gateway import SampleGateway, Serve
from tests.parts.runtime_api import Gate

ONE = Limits(sandboxes=1, timeout_seconds=30.0)


def pid(samples: SampleGateway) -> int:
    """The sandbox that answers just now."""
    return int(samples.get("/v1/stream/seen").json()["pid"])


def test_a_second_request_gets_a_sandbox_of_its_own_while_the_first_streams(samples: SampleGateway, gate: Gate):
    gate.say_once_asked("more")
    with samples.stream("GET", "/v1/stream/pieces", params={"gate": gate.port}) as response:
        lines = response.iter_lines()
        assert next(lines) == "piece 0"
        other = pid(samples)
        assert psutil.pid_exists(other)
        # The first still streams, in another process.
        gate.say("more")
        assert next(lines) == "piece 1"
        gate.say("end")


def test_one_sandbox_answers_one_request_at_a_time(serve_samples: Serve, gate: Gate):
    with serve_samples(ONE) as samples, ThreadPoolExecutor() as others:
        gate.say_once_asked("more")
        with samples.stream("GET", "/v1/stream/pieces", params={"gate": gate.port}) as response:
            waiting = others.submit(pid, samples)
            gate.say("more")
            gate.say("more")
            lines = response.iter_lines()
            assert [next(lines) for _ in range(3)] == ["piece 0", "piece 1", "piece 2"]
            assert not waiting.done()
            gate.say("end")
        # The next one gets the sandbox that has become free.
        assert waiting.result() == pid(samples)


def test_too_many_waiting_callers_are_throttled(serve_samples: Serve, gate: Gate):
    with serve_samples(Limits(sandboxes=1, timeout_seconds=30.0, waiting=0)) as samples:
        gate.say_once_asked("more")
        with samples.stream("GET", "/v1/stream/pieces", params={"gate": gate.port}):
            assert samples.get("/v1/stream/seen").status_code == 429
            gate.say("end")


def test_a_sandbox_that_crashes_is_told_with_its_log_and_replaced(serve_samples: Serve):
    with serve_samples(ONE) as samples:
        first = pid(samples)
        crashed = samples.get("/v1/stream/crash")
        assert crashed.status_code == 502
        assert crashed.json()["errorType"] == "Runtime.ExitError"
        assert crashed.json()["log"].endswith("about to crash")
        assert pid(samples) != first


def test_a_function_that_takes_too_long_is_ended(serve_samples: Serve):
    with serve_samples(Limits(sandboxes=1, timeout_seconds=0.5)) as samples:
        first = samples.get("/v1/stream/hang")
        assert first.status_code == 502
        assert first.json()["errorMessage"] == "Task timed out after 0.50 seconds"
        # Its sandbox was stuck; another answers, and may take its time.
        samples.lambdas.functions["stream"].limits = ONE
        assert samples.get("/v1/stream/seen").status_code == 200


def test_changed_code_replaces_idle_sandboxes_now_and_busy_ones_later(serve_samples: Serve, gate: Gate):
    with serve_samples() as samples:
        idle = pid(samples)
        samples.portal.call(samples.lambdas.renew)
        assert pid(samples) != idle
        gate.say_once_asked("more")
        with samples.stream("GET", "/v1/stream/pieces", params={"gate": gate.port}) as response:
            samples.portal.call(samples.lambdas.renew)
            gate.say("more")
            gate.say("end")
            assert response.read() == b"piece 0\npiece 1\n"


def test_a_sandbox_sees_no_other_roles_secrets(serve_samples: Serve):
    with serve_samples(ONE) as samples:
        environment = psutil.Process(pid(samples)).environ()
        assert not environment.get("ADMIN_SECRET")
        assert environment["AWS_LAMBDA_FUNCTION_NAME"] == "stream"
        assert environment["AGENTKIT_LOCAL"] == "1"


def test_a_functions_log_is_kept(serve_samples: Serve):
    with serve_samples(ONE) as samples:
        samples.get("/v1/stream/crash")
        assert "about to crash" in (samples.logs / "stream.log").read_text()


def test_no_sandbox_outlives_the_gateway(serve_samples: Serve):
    with serve_samples() as samples:
        sandboxes = [psutil.Process(pid(samples)), psutil.Process(samples.get("/v1/buffered/pid").json())]
    assert not any(each.is_running() for each in sandboxes)


def test_no_sandbox_outlives_a_gateway_that_was_killed(tmp_path: Path):
    gateway = Gateway(tmp_path, {})
    gateway.start()
    try:
        assert httpx.get(f"{gateway.environment['AGENTKIT_URL']}/v1/health/live", timeout=30).status_code == 200
        process = next(each for each in psutil.Process().children() if str(gateway.port) in each.cmdline())
        sandboxes = process.children(recursive=True)
        assert sandboxes
        os.kill(process.pid, signal.SIGKILL)
        _, left = psutil.wait_procs(sandboxes, timeout=10)
        assert left == []
    finally:
        gateway.stop()
