"""The stack starts its parts side by side, says which one died and why, and leaves no process behind."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from infra.functions import ROOT
from infra.local.part import PartFailed, Process, free_port
from infra.local.stack import FOR_CLIENTS, LARGEST_LOG_BYTES, PORTS, AlreadyRunning, Stack, running_environment
from tests.parts.postgres import open_folder

IDLE = "import threading; threading.Event().wait()"


class Idler:
    """A part that is a real process and does nothing, with hooks for the moments of its life."""

    def __init__(self, folder, name, *, environment=None, code=IDLE, answers=lambda: True, stopped=lambda: None):
        self.name = name
        self.environment = environment or {}
        self.process = Process(name, [sys.executable, "-c", code], log=folder / "logs" / f"{name}.log")
        self._answers = answers
        self._stopped = stopped

    def start(self):
        self.process.start(self._answers)

    def stop(self):
        self._stopped()
        self.process.stop()

    def failure(self):
        return self.process.failure()


def alive(part):
    return part.process.failure() is None


def file_of(folder):
    return folder / "env"


def test_parts_start_side_by_side(tmp_path):
    # Each waits for the other: one after another, neither would ever answer.
    together = threading.Barrier(2, timeout=20)
    answers = [threading.Event(), threading.Event()]

    def meet(mine):
        if not mine.is_set():
            together.wait()
            mine.set()
        return True

    parts = [Idler(tmp_path, f"part-{i}", answers=lambda mine=mine: meet(mine)) for i, mine in enumerate(answers)]
    with Stack(tmp_path, parts=parts):
        assert all(alive(part) for part in parts)


def test_the_environment_is_there_while_all_answer_and_only_then(tmp_path):
    seen = []

    def look():
        seen.append(file_of(tmp_path).exists())
        return True

    part = Idler(
        tmp_path,
        "part",
        environment={"SOME_URL": "http://127.0.0.1:1"},
        answers=look,
        stopped=look,
    )
    file_of(tmp_path).write_text("LEFT=by-a-stack-that-was-killed\n")
    with Stack(tmp_path, parts=[part]):
        assert file_of(tmp_path).read_text() == "SOME_URL='http://127.0.0.1:1'\n"
        assert stat.S_IMODE(file_of(tmp_path).stat().st_mode) == 0o600
    assert seen
    assert not any(seen)


def test_a_shell_reads_the_environment_as_it_was_meant(tmp_path):
    meant = {"PLAIN": "one-word_2", "URL": "postgresql://a:b$c@127.0.0.1/x?y=1&z=#", "LIST": '["a b", "c"]', "NONE": ""}
    with Stack(tmp_path, parts=[Idler(tmp_path, "part", environment=meant)]):
        script = f". '{file_of(tmp_path)}'; printf '%s\\n' " + " ".join(f'"${name}"' for name in meant)
        read = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout
        assert running_environment(tmp_path) == meant
    assert read.splitlines() == list(meant.values())


def test_parts_stop_in_reverse_order(tmp_path):
    order = []
    parts = [Idler(tmp_path, name, stopped=lambda name=name: order.append(name)) for name in ("first", "second")]
    with Stack(tmp_path, parts=parts):
        pass
    assert order[:2] == ["second", "first"]
    assert not any(alive(part) for part in parts)


def test_a_second_stack_says_where_the_first_is(tmp_path):
    part = Idler(tmp_path, "part", environment={"AGENTKIT_URL": "http://127.0.0.1:24330"})
    with Stack(tmp_path, parts=[part]):
        with pytest.raises(AlreadyRunning, match=r"running already, at http://127\.0\.0\.1:24330\."):
            Stack(tmp_path, parts=[Idler(tmp_path, "other")]).start()
        # The refused one has taken nothing away.
        assert file_of(tmp_path).exists()
        assert alive(part)
    assert running_environment(tmp_path) is None
    with Stack(tmp_path, parts=[Idler(tmp_path, "part")]):
        pass


def test_a_part_that_does_not_start_is_named_with_its_last_words_and_the_others_end(tmp_path):
    good = Idler(tmp_path, "good")
    bad = Idler(tmp_path, "bad", code="raise SystemExit('the disk is full')", answers=lambda: False)
    with pytest.raises(PartFailed, match=r"(?s)^bad ended with status 1\..*the disk is full"):
        Stack(tmp_path, parts=[good, bad]).start()
    assert not alive(good)
    assert not file_of(tmp_path).exists()
    assert running_environment(tmp_path) is None


def test_an_error_of_a_parts_own_names_the_part(tmp_path):
    class Broken(Idler):
        def start(self):
            raise OSError("no such file")

    with pytest.raises(PartFailed, match=r"^broken did not start: no such file"):
        Stack(tmp_path, parts=[Broken(tmp_path, "broken")]).start()


def test_a_part_that_starts_late_is_ended_too(tmp_path):
    """Another part has failed before this one has even begun its process."""
    failed = threading.Event()

    class Late(Idler):
        def start(self):
            failed.wait()
            super().start()

    late = Late(tmp_path, "late", stopped=failed.set)
    bad = Idler(tmp_path, "bad", code="raise SystemExit(1)", answers=lambda: False)
    with pytest.raises(PartFailed, match=r"^bad"):
        Stack(tmp_path, parts=[bad, late]).start()
    assert not alive(late)


def test_a_part_that_dies_is_named_with_its_last_words(tmp_path):
    code = "import signal; print('out of memory', flush=True); signal.pause()"
    said = tmp_path / "logs" / "frail.log"
    frail = Idler(tmp_path, "frail", code=code, answers=lambda: "out of memory" in said.read_text())
    with Stack(tmp_path, parts=[Idler(tmp_path, "sound"), frail]) as stack:
        assert frail.process.pid is not None
        os.kill(frail.process.pid, signal.SIGKILL)
        with pytest.raises(PartFailed, match=r"(?s)^frail ended with status -9\..*out of memory"):
            stack.watch(0.01)


def test_an_earlier_life_of_a_part_is_not_quoted(tmp_path):
    part = Idler(tmp_path, "part", code="raise SystemExit('the disk is full')", answers=lambda: False)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "part.log").write_text("all was well\n")
    with pytest.raises(PartFailed, match="the disk is full") as failed:
        Stack(tmp_path, parts=[part]).start()
    assert "all was well" not in str(failed.value)


@pytest.mark.parametrize(
    ("more", "aside"), [pytest.param(0, False, id="just small enough"), pytest.param(1, True, id="a byte more")]
)
def test_a_large_log_is_put_aside_and_not_written_on(tmp_path, more, aside):
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "part.log"
    with log.open("wb") as before:
        before.truncate(LARGEST_LOG_BYTES + more)
    with Stack(tmp_path, parts=[Idler(tmp_path, "part")]):
        assert (log.stat().st_size == 0) is aside
        assert (tmp_path / "logs" / "part.log.before").exists() is aside


def test_a_part_whose_stop_fails_does_not_keep_the_others_up(tmp_path):
    def fail():
        raise OSError("cannot")

    others = [Idler(tmp_path, "before"), Idler(tmp_path, "after")]
    stuck = Idler(tmp_path, "stuck", stopped=fail)
    stack = Stack(tmp_path, parts=[others[0], stuck, others[1]])
    stack.start()
    with pytest.raises(OSError, match="cannot"):
        stack.stop()
    assert not any(alive(part) for part in others)
    assert running_environment(tmp_path) is None
    stuck.process.stop()


def test_a_model_of_ones_own_needs_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.delenv("CHAT_MODEL", raising=False)
    with pytest.raises(PartFailed, match="CHAT_MODEL"):
        Stack(tmp_path).start()


def test_a_model_of_ones_own_replaces_the_local_one(tmp_path, monkeypatch):
    own = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": "mine", "CHAT_MODEL": "openai:mine"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    stack = Stack(tmp_path)
    assert "model" not in [part.name for part in stack._own_parts()]
    assert own.items() <= stack.environment.items()
    stack.stop()


def test_stacks_that_start_together_take_different_ports(tmp_path):
    stacks = [Stack(tmp_path / name) for name in ("one", "other")]
    # None of them listens yet.
    ports = [stack._port(name) for stack in stacks for name in PORTS]
    for stack in stacks:
        stack.stop()
    assert len(set(ports)) == len(ports)


def test_no_outgoing_connection_can_be_given_the_port_that_was_found_free():
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(given.read_text().split()[0]) if given.exists() else 49_152  # IANA's dynamic ports, elsewhere
    assert all(free_port() < first for _ in range(20))
    assert max(PORTS.values()) < first


# The real stack, as `make dev` runs it.

DEV = "import sys; from pathlib import Path; from infra.dev import main; sys.exit(main(Path(sys.argv[1])))"
INGEST = "insert into agentkit.jobs (id, owner, kind) values (gen_random_uuid(), gen_random_uuid(), 'ingest')"
CANCEL = "update agentkit.jobs set status = 'cancelled', finished_at = now()"


class Dev:
    """`make dev` in a folder of its own."""

    def __init__(self, folder):
        self.mark = uuid.uuid4().hex
        self.home = folder / "home"
        self.home.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", DEV, str(folder)],
            cwd=ROOT,
            env={**os.environ, "STARTED_BY_TEST": self.mark, "HOME": str(self.home), "XDG_CACHE_HOME": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""
        self.family: list[psutil.Process] = []

    def ready(self):
        self.read_to("Ctrl-C ends it")
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def read_to(self, words):
        """Read what it prints, up to the line with these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if words in line:
                return
        raise AssertionError(self.said + self.process.communicate()[1])

    def left(self):
        """Who of the stack still runs: those that were seen, and any other that carries its mark."""
        _, left = psutil.wait_procs(self.family, timeout=30)
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get("STARTED_BY_TEST") == self.mark and process.pid != self.process.pid:
                    left.append(process)
        return [process.cmdline() for process in left if process.is_running()]


@pytest.fixture(scope="module")
def folder():
    with open_folder() as folder:
        yield folder


@pytest.fixture
def dev(folder):
    dev = Dev(folder)
    yield dev
    if dev.process.poll() is None:
        dev.process.terminate()
    dev.process.communicate(timeout=60)


def test_the_real_stack_answers_is_one_to_a_checkout_and_ends_on_ctrl_c(folder, dev, monkeypatch):
    dev.ready()
    environment = running_environment(folder)
    assert environment is not None
    assert list(environment)[: len(FOR_CLIENTS)] == list(FOR_CLIENTS)
    health = httpx.get(f"{environment['AGENTKIT_URL']}/v1/health", timeout=60)
    assert health.status_code == 200, health.text
    assert environment["AGENTKIT_URL"] in dev.said
    for page in ("/docs", "/openapi.json"):
        assert httpx.get(f"{environment['AGENTKIT_URL']}{page}", timeout=60).status_code == 200

    second = subprocess.run(
        [sys.executable, "-c", DEV, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert second.returncode == 2
    assert second.stderr == f"The local stack of this checkout is running already, at {environment['AGENTKIT_URL']}.\n"

    with psycopg.connect(environment["ADMIN_DATABASE_URL"], autocommit=True) as connection:
        connection.execute(INGEST)
        dev.read_to("queued")
        connection.execute(CANCEL)
        dev.read_to("cancelled")
    assert [line.split()[-1] for line in dev.said.splitlines()[-2:]] == ["queued", "cancelled"]

    assert len(dev.family) >= 8  # seven parts, Redis being two
    dev.process.send_signal(signal.SIGINT)
    while file_of(folder).exists():
        time.sleep(0.01)
    dev.process.send_signal(signal.SIGINT)  # an impatient one: the parts are being stopped already
    _, complaints = dev.process.communicate(timeout=60)
    assert (dev.process.returncode, complaints) == (0, "")
    assert dev.left() == []
    assert not file_of(folder).exists()
    assert list(dev.home.rglob("*")) == []  # what it writes is in the project's folder


def test_the_real_stack_leaves_no_process_when_it_is_killed(folder, dev):
    dev.ready()
    environment = running_environment(folder)
    assert environment is not None
    # A sandbox with open connections, and Postgres with a client.
    health = httpx.get(f"{environment['AGENTKIT_URL']}/v1/health", timeout=60)
    assert health.status_code == 200, health.text
    dev.family = psutil.Process(dev.process.pid).children(recursive=True)
    dev.process.kill()
    dev.process.wait()
    assert dev.left() == []
    assert running_environment(folder) is None
