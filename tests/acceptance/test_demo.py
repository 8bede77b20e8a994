"""The demonstration's exit code is its verdict: everything held, or something that it names did not."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psutil
import pytest

from infra.demo import client
from infra.demo.run import HERE, QUESTIONS, main
from infra.local.stack import OWN_MODEL, running_environment
from tests.parts.chat import eventually
from tests.parts.model import looks_it_up
from tests.parts.postgres import open_folder

ONE_QUESTION = """
[documents]
"harbour-street-lease.md" = "Lease"

[[questions]]
text = "When does the lease end?"
document = "harbour-street-lease.md"
must_contain = "a unicorn"
"""


def kill_embedder(folder):
    """End the embedder of the stack that was started there."""
    environment = running_environment(folder)
    assert environment is not None
    port = environment["EMBEDDING_BASE_URL"].split(":")[-1].partition("/")[0]
    command = ["infra.local.embedder_server", port]
    embedder = next(each for each in psutil.Process().children() if each.cmdline()[-2:] == command)
    embedder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, embedder.pid, os.WEXITED | os.WNOWAIT)


def test_all_of_it_holds_against_a_stack_of_its_own_with_the_local_model(monkeypatch, capsys):
    for name in OWN_MODEL:
        monkeypatch.delenv(name, raising=False)
    with open_folder() as folder:
        status = main(folder, QUESTIONS)
        assert not (folder / "env").exists()
    said = capsys.readouterr().out
    assert status == 0, said
    # Two documents, their progress, and both again; three answers of three claims each and two pages; Bob's three
    # questions and two documents.
    assert f"{2 + 1 + 2 + 3 * 3 + 2 + 3 + 2} of 21 checks held." in said
    assert max(map(len, said.splitlines())) <= 100
    assert "↳ Staff Handbook, page 7: “After probation, the notice period is eight weeks for both sides.”" in said
    # Round trips were found in the log of the stack that answered.
    table = said[said.index("first byte") : said.index("Redis and Postgres:")].splitlines()[1:]
    assert len(table) == 3
    assert all(line.split()[-1].isdigit() and line.split()[-2].isdigit() for line in table)
    assert "make dev" in said
    # Nothing of a second upload of the same bytes is embedded; without a terminal no line changes.
    assert "\n  staff-handbook.pdf: 23 of 23 passages known, 0 tokens embedded, ready in " in said
    assert all(each.isprintable() for line in said.splitlines() for each in line)


def test_a_claim_that_does_not_hold_is_named_and_fails_it(stack, model, tmp_path, capsys):
    model.otherwise = looks_it_up("The lease ends on 30 September 2027.")
    script = tmp_path / "questions.toml"
    script.write_text(ONE_QUESTION)
    assert main(stack._folder, script) == 1
    said = capsys.readouterr().out
    assert f"Using the stack that is running at {stack.environment['AGENTKIT_URL']}." in said
    # A document, its progress, and it again; an answer of three claims; Bob's question and document.
    assert said.endswith("\n7 of 8 checks held.\n  ✗ it says 'a unicorn'\n")


def test_a_document_that_takes_too_long_is_named(stack, monkeypatch):
    monkeypatch.setattr(client, "INGEST_SECONDS", 0.0)
    with closing(client.Person(stack.environment, "ada")) as ada:
        with pytest.raises(RuntimeError, match=r"^harbour-street-lease\.md was not ready within 0 s\.$"):
            ada.upload(HERE / "documents" / "harbour-street-lease.md", "Late", lambda _: None)
        (late,) = [each for each in ada.documents() if each["title"] == "Late"]
        ada.forget(late["id"])


def test_a_stack_that_does_not_start_is_told_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.delenv("CHAT_MODEL", raising=False)
    assert main(tmp_path, QUESTIONS) == 1
    assert capsys.readouterr().err == (
        "\nThe demonstration could not go on. OPENAI_BASE_URL is set: set CHAT_MODEL as well, such as "
        "openai:the-model-it-serves.\n"
    )


def test_a_part_that_dies_before_the_documents_are_read_is_named(model, capsys):
    def kill_once_it_is_up(folder):
        eventually((folder / "env").exists)
        kill_embedder(folder)

    with open_folder() as folder, ThreadPoolExecutor() as others:
        killing = others.submit(kill_once_it_is_up, folder)
        assert main(folder, QUESTIONS) == 1
        killing.result()
    said = capsys.readouterr().err
    assert said.startswith("\nThe demonstration could not go on. embedder ended with status -9.\n")


def test_a_part_that_dies_while_a_question_is_answered_is_named(model, tmp_path, capsys):
    script = tmp_path / "questions.toml"
    script.write_text(ONE_QUESTION)
    with open_folder() as folder:

        def kill_and_search(asked):
            if not model.asked[1:]:
                kill_embedder(folder)
            return looks_it_up("The lease ends on 30 September 2027.")(asked)

        model.otherwise = kill_and_search
        assert main(folder, script) == 1
    said = capsys.readouterr()
    assert "✗ it cites harbour-street-lease.md" in said.out
    assert said.err.startswith("\nThe demonstration could not go on. embedder ended with status -9.\n")
