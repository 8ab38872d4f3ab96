"""The card of a shipped model: use, scores, data with licences, provenance, limits.

Read `make_card`. Every number is read from the plan or from stored results, and so is every limit.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffembed.backbones.registry import find_model
from diffembed.embedding.checkpoint import EmbedderConfig
from diffembed.evaluation.scoring import TaskResult
from diffembed.study.findings import is_in_domain
from diffembed.study.graph import Graph, adaptation_name, shipped_node
from diffembed.study.page import Block, Heading, Items, Paragraph, Table, render_markdown
from diffembed.study.plan import StudyPlan
from diffembed.study.store import Store

Results = Mapping[str, TaskResult]
"""Task -> result of one system."""
OBJECTIVES = {
    "diffusion": "masked diffusion",
    "mntp": "masked next-token prediction",
    "causal": "next-token prediction",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the folder of a model says of itself."""

    name: str
    node: str
    """The train node it comes from."""
    config: EmbedderConfig
    rank: int


def make_card(plan: StudyPlan, store: Store, graph: Graph, facts: Facts) -> tuple[str, int]:
    """(README.md with the front matter that model hubs read, number of tasks in its table of scores)."""
    assert plan.shipped is not None
    systems = {name: _results(plan, store, graph, name) for name in plan.shipped.models}
    systems = {facts.name: systems.pop(facts.name), **systems}
    for node in graph.values():
        if node.kind == "evaluate" and node.parent is None and store.is_current(graph, node.name):
            systems[node.arm] = store.results_of(node.name)
    spec = find_model(facts.config.base)
    licence = spec.licence if spec is not None else "that of the base weights"
    blocks: list[Block] = [
        Heading(facts.name, level=1),
        Paragraph(_summary(plan, facts)),
        Paragraph(_use(facts.name)),
        Heading("Scores"),
        *_scores(plan, systems),
        Heading("What it was trained on"),
        *_training(plan, store, facts),
        Heading("Limits"),
        Items(_limits(plan, facts, systems)),
        Heading("Licence"),
        Paragraph(
            f"The adapter is a derivative of {facts.config.base} and is bound by the terms of those weights: "
            f"{licence}. The NOTICE one folder up goes with it. The training data keep their licences, listed above."
        ),
    ]
    matter = [
        "---",
        "license: other",
        f"license_name: {json.dumps(licence)}",
        f"base_model: {json.dumps(spec.location if spec and spec.source == 'hub' else facts.config.base)}",
        "pipeline_tag: sentence-similarity",
        "tags: [feature-extraction, diffembed]",
        "language: en",
        "---",
    ]
    return "\n".join(matter) + "\n" + render_markdown(blocks), len(systems[facts.name])


def read_sets(plan: StudyPlan) -> Iterator[str]:
    """Every set of rows and every file of text that shipped models were trained on, without endings."""
    yield from _row_sets(plan)
    yield from _texts(plan)


def _row_sets(plan: StudyPlan) -> Iterator[str]:
    for source in plan.fine_tuning.data.sources:
        yield from source.sets or (source.name or _stem(source.path or source.kind),)


def _texts(plan: StudyPlan) -> Iterator[str]:
    if plan.adaptation is not None:
        yield from map(_stem, plan.adaptation.text.files)


def _stem(path: str) -> str:
    return Path(path).name.partition(".")[0]


def _results(plan: StudyPlan, store: Store, graph: Graph, name: str) -> Results:
    """Scores of a shipped model: empty where its node has none that fit the plan."""
    node = shipped_node(plan, name).replace("train-", "evaluate-", 1)
    return store.results_of(node) if node in graph and store.is_current(graph, node) else {}


def _summary(plan: StudyPlan, facts: Facts) -> str:
    assert plan.shipped is not None
    arm, adaptation = plan.arms[plan.shipped.models[facts.name]], plan.adaptation
    adapted = ""
    if arm.objective != "none" and adaptation is not None:
        tokens = adaptation.num_steps * adaptation.step_tokens
        adapted = f"adapted by {OBJECTIVES[arm.objective]} on {tokens:,} tokens, then "
    steps = (arm.num_steps or plan.fine_tuning.num_steps) + plan.shipped.further_steps
    return (
        f"Text embeddings from {facts.config.base}: {facts.config.attention} attention, {facts.config.pooling} "
        f"pooling, {adapted}fine-tuned contrastively for {steps:,} steps. One LoRA adapter of rank {facts.rank}; reads "
        f"{facts.config.max_tokens:,} tokens."
    )


def _use(name: str) -> str:
    return (
        "```python\nfrom diffembed import Embedder\n\n"
        f'embedder = Embedder.load("{name}")\n'
        'queries = embedder.encode_queries([...], instruction="Given a question, retrieve passages that answer it")\n'
        "documents = embedder.encode_documents([...])\n```\n\n"
        f"`diffembed export {name} FOLDER` writes a folder that plain sentence-transformers loads."
    )


def _scores(plan: StudyPlan, systems: Mapping[str, Results]) -> list[Block]:
    mine = next(iter(systems.values()))
    if not mine:
        return [Paragraph("Not scored yet.")]
    rows = []
    for task, result in mine.items():
        interval = result.scores[result.main]
        others = [found[task].value if task in found else None for found in list(systems.values())[1:]]
        rows.append(
            [
                task + (" \\*" if is_in_domain(plan, task) else ""),
                result.main,
                f"{100 * interval.value:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})",
                *("-" if value is None else f"{100 * value:.1f}" for value in others),
            ]
        )
    limit = plan.evaluation.max_tokens
    cut = f", texts cut at {limit:,} tokens" if limit is not None else ""
    return [
        Paragraph(
            f"Points of 100 with 95 % intervals over queries{cut}. \\*: trained on rows of the same kind. None of "
            "these sets decided anything in training."
        ),
        Table(["task", "measure", *systems], rows),
    ]


def _training(plan: StudyPlan, store: Store, facts: Facts) -> list[Block]:
    assert plan.shipped is not None
    licences = plan.shipped.licences
    arm = plan.arms[plan.shipped.models[facts.name]]
    blocks: list[Block] = []
    if arm.objective != "none" and plan.adaptation is not None:
        record = store.record(adaptation_name(arm.objective)) or {}
        blocks += [
            Paragraph(
                f"Adaptation: {OBJECTIVES[arm.objective]}, {plan.adaptation.num_steps} steps of "
                f"{plan.adaptation.step_tokens:,} tokens, {record.get('seconds', 0) / 60:.0f} minutes."
            ),
            Table(["text", "licence"], [[name, licences[name]] for name in _texts(plan)]),
        ]
    weights = plan.fine_tuning.data.mix.weights
    rows = [[name, f"{weights[name]:g}" if name in weights else "-", licences[name]] for name in _row_sets(plan)]
    shared = plan.fine_tuning
    batch = f"{shared.batch.rows} rows a step"
    if plan.shipped.further_steps and plan.shipped.batch is not None:
        batch += f", {plan.shipped.batch.rows} in the last {plan.shipped.further_steps:,}"
    blocks += [
        Paragraph(
            f"Fine-tuning: {batch}; queries were read to {shared.batch.query_max_tokens} tokens, documents to "
            f"{shared.batch.document_max_tokens}. Study `{plan.name}`, node `{facts.node}`; keys, hashes of all inputs "
            "and versions: provenance.json."
        ),
        Table(["rows", "share of batches", "licence"], rows),
    ]
    return blocks


def _limits(plan: StudyPlan, facts: Facts, systems: Mapping[str, Results]) -> list[str]:
    lines = [
        "Trained on English only, and on little: it is the arm of a study of what the objective does, not a general "
        "embedder at the size of published ones.",
        f"Fine-tuned on texts of at most {plan.fine_tuning.batch.document_max_tokens} tokens; longer ones are read, up "
        f"to {facts.config.max_tokens:,} tokens, but were never trained on.",
    ]
    mine, *others = systems.values()
    names = list(systems)[1:]
    for name, found in zip(names, others, strict=True):
        behind = [task for task, result in mine.items() if task in found and found[task].value > result.value]
        if behind:
            lines.append(f"Scores below {name} on {', '.join(behind)}.")
    return lines
