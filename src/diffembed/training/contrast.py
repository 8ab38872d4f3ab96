"""Contrastive fine-tuning of a language model into an embedder, on the sentence-transformers trainer.

Read `train`. Rows come from `data/`, packs and pooling from `embedding/`, losses from `losses.py`, checkpoints and the
stop at NaN from `safety.py`. Must not know the evaluation suites: `score` brings one.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from diffembed.data.formats import RowReport, Triplet, hash_triplets, triplet_row
from diffembed.data.mixing import BatchPlan
from diffembed.data.set_aside import set_aside
from diffembed.data.source_config import BURIED
from diffembed.data.sources import load_sources
from diffembed.embedding.embedder import Embedder
from diffembed.errors import ConfigError, MissingExtraError
from diffembed.training.batches import CutCount, PlannedBatches, TripletCollator, rows_for_loss
from diffembed.training.callbacks import Score
from diffembed.training.config import TrainConfig
from diffembed.training.runs import Run, RunReport, open_run, prepare_network, start_processes, training_arguments
from diffembed.training.settings import resolve_name, resolve_path


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """The rows of a run, before batches are made of them."""

    train: list[Triplet]
    set_aside: tuple[str, ...]
    """Values whose rows left training; empty where the config sets none aside."""
    reports: list[RowReport]
    """What was read, dropped and why, per source."""
    inputs: dict[str, str] = field(default_factory=dict)
    """File or data set -> hash or revision, and the hash of the rows as they reach training."""


def load_rows(config: TrainConfig) -> TrainingRows:
    """Rows of all sources, with exactly the negatives the loss reads, and without the values set aside.

    Raises InputError when a source has more bad rows than `max_bad_rows`; the message counts them by reason.
    Raises ConfigError where rows that carry the label of the values set aside are buried.
    """
    data, seed = config.data, config.run.seed
    root = None if data.root is None else resolve_path(data.root)
    sources = load_sources(data.sources, seed=seed, data_root=root, max_bad_rows=data.max_bad_rows)
    triplets = [triplet for source in sources.values() for triplet in source.triplets]
    aside: tuple[str, ...] = ()
    if data.set_aside_values:
        _check_labelled_rows_are_not_buried(triplets, data.set_aside_label)
        parts = set_aside(
            triplets, num_values=data.set_aside_values, seed=data.set_aside_seed, label=data.set_aside_label
        )
        triplets, aside = parts.train, parts.values
        if config.loss.num_negatives and not config.loss.borrows_negatives:
            # Rows whose only negatives belonged to the values set aside.
            triplets = [triplet for triplet in triplets if triplet.negatives]
    triplets = rows_for_loss(triplets, config.loss, seed)
    inputs = {name: value for source in sources.values() for name, value in source.report.inputs.items()}
    return TrainingRows(
        train=triplets,
        set_aside=aside,
        reports=[source.report for source in sources.values()],
        inputs={**inputs, "training rows": hash_triplets(triplets)},
    )


def _check_labelled_rows_are_not_buried(triplets: Sequence[Triplet], label: str) -> None:
    """A text that is set aside, hidden in prose as the negative of another row, would not be recognised."""
    for triplet in triplets:
        if triplet.source.endswith(BURIED) and label in triplet.labels:
            raise ConfigError(
                f"rows of {triplet.source} carry {label!r}, whose values are set aside, and may hide texts of them; "
                "remove buried_in from their source, or set_aside_values"
            )


def plan_batches(config: TrainConfig, triplets: Sequence[Triplet]) -> tuple[BatchPlan, int]:
    """The global batches, and the length of the learning-rate schedule in steps."""
    plan = BatchPlan(triplets, config.batch.rows, config.run.seed, config.data.mix)
    steps = config.run.schedule_steps or max(1, round(plan.steps_per_epoch * config.run.num_epochs))
    if config.run.stop_after_steps is not None and config.run.stop_after_steps > steps:
        raise ConfigError(
            f"stop_after_steps is {config.run.stop_after_steps}, the schedule has {steps} steps; raise num_epochs"
        )
    config.optimiser.check_length(steps)
    return plan, steps


def train(config: TrainConfig, *, score: Score | None = None) -> RunReport:
    """Trains an embedder and returns what came of it; the model is in `<output>/model`.

    The same config on the same folder goes on from the last checkpoint, and ends with the same weights as a run that
    was never interrupted. Under torchrun or `accelerate launch` every process calls this with the same config.
    Raises ConfigError, InputError (bad rows), CheckpointError (another run in the folder), ResourceError (disk full)
    and DiffEmbedError (a NaN; the rows of its batch are saved).
    """
    if (config.development is None) != (score is None):
        raise ConfigError("a development section needs a score to compute, and a score needs a development section")
    processes = start_processes(config)
    rows = load_rows(config)
    embedder = load_embedder(config, processes.device)
    prepare_network(config, embedder)
    run = open_run(config, embedder, processes, rows.inputs)
    if run.is_finished:
        return run.report()
    run.folder.log(data=[_facts(report) for report in rows.reports], num_rows=len(rows.train), set_aside=rows.set_aside)
    plan, num_steps = plan_batches(config, rows.train)
    trainer = make_trainer(config, run, rows.train, plan, num_steps)
    report = run.fit(trainer, num_steps, score)
    cuts: CutCount = trainer.data_collator.cuts
    run.folder.log(num_texts=cuts.num_texts, num_cut=cuts.num_cut)
    if cuts.num_cut:
        warnings.warn(
            f"{cuts.num_cut} of the {cuts.num_texts} texts that process {processes.rank} read were longer than "
            "batch.query_max_tokens or batch.document_max_tokens and were cut",
            stacklevel=2,
        )
    return report


def make_trainer(config: TrainConfig, run: Run, triplets: Sequence[Triplet], plan: BatchPlan, num_steps: int) -> Any:
    """The sentence-transformers trainer over packed batches; its model is the run's embedder."""
    try:
        from datasets import Dataset
        from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
    except ImportError as error:
        raise MissingExtraError.of("sentence-transformers", "train") from error
    from diffembed.training.losses import make_loss
    from diffembed.training.packed import PackedEncoder
    from diffembed.training.trainers import ContrastTrainer

    embedder = run.embedder
    encoder = PackedEncoder(embedder.backbone, embedder.pooling, embedder.token_budget)
    model = SentenceTransformer(modules=[encoder], device=str(embedder.backbone.device))
    if config.batch.rows % run.processes.num_processes:
        raise ConfigError(
            f"batch.rows {config.batch.rows} does not divide among {run.processes.num_processes} processes"
        )
    collator = TripletCollator(embedder, triplets, config.batch, is_simcse=config.loss.kind == "simcse")
    return ContrastTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            **training_arguments(config.run, config.optimiser, run, num_steps),
            per_device_train_batch_size=config.batch.rows // run.processes.num_processes,
        ),
        train_dataset=Dataset.from_dict({"row": range(len(triplets))}),
        data_collator=collator,
        loss=make_loss(model, config.loss, config.batch.mini_batch_tokens),
        batches=PlannedBatches(plan, num_steps, run.processes.num_processes),
        safety=run.safety(encoder, lambda numbers: [triplet_row(triplets[number]) for number in numbers]),
        **run.optimiser(config.optimiser),
    )


def load_embedder(config: TrainConfig, device: torch.device) -> Embedder:
    """The embedder before training, with the template and limits of the config."""
    model = config.model
    return Embedder.load(
        resolve_name(model.name),
        attention=model.attention,
        pooling=model.pooling,
        template=config.template,
        max_tokens=max(config.batch.query_max_tokens, config.batch.document_max_tokens),
        dtype=model.dtype,
        device=str(device),
    )


def _facts(report: RowReport) -> dict[str, Any]:
    return {
        "source": report.source,
        "num_rows": report.num_rows,
        "num_kept": report.num_kept,
        "defects": dict(report.defects),
        "filtered": dict(report.filtered),
        "dropped_negatives": dict(report.dropped_negatives),
    }
