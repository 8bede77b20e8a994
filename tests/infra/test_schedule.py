"""A function that has a schedule is invoked again and again, as EventBridge would."""

import asyncio
import json
import re
from contextlib import asynccontextmanager

import pytest

from infra.functions import ROOT
from infra.local.lambdas import Lambdas, Limits
from infra.local.schedule import keep_time
from tests.parts.gateway import Sample

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def keeping_time(folder, *functions, **environment):
    """Those functions' schedules kept, without a pause; yields what returns once so many events have come."""
    seen = folder / "seen"
    stack = {"PYTHONPATH": str(ROOT), "SEEN": str(seen), **environment}
    lambdas = Lambdas(stack, folder, functions, Limits(sandboxes=1, timeout_seconds=30.0))
    times = asyncio.create_task(keep_time(lambdas, every_seconds=0))

    async def events(count):
        async with asyncio.timeout(60):
            while not seen.exists() or len(lines := seen.read_text().splitlines()) < count:
                await asyncio.sleep(0.02)
        return [json.loads(line) for line in lines]

    try:
        yield events
    finally:
        times.cancel()
        await asyncio.gather(times, return_exceptions=True)
        await lambdas.stop()


async def test_an_event_is_what_eventbridge_sends(tmp_path):
    async with keeping_time(tmp_path, Sample("worker", schedule="rate(5 minutes)")) as events:
        event = (await events(1))[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event.pop("time"))
    assert event.pop("id")
    # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-run-lambda-schedule.html, the event that is logged
    assert event == {
        "version": "0",
        "account": "123456789012",
        "region": "us-east-1",
        "detail": {},
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "resources": ["arn:aws:events:us-east-1:123456789012:rule/worker"],
    }


async def test_a_function_that_fails_has_its_next_turn(tmp_path):
    async with keeping_time(tmp_path, Sample("worker", schedule="rate(5 minutes)"), OTHERWISE="raise") as events:
        assert len(await events(3)) >= 3


async def test_a_function_without_a_schedule_is_left_alone(tmp_path):
    lambdas = Lambdas({}, tmp_path, [Sample("worker", queue="jobs")])
    async with asyncio.timeout(60):
        await keep_time(lambdas, every_seconds=0)
