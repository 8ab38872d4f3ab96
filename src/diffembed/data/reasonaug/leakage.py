"""Stage 7: no query may be a benchmark's query in other words.

Read `find_leaks` first. The measure is difflib's SequenceMatcher ratio, as in the paper, but over words: over the
characters of long texts difflib ignores every frequent letter, and the ratio means little. Words are exact, and fast.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from diffembed.data.files import read_rows
from diffembed.data.reasonaug.rows import Dropped, StageResult, Triplet
from diffembed.errors import InputError

STAGE = "leakage"
COLUMNS = ("text", "query", "user_query", "question", "problem")
WORDS = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]|[^\W_]+|[^\w\s]")
"""A word, one sign, or one character of a script without spaces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """A text and the reference text nearest to it."""

    text: str
    reference: str
    ratio: float


def read_references(paths: Sequence[Path]) -> list[str]:
    """Unique texts of row files, from the first of the columns text, query, user_query, question, problem they have.

    Raises InputError when a file has none of these columns.
    """
    texts: dict[str, None] = {}
    for path in paths:
        column = None
        for _, row in read_rows(path):
            if not isinstance(row, Mapping):
                continue
            column = column or next((name for name in COLUMNS if isinstance(row.get(name), str)), None)
            if column and isinstance(row.get(column), str):
                texts[row[column]] = None
        if column is None:
            raise InputError(f"{path} has no column of texts; expected one of {', '.join(COLUMNS)}")
    return list(texts)


def find_leaks(texts: Sequence[str], references: Sequence[str], *, min_ratio: float) -> Iterator[Leak]:
    """The texts whose ratio with some reference is at least `min_ratio`, each with its nearest reference.

    Exact: pairs are passed over only when the number of words they share proves a lower ratio.
    """
    words = [_words(reference) for reference in references]
    bags = [Counter(each) for each in words]
    for text in texts:
        own = _words(text)
        bag = Counter(own)
        # Words go in as the second sequence, which difflib indexes, so that the index is made once per text.
        matcher = SequenceMatcher(None, b=own, autojunk=False)
        best, nearest = 0.0, ""
        for reference, other, other_bag in zip(references, words, bags, strict=True):
            total = len(own) + len(other)
            bar = max(min_ratio, best)
            if not total or 2 * min(len(own), len(other)) < bar * total:
                continue
            if 2 * sum(min(count, other_bag[word]) for word, count in bag.items() if word in other_bag) < bar * total:
                continue
            matcher.set_seq1(other)
            if (ratio := matcher.ratio()) > best:
                best, nearest = ratio, reference
        if best >= min_ratio:
            yield Leak(text=text, reference=nearest, ratio=best)


def drop_leaks(rows: Sequence[Triplet], references: Sequence[str], *, max_ratio: float) -> StageResult[Triplet]:
    """The rows whose query is far enough from every reference."""
    queries = list(dict.fromkeys(row.user_query for row in rows))
    leaks = {leak.text: leak for leak in find_leaks(queries, references, min_ratio=max_ratio)}
    return StageResult(
        rows=tuple(row for row in rows if row.user_query not in leaks),
        dropped=tuple(
            Dropped(
                stage=STAGE,
                id=str(row.id),
                reason="query near a reference text",
                detail=f"{leaks[row.user_query].ratio:.2f}: {leaks[row.user_query].reference[:80]}",
            )
            for row in rows
            if row.user_query in leaks
        ),
    )


def _words(text: str) -> list[str]:
    return WORDS.findall(text.casefold())
