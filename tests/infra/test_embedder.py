"""The local embedder refuses what it cannot read, in OpenAI's form."""

import httpx
import pytest


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"no json", id="no JSON"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"{}", id="no input"),
        pytest.param(b'{"input": []}', id="no texts"),
        pytest.param(b'{"input": ["a", ""]}', id="an empty text"),
        pytest.param(b'{"input": [[1, 2]]}', id="tokens"),
        pytest.param(b'{"input": "half \\ud800"}', id="half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_refused(embedder, body):
    answer = httpx.post(f"{embedder.environment['EMBEDDING_BASE_URL']}/embeddings", content=body, timeout=30)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
