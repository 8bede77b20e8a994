"""Maintenance: mends what crashes, lost messages and half-done deletions leave behind, and counts what it finds.

    a schedule               every sweep, one after another     `sweeps`
    the dead-letter queue    its messages' jobs fail            `dead_letters`

It has no URL and works as the service. It parses and embeds nothing: what has to be done again, the worker does.
Whatever it does may be done twice, or broken off.
"""

from collections.abc import Mapping
from typing import Any

from agentkit import telemetry, work
from agentkit.work import Clock, LambdaContext
from functions.maintenance import dead_letters, sweeps

telemetry.configure_logging()


def handler(event: Mapping[str, Any], context: LambdaContext | None = None) -> dict[str, Any]:
    """Take an event of the dead-letter queue or of the schedule; raises ValueError for any other."""
    if "Records" in event:
        return dead_letters.take(event)
    if event.get("source") == "aws.events":
        return dict(work.run(sweeps.run(Clock(context))))
    raise ValueError("The event is neither a schedule's nor a queue's.")
