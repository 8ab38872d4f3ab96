"""How much of the standard-library comparison is run: named draws, and the choice of one that fits a time budget.

Read `choose_draw`. LongEmbed's own size is `paper`; every smaller draw has fewer documents, and from `full` downwards
each step leaves out the longest texts and keeps the pool of 8 documents, so that what two draws share is the same
text with the same chance level. This module knows nothing of encoders; their speed arrives measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from diffembed.data.burying import TokenSpans
from diffembed.errors import ConfigError, UnknownNameError
from diffembed.evaluation.suites.haystack import LENGTHS, make_needle_task, make_passkey_task
from diffembed.evaluation.suites.stdlib import haystack_text, make_stdlib_task
from diffembed.evaluation.tasks import Task

STDLIB_TOKENS = 140
"""Gemma tokens of one labelled entry, query and document together; measured over 600 of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """Sizes of the three tasks."""

    name: str
    num_documents: int
    """Documents per haystack length, for passkey and for needle."""
    num_queries: int
    """Queries per haystack length."""
    longest: int
    """Tokens of the longest haystacks."""
    num_entries: int
    """Documents, and queries, of the standard-library task."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Haystack lengths in tokens."""
        return tuple(length for length in LENGTHS if length <= self.longest)

    def num_tokens(self, max_tokens: int | None = None) -> int:
        """Tokens that one pass reads, about; texts are cut at `max_tokens`."""
        limit = max_tokens or self.longest
        hay = 2 * self.num_documents * sum(min(length, limit) for length in self.lengths)
        return hay + self.num_entries * min(STDLIB_TOKENS, limit)

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.num_documents} documents and {self.num_queries} queries at each of "
            f"{', '.join(map(str, self.lengths))} tokens, {self.num_entries} library entries"
        )


DRAWS = {
    draw.name: draw
    for draw in (
        Draw(name="paper", num_documents=100, num_queries=50, longest=8192, num_entries=500),
        Draw(name="large", num_documents=32, num_queries=32, longest=8192, num_entries=300),
        Draw(name="double", num_documents=8, num_queries=8, longest=8192, num_entries=150),
        Draw(name="full", num_documents=8, num_queries=8, longest=4096, num_entries=150),
        Draw(name="half", num_documents=8, num_queries=8, longest=2048, num_entries=100),
        Draw(name="quarter", num_documents=8, num_queries=8, longest=1024, num_entries=60),
        Draw(name="eighth", num_documents=8, num_queries=8, longest=512, num_entries=40),
        Draw(name="least", num_documents=4, num_queries=4, longest=256, num_entries=20),
    )
}
"""Largest first. `full` is the demo's, about 150,000 tokens a pass; `paper` is LongEmbed's, 3.3 million."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """One forward pass over everything, and how fast it was on a short calibration."""

    tokens_per_s: float
    """Measured on about two thousand tokens; > 0."""
    start_s: float
    """Time to load; spent once."""
    max_tokens: int
    """Longest text that is read whole."""

    def seconds(self, draw: Draw) -> float:
        """Predicted time for a draw."""
        return self.start_s + draw.num_tokens(self.max_tokens) / self.tokens_per_s


def find_draw(name: str) -> Draw:
    """The draw of a name. Raises UnknownNameError."""
    if name not in DRAWS:
        raise UnknownNameError.of("draw", name, ["auto", *DRAWS])
    return DRAWS[name]


def choose_draw(passes: Sequence[Pass], budget_s: float) -> tuple[Draw, float]:
    """The largest draw whose predicted time is within the budget, and that time; the least one where none is."""
    if budget_s <= 0:
        raise ConfigError(f"budget_s is {budget_s}; it must be above 0")
    for draw in DRAWS.values():
        predicted_s = sum(one.seconds(draw) for one in passes)
        if predicted_s <= budget_s:
            break
    return draw, predicted_s


def make_tasks(draw: Draw, *, token_spans: TokenSpans, seed: int = 0) -> list[Task]:
    """The standard-library task, then passkey and needle at every length of the draw."""
    hay = haystack_text()
    tasks = [make_stdlib_task(draw.num_entries, seed=seed)]
    for make in (make_passkey_task, make_needle_task):
        tasks += [
            make(
                length,
                hay=hay,
                token_spans=token_spans,
                num_documents=draw.num_documents,
                num_queries=draw.num_queries,
                seed=seed,
            )
            for length in draw.lengths
        ]
    return tasks
