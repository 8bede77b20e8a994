"""How many tokens a text has at most, without the model's tokenizer, which would be too large for the zip.

The vocabularies of WordPiece and byte-level BPE models hold English words whole and know other languages in pieces of
two letters or more; scripts other than Latin come in single characters or bytes. The estimate is above what
MiniLM's tokenizer says of prose, code, base64, addresses, tables and emoji (held by a test), and above what byte-level
BPE makes of them; for English prose by about a fifth.
"""

import re
from collections import Counter
from functools import cache

# Latin letters, accented ones too, and digits.
WORD = re.compile(r"[0-9A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ]+")
# Common in English, and as good as never in the other languages that are written in these letters.
ENGLISH = frozenset(
    "the of to and is are that this it you your for with by from not which must may can shall has have its their "
    "they these those when if there".split()
)
# Every fourth word of English prose is one of them; of any other language, or of a list or table, hardly one in twenty.
ENGLISH_SHARE = 1 / 8
# English words up to such a length are whole or nearly so: 1.2 tokens on average for 7 letters, 1.4 for 12.
WHOLE, LONG = 6, 12
# No word but one of German's is longer; random letters are hardly ever joined.
RANDOM = 24


def is_english(text: str) -> bool:
    """Say whether it is evidently English prose, whose words have fewer tokens than others of their length."""
    words = WORD.findall(text)
    return sum(word.lower() in ENGLISH for word in words) >= max(1, len(words) * ENGLISH_SHARE)


def tokens(text: str, *, english: bool | None = None) -> int:
    """Return an upper bound of the text's tokens; time grows with its length alone.

    english: what `is_english` says of the whole that it is a part of, when it is one.
    """
    if english is None:
        english = is_english(text)
    words = sum(_of_word(word, english=english) for word in WORD.findall(text))
    return words + sum(_of_character(character) * often for character, often in Counter(WORD.sub("", text)).items())


def clipped(text: str, most: int) -> str:
    """Return the text, or as much of its beginning as has at most so many tokens, with a mark that it goes on."""
    if tokens(text) <= most:
        return text
    while text and tokens(text, english=False) > most - 1:
        text = text[: len(text) * (most - 1) // tokens(text, english=False)]
    return f"{text.rstrip()}…"


def _of_word(word: str, *, english: bool) -> int:
    """Return what a word costs; one that no language has costs a token for each character."""
    length = len(word)
    if length > RANDOM or not word.isalpha():
        return length
    # A capital begins a sentence, where words are short, or a name, which no vocabulary knows.
    if english and length <= LONG and not (length > WHOLE and word[0].isupper()):
        return 1 + (length - 1) // WHOLE
    return (length + 1) // 2


@cache
def _of_character(character: str) -> int:
    """Return what a character outside of words costs: half of a script's two bytes, two of three, three of four."""
    if character == " ":
        return 0
    if "가" <= character <= "힣":
        return 3  # WordPiece takes a syllable apart
    return max(1, len(character.encode()) - 1)
