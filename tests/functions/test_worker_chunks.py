"""How the worker divides a text into passages: at its own joints, within the sizes and the embedder's window."""

import base64
import random
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.worker import chunk as chunking
from functions.worker.chunk import Sizes, chunk, embedded
from functions.worker.extract import Kind, Piece, assemble
from functions.worker.formats import markdown
from functions.worker.tokens import tokens
from infra.functions import ROOT
from infra.local.embedder_server import tokenizer

SENTENCE = "The quick brown fox jumps over the lazy dog near the river."  # 59 letters
USUAL = Sizes(characters=850, overlap=160, window_tokens=256)
# Of a model whose window is never in the way.
WIDE = Sizes(characters=850, overlap=160, window_tokens=8_000)
MINI_LM = tokenizer()


def passages_of(text, *, sizes=WIDE, title="", read=markdown.pieces):
    return chunk(assemble(read(text)), title=title, sizes=sizes)


def paragraphs(text):
    return [Piece(each) for each in text.split("\n\n")]


def window_of(title, passage):
    """The tokens that the model reads, its own marks around them included."""
    return len(MINI_LM.encode(embedded(title, passage)).ids)


# Structure


def test_a_passage_begins_at_its_heading_and_ends_with_its_section():
    part = " ".join([SENTENCE] * 5)
    first, second = passages_of(f"# Lease\n\n## Rent\n\n{part}\n\n## Deposit\n\n{part}")
    assert first.text == f"Lease\n\nRent\n\n{part}"
    assert second.text == f"Deposit\n\n{part}"
    assert (first.heading, second.heading) == (("Lease", "Rent"), ("Lease", "Deposit"))


def test_short_sections_share_a_passage_under_what_they_have_in_common():
    (passage,) = passages_of("# Lease\n\n## Rent\n\nLow.\n\n## Deposit\n\nHigh.")
    assert passage.text == "Lease\n\nRent\n\nLow.\n\nDeposit\n\nHigh."
    assert passage.heading == ("Lease",)


def test_headings_stay_with_the_text_below_them():
    # 119 letters, then headings of 13 and a paragraph of 779: together they are too long for 850.
    part = " ".join([SENTENCE] * 13)
    first, second = passages_of(f"{SENTENCE} {SENTENCE}\n\n# Lease\n\n## Rent\n\n{part}")
    assert first.text == f"{SENTENCE} {SENTENCE}"
    assert second.text == f"Lease\n\nRent\n\n{part}"


def test_no_passage_crosses_a_page():
    extract = assemble([Piece("First page.", page=1), Piece("Second page.", page=2)], pages=2)
    passages = chunk(extract, title="", sizes=WIDE)
    assert [(passage.text, passage.page) for passage in passages] == [("First page.", 1), ("Second page.", 2)]


def test_a_long_paragraph_is_divided_between_sentences_and_the_last_ones_are_said_again():
    text = " ".join([SENTENCE] * 40)
    passages = passages_of(text)
    # 14 sentences and 13 blanks between them are 839 letters, one more would be 899 of at most 850.
    assert [len(passage.text) for passage in passages[:-1]] == [839] * (len(passages) - 1)
    assert all(passage.text.startswith("The quick") and passage.text.endswith("river.") for passage in passages)
    for before, after in pairwise(passages):
        # Two sentences are 119 letters, three would be 179 of at most 160.
        assert text[after.start : before.end] == f"{SENTENCE} {SENTENCE}"


def test_nothing_is_said_again_where_nothing_should_be():
    passages = passages_of(" ".join([SENTENCE] * 40), sizes=Sizes(characters=850, overlap=0, window_tokens=8_000))
    assert all(before.end < after.start for before, after in pairwise(passages))


def test_list_items_stay_whole():
    items = "\n".join(f"- item number {number} of a long list" for number in range(60))
    for passage in passages_of(items):
        assert all(line.startswith("- item") and line.endswith("list") for line in passage.text.split("\n"))


def test_a_long_tables_rows_stay_whole_and_keep_their_columns_names():
    rows = "".join(f"| P-{number} | {number} euros |\n" for number in range(100))
    passages = passages_of(f"| Part | Price |\n|---|---|\n{rows}")
    assert len(passages) > 1
    lines = "\n".join(passage.text for passage in passages).split("\n")
    assert lines == [f"Part: P-{number}; Price: {number} euros" for number in range(100)]


def test_a_quotation_keeps_its_closing_mark():
    passages = passages_of(" ".join(["“The quick brown fox jumps over the lazy dog.”"] * 40))
    assert all(passage.text.startswith("“") and passage.text.endswith(".”") for passage in passages)


def test_sentences_without_blanks_between_them_are_told_apart():
    passages = passages_of("賃借人は毎月末日までに翌月分の賃料を支払うものとします。" * 60)
    assert len(passages) > 1
    assert all(passage.text.startswith("賃借人") and passage.text.endswith("。") for passage in passages)


def test_long_code_is_divided_between_its_lines():
    passages = passages_of("```\n" + "total = first_amount + second_amount\n" * 60 + "```\n")
    assert len(passages) > 1
    assert all(line == "total = first_amount + second_amount" for each in passages for line in each.text.split("\n"))


def test_a_word_without_end_is_divided_anywhere():
    assert [len(passage.text) for passage in passages_of("word" * 1000)] == [850, 850, 850, 850, 600]


# The window


def noise(size):
    return random.Random(7).randbytes(size)  # noqa: S311  # the same in every run


WRITTEN = {
    "English": f"{SENTENCE} The tenant pays the rent on the first working day of each month, in advance. " * 20,
    "names": "Mr Quintanar and Ms Okonkwo-Lindqvist of Zwickau sent the Velbrandt pump to Szczecin in Thuringia. " * 20,
    "medicine": "Those who have thrombocytopenia may not take it with acetylcarbromal or pravotrimidine. " * 20,
    "capitals": "THE TENANT SHALL PAY THE RENT. " * 60,
    "German": "Die Betriebskostenvorauszahlung wird jährlich abgerechnet; Kündigungsfristen sind einzuhalten. " * 20,
    "French": "Le locataire s'engage à entretenir les lieux et à signaler sans délai toute dégradation. " * 20,
    "Polish": "Najemca zobowiązuje się do niezwłocznego zgłaszania wszelkich uszkodzeń. " * 20,
    "Vietnamese": "Người thuê nhà phải trả tiền thuê vào ngày đầu tiên của mỗi tháng. " * 20,
    "Russian": "Арендатор обязуется своевременно вносить плату за пользование жилым помещением. " * 20,
    "Greek": "Ο ενοικιαστής υποχρεούται να καταβάλλει το μίσθωμα την πρώτη ημέρα κάθε μήνα. " * 20,
    "Arabic": "يلتزم المستأجر بدفع الإيجار في اليوم الأول من كل شهر. " * 30,
    "Hindi": "किरायेदार हर महीने की पहली तारीख को किराया चुकाएगा। " * 30,
    "Japanese": "賃借人は毎月末日までに翌月分の賃料を支払うものとします。" * 30,
    "Korean": "임차인은 매월 말일까지 다음 달 임대료를 지급하여야 한다. " * 30,
    "Thai": "ผู้เช่าต้องชำระค่าเช่าทุกวันที่หนึ่งของเดือน " * 30,
    "code": (ROOT / "shared" / "agentkit" / "passages.py").read_text(),
    "SQL": (ROOT / "infra" / "migrations" / "0006_passages.sql").read_text(),
    "base64": base64.b64encode(noise(6_000)).decode(),
    "base64 in lines": base64.encodebytes(noise(6_000)).decode(),
    "hexadecimal": noise(3_000).hex(" ", 16),
    "addresses": " ".join(f"https://shop.example.com/{noise(n).hex()}?id={n * 7_919}&ref=xkq" for n in range(60)),
    "numbers": " ".join(str(number**5) for number in range(400)),
    "table": "".join(
        f"Part: KX-{number}B/{number * 37}; Price: {number}.99 €; Stock: {number * 3}\n" for number in range(90)
    ),
    "emoji": "😀🎉👍🏽🇩🇪👩‍👩‍👧‍👦 " * 100,
    "punctuation": "-=≡─…" * 400,
}


@pytest.mark.parametrize("text", [pytest.param(text, id=kind) for kind, text in WRITTEN.items()])
def test_what_is_embedded_never_exceeds_the_models_window(text):
    title = "Terms of the Harbour Street lease"
    for sizes in (USUAL, Sizes(characters=8_000, overlap=1_000, window_tokens=256), Sizes(400, 80, 128)):
        passages = passages_of(text, sizes=sizes, title=title, read=paragraphs)
        assert len(passages) > 1
        assert max(window_of(title, passage) for passage in passages) <= sizes.window_tokens


@pytest.mark.parametrize("text", [pytest.param(text, id=kind) for kind, text in WRITTEN.items()])
def test_the_estimate_is_never_below_the_models_own_count(text):
    assert tokens(text) >= len(MINI_LM.encode(text, add_special_tokens=False).ids)


def test_english_prose_fills_its_passages_within_a_small_models_window():
    passages = passages_of(" ".join([SENTENCE] * 40), sizes=USUAL, title="Typing lessons")
    assert len(passages[0].text) == 839


@pytest.mark.parametrize(
    "written", [pytest.param("ungewöhnlich " * 2_000, id="words"), pytest.param("ж" * 20_000, id="one word")]
)
def test_a_title_or_a_heading_without_end_leaves_the_passage_its_room(written):
    text = " ".join([SENTENCE] * 40)
    extract = assemble([Piece(written, Kind.HEADING, level) for level in range(1, 5)] + [Piece(text)])
    passages = chunk(extract, title=written, sizes=USUAL)
    last = passages[-1]
    assert last.text.endswith(SENTENCE)
    assert all(len(heading) <= chunking.HEADING_CHARACTERS for passage in passages for heading in passage.heading)
    assert max(window_of(written, passage) for passage in passages) <= 256
    # The place costs a fifth of the window at most: four passages hold what is left of 40 sentences, 12 to each.
    assert sum(SENTENCE in passage.text for passage in passages) <= 5


def test_what_is_embedded_says_where_it_stands():
    passage = passages_of("# Lease\n\n## Rent\n\nIt rises to 31 days.")[0]
    assert embedded("Harbour Street", passage) == "Harbour Street > Lease > Rent\nLease\n\nRent\n\nIt rises to 31 days."


def test_of_too_many_headings_the_outer_ones_are_left_out():
    path = tuple(f"{level} of the quick brown foxes that jump over lazy dogs" for level in range(8))
    first, _, rest = embedded("Book", SimpleNamespace(text="Words.", heading=path)).partition("\n")
    assert rest == "Words."
    assert first.startswith("Book > ")
    assert first.endswith(path[-1])
    assert path[0] not in first


def test_a_passage_keeps_its_nearest_headings_alone():
    headings = [Piece(f"Level {level}", Kind.HEADING, level) for level in range(1, 13)]
    (passage,) = chunk(assemble([*headings, Piece(SENTENCE)]), title="", sizes=WIDE)
    assert passage.heading == tuple(f"Level {level}" for level in range(5, 13))


# Any text

anything = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=3000)
prose = st.lists(
    st.sampled_from(
        ["Word ", "word. ", "Größe! ", "das Wort, ", "賃料。", "\n", "x" * 300, "KX-4471 ", "“So.” ", "👍🏽"]
    ),
    min_size=1,
    max_size=80,
).map("".join)
pieces = st.lists(
    st.builds(
        Piece,
        text=prose | anything,
        kind=st.sampled_from(list(Kind)),
        level=st.integers(1, 6),
    ),
    max_size=12,
)


@st.composite
def extracts(draw):
    """Any text; with pages, whose numbers grow, or without."""
    found = draw(pieces)
    if draw(st.booleans()):
        return assemble(found)
    numbers = sorted(draw(st.lists(st.integers(1, 4), min_size=len(found), max_size=len(found))))
    return assemble(
        [Piece(each.text, each.kind, each.level, page) for each, page in zip(found, numbers, strict=True)], pages=4
    )


sizes = st.builds(
    Sizes, characters=st.integers(200, 1_200), overlap=st.integers(0, 99), window_tokens=st.integers(128, 600)
)


@settings(max_examples=150, deadline=None)
@given(extract=extracts(), sizes=sizes, title=st.text(max_size=300))
def test_passages_are_spans_of_the_text_and_together_hold_every_word(extract, sizes, title):
    passages = chunk(extract, title=title, sizes=sizes)
    uncovered = set(range(len(extract.text)))
    for passage in passages:
        assert passage.text == extract.text[passage.start : passage.end]
        assert 0 < len(passage.text) <= sizes.characters
        blocks = [each for each in extract.blocks if each.start < passage.end and passage.start < each.end]
        assert {block.page for block in blocks} == {passage.page}
        uncovered -= set(range(passage.start, passage.end))
    assert all(extract.text[position].isspace() for position in uncovered)


@settings(max_examples=100, deadline=None)
@given(extract=extracts(), sizes=sizes, title=st.text(max_size=300))
def test_passages_are_in_order_and_repeat_only_within_a_paragraph(extract, sizes, title):
    for before, after in pairwise(chunk(extract, title=title, sizes=sizes)):
        assert before.start < after.start
        assert before.end < after.end
        if after.start < before.end:
            assert before.end - after.start <= sizes.overlap
            assert any(block.start <= after.start and before.end < block.end for block in extract.blocks)


@settings(max_examples=100, deadline=None)
@given(extract=extracts(), sizes=sizes, title=st.text(max_size=300))
def test_whatever_is_written_stays_within_the_models_window(extract, sizes, title):
    for passage in chunk(extract, title=title, sizes=sizes):
        assert window_of(title, passage) <= sizes.window_tokens


# Two million characters on one line


@pytest.mark.parametrize(
    "unit",
    ["word", ".", '."', " .", "a,", "漢字。", "!”", "x\n", "the way "],
)
def test_the_effort_grows_with_the_texts_length_alone(monkeypatch, unit):
    measured = 0

    def counted(text, **options):
        nonlocal measured
        measured += len(text)
        return tokens(text, **options)

    monkeypatch.setattr(chunking, "tokens", counted)
    length = 100_000
    text = unit * (length // len(unit))
    passages_of(text, sizes=USUAL, read=paragraphs)
    # As a block, as sentences, as lines, as words; and a word that is too long in pieces, each a few times.
    assert measured <= 12 * length


@pytest.mark.parametrize("unit", ["word", '."', ". "])
def test_two_million_characters_without_a_joint_come_to_an_end(unit):
    text = unit[0] + unit[1:] * (1_900_000 // max(1, len(unit) - 1))
    passages = passages_of(text, sizes=USUAL, read=paragraphs)
    assert sum(len(passage.text) for passage in passages) >= len(text.strip())
