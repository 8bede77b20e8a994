"""`make bench`: the budgets measured, one table, and the same with a picture in `.local/bench/`.

    python -m infra bench             every subject, some five minutes
    python -m infra bench cold chat   these alone

A subject is a module under `tests/bench/` whose `run()` returns its rows. What that needs only a checkout has, so it is
imported when it is run.
"""

import os
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING

from infra.functions import ROOT

if TYPE_CHECKING:
    from tests.bench.row import Row

FOLDER = ROOT / ".local" / "bench"
SUBJECTS = ("size", "encoding", "cold", "warm", "chat", "ingestion", "quality", "retrieval")


def main(names: list[str]) -> int:
    """Measure the named subjects (all when none is named); 1 when a budget is missed, 2 for a name that is none."""
    if unknown := sorted(set(names) - set(SUBJECTS)):
        print(
            f"There is nothing called {', '.join(unknown)} to measure; there are {', '.join(SUBJECTS)}.",
            file=sys.stderr,
        )
        return 2
    from tests.bench.report import table, write

    rows: list[Row] = []
    try:
        for name in [each for each in SUBJECTS if each in names or not names]:
            began = time.monotonic()
            rows += import_module(f"tests.bench.{name}").run()
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    finally:
        # Also of a bench that broke off: what is measured took minutes.
        print(table(rows))
        for path in write(rows, FOLDER):
            print(os.path.relpath(path), file=sys.stderr)
    return 1 if any(row.held is False for row in rows) else 0
