"""The least that answers on Lambda: what a cold start costs before any of ours is added."""

from fastapi import FastAPI
from mangum import Mangum

app = FastAPI()


@app.get("/")
async def hello() -> dict[str, str]:
    """Answer with next to nothing."""
    return {"hello": "world"}


handler = Mangum(app, lifespan="off")
