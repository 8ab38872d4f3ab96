"""How long the texts of training rows are, in the tokens of any tokenizer; computed only when asked for.

Read `token_statistics`. Knows nothing of templates beyond the one function it is given.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from diffembed.data.formats import Triplet
from diffembed.data.negatives import row_generator
from diffembed.errors import ConfigError, EmptyInputError

ALL = "all"
BATCH_TEXTS = 1024


class TextTokenizer(Protocol):
    """A transformers tokenizer, or anything called like one."""

    def __call__(self, text: list[str], **options: Any) -> Any:
        """A mapping whose `input_ids` has a list of ids per text."""
        ...


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens per text."""

    num_texts: int
    mean: float
    std: float
    """Sample standard deviation (n - 1), as in the paper's Table 1; 0 for a single text."""
    median: float
    p95: float
    longest: int


@dataclass(frozen=True, kw_only=True)
class SourceStatistics:
    """One source, or all of them under the name `all`."""

    source: str
    num_rows: int
    num_negatives: float
    """Mean negatives per row."""
    query: Lengths
    """Queries with their instruction."""
    document: Lengths
    """Positives and negatives, as often as rows hold them."""


def paper_query(triplet: Triplet) -> str:
    """Instruction, semicolon, query: how the paper writes queries."""
    return f"{triplet.instruction}; {triplet.query}" if triplet.instruction else triplet.query


def token_statistics(
    triplets: Sequence[Triplet],
    tokenizer: TextTokenizer,
    *,
    query_text: Callable[[Triplet], str] = paper_query,
    max_rows: int | None = None,
    seed: int = 0,
) -> list[SourceStatistics]:
    """Statistics of each source, by name, then of all rows together.

    Special tokens are not counted. query_text: how a row's query is written for the model.
    max_rows: rows of each source to measure, a seeded sample; None measures all. Row counts are always whole.
    """
    if not triplets:
        raise EmptyInputError("there are no rows to measure")
    if max_rows is not None and max_rows < 1:
        raise ConfigError(f"max_rows must be at least 1, received {max_rows}")
    by_source: dict[str, list[Triplet]] = {}
    for triplet in triplets:
        by_source.setdefault(triplet.source, []).append(triplet)
    measured = {name: _sample(rows, max_rows, seed) for name, rows in by_source.items()}
    counts = _count_tokens(
        (text for rows in measured.values() for row in rows for text in (query_text(row), *_documents(row))), tokenizer
    )

    def summary(source: str, rows: Sequence[Triplet], num_rows: int) -> SourceStatistics:
        return SourceStatistics(
            source=source,
            num_rows=num_rows,
            num_negatives=float(np.mean([len(row.negatives) for row in rows])),
            query=_lengths([counts[query_text(row)] for row in rows]),
            document=_lengths([counts[text] for row in rows for text in _documents(row)]),
        )

    found = [summary(name, measured[name], len(by_source[name])) for name in sorted(by_source)]
    return [*found, summary(ALL, [row for rows in measured.values() for row in rows], len(triplets))]


def _documents(triplet: Triplet) -> tuple[str, ...]:
    return triplet.positive, *triplet.negatives


def _sample(rows: list[Triplet], max_rows: int | None, seed: int) -> list[Triplet]:
    if max_rows is None or len(rows) <= max_rows:
        return rows
    places = row_generator(seed, rows[0].source, "statistics").permutation(len(rows))[:max_rows]
    return [rows[place] for place in sorted(places)]


def _count_tokens(texts: Iterable[str], tokenizer: TextTokenizer) -> dict[str, int]:
    """Text -> tokens; each text is tokenised once, however many rows hold it."""
    unique = list(dict.fromkeys(texts))
    counts: dict[str, int] = {}
    for start in range(0, len(unique), BATCH_TEXTS):
        batch = unique[start : start + BATCH_TEXTS]
        encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        counts.update(zip(batch, map(len, encoded), strict=True))
    return counts


def _lengths(counts: Sequence[int]) -> Lengths:
    values = np.asarray(counts, np.int64)
    return Lengths(
        num_texts=len(values),
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        median=float(np.median(values)),
        p95=float(np.percentile(values, 95)),
        longest=int(values.max()),
    )
