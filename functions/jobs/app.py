"""Jobs: how far long work has come.

    GET /v1/jobs/{id}   JobState      300 a minute for each caller, because it is polled

A job is made by whatever starts the work (`documents`) and moved on by the worker; nothing here changes one.
"""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from agentkit import jobs
from agentkit.auth import CurrentCaller
from agentkit.errors import NotFound
from agentkit.http import create_app, lambda_handler
from agentkit.jobs import Fault, Job
from agentkit.ratelimit import limit

app = create_app("jobs")


class JobState(BaseModel):
    """One piece of long work."""

    id: UUID
    kind: str = Field(examples=["ingest"])
    status: Literal["queued", "running", "succeeded", "failed"]
    document_id: UUID | None = Field(description="The document that it is about.")
    progress: dict[str, Any] = Field(examples=[{"passages": 40, "passages_total": 96}])
    error: Fault | None = Field(description="Why it failed; only when it did.")
    created_at: datetime
    started_at: datetime | None = Field(description="When the present or last attempt began.")
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> "JobState":
        """Return what its owner may know of a job."""
        return cls.model_validate(job.model_dump(exclude={"owner", "attempts"}))


@app.get("/jobs/{job_id}", dependencies=[limit("jobs", per_minute=300)])
async def get_job(job_id: UUID, caller: CurrentCaller) -> JobState:
    """Return the caller's job."""
    job = await jobs.find(caller, job_id)
    if job is None:
        raise NotFound("You have no job of that id.")
    return JobState.of(job)


handler = lambda_handler(app)
