"""What a sentence claims, as far as words can be compared, and whether another sentence holds it.

    held_by(claim("The leave is 28 days."), claim("Paid leave is twenty-eight days a year."))   -> WHOLLY, 1.0

Nothing here understands a sentence. So whatever turns its meaning cheaply has to agree: numbers (in figures or in
English words) and their units, names, months and weekdays, bounds (`at most`), negations, and words that have an
opposite (`before`, `after`; `tenant`, `landlord`). Of the other words enough have to be held, in much the same order,
and none may stand where the other sentence has another. English is what it knows; in other languages it compares
numbers and words alone. It would rather leave a true sentence without its quote than give a wrong one any.
"""

import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import cache
from itertools import pairwise

# Share of the claim's content words that the other sentence must hold, and of those in the same order.
MOST_WORDS = 0.75
HALF_IN_ORDER = 0.5
# What is left below this does not even touch the subject.
SOME_WORDS = 0.4
LEAST_WORDS = 2

SCALED = re.compile(r"(\d+(?:\.\d+)?)\s+(hundred|thousand|million|billion)\b", re.IGNORECASE)
TOKEN = re.compile(r"(?<![\w.,:])[-−]?\d+(?:[.,:]\d+)*|\d+(?:[.,:]\d+)*|[^\W\d_]+")
THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")

# One way to say it for several.
SAME = [
    (re.compile(pattern, re.IGNORECASE), said)
    for pattern, said in (
        (r"n['’]t\b", " not"),
        (r"\bper cent\b|%", " percent "),
        (r"€", " euro "),
        (r"\$", " dollar "),
        (r"£", " pound "),
        (r"\b(?:up to|(?:no|not) (?:more|later|longer) than|a maximum of|maximum)\b", " atmost "),
        (r"\bat most\b|\bat the latest\b", " atmost "),
        (r"\b(?:at least|(?:no|not) (?:less|fewer|earlier) than|a minimum of|minimum)\b", " atleast "),
        (r"\b(?:more|longer|later) than\b|\bexceed(?:s|ing)?\b", " morethan "),
        (r"\b(?:less|fewer|shorter|earlier) than\b", " lessthan "),
        (r"^\s*(?:yes|no)\s*,", " "),
    )
]
BOUNDS = frozenset("atmost atleast morethan lessthan".split())
# Must be held where they are said.
EXTENTS = {"all": "all", "every": "all", "each": "all", "only": "only", "always": "always", "half": "half"}
EXTENTS |= {"twice": "twice", "double": "twice", "triple": "triple", "last": "last"}
NEGATIONS = frozenset("no not never none nobody nothing neither without cannot".split())

PRONOUNS = frozenset("it they he she this that these those".split())

MONTHS = "january february march april may june july august september october november december".split()
WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
MEASURES = (
    "seconds minute hour day night week fortnight month quarter year decade percent euro dollar pound cent franc yen "
    "km kilometre kilometer metre meter cm mm mile foot feet inch kg kilogram gram tonne litre liter degree "
    "kb mb gb tb am pm"
).split()
UNITS = {plural: unit for unit in MEASURES for plural in (unit, f"{unit}s", f"{unit}es")}
UNITS |= {name: month for month in MONTHS if month != "may" for name in (month, month[:3])} | {"sept": "september"}
# A month beside a number; otherwise a permission.
MAY = "month of may"
UNITS |= {MAY: "may"}
# A claim that says one of a line, where the other sentence says another of that line instead, is turned around.
OPPOSITES = [
    frozenset(line.split())
    for line in """\
before after
above over below under
more less fewer
increase increased decrease decreased reduce reduced
start starts begin begins end ends
open opens opened close closes closed
allowed permitted may can must forbidden prohibited
required optional voluntary
paid unpaid
include included includes including exclude excluded excludes excluding except
early late
earliest latest
working business calendar
daily weekly monthly quarterly yearly annual annually
internal external
public private
accept accepted accepts reject rejected rejects refuse refused refuses
approve approved approves deny denied denies
win wins won lose loses lost
buy buys sell sells
tenant tenants landlord landlords
lessee lessees lessor lessors
employee employees employer employers
buyer buyers seller sellers
borrower borrowers lender lenders
customer customers supplier suppliers
parent parents child children
north south east west
left right
with without
part full
""".splitlines()
]
ALIKE = [frozenset(pair.split()) for pair in ("above over", "below under", "less fewer", "may can", "working business")]
ALIKE += [frozenset(line.split()) for line in ("allowed permitted may can", "forbidden prohibited", "start begin")]
ALIKE += [frozenset(line.split()) for line in ("optional voluntary", "yearly annual annually", "refuse reject")]

STOP_WORDS = frozenset(
    "a an and are as at be been by can do does e for from g has have he her him his how i if in into is it its may me "
    "must my of on or our per she should shall so such than that the their them then there these they this those to up "
    "was we were what when where which who whom will with would you your about after also any before but more most "
    "other out over under until both s t yes nor answer according document documents passage passages text states says "
    "said however therefore additionally furthermore moreover currently yourself above below".split()
)

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
ORDINALS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMERALS = {word: value for words in (SMALL, ORDINALS) for value, word in enumerate(words)} | {
    word: 10 * place for place, tens in enumerate(TENS, 2) for word in (tens, f"{tens[:-1]}ieth")
}
NUMERALS |= {"dozen": 12}
SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
SCALES |= {f"{word}{ending}": value for word, value in SCALES.items() for ending in ("s", "th")}


class Holding(Enum):
    """How far a sentence holds a claim."""

    NOT = 0
    """It says something else, or turns the claim around."""
    PARTLY = 1
    """It is about the same and contradicts nothing that can be seen."""
    WHOLLY = 2
    """It says so."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a sentence says."""

    words: tuple[str, ...]
    """Stems of its content words, in order; before them those that a pronoun at its beginning means."""
    numbers: frozenset[tuple[str, str]]
    """Each number and its unit, "" where it has none."""
    decisive: frozenset[str]
    """Units, names of months and weekdays, bounds and extents: held where they are said."""
    names: tuple[str, ...]
    """Lower-cased words written with a capital inside the sentence."""
    plain: tuple[str, ...]
    """All its words, lower-cased, in order."""
    negations: int


def claim(sentence: str, before: "Claim | None" = None) -> Claim:
    """Return what the sentence says; `before` is the one that a pronoun at its beginning means something of."""
    for pattern, said in SAME:
        sentence = pattern.sub(said, sentence)
    sentence = SCALED.sub(lambda found: str(Decimal(found[1]) * SCALES[found[2].lower()]), sentence)
    tokens = list(_tokens(sentence))
    for place, written in enumerate(tokens):
        if written == "May" and any(_is_number(beside) for beside in tokens[max(0, place - 1) : place + 2]):
            tokens[place] = MAY
    plain = tuple(token.lower() for token in tokens if not _is_number(token))
    content, decisive, names = [], set(), []
    for place, token in enumerate(tokens):
        word = token.lower()
        if _is_number(token) or word in NEGATIONS:
            continue
        if unit := UNITS.get(word) or EXTENTS.get(word) or (word if word in BOUNDS or word in WEEKDAYS else None):
            decisive.add(unit)
        elif word not in STOP_WORDS:
            content.append(_stem(word))
            if place and token[0].isupper():
                names.append(_stem(word))
    meant = before.words if before is not None and plain[:1] and plain[0] in PRONOUNS else ()
    return Claim(
        (*meant, *content),
        frozenset(_with_units(tokens)),
        frozenset(decisive),
        tuple(names),
        plain,
        sum(word in NEGATIONS for word in plain),
    )


def held_by(said: Claim, held: Claim) -> tuple[Holding, float]:
    """Return how far `held` holds what is said, and the share of its words that it has, 0 to 1."""
    words, theirs = set(said.words), set(held.words)
    share = len(words & theirs) / len(words) if words else 1.0
    if _contradicted(said, held) or share < SOME_WORDS:
        return Holding.NOT, share
    whole = (
        len(words) + len(said.numbers) + len(said.decisive) >= LEAST_WORDS
        and share >= MOST_WORDS
        and set(said.words[:1]) <= theirs
        and _common_in_order(said.words, held.words) >= HALF_IN_ORDER * len(said.words)
        and said.decisive <= held.decisive
        and set(said.names) <= theirs
        and not _replaced(said.words, held.words)
    )
    return (Holding.WHOLLY if whole else Holding.PARTLY), share


def _contradicted(said: Claim, held: Claim) -> bool:
    return (
        said.negations != held.negations
        or not all(_number_held(number, unit, held) for number, unit in said.numbers)
        or _another_instead(said.decisive, held.decisive)
        or _another_instead({*said.names} - {*held.words}, {*held.names} - {*said.words})
        or any(_turned(said.plain, held.plain, line) for line in OPPOSITES)
        or _swapped(said.names, said.words, held.words)
    )


def _another_instead(said: AbstractSet[str], held: AbstractSet[str]) -> bool:
    return bool(said - held) and bool(held - said)


def _replaced(said: Sequence[str], held: Sequence[str]) -> bool:
    """Say whether beside a word of both each has a word that the other lacks: `theft and fire`, `theft and flood`."""

    def beside(words: Sequence[str], others: Sequence[str]) -> set[tuple[str, str]]:
        own = {*words} - {*others}
        after = {("after", one) for one, word in pairwise(words) if word in own and one not in own}
        return after | {("before", one) for word, one in pairwise(words) if word in own and one not in own}

    return not beside(said, held).isdisjoint(beside(held, said))


def _number_held(number: str, unit: str, held: Claim) -> bool:
    units = {other for value, other in held.numbers if value == number}
    return bool(units) and (not unit or unit in units or units == {""})


def _turned(said: Sequence[str], held: Sequence[str], line: frozenset[str]) -> bool:
    """Say whether the claim has a word of that line of opposites where the other has another, or has them swapped."""
    ours, theirs = [word for word in said if word in line], [word for word in held if word in line]
    if not ours or not theirs:
        return False
    if any(not any(_alike(word, other) for other in theirs) for word in ours):
        return True
    return _swapped(ours, said, held)


def _swapped(words: Sequence[str], said: Sequence[str], held: Sequence[str]) -> bool:
    """Say whether those of the words that are in both come in another order, each where it stands last."""
    ours, theirs = ({word: place for place, word in enumerate(sentence)} for sentence in (said, held))
    both = sorted(set(words) & ours.keys() & theirs.keys(), key=ours.__getitem__)
    return both != sorted(both, key=theirs.__getitem__)


def _alike(word: str, other: str) -> bool:
    same = _stem(word), _stem(other)
    return same[0] == same[1] or any({*same} <= line or {word, other} <= line for line in ALIKE)


def _common_in_order(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(theirs) + 1)
    for word in ours:
        before = 0
        for place, other in enumerate(theirs, 1):
            longest = before + 1 if word == other else max(lengths[place], lengths[place - 1])
            before, lengths[place] = lengths[place], longest
    return lengths[-1]


def _tokens(sentence: str) -> Iterator[str]:
    """Yield words as they are written and numbers in figures, whichever way they were said."""
    total: int | None = None
    lowest = 0
    for token in [*TOKEN.findall(sentence), ""]:
        word = token.lower()
        value, scale = NUMERALS.get(word), SCALES.get(word)
        if scale is not None:
            below = (total or 0) % scale
            total = (total or 0) - below + (below or 1) * scale
            lowest = scale
        elif value is not None and total is not None and value < lowest:
            total, lowest = total + value, _room(value)
        elif value is not None:
            if total is not None:
                yield str(total)
            total, lowest = value, _room(value)
        elif word == "and" and lowest >= SCALES["hundred"]:
            continue
        else:
            if total is not None:
                yield str(total)
            total = None
            lowest = 0
            if token and _is_number(token):
                yield _figures(token)
            elif token:
                yield token


def _room(value: int) -> int:
    """Return what a numeral that follows may add less than: twenty takes one to nine."""
    return 10 if value >= 20 and value % 10 == 0 else 0  # noqa: PLR2004  # English has no words between


def _figures(number: str) -> str:
    number = number.replace("−", "-")
    if THOUSANDS.fullmatch(number.lstrip("-")):
        number = number.replace(",", "")
    number = re.sub(r"\.0+$", "", number)
    return re.sub(r"^(-?)0+(?=\d)", r"\1", number)


def _is_number(token: str) -> bool:
    return token[-1:].isdigit()


def _with_units(tokens: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each number with the unit that follows it within two words, or else stands right before it."""
    for place, token in enumerate(tokens):
        if not _is_number(token):
            continue
        unit = ""
        for follower in tokens[place + 1 : place + 3]:
            if _is_number(follower) or unit:
                break
            unit = UNITS.get(follower.lower(), "")
        if not unit and place:
            unit = UNITS.get(tokens[place - 1].lower(), "")
        yield token, unit


@cache
def _stem(word: str) -> str:
    """Return the word without the endings that English adds most; the same for both sides is all that matters."""
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) > len(ending) + 3:
            return word[: -len(ending)]
    return word
