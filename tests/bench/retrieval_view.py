"""Retrieval at a glance: a line for each case, in the table and in the picture, where each figure would be too many."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.bench.row import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = (
    "Retrieval, by the share of the passages that is the tenant's: ours / vecs' own query, "
    "then milliseconds of half and of 95 % of the questions"
)
HEADINGS = (
    *("", "tenant holds", "recall@10", "recall in a document", "fewest rows"),
    *("semantic", "hybrid", "common words", "in a document", "exact scan", "vecs"),
)
# Each way's row, whether its time is what was measured there or what it stands beside, and how it is drawn, in colours
# of Okabe and Ito.
WAYS = {
    "semantic": ("semantic", False, "#0072B2", "o"),
    "hybrid": ("hybrid", False, "#009E73", "s"),
    "exact scan": ("hybrid", True, "#999999", "D"),
    "vecs": ("semantic", True, "#E69F00", "^"),
}

Case = dict[str, Row]


def cases(rows: Sequence[Row]) -> dict[str, Case]:
    """Return the rows of each case, by name."""
    found: dict[str, Case] = {}
    for row in rows:
        found.setdefault(row.case, {})[row.name] = row
    return found


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the table, its headings first."""
    return [HEADINGS, *(_line(case, of) for case, of in cases(rows).items())]


def _line(case: str, of: Case) -> tuple[str, ...]:
    held = all(row.held is not False for row in of.values())
    return (
        "✓" if held else "✗",
        case,
        _beside(of["recall@10"]),
        f"{of['recall@10 in a document'].measured:.3f}",
        _beside(of["fewest rows"]),
        *(_times(of, way) for way in ("semantic", "hybrid", "common words", "in a document")),
        _times(of, "hybrid", beside=True),
        _times(of, "semantic", beside=True),
    )


def _beside(row: Row) -> str:
    return f"{row.measured:.3f} / {row.baseline:.3f}"


def _ms(of: Case, way: str, *, beside: bool = False) -> tuple[float, float]:
    half, most = of[f"{way}, p50"], of[f"{way}, p95"]
    return (half.baseline or 0.0, most.baseline or 0.0) if beside else (half.measured, most.measured)


def _times(of: Case, way: str, *, beside: bool = False) -> str:
    half, most = _ms(of, way, beside=beside)
    return f"{half:.1f} / {most:.1f}"


def draw_times(axis: "Axes", rows: Sequence[Row]) -> None:
    """Draw a line for each case: of each way a mark at half of the questions, and a stroke to 95 %."""
    for nth, (label, (way, beside, colour, marker)) in enumerate(WAYS.items()):
        times = [_ms(of, way, beside=beside) for of in cases(rows).values()]
        places = [place + (nth - 1.5) * 0.19 for place in range(len(times))]
        axis.hlines(places, *zip(*times, strict=True), color=colour, linewidth=1.6)
        axis.scatter([half for half, _ in times], places, c=colour, marker=marker, s=22, label=label, zorder=2)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xticks([tick for tick in (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000) if low <= tick <= high])
    axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(WAYS), frameon=False, fontsize=9)
    axis.set_title("Retrieval, ms of half and of 95 % of questions", loc="left", fontsize=10, weight="bold")
