"""The attention-direction ablation: one trained checkpoint evaluated with its attention, causal, and anti-causal.

Read `ablate_direction`. `causal` removes reverse attention (a token sees no later one), `anticausal` removes forward
attention; each for the whole network and for ranges of its layers. Nothing is trained: it tells what the trained
network relies on (table 5 of arXiv 2505.15045 has the causal half of it). This module knows nothing of the disk.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from diffembed.backbones.attention import Direction
from diffembed.embedding.embedder import Embedder
from diffembed.errors import ConfigError, EmptyInputError
from diffembed.evaluation.scoring import TaskResult, score_task
from diffembed.evaluation.statistics.measures import spearman
from diffembed.evaluation.statistics.significance import Comparison, Interval, compare_scores, compare_statistic, holm
from diffembed.evaluation.systems.reading import read_embedder
from diffembed.evaluation.systems.searching import DenseSystem
from diffembed.evaluation.tasks import AnyTask, LabelTask

DIRECTIONS: tuple[Direction, ...] = ("bidirectional", "causal", "anticausal")
TRAINED = "as trained"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One way to run the network."""

    direction: Direction
    layers: tuple[int, int]
    """First and last layer, from 0, that run this way; the others run as trained."""

    def label(self, num_layers: int) -> str:
        """`causal`, or `causal in layers 0-5` for a part of the network."""
        first, last = self.layers
        return self.direction if (first, last) == (0, num_layers - 1) else f"{self.direction} in layers {first}-{last}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectionRow:
    """One variant on one task."""

    variant: str
    task: str
    measure: str
    score: Interval
    against_trained: Comparison | None
    """The variant minus the network as trained; `None` for the latter."""
    p_holm: float | None
    """Corrected for all variants on this task."""
    truncated_fraction: float | None


def with_queries(tasks: Iterable[AnyTask]) -> list[AnyTask]:
    """The tasks that can be compared: all but clustering, which has one value and none for each query."""
    return [task for task in tasks if not (isinstance(task, LabelTask) and task.kind == "clustering")]


def make_variants(num_layers: int, *, trained: Direction, num_ranges: int = 3) -> list[Variant]:
    """Both other directions over the whole network, then over each of `num_ranges` equal ranges of layers."""
    if not 1 <= num_ranges <= num_layers:
        raise ConfigError(f"num_ranges is {num_ranges}; the network has {num_layers} layers, allowed is 1 to that")
    others = [direction for direction in DIRECTIONS if direction != trained]
    whole = [(0, num_layers - 1)]
    bounds = [round(part * num_layers / num_ranges) for part in range(num_ranges + 1)]
    parts = [(first, last - 1) for first, last in pairwise(bounds)] if num_ranges > 1 else []
    return [Variant(direction=direction, layers=layers) for layers in whole + parts for direction in others]


def directions_of(variant: Variant, num_layers: int, trained: Direction) -> tuple[Direction, ...]:
    """One direction per layer. Raises ConfigError for layers the network does not have."""
    first, last = variant.layers
    if not 0 <= first <= last < num_layers:
        raise ConfigError(f"layers {first}-{last} are not in a network of {num_layers} layers")
    return tuple(variant.direction if first <= layer <= last else trained for layer in range(num_layers))


def ablate_direction(
    embedder: Embedder,
    tasks: Sequence[AnyTask],
    *,
    variants: Sequence[Variant] | None = None,
    num_ranges: int = 3,
    cache_folder: Path | None = None,
    seed: int = 0,
    notify: Callable[[str], None] | None = None,
) -> list[DirectionRow]:
    """Rows of the direction table, the network as trained first.

    variants: `None` takes `make_variants`. Raises ConfigError for an encoder that was not loaded with packed attention.
    """
    if not tasks:
        raise EmptyInputError("the direction table needs at least one task")
    num_layers, trained = int(embedder.backbone.config.num_hidden_layers), embedder.attention
    if variants is None:
        variants = make_variants(num_layers, trained=trained, num_ranges=num_ranges)
    ways: list[tuple[str, tuple[Direction, ...] | None]] = [(TRAINED, None)]
    ways += [(variant.label(num_layers), directions_of(variant, num_layers, trained)) for variant in variants]
    results: dict[str, dict[str, TaskResult]] = {}
    for label, directions in ways:
        reader = read_embedder(
            embedder, {label: embedder.pooling}, cache_folder=cache_folder, direction=directions, notify=notify
        )
        system = DenseSystem(reader, sends_instructions=not embedder.backbone.family.is_encoder)
        for task in tasks:
            results.setdefault(task.name, {})[label] = score_task(system, task, seed=seed)[label]
            if notify is not None:
                result = results[task.name][label]
                notify(f"{label} on {task.name}: {result.main} {result.scores[result.main]}")
    return [row for by_label in results.values() for row in _rows(by_label, seed)]


def _rows(by_label: dict[str, TaskResult], seed: int) -> list[DirectionRow]:
    base = by_label[TRAINED]
    tests = {label: _compare(result, base, seed) for label, result in by_label.items() if label != TRAINED}
    corrected = holm({label: test.p_value for label, test in tests.items()})
    return [
        DirectionRow(
            variant=label,
            task=result.task,
            measure=result.main,
            score=result.scores[result.main],
            against_trained=tests.get(label),
            p_holm=corrected.get(label),
            truncated_fraction=result.truncated_fraction,
        )
        for label, result in by_label.items()
    ]


def _compare(result: TaskResult, base: TaskResult, seed: int) -> Comparison:
    if result.kind == "similarity":
        gold = base.per_query["gold"]
        mine, theirs = ([one.per_query["cosine"][key] for key in gold] for one in (result, base))
        return compare_statistic(spearman, list(gold.values()), mine, theirs, seed=seed)
    if result.kind == "clustering":
        raise ConfigError(f"{result.task} has no per-query values to compare; leave clustering out of the table")
    return compare_scores(result.per_query[result.main], base.per_query[base.main], seed=seed)
