"""The labelled set is what it says: enough of it, of every kind, each answer in one document alone."""

from collections import Counter

import pytest

from tests.retrieval.labelled import Question, documents, questions

KINDS = {"paraphrase", "term", "row", "item", "deep", "twin", "prose", "language"}


def test_there_are_enough_documents_and_questions_of_every_kind():
    kinds = Counter(question.kind for question in questions())
    assert set(kinds) == KINDS
    assert min(kinds.values()) >= 6
    assert (len(documents()), len(questions())) >= (16, 64)


def test_every_document_is_asked_about():
    assert {question.document for question in questions()} == set(documents())


def test_no_question_is_asked_twice():
    assert len({question.text for question in questions()}) == len(questions())


@pytest.mark.parametrize("question", questions(), ids=lambda question: question.text)
def test_what_answers_stands_once_and_in_its_document_alone(question: Question):
    counts = {title: extract.text.count(question.quote) for title, extract in documents().items()}
    assert {title: count for title, count in counts.items() if count} == {question.document: 1}


def shared(question: Question) -> set[str]:
    """The words of more than three letters that the question and its answer have in common."""
    asked, answer = ({word.strip("?,.") for word in each.lower().split()} for each in (question.text, question.quote))
    return {word for word in asked & answer if len(word) > 3}


def test_most_paraphrases_share_no_word_with_their_answer():
    paraphrases = [question for question in questions() if question.kind == "paraphrase"]
    assert sum(not shared(question) for question in paraphrases) >= len(paraphrases) / 2
