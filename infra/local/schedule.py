"""What EventBridge does: invokes each function that has a schedule, again and again.

The event's shape: https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-run-lambda-schedule.html

Here every schedule is a minute's, whatever its expression says: nobody wants to wait for five.
"""

import asyncio
import json
import logging
import uuid
from datetime import UTC, datetime

from infra.local.lambdas import Lambdas, LocalFunction, Throttled
from infra.local.runtime_api import FunctionFailed

EVERY_SECONDS = 60.0

log = logging.getLogger(__name__)


async def keep_time(lambdas: Lambdas, *, every_seconds: float = EVERY_SECONDS) -> None:
    """Go on until cancelled; each function's next turn is so long after the end of its last."""
    async with asyncio.TaskGroup() as schedules:
        for function in lambdas.functions.values():
            if function.function.schedule:
                schedules.create_task(_repeat(function, every_seconds))


async def _repeat(function: LocalFunction, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            invocation = await function.invoke(json.dumps(_event(function.function.name)).encode())
            await invocation.payload()
        except (FunctionFailed, Throttled, OSError) as error:
            log.error("%s.failed: %r", function.function.name, error)  # its own log has the traceback


def _event(name: str) -> dict[str, object]:
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "region": "us-east-1",
        "resources": [f"arn:aws:events:us-east-1:123456789012:rule/{name}"],
        "detail": {},
    }
