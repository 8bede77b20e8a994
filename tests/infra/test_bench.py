"""`make bench` as far as it tells no time: which subjects there are, and what the table makes of given measurements."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest

from infra import __main__ as cli
from infra import bench
from infra.functions import ROOT
from tests.bench import retrieval
from tests.bench.report import table, verdict, write
from tests.bench.retrieval_view import cells
from tests.bench.row import Row

# 600 ms beside 300 ms are twice as much; 0.5 of what has to be at least 0.95 is missed; the last is held to nothing.
TWICE = Row("cold", "import", 600.0, "ms", 9, 300.0, "bare", budget=2.0, bounds="ratio", aim=1.6)
SLOW = Row("warm", "check", 1.5, "ms", 100, budget=1.0)
POOR = Row("retrieval", "recall@10", 0.5, "", 40, 0.2, "vecs query", budget=0.95, at_least=True)
FASTER = Row("encoding", "encode", 900.0, "chunks/s", 5, 300.0, "theirs", budget=1.0, bounds="ratio", at_least=True)
TOLD = Row("chat", "first byte", 5.0, "ms", 60, 2.0, "the model")
ROWS = [TWICE, SLOW, POOR, FASTER, TOLD]
# One tenant's retrieval: each figure another, so that one in the wrong place shows.
OF_A_CASE = [
    Row("retrieval", name, measured, unit, 40, baseline, case="1 % of 10", budget=budget, at_least=budget is not None)
    for name, measured, unit, baseline, budget in (
        ("recall@10", 0.96, "", 0.4, 0.95),
        ("recall@10 in a document", 0.97, "", None, 0.95),
        ("fewest rows", 0.9, "", 0.1, 1.0),
        ("semantic, p50", 2.0, "ms", 6.0, None),
        ("semantic, p95", 3.0, "ms", 7.0, None),
        ("hybrid, p50", 4.0, "ms", 8.0, None),
        ("hybrid, p95", 5.0, "ms", 9.0, None),
        ("common words, p50", 10.0, "ms", 8.0, None),
        ("common words, p95", 11.0, "ms", 9.0, None),
        ("in a document, p50", 12.0, "ms", None, None),
        ("in a document, p95", 13.0, "ms", None, None),
    )
]

Answers = Callable[[list[Row]], None]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Answers:
    """The subject `size` comes to these rows; what is written is written elsewhere."""

    def measured(rows: list[Row]) -> None:
        monkeypatch.setattr("tests.bench.size.run", lambda: rows)
        monkeypatch.setattr(bench, "FOLDER", tmp_path)

    return measured


@pytest.mark.parametrize(
    ("row", "ratio", "used", "held"),
    [
        pytest.param(TWICE, 2.0, 1.0, True, id="exactly at its ceiling"),
        pytest.param(SLOW, None, 1.5, False, id="over its ceiling"),
        pytest.param(POOR, 2.5, 1.9, False, id="below its floor, though above the others"),
        pytest.param(FASTER, 3.0, 1 / 3, True, id="above its floor"),
        pytest.param(TOLD, 2.5, None, None, id="without a budget"),
    ],
)
def test_a_row_knows_its_ratio_and_whether_its_budget_is_held(row, ratio, used, held):
    assert row.ratio == pytest.approx(ratio) if ratio else row.ratio is None
    assert row.used == pytest.approx(used) if used else row.used is None
    assert row.held is held


def test_a_ratio_over_nothing_is_refused():
    with pytest.raises(ValueError, match="import: there is nothing to compare with"):
        _ = Row("cold", "import", 600.0, "ms", 9, 0.0, "bare", budget=2.0, bounds="ratio").held


def test_the_table_says_of_each_row_what_it_is_held_to_and_whether_it_holds():
    lines = table(ROWS).splitlines()

    assert lines[2].split() == "✓ cold import 600 ms 300 ms bare 2.00× ≤ 2×, aim 1.6× 9".split()
    assert lines[3].split() == "✗ warm check 1.5 ms ≤ 1 ms 100".split()
    assert lines[4].split() == "✗ retrieval recall@10 0.5 0.2 vecs query 2.50× ≥ 0.95 40".split()
    assert lines[6].split() == "chat first byte 5 ms 2 ms the model 2.50× 60".split()
    assert lines[-1] == "2 of 4 budgets are missed: warm: check; retrieval: recall@10."


def test_all_budgets_held_is_said():
    assert verdict([TWICE, FASTER, TOLD]) == "All 2 budgets are held."


def test_the_same_is_written_for_people_for_machines_and_as_a_picture(tmp_path):
    markdown, data, picture = write(ROWS, tmp_path / "bench")

    assert "| ✗ | warm | check | 1.5 ms |  |  | ≤ 1 ms | 100 |" in markdown.read_text()
    rows = json.loads(data.read_text())["rows"]
    assert [(row["name"], row["ratio"], row["held"]) for row in rows][:2] == [
        ("import", 2.0, True),
        ("check", None, False),
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_picture_leaves_nothing_in_the_home_folder(tmp_path):
    home, written = tmp_path / "home", tmp_path / "bench"
    home.mkdir()
    code = "import sys, pathlib; from tests.infra.test_bench import ROWS, write; write(ROWS, pathlib.Path(sys.argv[1]))"
    environment = {
        **os.environ,
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": "",
        "XDG_CONFIG_HOME": "",
    }
    environment.pop("MPLCONFIGDIR", None)
    subprocess.run([sys.executable, "-c", code, str(written)], env=environment, check=True)
    assert (written / "bench.png").exists()
    assert list(home.rglob("*")) == []


def test_what_is_measured_of_each_case_has_one_line_of_its_own():
    lines = table([TWICE, *OF_A_CASE]).splitlines()

    times = "2.0 / 3.0 4.0 / 5.0 10.0 / 11.0 12.0 / 13.0 8.0 / 9.0 6.0 / 7.0"
    assert lines[-3].split() == f"✗ 1 % of 10 0.960 / 0.400 0.970 0.900 / 0.100 {times}".split()
    assert lines[-1] == "1 of 4 budgets are missed: retrieval: fewest rows, 1 % of 10."
    assert [line for line in lines if "retrieval" in line] == lines[-1:]


def test_every_figure_of_a_case_is_written_for_machines(tmp_path):
    markdown, data, _ = write(OF_A_CASE, tmp_path)

    assert "| ✗ | 1 % of 10 | 0.960 / 0.400 |" in markdown.read_text()
    assert [row["name"] for row in json.loads(data.read_text())["rows"]] == [row.name for row in OF_A_CASE]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few passages that each search compares all of the tenant's."""
    monkeypatch.setattr(retrieval, "SIZES", (200,))
    monkeypatch.setattr(retrieval, "SHARES", (0.1, 1.0))


@pytest.mark.usefixtures("small")
def test_retrieval_is_measured_and_shown_for_each_size_and_share():
    rows = retrieval.run()

    # What is compared one by one is found: all that is nearest, and no row too few.
    assert {row.measured for row in rows if row.held is not None} == {1.0}
    assert [line[:2] for line in cells(rows)[1:]] == [("✓", "10 % of 200"), ("✓", "100 % of 200")]


@pytest.mark.parametrize("subject", bench.SUBJECTS)
def test_every_subject_is_measured_by_the_module_of_its_name(subject):
    assert get_type_hints(import_module(f"tests.bench.{subject}").run) == {"return": list[Row]}


def test_an_unknown_subject_is_refused_by_naming_those_there_are(capsys):
    assert cli.main(["bench", "weather"]) == 2
    subjects = "size, encoding, cold, warm, chat, ingestion, quality, retrieval"
    assert capsys.readouterr().err.strip().endswith(f"there are {subjects}.")


@pytest.mark.parametrize(("rows", "status"), [([TWICE], 0), ([TWICE, SLOW], 1)], ids=["held", "missed"])
def test_a_missed_budget_is_told_by_the_exit_status(measured, capsys, rows, status):
    measured(rows)

    assert cli.main(["bench", "size"]) == status
    assert capsys.readouterr().out.splitlines()[-1] == verdict(rows)


def test_what_was_measured_is_told_though_the_rest_fails(measured, capsys, monkeypatch):
    def fail() -> list[Row]:
        raise RuntimeError("the server has died")

    measured([TWICE])
    monkeypatch.setattr("tests.bench.cold.run", fail)

    with pytest.raises(RuntimeError, match="the server has died"):
        cli.main(["bench", "size", "cold"])
    assert verdict([TWICE]) in capsys.readouterr().out


def test_only_what_is_named_is_measured(measured, capsys):
    measured([TWICE])

    cli.main(["bench", "size"])

    subjects = {line.partition(":")[0] for line in capsys.readouterr().err.splitlines()} & set(bench.SUBJECTS)
    assert subjects == {"size"}
