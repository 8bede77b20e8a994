"""Jobs: how far long work has come, and a word in it.

    GET  /v1/jobs                ?cursor=&limit=&document_id= -> Page    300 a minute for each caller, with the next
    GET  /v1/jobs/{id}           -> JobState
    GET  /v1/jobs/{id}/events    a stream of server-sent events          60 a minute
    POST /v1/jobs/{id}/cancel    -> JobState                             60 a minute, with the next
    POST /v1/jobs/{id}/retry     -> JobState

A job is made by whatever starts the work (`documents`) and moved on by the worker.

The events are `progress`, one for each change, then `done`; each has the job's state as its data. A stream ends after
five minutes at most, and before Lambda's deadline: with `continue` when the job goes on, and the client asks again.
`error` has a problem as its data. On Lambda a stream is paid for while it is open, also after its client has left.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from agentkit import jobs
from agentkit.auth import CurrentCaller
from agentkit.http import create_app, lambda_handler, seconds_left
from agentkit.jobs import Fault, Job, Status
from agentkit.paging import PageCursor, PageLimit
from agentkit.ratelimit import limit
from functions.jobs import events

READ = limit("jobs", per_minute=300)
CHANGE = limit("jobs-change", per_minute=60)
# A browser's page rarely asks for longer; it asks again.
LONGEST_SECONDS = 300.0
# What ending needs of Lambda's deadline: letting go of a query that does not come back, and the last event.
ENDING_SECONDS = 3.0

# What one event of the stream is.
EVENT = {
    "type": "object",
    "required": ["event", "id", "data"],
    "properties": {
        "event": {
            "enum": ["progress", "done", "continue", "error"],
            "description": (
                "`progress` for each change, then `done`, or `continue` when the client is to ask again; `error` when "
                "the job could not be seen any more."
            ),
        },
        "id": {"type": "string", "description": "Equal for equal data."},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "anyOf": [
                    {"$ref": "#/components/schemas/JobState"},
                    {"$ref": "#/components/schemas/ProblemDocument"},
                ]
            },
            "description": "The job's state; a problem in an `error`.",
        },
    },
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": EVENT}}}
}

app = create_app("jobs")


class Progress(BaseModel):
    """How much is done, and of how much; null where that is not known, or nothing that this work has."""

    pages: int | None = None
    pages_total: int | None = None
    passages: int | None = Field(None, examples=[40])
    passages_total: int | None = Field(None, examples=[96])
    reused: int | None = Field(None, description="Of the passages: those that cost no embedding.")


class JobState(BaseModel):
    """One piece of long work."""

    id: UUID
    kind: str = Field(examples=["ingest"])
    status: Status
    document_id: UUID | None = Field(description="The document that it is about.")
    progress: Progress
    attempts: int = Field(description="How often it was begun.")
    error: Fault | None = Field(description="Why it failed; only when it did.")
    input_tokens: int = Field(description="That were embedded.")
    cost_usd: float = Field(description="What they cost, at the price that the deployment was told.")
    created_at: datetime
    started_at: datetime | None = Field(description="When the present or last attempt began.")
    finished_at: datetime | None
    deadline: datetime = Field(description="When it fails if it is not over.")

    @classmethod
    def of(cls, job: Job) -> "JobState":
        """Return what its owner may know of a job."""
        return cls.model_validate(job.model_dump(include=set(cls.model_fields)))


class Page(BaseModel):
    """Jobs, newest first."""

    items: list[JobState]
    next_cursor: str | None = Field(description="Ask for the next page with it; null on the last.")


@app.get("/jobs", dependencies=[READ])
async def list_jobs(
    caller: CurrentCaller, cursor: PageCursor = None, limit: PageLimit = 20, document_id: UUID | None = None
) -> Page:
    """Return the caller's jobs, newest first; those about one document where it is named."""
    found, next_cursor = await jobs.page(caller, cursor, limit, document_id=document_id)
    return Page(items=[JobState.of(job) for job in found], next_cursor=next_cursor)


@app.get("/jobs/{job_id}", dependencies=[READ])
async def get_job(job_id: UUID, caller: CurrentCaller) -> JobState:
    """Return the caller's job."""
    return JobState.of(await jobs.find(caller, job_id))


@app.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses=STREAM,
    dependencies=[limit("jobs-events", per_minute=60)],
)
async def follow_job(job_id: UUID, caller: CurrentCaller, request: Request) -> StreamingResponse:
    """Tell of each change of the caller's job until it is over, beginning with how it stands."""

    async def look() -> events.State:
        job = await jobs.find(caller, job_id)
        return events.State(JobState.of(job).model_dump_json(), over=not job.live)

    now = await look()
    left = seconds_left(request, ending_seconds=ENDING_SECONDS, otherwise=LONGEST_SECONDS)
    told = events.follow(now, look, seconds=min(LONGEST_SECONDS, left))
    return StreamingResponse(told, media_type="text/event-stream", headers=events.HEADERS)


@app.post("/jobs/{job_id}/cancel", dependencies=[CHANGE])
async def cancel_job(job_id: UUID, caller: CurrentCaller) -> JobState:
    """End the caller's job; what its document had before stays. Cancelling again does no harm."""
    return JobState.of(await jobs.cancel(caller, job_id))


@app.post("/jobs/{job_id}/retry", dependencies=[CHANGE])
async def retry_job(job_id: UUID, caller: CurrentCaller) -> JobState:
    """Begin the caller's failed or cancelled job again, from where it broke off; one under way is left as it is."""
    return JobState.of(await jobs.retry(caller, job_id))


handler = lambda_handler(app)
