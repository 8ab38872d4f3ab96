"""A text hidden in a longer one: training rows whose answer is one statement in a stretch of other text.

Read `bury`, then `hide`. The mean of a long text's token vectors is mostly what the text is about; rows whose positive
and negative share nearly all but the statement can only be told apart by it. Generated tasks hide their sentences
with `hide` too. Knows nothing of models; a tokenizer arrives as a function.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from diffembed.data.formats import RowReport, Triplet
from diffembed.data.negatives import borrow, row_generator
from diffembed.data.text_files import find_text_files, read_documents
from diffembed.errors import EmptyInputError, InputError
from diffembed.provenance import hash_file

TokenSpans = Callable[[str], Sequence[tuple[int, int]]]
"""Text -> (start, end) in characters of each of its tokens, special tokens left out."""
MAX_SHARE = 0.5
"""Of the longest document that a statement may take up; a row with a longer one is left out."""

_CHARACTERS_PER_TOKEN = 8
"""Characters of hay that are tokenised at first for each token wanted; doubled where they turn out too few."""
_SENTENCE_END = re.compile(r"\n\n|(?<=[.!?])\s")


def word_spans(text: str) -> Sequence[tuple[int, int]]:
    """Spans of whitespace-separated words: the count of tokens where no model is compared."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def read_hay(path: Path, report: RowReport) -> str:
    """The running text of a file or folder, with its hashes in the report. Raises EmptyInputError without text."""
    files = find_text_files([path])
    report.inputs.update({f"{file.parent.name}/{file.name}": hash_file(file) for file in files})
    read = RowReport(source=path.name)
    parts = []
    for file in files:
        for piece in read_documents(file, read):
            parts += [piece.text, "\n\n" if piece.is_last else ""]
    hay = "".join(parts)
    if not hay.strip():
        raise EmptyInputError(f"{path} holds no text to hide rows in")
    return hay


def bury(
    triplets: Sequence[Triplet], hay: str, *, min_words: int, max_words: int, seed: int, report: RowReport
) -> list[Triplet]:
    """The rows with their documents hidden in the hay, under other ids; their source is the report's.

    Positive and negatives of a row stand at one place of one stretch, so that nothing but the statement tells them
    apart. The negatives are the row's own and, where one is found, the positive of another row. The length in words of
    the longest text is drawn evenly on a log scale, at least twice its statement's. Rows whose positive is longer than
    half of `max_words`, and such negatives, are left out and counted in the report. Raises ConfigError for a row that
    is left without a negative.
    """
    most = int(max_words * MAX_SHARE)
    short = [triplet for triplet in triplets if len(word_spans(triplet.positive)) <= most]
    if len(short) < len(triplets):
        report.filtered["buried: positive too long"] += len(triplets) - len(short)
    buried = []
    for triplet in short:
        own = tuple(text for text in triplet.negatives if len(word_spans(text)) <= most)
        if len(own) < len(triplet.negatives):
            report.dropped_negatives["buried: too long"] += len(triplet.negatives) - len(own)
        filled = borrow(replace(triplet, negatives=own), short, len(own) + 1, seed)
        texts = (filled.positive, *filled.negatives)
        generator = row_generator(seed, report.source, triplet.id)
        longest = max(len(word_spans(text)) for text in texts)
        drawn = round(math.exp(generator.uniform(math.log(min_words), math.log(max_words))))
        length = max(drawn, math.ceil(longest / MAX_SHARE))
        # A line's beginning, or the hay's where no line follows.
        start, depth = hay.find("\n", int(generator.integers(len(hay)))) + 1, float(generator.uniform())
        stretch = _first_tokens(hay, start, length - longest, word_spans).strip()
        positive, *negatives = (_insert(text, stretch, depth) for text in texts)
        buried.append(
            replace(
                triplet,
                id=f"{triplet.id} buried",
                positive=positive,
                negatives=tuple(negatives),
                anti_instruction=None,
                source=report.source,
            )
        )
    return buried


def hide(key: str, hay: str, start: int, length: int, depth: float, token_spans: TokenSpans) -> str:
    """Hay with `key` at the sentence end nearest `depth`: `length` tokens, or a few less where they cannot be met.

    start: character of the hay to begin at; the hay is a ring. depth: 0 is the beginning, 1 the end.
    Raises InputError for a key that leaves no room.
    """
    room = length - len(token_spans(key))
    for _ in range(8):
        if room < 1:
            raise InputError(f"a statement of {len(token_spans(key))} tokens leaves no room in a text of {length}")
        text = _insert(key, _first_tokens(hay, start, room, token_spans), depth)
        excess = len(token_spans(text)) - length
        if excess <= 0:
            return text
        room -= excess
    raise InputError(f"no text of {length} tokens could be cut; the tokenizer's spans do not fit its text")


def _insert(key: str, stretch: str, depth: float) -> str:
    ends = [match.end() for match in _SENTENCE_END.finditer(stretch)]
    place = min([0, *ends, len(stretch)], key=lambda end: abs(end - depth * len(stretch)))
    return " ".join(part for part in (stretch[:place].rstrip(), key, stretch[place:].strip()) if part)


def _first_tokens(hay: str, start: int, num_tokens: int, token_spans: TokenSpans) -> str:
    num_characters = num_tokens * _CHARACTERS_PER_TOKEN
    while True:
        text = _ring(hay, start, num_characters)
        spans = token_spans(text)
        if len(spans) >= num_tokens:
            return text[: spans[num_tokens - 1][1]]
        num_characters *= 2
        if num_characters > (1 << 30):
            raise InputError("the haystack text holds no tokens")


def _ring(hay: str, start: int, num_characters: int) -> str:
    text = hay[start : start + num_characters]
    while len(text) < num_characters:
        text += "\n\n" + hay[: num_characters - len(text)]
    return text
