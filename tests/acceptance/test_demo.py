"""The demonstration's exit code is its verdict: everything held, or something that it names did not."""

from infra.demo.run import QUESTIONS, main
from infra.local.stack import OWN_MODEL
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


def test_all_of_it_holds_against_a_stack_of_its_own_with_the_local_model(monkeypatch, capsys):
    for name in OWN_MODEL:
        monkeypatch.delenv(name, raising=False)
    with open_folder() as folder:
        status = main(folder, QUESTIONS)
        assert not (folder / "env").exists()
    said = capsys.readouterr().out
    assert status == 0, said
    # Two documents; three answers of three claims each and two pages; Bob's three questions and two documents.
    assert f"{2 + 3 * 3 + 2 + 3 + 2} of 18 checks held." in said
    assert max(map(len, said.splitlines())) <= 100
    assert "↳ Staff Handbook, page 7: “After probation, the notice period is eight weeks for both sides.”" in said
    # Round trips were found in the log of the stack that answered.
    table = said[said.index("first byte") : said.index("Redis and Postgres:")].splitlines()[1:]
    assert len(table) == 3
    assert all(line.split()[-1].isdigit() and line.split()[-2].isdigit() for line in table)
    assert "make dev" in said


def test_a_claim_that_does_not_hold_is_named_and_fails_it(stack, model, tmp_path, capsys):
    model.otherwise = looks_it_up("The lease ends on 30 September 2027.")
    script = tmp_path / "questions.toml"
    script.write_text(ONE_QUESTION)
    assert main(stack._folder, script) == 1
    said = capsys.readouterr().out
    assert f"Using the stack that is running at {stack.environment['AGENTKIT_URL']}." in said
    # A document; an answer of three claims; Bob's question and document.
    assert said.endswith("\n5 of 6 checks held.\n  ✗ it says 'a unicorn'\n")


def test_a_stack_that_does_not_start_is_told_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.delenv("CHAT_MODEL", raising=False)
    assert main(tmp_path, QUESTIONS) == 1
    assert capsys.readouterr().err == (
        "\nThe demonstration could not go on. OPENAI_BASE_URL is set: set CHAT_MODEL as well, such as "
        "openai:the-model-it-serves.\n"
    )
