"""`make demo`: the main job on real input, from sign-in to a cited answer, and a check that all of it held.

It starts the local stack (or uses the one that runs already), signs in as Ada, uploads the sample documents, has
them ingested, asks three questions and prints the answers as they stream, with their citations. Then Bob asks the same.
What each answer cost in round trips is read from the functions' own logs, by request id.
"""

import json
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from infra.demo import show
from infra.demo.client import Answer, Person
from infra.local.part import PartFailed
from infra.local.stack import FOLDER, Stack, running_environment

HERE = Path(__file__).parent
QUESTIONS = HERE / "questions.toml"
LOG_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and what a right answer holds."""

    text: str
    document: str
    """The file whose passage answers it."""
    must_contain: str
    page: int | None = None
    """Left out where the format knows no pages."""


@dataclass
class Report:
    """What was checked, and whether it held."""

    checks: list[tuple[bool, str]] = field(default_factory=list)

    def check(self, claim: str, *, holds: bool) -> None:
        """Note a claim, and say at once when it does not hold."""
        self.checks.append((holds, claim))
        if not holds:
            print(f"  ✗ {claim}")

    @property
    def failed(self) -> list[str]:
        """The claims that did not hold."""
        return [claim for holds, claim in self.checks if not holds]


def main(folder: Path = FOLDER, script: Path = QUESTIONS) -> int:
    """Run the demonstration; 0 when all of it held, 1 when something did not, 130 when someone ended it."""
    report = Report()
    try:
        with _stack(folder) as (environment, own):
            demonstrate(environment, report, folder, script, own.failure if own else lambda: None)
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130
    except (RuntimeError, httpx.HTTPError) as error:
        # A part that did not start or has died, a document that could not be read, a stack that went away meanwhile.
        print(f"\nThe demonstration could not go on. {error}", file=sys.stderr)
        return 1
    held = len(report.checks) - len(report.failed)
    print(f"\n{held} of {len(report.checks)} checks held." + "".join(f"\n  ✗ {claim}" for claim in report.failed))
    if not report.failed:
        show.next_steps(environment, folder, still_up=own is None)
    return 1 if report.failed else 0


def demonstrate(
    environment: Mapping[str, str], report: Report, folder: Path, script: Path, failure: Callable[[], str | None]
) -> None:
    """Go through the whole of it against a running stack; `failure` says why a part of it has ended."""
    read = tomllib.loads(script.read_text())
    titles: dict[str, str] = read["documents"]
    questions = [Question(**each) for each in read["questions"]]
    with closing(Person(environment, "ada")) as ada, closing(Person(environment, "bob")) as bob:
        for document in ada.documents():
            if titles.get(document["filename"]) == document["title"]:
                ada.forget(document["id"])

        print("\nAda uploads her documents.")
        progress = show.Progress(failure)
        documents, told = {}, []
        for filename, title in titles.items():
            began = time.perf_counter()
            ingestion = ada.upload(HERE / "documents" / filename, title, progress.of(filename))
            document = documents[filename] = ingestion.document
            told += ingestion.told
            pages = f"{document['pages']} pages, " if document["pages"] else ""
            took = f"ready in {time.perf_counter() - began:.1f} s"
            progress.end(f"  {filename}: {pages}{document['passages']} passages, {took}")
            report.check(f"{filename} has passages", holds=document["passages"] > 0)
        report.check("progress was told while they were read", holds=bool(told))

        print("\nShe uploads them again, unchanged.")
        for filename, document in documents.items():
            began = time.perf_counter()
            job = ada.upload_again(document["id"], HERE / "documents" / filename, progress.of(filename)).job
            known = f"{job['progress']['reused']} of {document['passages']} passages known"
            took = f"ready in {time.perf_counter() - began:.1f} s"
            progress.end(f"  {filename}: {known}, {job['input_tokens']} tokens embedded, {took}")
            nothing = job["progress"]["reused"] == document["passages"] and job["input_tokens"] == 0
            report.check(f"{filename} again costs no embedding", holds=nothing)

        answers = []
        for question in questions:
            print(f"\nAda: {question.text}")
            prose = show.Prose()
            answer = ada.ask(question.text, prose.add)
            prose.end()
            show.citations(answer)
            _check_answer(answer, question, documents[question.document]["id"], report)
            answers.append(answer)

        print("\nBob asks the same, about documents that are not his.")
        for question in questions:
            stranger = bob.ask(question.text, lambda _: None)
            claim = f"Bob gets nothing of Ada's for {question.text!r}"
            holds = not stranger.sources and not stranger.citations and question.must_contain not in stranger.text
            report.check(claim, holds=holds and not bob.search(question.text))
            print(f"  {question.text} → {len(stranger.sources)} sources, {len(stranger.citations)} citations")
        for filename, document in documents.items():
            report.check(f"Bob cannot read {filename}", holds=not bob.sees(document["id"]))

        log = folder / "logs" / "chat.log"
        rows = [
            (question.text, answer, _round_trips(log, answer.request_id))
            for question, answer in zip(questions, answers, strict=True)
        ]
        show.table(rows, model=environment["CHAT_MODEL"])


@contextmanager
def _stack(folder: Path) -> Iterator[tuple[Mapping[str, str], Stack | None]]:
    """The environment of the stack that runs already, or of one started for the occasion; and this one.

    Raises PartFailed in the end when a part of it has died: whatever else went wrong then came of that.
    """
    running = running_environment(folder)
    if running is not None:
        print(f"Using the stack that is running at {running['AGENTKIT_URL']}.")
        yield running, None
        return
    print("Starting the local stack …", flush=True)
    began = time.perf_counter()
    with Stack(folder) as stack:
        print(f"Ready in {time.perf_counter() - began:.1f} s at {stack.environment['AGENTKIT_URL']}.")
        try:
            yield stack.environment, stack
        except (RuntimeError, httpx.HTTPError) as error:
            _check_parts(stack, error)
            raise
        _check_parts(stack)


def _check_parts(stack: Stack, error: Exception | None = None) -> None:
    if reason := stack.failure():
        raise PartFailed(reason) from error


def _check_answer(answer: Answer, question: Question, document_id: str, report: Report) -> None:
    report.check(f"the answer to {question.text!r} ended without an error", holds=answer.ended and not answer.errors)
    report.check(f"it says {question.must_contain!r}", holds=question.must_contain.lower() in answer.text.lower())
    cited = [each for each in answer.citations if each["document_id"] == document_id]
    report.check(f"it cites {question.document}", holds=bool(cited))
    if question.page is not None:
        report.check(f"it cites page {question.page}", holds=any(each["page"] == question.page for each in cited))


def _round_trips(log: Path, request_id: str) -> dict[str, Any]:
    """Return what the chat function's log says of that request; its line comes just after the last byte."""
    deadline = time.monotonic() + LOG_SECONDS
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines() if log.exists() else ():
            if request_id in line and '"request.answered"' in line:
                return dict(json.loads(line)["round_trips"])
        time.sleep(0.1)
    return {}


if __name__ == "__main__":
    sys.exit(main())
