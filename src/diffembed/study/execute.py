"""How each kind of node is computed: by the training, evaluation and analysis of the library, and nothing else.

Read `execute`. Runs happen under `runs/` and resume themselves; what may be committed is copied to the store.
"""

import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffembed.embedding.embedder import Embedder
from diffembed.evaluation.results import save_result, slug
from diffembed.evaluation.run import EvaluateConfig, Evaluation, evaluate
from diffembed.evaluation.scoring import TaskResult
from diffembed.evaluation.suites.named import find_suite
from diffembed.evaluation.suites.reading import read_tasks
from diffembed.evaluation.systems.vector_cache import vectors_folder
from diffembed.provenance import atomic_file, write_json
from diffembed.records import Encoder
from diffembed.study.graph import Graph, Node, ScoreConfig
from diffembed.study.loading import load_scored
from diffembed.study.store import Store
from diffembed.study.suites import suite_name
from diffembed.study.weights import join_adapters, link_adapters, narrow_adapters
from diffembed.training.adapt_config import AdaptConfig
from diffembed.training.config import TrainConfig

KEPT_HITS = 10
"""Documents of a query that a stored result keeps; ids only."""
CLOCK_S = 60.0
"""Seconds between two writings of a node's time."""
Notify = Callable[[str], None]


def execute(store: Store, graph: Graph, node: Node, notify: Notify) -> None:
    """Computes a node from where it stopped, and keeps its result. The caller holds the node's lock."""
    key = store.key(graph, node)
    folder = store.run_folder(node, key)
    with _Clock(folder) as clock:
        if isinstance(node.config, AdaptConfig):
            write = _adapt(node, node.config, folder)
        elif isinstance(node.config, TrainConfig):
            write = _train(store, node, node.config, folder)
        elif node.kind == "evaluate":
            write = _evaluate(store, node, node.config, folder, notify)
        else:
            write = _direct(store, node, node.config, notify)
    store.keep(node, key, write, clock.seconds)


class _Clock:
    """Wall time of a node over all its sessions, kept beside its run; one that is killed loses a minute of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.parent / f"{folder.name}.seconds"
        self.before = float(self.path.read_text()) if self.path.exists() else 0.0

    def __enter__(self) -> "_Clock":
        self.started = time.perf_counter()
        self.is_over = threading.Event()
        self.writer = threading.Thread(target=self._write_often, daemon=True)
        self.writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.writer.join()
        self._write()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def _write_often(self) -> None:
        while not self.is_over.wait(CLOCK_S):
            self._write()

    def _write(self) -> None:
        with atomic_file(self.path) as part:
            part.write_text(f"{self.seconds:.1f}")


def _adapt(node: Node, config: AdaptConfig, folder: Path) -> Callable[[Path], Mapping[str, Any]]:
    from diffembed.training.adapt import adapt
    from diffembed.training.adapters import copy_checkpoint
    from diffembed.training.safety import MODEL

    report = adapt(dataclasses.replace(config, run=dataclasses.replace(config.run, output=str(folder))))

    def write(part: Path) -> dict[str, Any]:
        for step in node.kept_steps:
            copy_checkpoint(folder / "checkpoints" / f"checkpoint-{step}" / MODEL, part / f"model-{step}")
        return _write_run(part, folder, dataclasses.asdict(report))

    return write


def _train(store: Store, node: Node, config: TrainConfig, folder: Path) -> Callable[[Path], Mapping[str, Any]]:
    from diffembed.training.contrast import train

    parent = None if node.parent is None else store.model(node)
    start = parent
    if parent is not None and node.joined_rank is not None:
        start = join_adapters(parent, folder.parent / f"{folder.name}.start", rank=node.joined_rank)
        parent = None
    model = config.model if start is None else dataclasses.replace(config.model, name=str(start))
    run = dataclasses.replace(config.run, output=str(folder))
    report = train(dataclasses.replace(config, model=model, run=run))

    def write(part: Path) -> dict[str, Any]:
        facts = _write_run(part, folder, dataclasses.asdict(report))
        link_adapters(part / "model", parent, store.results / node.name / "model")
        return facts

    return write


def _write_run(part: Path, folder: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Model, log and config of a run; its facts for the record."""
    from diffembed.training.adapters import copy_checkpoint

    copy_checkpoint(Path(report.pop("model")), part / "model")
    narrow_adapters(part)
    for name in ("metrics.jsonl", "config.yaml"):
        shutil.copy(folder / name, part / name)
    inputs = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["inputs"]
    return {"report": report, "read": inputs}


def _evaluate(
    store: Store, node: Node, config: ScoreConfig, folder: Path, notify: Notify
) -> Callable[[Path], Mapping[str, Any]]:
    settings = _settings(config)
    model: str | Encoder = config.system if config.system is not None else _embedder(store, node, config)
    found: dict[str, Evaluation] = {
        suite: evaluate([model], [suite_name(suite)], out=folder, tasks=tasks, config=settings, notify=notify)
        for suite, tasks in config.suites.items()
    }

    def write(part: Path) -> dict[str, Any]:
        for suite, evaluation in found.items():
            for result in next(iter(evaluation.results.values()), []):
                save_result(part / slug(Path(suite).name) / slug(result.task), _without_tails(result))
        return {"skipped": [line for evaluation in found.values() for line in evaluation.skipped]}

    return write


def _direct(store: Store, node: Node, config: ScoreConfig, notify: Notify) -> Callable[[Path], Mapping[str, Any]]:
    from diffembed.analysis.direction import ablate_direction, with_queries
    from diffembed.evaluation.systems.recipes import limited

    embedder, settings, rows = _embedder(store, node, config), _settings(config), []
    for suite, names in config.suites.items():
        chosen = find_suite(suite_name(suite))
        tasks = read_tasks(
            chosen, prompts=settings.prompts, counted_by=settings.counted_by, names=names, seed=settings.seed
        )
        rows += ablate_direction(
            limited(embedder, settings.limit(chosen)),
            with_queries(tasks),
            num_ranges=config.num_ranges or 1,
            cache_folder=vectors_folder(),
            seed=config.seed,
            notify=notify,
        )

    def write(part: Path) -> dict[str, Any]:
        write_json(part / "direction.json", [dataclasses.asdict(row) for row in rows])
        return {}

    return write


def _settings(config: ScoreConfig) -> EvaluateConfig:
    return EvaluateConfig(
        max_tokens=config.max_tokens, dtype=config.dtype, counted_by=config.counted_by, seed=config.seed
    )


def _embedder(store: Store, node: Node, config: ScoreConfig) -> Embedder:
    """The parent's model under the node's own name."""
    name = node.arm if node.seed is None else f"{node.arm}-s{node.seed}"
    return load_scored(store.model(node), dtype=config.dtype, name=name or node.name)


def _without_tails(result: TaskResult) -> TaskResult:
    """The same result with the best documents only; their order is kept."""
    hits = {
        side: {query: dict(list(found.items())[:KEPT_HITS]) for query, found in run.items()}
        for side, run in result.hits.items()
    }
    return dataclasses.replace(result, hits=hits)
