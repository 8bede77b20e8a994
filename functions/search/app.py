"""Search: the passages of the caller's documents that answer a question best.

    POST /v1/search   Question -> Answer      60 a minute for each caller

Reads what `worker` wrote; never calls a chat model, so it stays fast and cheap. It waits for Redis once, for the
embedding model once (not at all for keywords alone, or for one of the last questions again) and for Postgres once.
These do not overlap: a caller over the limit must cost neither an embedding nor a query, and the vector is what
Postgres is asked about.
"""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field

from agentkit import passages
from agentkit.auth import CurrentCaller
from agentkit.embeddings import embed_one
from agentkit.http import Body, Text, create_app, lambda_handler
from agentkit.ratelimit import limit

app = create_app("search")


class Question(Body):
    """What to look for."""

    text: Annotated[Text, Field(min_length=1, max_length=2_000, pattern=r"\S", examples=["When does the lease end?"])]
    limit: int = Field(8, ge=1, le=50, description="Passages wanted at most.")
    mode: passages.Mode = Field("hybrid", description="By meaning, by words, or both.")
    document_ids: list[UUID] | None = Field(None, max_length=100, description="Look in these documents alone.")


class Passage(BaseModel):
    """A piece of a document."""

    id: str
    document_id: UUID
    title: str = Field(description="The document's.")
    page: int | None = Field(description="From 1; null where the format knows no pages.")
    text: str
    similarity: float | None = Field(description="Cosine similarity to the question; null in keyword mode.")
    score: float = Field(description="Of the fused ranking; only its order means something.")


class Answer(BaseModel):
    """The passages that fit best, best first."""

    passages: list[Passage]


@app.post("/search", dependencies=[limit("search", per_minute=60)])
async def search(question: Question, caller: CurrentCaller) -> Answer:
    """Return the caller's passages that fit the question best."""
    vector = None if question.mode == "keyword" else await embed_one(question.text)
    matches = await passages.find(
        caller,
        vector,
        question.text,
        limit=question.limit,
        mode=question.mode,
        document_ids=question.document_ids,
    )
    return Answer(passages=[Passage.model_validate(match, from_attributes=True) for match in matches])


handler = lambda_handler(app)
