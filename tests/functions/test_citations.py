"""A citation is a quote that says what the answer says; a near miss gets none, however much of it is the same."""

from uuid import UUID

import pytest

from agentkit.passages import Match
from functions.chat.citations import Citation, Citations, Unsupported

DOCUMENT = UUID("10000000-0000-4000-8000-000000000001")


def passage(text, place=0, **changes):
    return Match(f"{DOCUMENT}:{place:05d}", DOCUMENT, "Handbook", place + 1, text, 0.5, 0.5, **changes)


def judged(answer, *texts):
    """What is said of a whole answer over passages of those texts, numbered from 1."""
    citations = Citations([passage(text, place) for place, text in enumerate(texts)])
    return citations.read(answer) + citations.close()


def quoted(events):
    return [event.quote for event in events if isinstance(event, Citation)]


def quotes(answer, *texts):
    return quoted(judged(answer, *texts))


TRUE = [
    ("The lease ends on 30 September 2027.", "The lease ends on 30 September 2027 unless both parties renew it."),
    ("The monthly rent is €1,450.", "The monthly rent is 1,450 euros and is due on the third working day."),
    ("The rent is due on the 3rd working day.", "The monthly rent is 1,450 euros, due on the third working day."),
    ("You have 28 days of paid holiday.", "Employees have twenty-eight days of paid holiday in each calendar year."),
    ("You have twenty-eight days of paid holiday.", "Employees have 28 days of paid holiday in each calendar year."),
    ("Pets are not allowed in the flat.", "Pets aren't allowed in the flat."),
    ("No, pets are not allowed in the flat.", "Pets are not allowed in the flat."),
    ("Parental leave lasts up to 5 months.", "Parental leave lasts at most five months."),
    ("The fee is 2.5 % of the price.", "The fee is 2.5 percent of the price, paid by the buyer."),
    ("The budget is 2 million euros.", "The budget for 2027 is €2,000,000."),
    ("The hall holds two hundred and fifty guests.", "The hall holds 250 guests."),
    ("The office opens at 9:00.", "The office opens at 09:00 on weekdays."),
    ("The tenant pays the deposit before moving in.", "The tenant pays a deposit of two months before moving in."),
    ("Flights need approval by the team lead.", "Trains are second class; flights need approval by the team lead."),
    ("The battery warranty lasts 24 months.", "The battery's warranty lasts twenty four months from purchase."),
    ("On 3 May the pool opens.", "The pool opens on 3 May and closes on 30 September."),
    ("Notice is at least three months.", "Notice is no less than 3 months, in writing."),
    ("Ada Byron approves expenses over 500 euros.", "Ada Byron approves all expenses over 500 euros."),
]


@pytest.mark.parametrize(("answer", "text"), TRUE)
@pytest.mark.parametrize("marked", [True, False], ids=["naming the passage", "naming none"])
def test_what_a_passage_says_is_quoted(answer, text, marked):
    said = answer.removesuffix(".") + " [1]." if marked else answer
    assert quotes(said, text) == [text]


NEAR_MISSES = [
    pytest.param(
        "On return you may work 80 percent of full time for up to five months.",
        "On return you may work 80 percent of full time for up to two years.",
        id="another number in words, another unit",
    ),
    pytest.param("You may work part time for five months.", "You may work part time for two months.", id="two, five"),
    pytest.param("You may work part time for 5 months.", "You may work part time for two months.", id="two, 5"),
    pytest.param("You may work part time for two months.", "You may work part time for 5 months.", id="5, two"),
    pytest.param("The fee is due on the first day.", "The fee is due on the second day.", id="another ordinal"),
    pytest.param("The hall holds 250 guests.", "The hall holds two hundred guests.", id="a longer number in words"),
    pytest.param("The notice period is 3 months.", "The notice period is 3 weeks.", id="another unit"),
    pytest.param("The rent rises 3 years on.", "The rent rises 3 percent in 2 years.", id="a number's own unit"),
    pytest.param("The rent is paid each month.", "The rent is paid each year.", id="another unit without a number"),
    pytest.param("Pets are allowed in the flat.", "Pets are not allowed in the flat.", id="negation lost"),
    pytest.param("Pets are not allowed in the flat.", "Pets are allowed in the flat.", id="negation added"),
    pytest.param("Pets cannot be kept in the flat.", "Pets can be kept in the flat.", id="cannot"),
    pytest.param("Leave ends with notice.", "Leave never ends without notice.", id="two negations, none"),
    pytest.param("Leave never ends with notice.", "Leave never ends without notice.", id="two negations, one"),
    pytest.param("The lease ends on 30 June 2027.", "The lease ends on 30 September 2027.", id="another month"),
    pytest.param("The lease ends on 3 May 2027.", "The lease ends on 3 June 2027.", id="May"),
    pytest.param("The lease ends on 30 September 2026.", "The lease ends on 30 September 2027.", id="another year"),
    pytest.param("The pool opens on Monday mornings.", "The pool opens on Tuesday mornings.", id="another weekday"),
    pytest.param("Expenses are approved by Bob.", "Expenses are approved by Ada.", id="another name"),
    pytest.param("Bob approves large expenses.", "Ada approves large expenses.", id="another name begins it"),
    pytest.param("Ada reports to Bob.", "Bob reports to Ada.", id="names swapped"),
    pytest.param(
        "On weekends Ada hands the signed report over to Bob in the office.",
        "On weekends Bob hands the signed report over to Ada in the office.",
        id="names swapped in a long sentence",
    ),
    pytest.param(
        "Contractors and employees have 28 days of paid holiday.",
        "Employees have 28 days of paid holiday.",
        id="one more subject",
    ),
    pytest.param(
        "Expenses over the limit are approved in writing by Bob.",
        "Expenses over the limit are approved in writing.",
        id="a name where there is none",
    ),
    pytest.param("The landlord pays for repairs.", "The tenant pays for repairs.", id="another party"),
    pytest.param(
        "The landlord gives the tenant three months' notice in writing before the end.",
        "The tenant gives the landlord three months' notice in writing before the end.",
        id="parties swapped",
    ),
    pytest.param("Managers have 28 days of paid holiday.", "Employees have 28 days of paid holiday.", id="subject"),
    pytest.param("Receipts are sent before travel.", "Receipts are sent after travel.", id="before, after"),
    pytest.param("Notice is at least 3 months.", "Notice is at most 3 months.", id="at least, at most"),
    pytest.param("Orders over 50 euros are free.", "Orders under 50 euros are free.", id="over, under"),
    pytest.param("The meeting starts at 9 am.", "The meeting starts at 9 pm.", id="am, pm"),
    pytest.param("The meeting starts at 10:30.", "The meeting ends at 10:30.", id="starts, ends"),
    pytest.param("The tenant must repaint the walls.", "The tenant may repaint the walls.", id="must, may"),
    pytest.param("Only managers approve expenses.", "Managers approve expenses.", id="only"),
    pytest.param("The bonus is 20 percent.", "The bonus is 20 euros.", id="another measure"),
    pytest.param("The loss was -5 percent.", "The loss was 5 percent.", id="a sign"),
    pytest.param("The price rose to 3,5 percent.", "The price rose to 35 percent.", id="a decimal comma"),
    pytest.param("Delivery takes 5 working days.", "Delivery takes 5 calendar days.", id="working, calendar"),
    pytest.param(
        "The insurance policy covers theft and fire.", "The insurance policy covers theft and flood.", id="a word"
    ),
    pytest.param("The deposit is refunded in 30 days.", "The deposit is forfeited in 30 days.", id="another verb"),
    pytest.param("Smoking is permitted on balconies.", "Smoking is prohibited on balconies.", id="prohibited"),
    pytest.param("Half of the rent is refunded.", "The rent is refunded.", id="half"),
    pytest.param("The rent is refunded twice a year.", "The rent is refunded once a year.", id="twice"),
    pytest.param("The gate code is 4711.", "The gate code is 4712 and the door code is 4713.", id="another code"),
    pytest.param("It runs from 1 March to 30 June.", "It runs from 30 March to 1 June.", id="dates swapped"),
    pytest.param("The rent is reduced in winter.", "The rent is increased in winter.", id="reduced, increased"),
]


@pytest.mark.parametrize(("answer", "text"), NEAR_MISSES)
@pytest.mark.parametrize("marked", [True, False], ids=["naming the passage", "naming none"])
def test_what_only_looks_like_it_is_not_quoted(answer, text, marked):
    said = answer.removesuffix(".") + " [1]." if marked else answer
    assert quotes(said, text) == []


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        pytest.param("The deposit is 900 euros [1].", "The deposit is 500 euros.", id="another number"),
        pytest.param("Pets are allowed here [1].", "Pets are not allowed here.", id="negation"),
        pytest.param("The rent is paid each month [1].", "The rent is paid each year.", id="another unit"),
        pytest.param("Expenses are approved by Bob [1].", "Expenses are approved by Ada.", id="another name"),
        pytest.param("The moon is made of cheese [1].", "The deposit is 500 euros.", id="another subject"),
        pytest.param("The deposit is 900 euros. [1]", "The deposit is 500 euros.", id="the marker after the full stop"),
        pytest.param("The deposit is 500 euros [7].", "The deposit is 500 euros.", id="no such passage"),
    ],
)
def test_a_sentence_whose_passage_says_otherwise_is_reported(answer, text):
    (event,) = judged(answer, text)
    assert isinstance(event, Unsupported)
    assert event.data == {
        "sentence": answer,
        "claimed": [7 if "[7]" in answer else 1],
        "answer_start": 0,
        "answer_end": len(answer),
    }


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("Staff have 28 days of paid holiday [1].", id="in other words"),
        pytest.param("Yes [1].", id="too short to compare"),
        pytest.param("The documents do not answer it.", id="naming none"),
    ],
)
def test_what_may_well_be_held_is_neither_quoted_nor_reported(answer):
    assert judged(answer, "Employees have 28 days of paid holiday.") == []


def test_a_citation_says_where_its_quote_stands_and_what_it_holds():
    text = "Welcome to the house. The lease ends on 30 September 2027."
    answer = "Here it is: \nThe lease ends on 30 September 2027 [1]."
    (event,) = judged(answer, text)
    assert event.data == {
        "document_id": str(DOCUMENT),
        "passage_id": f"{DOCUMENT}:00000",
        "title": "Handbook",
        "page": 1,
        # "Welcome to the house. " has 22 characters, the sentence 36; "Here it is: \n" has 13, the rest 40.
        "start": 22,
        "end": 22 + 36,
        "quote": "The lease ends on 30 September 2027.",
        "answer_start": 13,
        "answer_end": 13 + 40,
    }


def test_a_sentence_is_judged_once_what_follows_shows_that_it_has_ended():
    citations = Citations([passage("The lease ends in 2027. The rent is 1,450 euros.")])
    assert citations.read("The lease ends in 2027.") == []
    assert citations.read(" [1]") == []
    assert quoted(citations.read(" The rent is")) == ["The lease ends in 2027."]
    assert quoted(citations.read(" 1,450 euros.") + citations.close()) == ["The rent is 1,450 euros."]


def test_an_answer_in_single_characters_is_judged_like_a_whole_one():
    answer = (
        "The lease ends in 2027 [1]. It costs, e.g. 1,450.50 euros [1]! Pets are allowed.\nThe rent is 7 euros [1]."
    )
    text = "The lease ends in 2027. Pets are allowed. It costs 1,450.50 euros."
    citations = Citations([passage(text)])
    piecewise = [event for character in answer for event in citations.read(character)] + citations.close()
    assert piecewise == judged(answer, text)
    assert quoted(piecewise) == [
        "The lease ends in 2027.",
        "It costs 1,450.50 euros.",
        "Pets are allowed.",
    ]


def test_a_sentence_may_name_several_passages():
    texts = "The deposit is 500 euros.", "The deposit is 500 euros in all.", "Pets are allowed."
    assert quotes("The deposit is 500 euros [1, 2].", *texts) == list(texts[:2])
    assert quotes("The deposit is 500 euros [1][3].", *texts) == [texts[0]]


def test_what_a_pronoun_means_may_stand_in_the_sentence_before():
    text = "The lease begins on 1 October 2025. It ends on 30 September 2027. It may be renewed. The pool is open."
    assert quotes("The lease ends on 30 September 2027.", text) == ["It ends on 30 September 2027."]
    assert quotes("The lease ends on 1 October 2025.", text) == []
    assert quotes("The pool ends on 30 September 2027 [1].", text) == []


def test_an_answer_that_repeats_itself_is_cited_once():
    text = "The deposit is 500 euros."
    assert quotes("The deposit is 500 euros [1]. The deposit is 500 euros [1]. " * 5, text) == [text]


def test_passages_that_are_found_later_take_the_numbers_that_follow():
    citations = Citations([passage("Pets are allowed.")])
    citations.add([passage("The deposit is 500 euros.", 1)])
    events = citations.read("Pets are allowed [1]. The deposit is 500 euros [2].") + citations.close()
    assert quoted(events) == ["Pets are allowed.", "The deposit is 500 euros."]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n\n ",
        "[1]",
        "[1][1][1].",
        "[999]" * 500,
        "word " * 5_000,
        "two hundred " * 500,
        "\ud800 \0 [1].",
        "١٢٣ يوم [1].",
        "²³¹ [1].",
    ],
)
def test_nothing_that_a_model_writes_is_too_odd_to_be_judged(answer):
    assert quotes(answer, "The deposit is 500 euros.", answer) in ([], [answer])


def test_a_passage_in_another_script_is_quoted():
    text = "تنتهي مدة الإيجار في سبتمبر 2027."
    assert quotes("تنتهي مدة الإيجار في سبتمبر 2027 [1].", text) == [text]
