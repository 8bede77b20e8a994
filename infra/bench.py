"""`make bench`: the budgets measured, one table, and the same with a picture in `.local/bench/`.

    python -m infra bench             every subject, some eight minutes
    python -m infra bench cold chat   these alone

The measuring is under `tests/bench/` and needs what only a checkout has, so it is imported when it is run.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from infra.functions import ROOT

if TYPE_CHECKING:
    from tests.bench.row import Row

FOLDER = ROOT / ".local" / "bench"


def _size() -> "list[Row]":
    from tests.bench import size

    return size.run()


def _encoding() -> "list[Row]":
    from tests.bench import encoding
    from tests.bench.row import Row

    measured = encoding.run()
    return [
        Row(
            "encoding",
            ours.name.partition(":")[0],
            ours.chunks_per_second,
            "chunks/s",
            encoding.REPEATS,
            theirs.chunks_per_second,
            "pydantic-ai",
            budget=1.0,
            bounds="ratio",
            at_least=True,
        )
        for ours, theirs in zip(measured[::2], measured[1::2], strict=True)
    ]


def _cold() -> "list[Row]":
    from tests.bench import cold

    return cold.run()


def _warm() -> "list[Row]":
    from tests.bench import warm

    return warm.run()


def _chat() -> "list[Row]":
    from tests.bench import chat

    return chat.run()


def _retrieval() -> "list[Row]":
    from tests.bench import retrieval
    from tests.bench.row import Row

    asked = {(each.passages, each.share, each.method): each for each in retrieval.run()}
    n = retrieval.QUESTIONS
    rows = []
    for passages in dict.fromkeys(passages for passages, _, _ in asked):
        for share in dict.fromkeys(share for size, share, _ in asked if size == passages):
            ours, theirs, exact = (
                asked[passages, share, method] for method in ("find, semantic", "vecs query", "exact scan")
            )
            where = f"{passages:,} passages, {share * 100:g} % the tenant's"
            recall = "retrieval", f"recall@10, {where}", ours.recall or 0.0, "", n, theirs.recall, "vecs query"
            rows += [
                Row(*recall, budget=0.95, at_least=True),
                Row("retrieval", f"p50, {where}", ours.p50_ms, "ms", n, exact.p50_ms, "exact scan"),
            ]
        fewest, theirs_fewest = (
            min(each.fewest for each in asked.values() if each.passages == passages and each.method.startswith(method))
            for method in ("find", "vecs query")
        )
        what = "retrieval", f"share of 10 rows, {passages:,} passages, worst question", fewest, "", n
        rows.append(Row(*what, theirs_fewest, "vecs query", budget=1.0, at_least=True))
    return rows


SUBJECTS: "dict[str, Callable[[], list[Row]]]" = {
    "size": _size,
    "encoding": _encoding,
    "cold": _cold,
    "warm": _warm,
    "chat": _chat,
    "retrieval": _retrieval,
}


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
            rows += SUBJECTS[name]()
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    finally:
        # Also of a bench that broke off: what is measured took minutes.
        print(table(rows))
        for path in write(rows, FOLDER):
            print(os.path.relpath(path), file=sys.stderr)
    return 1 if any(row.held is False for row in rows) else 0
