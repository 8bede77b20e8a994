"""How far each ingestion is: a line that changes while it is under way, and one that stays when it is over.

      staff-handbook.pdf            embedding   64 of 96 passages  67 %
      harbour-street-lease.md       ready: 10 passages, 0.5 s, 1,204 tokens

The jobs are read from Postgres again and again, so nobody has to tell us of them; while it is away nothing changes.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from agentkit.jobs import LIVE
from infra.local.display import Display, padded, printable

NAME_CELLS, STATUS_CELLS = 28, 10
INTERVAL_SECONDS = 0.5
CONNECT_SECONDS = 2
STATEMENT_SECONDS = 2
# A job's end is dated when its transaction began, and seen when that is over.
LATE = timedelta(seconds=60)

# What is under way or has ended since; the last attempt's time, and how much the file holds although it was not read
# again because nothing in it had changed.
LOOK = """
    select job.id, job.status, job.progress, job.error_code, job.error, job.input_tokens, job.finished_at,
           coalesce(document.source_url, document.filename, 'a deleted document') as name,
           coalesce((job.progress->>'pages_total')::int, document.pages) as pages,
           coalesce((job.progress->>'passages_total')::int, document.passages, 0) as passages,
           extract(epoch from job.finished_at - coalesce(job.started_at, job.created_at))::float8 as seconds
    from agentkit.jobs as job
    left join agentkit.documents as document on document.id = job.document_id
    where job.kind = 'ingest' and (job.status = any(%(live)s) or job.finished_at >= %(since)s)
    order by job.status = 'queued', job.number
"""


@dataclass(frozen=True, slots=True)
class Ingestion:
    """A job, and its document."""

    id: UUID
    status: str
    progress: dict[str, Any]
    error_code: str | None
    error: str | None
    input_tokens: int
    finished_at: datetime | None
    name: str
    pages: int | None
    passages: int
    seconds: float | None

    @property
    def live(self) -> bool:
        """Whether it is not over yet."""
        return self.status in LIVE


class Watcher:
    """Shows the ingestions that are under way from now on."""

    def __init__(self, url: str, display: Display) -> None:
        """`url`: of the app's database, for a login that sees everyone's jobs."""
        self._url = url
        self._display = display
        self._connection: psycopg.Connection[Ingestion] | None = None
        self._since = datetime.now(UTC)
        self._live: set[UUID] = set()
        self._told: set[tuple[UUID, datetime | None]] = set()

    def look(self) -> None:
        """Show how everything stands; what was shown stays while the database is away."""
        looked_at = datetime.now(UTC)
        try:
            found = self._found()
        except psycopg.OperationalError:
            # Stopped, starting or overrun: a later look will find it.
            self.close()
            return
        live = [each for each in found if each.live]
        over = [each for each in found if not each.live and (each.id, each.finished_at) not in self._told]
        begun = [] if self._display.in_place else [each for each in live if each.id not in self._live]
        self._display.update(
            [under_way(each.name, each.status, each.progress) for each in live],
            [
                *(under_way(each.name, each.status, each.progress) for each in begun),
                *(self._over(each) for each in over),
            ],
        )
        self._live = {each.id for each in live}
        self._told = {(each.id, each.finished_at) for each in found if not each.live}
        self._since = max(self._since, looked_at - LATE)

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _found(self) -> list[Ingestion]:
        if self._connection is None:
            self._connection = psycopg.connect(
                self._url,
                autocommit=True,
                row_factory=class_row(Ingestion),
                connect_timeout=CONNECT_SECONDS,
                options=f"-c statement_timeout={STATEMENT_SECONDS}s -c default_transaction_read_only=on",
            )
        return self._connection.execute(LOOK, {"live": list(LIVE), "since": self._since}).fetchall()

    def _over(self, ingestion: Ingestion) -> str:
        """Return the line of one that is over."""
        name = padded(printable(ingestion.name), NAME_CELLS)
        match ingestion.status:
            case "ready":
                facts = [
                    *([counted(ingestion.pages, "page")] if ingestion.pages else []),
                    counted(ingestion.passages, "passage"),
                    f"{ingestion.seconds:.1f} s",
                    counted(ingestion.input_tokens, "token"),
                ]
                return f"  {name}  {self._display.coloured('ready', 'green')}: {', '.join(facts)}"
            case "failed":
                why = f"{printable(ingestion.error or '')} ({ingestion.error_code})"
                return f"  {name}  {self._display.coloured('failed', 'red')}: {why}"
            case status:
                return f"  {name}  {self._display.coloured(status, 'yellow')}"


@contextlib.contextmanager
def following(url: str, display: Display) -> Iterator[None]:
    """Show the ingestions in that database meanwhile."""
    over = threading.Event()
    watcher = Watcher(url, display)

    def watch() -> None:
        with contextlib.closing(watcher):
            while not over.is_set():
                watcher.look()
                over.wait(INTERVAL_SECONDS)

    # A daemon: a database that hangs must not keep anyone from ending.
    watching = threading.Thread(target=watch, name="progress", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join(CONNECT_SECONDS + STATEMENT_SECONDS)


def under_way(name: str, status: str, progress: Mapping[str, Any]) -> str:
    """Return the line of an ingestion that is under way."""
    line = f"  {padded(printable(name), NAME_CELLS)}  {status:<{STATUS_CELLS}}  {_amount(progress)}"
    return line.rstrip()


def counted(number: int, noun: str) -> str:
    """Return so many of them, in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _amount(progress: Mapping[str, Any]) -> str:
    """Return how much is done, of what it is told in: passages, or only pages so far."""
    for unit in ("passages", "pages"):
        if total := progress.get(f"{unit}_total"):
            done = progress.get(unit) or 0
            # 100 % is said of nothing that is not whole.
            percent = min(round(100 * done / total), 100 if done >= total else 99)
            return f"{done:,} of {total:,} {unit}  {percent} %"
    return ""
