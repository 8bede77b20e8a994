"""The bench's findings for people and for machines: one table, the same as Markdown and JSON, and a picture of it."""

import json
import os
import platform
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from infra.functions import ROOT
from tests.bench import retrieval_view
from tests.bench.row import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADINGS = ("", "subject", "what", "measured", "beside", "ratio", "budget", "n")
# Chosen to be told apart by people who see colours differently (Okabe and Ito), and in print.
KEPT, MISSED, OTHERS = "#0072B2", "#D55E00", "#999999"
# A budget missed by more is drawn as missed by this much; the figure says how much it is.
FURTHEST = 2.0


def table(rows: Sequence[Row]) -> str:
    """Return the table for a terminal; where there are cases, each has a line of a second one."""
    alone, of_cases = _apart(rows)
    parts = [_aligned([HEADINGS, *map(_cells, alone)], right=(3, 5, 7))] if alone else []
    if of_cases:
        lines = retrieval_view.cells(of_cases)
        parts.append(f"{retrieval_view.TITLE}\n\n{_aligned(lines, right=range(2, len(lines[0])))}")
    return "\n\n".join([*parts, verdict(rows)])


def _apart(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows that stand alone, and those of cases."""
    return [row for row in rows if not row.case], [row for row in rows if row.case]


def _aligned(lines: Sequence[tuple[str, ...]], *, right: Container[int]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([shown[0], "─" * max(map(len, shown)), *shown[1:]])


def verdict(rows: Sequence[Row]) -> str:
    """Return the sentence that sums it up."""
    bound = [row for row in rows if row.held is not None]
    missed = [f"{row.subject}: {row.title}" for row in bound if not row.held]
    if not missed:
        return f"All {len(bound)} budgets are held."
    return f"{len(missed)} of {len(bound)} budgets are missed: {'; '.join(missed)}."


def write(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `bench.md`, `bench.json` and `bench.png` into that folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown, data, picture = (folder / f"bench.{kind}" for kind in ("md", "json", "png"))
    markdown.write_text(_markdown(rows))
    computed = [{**asdict(row), "ratio": row.ratio, "held": row.held} for row in rows]
    data.write_text(json.dumps({"machine": _machine(), "rows": computed}, indent=2) + "\n")
    _draw(rows, picture)
    return [markdown, data, picture]


def _markdown(rows: Sequence[Row]) -> str:
    alone, of_cases = _apart(rows)
    parts = ["# Budgets", verdict(rows), _machine()]
    if alone:
        parts.append(_piped([HEADINGS, *map(_cells, alone)]))
    if of_cases:
        parts += [retrieval_view.TITLE + ".", _piped(retrieval_view.cells(of_cases))]
    return "\n\n".join([*parts, "![budgets](bench.png)"]) + "\n"


def _piped(lines: Sequence[tuple[str, ...]]) -> str:
    body = [f"| {' | '.join(line)} |" for line in lines]
    body.insert(1, f"|{'---|' * len(lines[0])}")
    return "\n".join(body)


def _machine() -> str:
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    return f"Python {platform.python_version()}, {platform.machine()}, {psutil.cpu_count()} cores, {memory:.0f} GiB."


def _cells(row: Row) -> tuple[str, ...]:
    mark = {True: "✓", False: "✗", None: ""}[row.held]
    beside = f"{_number(row.baseline)} {row.unit} {row.against}" if row.baseline is not None else row.against
    ratio = f"{row.ratio:.2f}×" if row.ratio is not None else ""
    return (
        mark,
        row.subject,
        row.name,
        f"{_number(row.measured)} {row.unit}",
        beside,
        ratio,
        _budget(row),
        f"{row.samples}",
    )


def _budget(row: Row) -> str:
    if row.budget is None:
        return ""
    unit = "×" if row.bounds == "ratio" else f" {row.unit}"
    aim = f", aim {_number(row.aim)}{unit}" if row.aim is not None else ""
    return f"{'≥' if row.at_least else '≤'} {_number(row.budget)}{unit}{aim}"


def _number(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if value and abs(value) < 100:  # three digits are before the point from here on
        return f"{value:.3g}"
    return f"{value:,.0f}"


def _draw(rows: Sequence[Row], path: Path) -> None:
    """Four panels: how much of each ceiling is used; floors, and what others reach; times; ratios held to nothing."""
    # It keeps its list of the machine's fonts; in the home folder, unless told otherwise before it is imported.
    os.environ.setdefault("MPLCONFIGDIR", str(ROOT / ".local" / "matplotlib"))
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    alone, of_cases = _apart(rows)
    floors = [row for row in alone if _is_floor(row)]
    # Of each case the recall alone, and what is missed: the table has the rest.
    floors += [row for row in of_cases if row.held is not None and (row.name == "recall@10" or not row.held)]
    ceilings = [row for row in alone if row.budget is not None and not _is_floor(row)]
    told = [row for row in alone if row.budget is None and row.ratio is not None]
    panels: list[tuple[Callable[[Axes, Sequence[Row]], None], Sequence[Row], list[str], float]] = [
        (_use, ceilings, _labels(ceilings), 1.0),
        (_reach, floors, _labels(floors), 1.0),
        (retrieval_view.draw_times, of_cases, list(retrieval_view.cases(of_cases)), 1.6),
        (_compare, told, _labels(told), 1.0),
    ]
    panels = [panel for panel in panels if panel[1]]
    heights = [len(labels) * line + 3.0 for _, _, labels, line in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(13, 0.29 * sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axis, (draw, shown, labels, _) in zip(axes[:, 0], panels, strict=True):
        draw(axis, shown)
        axis.set_yticks(range(len(labels)), labels, fontsize=9)
        axis.set_ylim(len(labels) - 0.4, -0.6)
        axis.tick_params(length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.grid(axis="x", color="#e8e8e8")
        axis.set_axisbelow(True)
    figure.suptitle(f"AgentKit Functions: {verdict(rows).partition(':')[0].rstrip('.')}\n{_machine()}", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _is_floor(row: Row) -> bool:
    return row.budget is not None and row.at_least and row.bounds == "measured"


def _labels(rows: Sequence[Row]) -> list[str]:
    return [f"{row.subject} · {row.title}" for row in rows]


def _use(axis: "Axes", rows: Sequence[Row]) -> None:
    used = [min(row.used or 0.0, FURTHEST) for row in rows]
    axis.barh(range(len(rows)), used, height=0.62, color=[_colour(row) for row in rows])
    axis.axvline(1, color="black", linewidth=1.4)
    for place, (row, share) in enumerate(zip(rows, used, strict=True)):
        said = f"{_number(row.measured)} {row.unit}"
        if row.bounds == "ratio":
            said = f"{row.ratio:.2f}× {row.against} ({said})"
        axis.text(max(share, 1) + 0.02, place, f"{said}   {_budget(row)}", va="center", fontsize=8.5)
    axis.set_xlim(0, max(1.0, *used) + 1.7)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "budget"])
    axis.set_title("Share of the budget that is used: less is better", loc="left", fontsize=10, weight="bold")


def _reach(axis: "Axes", rows: Sequence[Row]) -> None:
    places = range(len(rows))
    others = [(place, row.baseline) for place, row in enumerate(rows) if row.baseline is not None]
    for place, reached in others:
        axis.plot([reached, rows[place].measured], [place, place], color=OTHERS, linewidth=1.2, zorder=1)
    beside = next((row.against for row in rows if row.baseline is not None), "")
    axis.scatter(
        [each for _, each in others], [place for place, _ in others], c="white", edgecolors=OTHERS, label=beside
    )
    axis.scatter([row.measured for row in rows], places, c=[_colour(row) for row in rows], zorder=2, label="ours")
    axis.scatter([row.budget or 0 for row in rows], places, c="black", marker="|", s=130, zorder=3, label="budget")
    for place, row in enumerate(rows):
        axis.text(1.03, place, _number(row.measured), va="center", fontsize=8.5)
    axis.set_xlim(0, 1.1)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=9)
    axis.set_title("What is reached, of 1: more is better", loc="left", fontsize=10, weight="bold")


def _compare(axis: "Axes", rows: Sequence[Row]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    ratios = [row.ratio or 1.0 for row in rows]
    axis.hlines(range(len(rows)), 1, ratios, color=KEPT, linewidth=1.2)
    axis.scatter(ratios, range(len(rows)), c=KEPT)
    axis.axvline(1, color="black", linewidth=1.4)
    axis.set_xscale("log")
    low, high = min(1.0, *ratios) / 1.3, max(1.0, *ratios)
    for place, row in enumerate(rows):
        said = f"{_number(row.measured)} {row.unit} beside {_number(row.baseline or 0)} {row.unit}: {row.against}"
        axis.text(high * (high / low) ** 0.06, place, said, va="center", fontsize=8.5)
    axis.set_xlim(low, high * (high / low) ** 0.9)
    axis.set_xticks([tick for tick in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if low <= tick <= high * 1.2])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}×"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_title("How many times what is beside it (no budget)", loc="left", fontsize=10, weight="bold")


def _colour(row: Row) -> str:
    return KEPT if row.held else MISSED
