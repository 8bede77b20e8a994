"""With the defaults, the answers are found: floors that a change of the division or the search must not fall below.

Measured in November 2026 by `make bench` (quality) with the local MiniLM: nDCG@10 0.81 semantic, 0.75 keyword, 0.90
hybrid; recall@5 0.92, 0.82, 0.96. The floors are 0.03 below, three questions in a hundred, for another processor's
rounding and a better set's harder questions; they guard against a fall, they do not say what is good.
"""

import operator

import pytest

from agentkit.passages import Mode
from functions.worker.chunk import Sizes
from tests.parts.people import ADA, caller
from tests.retrieval.labelled import asked, ingest, ndcg, questions, ranks, recall

pytestmark = pytest.mark.anyio

# nDCG@10, recall@5.
FLOORS: dict[Mode, tuple[float, float]] = {
    "semantic": (0.78, 0.89),
    "keyword": (0.72, 0.79),
    "hybrid": (0.87, 0.93),
}


@pytest.mark.usefixtures("as_worker", "embedder")
async def test_the_answers_are_found_as_well_as_when_that_was_measured():
    await ingest(ADA.id, Sizes.configured())
    vectors = await asked()
    places = {mode: await ranks(caller(ADA), mode, vectors) for mode in FLOORS}
    figures = {mode: (ndcg(found), recall(found)) for mode, found in places.items()}
    below = {mode for mode, floors in FLOORS.items() if any(map(operator.lt, figures[mode], floors))}
    assert not below, figures
    # What a number, a code or a name decides is never lost among what only sounds alike.
    terms = [found for found, question in zip(places["hybrid"], questions(), strict=True) if question.kind == "term"]
    assert recall(terms) == 1


def test_a_question_counts_by_the_place_of_its_answer():
    # First: 1; third: 1 / log2(4) = 1/2; not found: 0. The sixth is not among five: 1 / log2(7) = 0.356.
    assert ndcg([1, 3, None]) == pytest.approx((1 + 1 / 2) / 3)
    assert ndcg([6]) == pytest.approx(0.356, abs=0.001)
    assert recall([1, 5, 6, None]) == 1 / 2
