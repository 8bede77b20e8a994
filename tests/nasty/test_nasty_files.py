"""Each file that breaks readers comes to what it must, within the memory and the time that a document may take."""

import pytest

from functions.worker import sandbox
from functions.worker.chunk import Sizes
from functions.worker.extract import Unreadable
from tests.nasty.make import FILES

SIZES = Sizes(characters=850, overlap=160, window_tokens=256)
# Of all headings above a passage.
HEADING_CHARACTERS = 2_000
# What a reader has resident before it looks at a file, and what it may take then.
READERS_BYTES, MEMORY_BYTES = 100_000_000, 600_000_000

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def _warm():
    yield
    sandbox.close()


@pytest.fixture
def outcome(caplog):
    """Have a file read; returns the passages or the code of the refusal."""
    caplog.set_level("INFO", "functions.worker.sandbox")

    async def outcome(file):
        try:
            reading = await sandbox.read_apart(
                file.make(), announced=file.announced, filename=file.name, title="A title", sizes=SIZES
            )
        except Unreadable as refusal:
            return [], refusal.code
        return reading.passages, None

    return outcome


@pytest.mark.parametrize("name", FILES)
async def test_a_nasty_file_comes_to_what_it_must_within_its_limits(name, outcome, monkeypatch, caplog):
    file = FILES[name]
    monkeypatch.setenv("PARSE_SECONDS", str(file.seconds))
    monkeypatch.setenv("PARSE_MEMORY_BYTES", str(MEMORY_BYTES))
    passages, code = await outcome(file)
    assert code == file.refused
    if file.says:
        holding = [each for each in passages if file.says in " ".join(each.text.split())]
        assert {each.page for each in holding} == {file.page}, [each.text[:200] for each in passages][:20]
    # Stored with each passage.
    assert all(len(" ".join(each.heading)) <= HEADING_CHARACTERS for each in passages)
    assert not any(file.never in each.text for each in passages if file.never)
    took = {record.message: record.facts for record in caplog.records}
    if "document.given_up" in took:
        assert file.killed
        return
    assert took["document.read"]["peak_bytes"] <= READERS_BYTES + MEMORY_BYTES
    assert took["document.read"]["processor_seconds"] <= file.seconds
    assert (took["document.read"]["exit"] != 0) == file.killed


def test_there_are_many():
    assert len(FILES) >= 40
