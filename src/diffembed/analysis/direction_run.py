"""The direction ablation of one model on one suite, written to a folder: table, figures, attention.

Read `run_direction`: what the command line calls.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.analysis.attention_mass import BANDS, AttentionMass, measure_attention
from diffembed.analysis.direction import DirectionRow, ablate_direction, with_queries
from diffembed.analysis.direction_figures import draw_attention, draw_directions
from diffembed.embedding.embedder import Embedder
from diffembed.errors import ConfigError
from diffembed.evaluation.run import EvaluateConfig
from diffembed.evaluation.suites.named import find_suite
from diffembed.evaluation.suites.reading import read_tasks
from diffembed.evaluation.systems.names import parse_system
from diffembed.evaluation.systems.recipes import limited
from diffembed.evaluation.systems.vector_cache import vectors_folder
from diffembed.evaluation.tasks import AnyTask, InstructionTask, LabelTask, Task
from diffembed.provenance import RunFolder, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectionConfig:
    """What a direction run depends on besides its data."""

    model: str
    """NAME[:attention][:pooling], folder or hub id."""
    suite: str
    """Offline suite, or folder of tasks."""
    tasks: tuple[str, ...] = ()
    """Only these tasks of the suite; empty takes all."""
    num_ranges: int = 3
    """Equal ranges of layers that are changed alone; 1 changes the whole network only."""
    num_texts: int = 8
    """Documents of the first task, longest first, whose attention is measured; 0 measures none."""
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    """Prompts, token limit, number format and seed."""

    def __post_init__(self) -> None:
        if self.num_texts < 0:
            raise ConfigError(f"num_texts is {self.num_texts}; it must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectionRun:
    """The table, and the attention as trained where it was measured."""

    rows: Sequence[DirectionRow]
    mass: AttentionMass | None


def run_direction(
    config: DirectionConfig,
    *,
    out: Path | str | None = None,
    data: Path | str | None = None,
    notify: Callable[[str], None] | None = None,
) -> DirectionRun:
    """Scores every direction and measures attention; with `out`, writes direction.json, .svg and attention.json, .svg.

    Vectors are kept in the user's cache, so that an interrupted run goes on with the document block it was at.
    """
    suite = find_suite(config.suite)
    settings = config.evaluate
    tasks = with_queries(
        read_tasks(suite, data=data, prompts=settings.prompts, counted_by=settings.counted_by, names=config.tasks,
                   seed=settings.seed)
    )  # fmt: skip
    folder = None if out is None else RunFolder(out, config).path
    spec = parse_system(config.model)
    embedder = Embedder.load(spec.model, attention=spec.attention, pooling=spec.pooling, dtype=settings.dtype)
    embedder = limited(embedder, settings.limit(suite))
    rows = ablate_direction(
        embedder,
        tasks,
        num_ranges=config.num_ranges,
        cache_folder=vectors_folder(),
        seed=settings.seed,
        notify=notify,
    )
    mass = None
    if config.num_texts:
        if notify is not None:
            notify(f"measuring attention on {config.num_texts} texts")
        mass = measure_attention(embedder, _longest(tasks[0], config.num_texts))
    if folder is not None:
        write_json(folder / "direction.json", [dataclasses.asdict(row) for row in rows])
        draw_directions(rows, folder / "direction.svg")
        if mass is not None:
            write_json(folder / "attention.json", as_plain(mass))
            draw_attention([(f"{embedder.name}, {embedder.attention}", mass)], folder / "attention.svg")
    return DirectionRun(rows=rows, mass=mass)


def _longest(task: AnyTask, num_texts: int) -> list[str]:
    if isinstance(task, Task | InstructionTask):
        corpus = task.og.corpus if isinstance(task, InstructionTask) else task.corpus
        texts = [document.full_text for document in corpus]
    else:
        texts = list(task.texts if isinstance(task, LabelTask) else task.left)
    return sorted(texts, key=lambda text: (-len(text), text))[:num_texts]


def as_plain(mass: AttentionMass) -> dict[str, Any]:
    """For JSON: lists by layer and head."""
    return {
        "bands": list(BANDS),
        "mass_by_layer_head_band": mass.mass_LHB.tolist(),
        "entropy_nats_by_layer_head": mass.entropy_LH.tolist(),
        "is_sliding_by_layer": mass.is_sliding_L.tolist(),
        "num_texts": mass.num_texts,
        "num_tokens": mass.num_tokens,
    }
