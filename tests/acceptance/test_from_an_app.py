"""What an app has from it: Supabase's and the AI SDK's own clients, against the whole stack and the very handlers."""

import json
import os
import subprocess

import httpx
import pytest

from infra.local.stack import ORIGINS
from tests.parts.ai_sdk import FOLDER
from tests.parts.model import calls, looks_it_up, says

ANSWER = "The lighthouse opens to visitors on 4 May 2031 [1]. So says the notice."
SECONDS = 60


@pytest.fixture
def app(stack, model, ai_sdk):
    """Run a scenario of app.mjs to its end; the model is let go where the app says so."""

    def run(scenario):
        process = subprocess.Popen(
            ["node", "app.mjs", scenario],
            cwd=FOLDER,
            env={**os.environ, **stack.environment},
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        said = {}
        with process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    said = json.loads(line)
                    if said == "go":
                        model.let_go()
                assert process.wait(SECONDS) == 0
            finally:
                process.kill()
        assert said["failures"] == []
        return said

    return run


@pytest.fixture
def notice(app):
    """Ada has a notice."""
    return app("upload")["document"]


def texts(messages):
    """Who said what."""
    return [
        (message["role"], "".join(part["text"] for part in message["parts"] if part["type"] == "text"))
        for message in messages
    ]


def test_a_file_is_uploaded_ingested_and_found(app):
    saw = app("upload")
    found = [passage for passage in saw["passages"] if passage["document_id"] == saw["document"]]
    assert [(passage["title"], passage["text"]) for passage in found] == [
        ("notice", "Notice\n\nThe lighthouse opens to visitors on 4 May 2031.")
    ]
    # How far it was came as it happened, and the end last.
    assert saw["seen"][-1] == saw["job"]["status"] == "ready"
    assert saw["job"]["progress"]["passages"] == saw["job"]["progress"]["passages_total"] == 1


def test_an_answer_is_cited_kept_as_the_client_has_it_and_goes_on_from_there(app, model, notice):
    model.otherwise = looks_it_up(ANSWER)
    saw = app("ask")
    question, answer = saw["messages"]
    (citation,) = [part["data"] for part in answer["parts"] if part["type"] == "data-citation"]
    assert citation["quote"] == "The lighthouse opens to visitors on 4 May 2031."
    assert [(message["id"], message["parts"]) for message in saw["found"]] == [
        (message["id"], message["parts"]) for message in (question, answer)
    ]
    assert saw["found"][1]["metadata"] == answer["metadata"]
    assert saw["unchanged"]
    assert texts(saw["later"]) == [
        ("user", "When does the lighthouse open?"),
        ("assistant", ANSWER),
        ("user", "Who says so?"),
        ("assistant", ANSWER),
    ]
    assert saw["status"] == "ready"


def test_a_reload_in_the_middle_of_an_answer_finds_the_question_and_has_all_of_the_answer(app, model, notice):
    model.will(calls("search_documents", query="lighthouse opens"), says(ANSWER, hold_after=3))
    saw = app("reload")
    assert texts(saw["found"]) == [("user", "When does the lighthouse open?")]
    assert texts(saw["messages"]) == [("user", "When does the lighthouse open?"), ("assistant", ANSWER)]
    assert saw["reloaded"][1] == saw["messages"][1]


def test_a_stop_ends_the_stream_keeps_what_was_said_and_lets_the_next_question_in(app, model, notice):
    model.will(calls("search_documents", query="lighthouse opens"), says(ANSWER, hold_after=3))
    model.otherwise = looks_it_up(ANSWER)
    saw = app("stop")
    assert saw["stopped"] is True
    assert texts(saw["found"]) == [("user", "When does the lighthouse open?"), ("assistant", "The lighthouse opens")]
    assert saw["found"][1]["metadata"]["status"] == "stopped"
    assert texts(saw["messages"])[1:] == [
        ("assistant", "The lighthouse opens"),
        ("user", "Once more, please."),
        ("assistant", ANSWER),
    ]
    assert saw["status"] == "ready"


def test_a_browser_on_an_allowed_site_may_call_every_method_and_read_what_matters(stack):
    site = json.loads(ORIGINS)[0]
    with httpx.Client(base_url=stack.environment["AGENTKIT_URL"], headers={"Origin": site}) as browser:
        asking = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,x-request-id",
        }
        allowed = browser.options("/v1/chat", headers=asking)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == site
        refused = browser.post("/v1/search", json={})
        assert refused.status_code == 401
        assert refused.headers.get_list("access-control-allow-origin") == [site]
        exposed = refused.headers["access-control-expose-headers"].lower().split(", ")
        assert {"x-request-id", "ratelimit", "retry-after"} <= set(exposed)
