"""Nothing that a file does to its reader harms the worker, or leaves anything behind."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

from agentkit import settings
from functions.worker import sandbox
from functions.worker.extract import Unreadable
from functions.worker.sandbox import ReadersGone, Sandbox
from infra.functions import ROOT

HOSTILE = "tests.functions.hostile_reader"
# Longer than anything here takes; only a test that fails waits for it.
PATIENCE_SECONDS = 60

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def readers():
    """The warm process whose readers do what the document says."""
    started = Sandbox(HOSTILE)
    yield started
    started.close()


@pytest.fixture
def ask(readers):
    """Have a document read; returns the answer."""

    async def ask(misdeed, **facts):
        return await readers.answer(misdeed.encode(), **facts)

    return ask


@pytest.fixture
def code(ask):
    """Have a document read that cannot be; returns the code."""

    async def code(misdeed, **facts):
        with pytest.raises(Unreadable) as caught:
            await ask(misdeed, **facts)
        assert caught.value.sentence.endswith(".")
        return caught.value.code

    return code


@pytest.fixture
def limit(monkeypatch):
    """Set what reading a document may take."""

    def limit(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        settings.forget()

    return limit


class Fifo:
    """A pipe with a name, open here; it ends when the last who wrote to it has gone."""

    def __init__(self, path):
        os.mkfifo(path)
        self.path = str(path)
        self._end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def heard(self):
        """What is written next; empty when nobody is left who could."""
        assert select.select([self._end], [], [], PATIENCE_SECONDS)[0], "nothing was written, and nobody has gone"
        return os.read(self._end, 100).decode()

    async def told(self):
        return await asyncio.to_thread(self.heard)

    def close(self):
        os.close(self._end)


@pytest.fixture
def fifo(tmp_path):
    pipe = Fifo(tmp_path / "fifo")
    yield pipe
    pipe.close()


# Within its limits


async def test_an_answer_is_what_the_reader_found(ask):
    assert await ask("chatter") == {"said": "all"}


async def test_each_document_has_a_process_of_its_own(ask):
    first, second = await ask("describe"), await ask("describe")
    assert first["parent"] == second["parent"]
    assert len({first["pid"], second["pid"], first["parent"], os.getpid()}) == 4


async def test_a_reader_knows_nothing_of_the_workers_environment(ask, readers, monkeypatch):
    readers.close()
    monkeypatch.setenv("DATABASE_URL", "postgresql://worker:secret@127.0.0.1/app")
    # LC_CTYPE is Python's own addition where nobody has named a language (PEP 538).
    known = {*sandbox.INHERITED, "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LC_CTYPE"}
    assert set((await ask("describe"))["environment"]) <= known


async def test_a_reader_holds_nothing_open_of_the_workers_or_of_another_reader(ask, fifo):
    hanging = asyncio.create_task(ask("hang", path=fifo.path))
    assert await fifo.told() == "hanging"
    # Input, output, errors, the pipe that tells of its end, and the folder that is being listed.
    assert (await ask("describe"))["open"] == 5
    hanging.cancel()


async def test_large_documents_and_answers_pass(readers):
    answer = await readers.answer(b"answer half a character".ljust(50_000_000))
    assert answer == {"text": "a?b"}


async def test_the_worker_does_other_things_meanwhile(ask, tmp_path):
    # The reader waits for a word that the same event loop gives.
    os.mkfifo(tmp_path / "word")
    reading = asyncio.create_task(ask("wait", path=str(tmp_path / "word")))
    await asyncio.to_thread((tmp_path / "word").write_text, "go on")
    assert await reading == {"said": "go on"}


async def test_only_two_are_read_at_once_and_waiting_takes_none_of_ones_time(ask, tmp_path, limit):
    pipes = [Fifo(tmp_path / str(number)) for number in range(3)]
    hanging = [asyncio.create_task(ask("hang", path=pipe.path)) for pipe in pipes[:2]]
    assert [await pipe.told() for pipe in pipes[:2]] == ["hanging", "hanging"]
    # More than a reader takes for a word on any machine, and less than it is kept waiting.
    limit(PARSE_SECONDS=2)
    third = asyncio.create_task(ask("chatter"))
    done, _ = await asyncio.wait({third}, timeout=2.2)
    assert not done
    hanging[0].cancel()
    assert await third == {"said": "all"}
    hanging[1].cancel()
    for pipe in pipes:
        pipe.close()


# Over its limits


async def test_memory_has_an_end(code, limit):
    limit(PARSE_MEMORY_BYTES=100_000_000)
    assert await code("allocate") == "too_large"


async def test_a_reader_that_takes_want_of_memory_for_damage_is_corrected(code):
    assert await code("hide want of memory") == "too_large"


@pytest.mark.parametrize("misdeed", ["abort", "be killed"])
async def test_native_code_without_memory_and_the_kernels_choice_are_too_large(code, misdeed):
    assert await code(misdeed) == "too_large"


async def test_the_kernel_is_told_whom_to_choose(ask):
    assert (await ask("describe"))["choice"] == "1000"


async def test_the_clock_ends_a_reader_that_hangs(code, limit, fifo):
    limit(PARSE_SECONDS=0.2)
    assert await code("hang", path=fifo.path) == "took_too_long"
    while heard := await fifo.told():
        assert heard == "hanging"


async def test_the_processors_time_ends_a_pattern_without_end_also_while_nobody_looks(code, limit, fifo):
    limit(PARSE_SECONDS=1)
    reading = asyncio.create_task(code("spin", path=fifo.path))
    assert await fifo.told() == "spinning"
    # Without `await`: the event loop stands still, and the clock that it keeps.
    assert fifo.heard() == ""
    assert await reading == "took_too_long"


async def test_an_answer_has_an_end(code):
    assert await code("answer endlessly") == "too_large"


async def test_no_reader_writes_a_file(ask, tmp_path):
    assert await ask("write", path=str(tmp_path / "file")) == {"too large": True}


async def test_no_reader_opens_many_files(ask):
    assert await ask("open files") == {"too many": True}


async def test_a_crash_leaves_no_core(ask):
    assert (await ask("describe"))["core"] == [0, 0]


@pytest.mark.parametrize("misdeed", ["crash", "exit", "leave"])
async def test_a_crash_is_one_unreadable_document(ask, code, misdeed):
    before = (await ask("describe"))["parent"]
    assert await code(misdeed) == "unreadable"
    assert (await ask("describe"))["parent"] == before


async def test_a_readers_refusal_keeps_its_code(code):
    assert await code("refuse") == "encrypted"


async def test_an_error_that_no_reader_means_to_raise_is_logged_with_its_place(code, caplog):
    assert await code("divide by zero") == "unreadable"
    (record,) = [each for each in caplog.records if each.message == "document.reader_failed"]
    assert "ZeroDivisionError" in record.facts["traceback"]


# Nothing left behind


async def test_cancelling_kills_the_reader(ask, readers, fifo):
    reading = asyncio.create_task(ask("hang", path=fifo.path))
    assert await fifo.told() == "hanging"
    reading.cancel()
    assert await fifo.told() == ""
    with pytest.raises(asyncio.CancelledError):
        await reading
    # The next is asked for after the dead one was waited for.
    await ask("chatter")
    assert psutil.Process(readers._process.pid).children() == []


async def test_closing_ends_the_process_and_its_readers(ask, readers, fifo):
    reading = asyncio.create_task(ask("hang", path=fifo.path))
    assert await fifo.told() == "hanging"
    warm = psutil.Process(readers._process.pid)
    readers.close()
    assert await fifo.told() == ""
    assert not warm.is_running()
    with pytest.raises((Unreadable, ReadersGone)):
        await reading


async def test_a_warm_process_that_died_takes_its_readers_along_and_is_followed_by_another(ask, readers, fifo):
    reading = asyncio.create_task(ask("hang", path=fifo.path))
    assert await fifo.told() == "hanging"
    os.kill(readers._process.pid, signal.SIGKILL)
    assert await fifo.told() == ""
    with pytest.raises(ReadersGone):
        await reading
    assert await ask("chatter") == {"said": "all"}


async def test_readers_that_cannot_start_are_told_from_a_bad_document():
    broken = Sandbox("functions.worker.no_such_module")
    with pytest.raises(ReadersGone):
        await broken.answer(b"")
    broken.close()


WORKER = textwrap.dedent(f"""
    import asyncio, sys
    from functions.worker.sandbox import Sandbox
    asyncio.run(Sandbox({HOSTILE!r}).answer(b"hang", path=sys.argv[1]))
""")


@pytest.fixture
def worker(fifo):
    """A worker whose reader hangs; whoever it leaves behind holds the pipe of its errors open."""
    command = [sys.executable, "-c", WORKER, fifo.path]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "."}) as started:
        yield started
        started.kill()


async def test_nothing_outlives_a_worker_that_was_killed(worker, fifo):
    assert await fifo.told() == "hanging"
    worker.kill()
    _, said = await asyncio.to_thread(worker.communicate, timeout=PATIENCE_SECONDS)
    assert said == b""
    assert await fifo.told() == ""
