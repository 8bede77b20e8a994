"""One run over everything: each sweep in its turn, batch by batch, for as long as the invocation may take.

A sweep is an async generator that mends a bounded batch at a time and yields what it has found, by the names of the
metrics. One that fails is told of and counted, and the next has its turn. What the clock cuts off goes on in a later
run: sweeps through everything begin at another place each time, so that nothing is left out for ever.
"""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from agentkit import database, telemetry
from agentkit.work import Clock
from functions.maintenance import bucket, gauges, leftovers, strays, stuck

Found = Mapping[str, int]
Sweep = Callable[[], AsyncGenerator[Found, None]]

# What people wait for first; last what goes through all there is.
SWEEPS: tuple[Sweep, ...] = (
    stuck.overdue,
    stuck.unheard,
    stuck.forgotten,
    bucket.abandoned,
    leftovers.parts,
    leftovers.staged,
    leftovers.old_jobs,
    strays.orphans,
    strays.incomplete,
    bucket.unclaimed,
)
# A batch is not begun with less than this left.
BATCH_SECONDS = 30.0
LOCK = "agentkit maintenance"

log = telemetry.logger(__name__)


async def run(clock: Clock) -> Found:
    """Return what was found, once every sweep has had its turn; nothing when another run is at it."""
    async with database.alone(LOCK) as alone:
        if not alone:
            log.info("maintenance.busy")
            return {}
        found = await _sweep(clock)
    telemetry.emit_metrics("maintenance", {name: (count, "Count") for name, count in found.items()})
    await gauges.tell()
    return found


async def _sweep(clock: Clock) -> Found:
    began = time.monotonic()
    found: Counter[str] = Counter()
    cut_short: list[str] = []
    failed: list[str] = []
    for sweep in SWEEPS:
        try:
            async with aclosing(sweep()) as batches:
                while not (late := clock.left < BATCH_SECONDS):
                    batch = await anext(batches, None)
                    if batch is None:
                        break
                    found.update(batch)
            if late:
                cut_short.append(sweep.__name__)
        except Exception as error:  # whatever it is, the others have their turn
            log.error("maintenance.sweep_failed", sweep=sweep.__name__, exc_info=error)
            failed.append(sweep.__name__)
    found.update(SweepsFailed=len(failed), SweepsCutShort=len(cut_short))
    seconds = round(time.monotonic() - began, 1)
    log.info("maintenance.swept", failed=failed, cut_short=cut_short, seconds=seconds, **found)
    return found
