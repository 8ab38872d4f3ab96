"""Which language a text is in, well enough to notice an answer in the wrong one.

Read `is_in_language` first. Scripts tell most languages apart; those that share one are told apart by how many of
their stop words occur. Code, formulas and short texts say nothing and pass.
"""

import re
import unicodedata
from collections import Counter
from functools import cache

from diffembed.errors import MissingExtraError, UnknownNameError

LANGUAGES = {
    "ar": ("Arabic", "ARABIC", ""),
    "da": ("Danish", "LATIN", "STOPWORDS_DANISH"),
    "de": ("German", "LATIN", "STOPWORDS_GERMAN"),
    "en": ("English", "LATIN", "STOPWORDS_EN_PLUS"),
    "es": ("Spanish", "LATIN", "STOPWORDS_SPANISH"),
    "fr": ("French", "LATIN", "STOPWORDS_FRENCH"),
    "it": ("Italian", "LATIN", "STOPWORDS_ITALIAN"),
    "ja": ("Japanese", "CJK HIRAGANA KATAKANA", ""),
    "ko": ("Korean", "HANGUL", ""),
    "nl": ("Dutch", "LATIN", "STOPWORDS_DUTCH"),
    "no": ("Norwegian", "LATIN", "STOPWORDS_NORWEGIAN"),
    "pt": ("Portuguese", "LATIN", "STOPWORDS_PORTUGUESE"),
    "ru": ("Russian", "CYRILLIC", "STOPWORDS_RUSSIAN"),
    "sv": ("Swedish", "LATIN", "STOPWORDS_SWEDISH"),
    "tr": ("Turkish", "LATIN", "STOPWORDS_TURKISH"),
    "zh": ("Chinese", "CJK", ""),
}
"""Code -> English name, scripts (first words of Unicode names), list of stop words in bm25s. Chinese may pass as
Japanese."""
NOT_PROSE = re.compile(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\[a-zA-Z]+", re.DOTALL)
ASCII_LETTERS = re.compile(r"[a-zA-Z]")
MIN_LETTERS = 40
"""Shorter prose is not judged by script."""
MIN_WORDS = 25
"""Shorter prose is not judged by stop words."""
MIN_LEAD = 0.1
"""By how much the share of another language's stop words must exceed the expected one's. English answers of the
published data stay below 0."""


def language_name(code: str) -> str:
    """English name of a language code; UnknownNameError lists those known."""
    if code not in LANGUAGES:
        raise UnknownNameError.of("language", code, list(LANGUAGES))
    return LANGUAGES[code][0]


def is_in_language(text: str, code: str) -> bool:
    """False when the prose of a text is clearly in another language than `code`."""
    prose = NOT_PROSE.sub(" ", text)
    _, scripts, own_list = LANGUAGES[code]
    letters = Counter(_script(letter) for letter in prose if not letter.isascii() and letter.isalpha())
    letters["LATIN"] += len(ASCII_LETTERS.findall(prose))
    # Greek letters are the symbols of formulas in every language.
    letters.pop("GREEK", None)
    if letters.total() >= MIN_LETTERS:
        expected = sum(count for script, count in letters.items() if script in scripts.split())
        if expected < letters.total() / 2:
            return False
    words = re.findall(r"[^\W\d_]+", prose.casefold())
    if not own_list or len(words) < MIN_WORDS:
        return True
    rivals = [
        _stop_share(words, name) for each, (_, other, name) in LANGUAGES.items() if each != code and other == scripts
    ]
    return max(rivals, default=0.0) - _stop_share(words, own_list) < MIN_LEAD


def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split(" ", 1)[0].removesuffix("-COMPATIBILITY")


def _stop_share(words: list[str], name: str) -> float:
    known = _stop_words(name)
    return sum(word in known for word in words) / len(words)


@cache
def _stop_words(name: str) -> frozenset[str]:
    try:
        from bm25s import stopwords
    except ImportError as error:
        raise MissingExtraError.of("bm25s", "reasonaug") from error
    return frozenset(getattr(stopwords, name))
