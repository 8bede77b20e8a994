"""What only the database knows of the work that is waited for."""

from agentkit import database, telemetry
from agentkit.jobs import LIVE
from agentkit.settings import QueueSettings, load

# How many live jobs are there at each status, and how long ago was the oldest of them asked for?
LIVE_JOBS = """
    select status, count(*) as jobs,
           extract(epoch from max(now() - (deadline - make_interval(secs => %s))))::float8 as oldest_seconds
    from agentkit.jobs
    where status in ('queued', 'parsing', 'embedding', 'indexing')
    group by status
"""


async def tell() -> None:
    """Emit the metrics of live jobs."""
    (rows,) = await database.service_fetch_all(
        "count live jobs", [(LIVE_JOBS, [load(QueueSettings).jobs_deadline_seconds])]
    )
    jobs = {row["status"]: row["jobs"] for row in rows}
    metrics = {f"Jobs{status.capitalize()}": (float(jobs.get(status, 0)), "Count") for status in LIVE}
    oldest = max((row["oldest_seconds"] for row in rows), default=0.0)
    telemetry.emit_metrics("maintenance", {**metrics, "OldestLiveJob": (oldest, "Seconds")})
