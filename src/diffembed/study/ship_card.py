"""The card of a shipped model: use, scores, data with licences, provenance, limits.

Read `make_card`. Every number is read from the plan or from stored results, and so is every limit.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffembed.backbones.registry import MODELS, find_model
from diffembed.embedding.checkpoint import EmbedderConfig
from diffembed.evaluation.scoring import TaskResult
from diffembed.study.contamination import stored_contamination
from diffembed.study.findings import marked
from diffembed.study.graph import Graph, adaptation_name, shipped_node
from diffembed.study.page import Block, Heading, Items, Paragraph, Table, render_markdown
from diffembed.study.plan import StudyPlan
from diffembed.study.sections import ShippedPlan
from diffembed.study.store import Store
from diffembed.training.config import BatchConfig, DataConfig

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
    scored = _results_by_column(plan, store, graph)
    mine = scored.pop(facts.name, {})
    others = {name: same for name, found in scored.items() if (same := _on_the_same_tasks(found, mine))}
    spec = find_model(facts.config.base)
    licence = spec.licence if spec is not None else "that of the base weights"
    blocks: list[Block] = [
        Heading(facts.name, level=1),
        Paragraph(_summary(plan, plan.shipped, facts)),
        Paragraph(_use(facts.name)),
        Heading("Scores"),
        *_scores(plan, plan.shipped, facts.name, mine, others),
        Heading("What it was trained on"),
        *_training(plan, plan.shipped, store, facts),
        Heading("Limits"),
        Items(_limits(plan, plan.shipped, store, facts, mine, others)),
        Heading("Licence"),
        Paragraph(
            f"The adapter is a derivative of {facts.config.base} and is bound by the terms of those weights: "
            f"{licence}. The NOTICE goes with it wherever it goes. The training data keep their licences, listed above."
        ),
    ]
    matter = [
        "---",
        "license: other",
        f"license_name: {json.dumps(licence)}",
        "pipeline_tag: sentence-similarity",
        "tags: [feature-extraction, diffembed]",
        "---",
    ]
    return "\n".join(matter) + "\n" + render_markdown(blocks), len(mine)


def _results_by_column(plan: StudyPlan, store: Store, graph: Graph) -> dict[str, dict[str, TaskResult]]:
    """Results of every shipped model, over all nodes that score it, and of every baseline that has any."""
    assert plan.shipped is not None
    current = [node for name, node in graph.items() if node.kind == "evaluate" and store.is_current(graph, name)]
    found = {
        name: {
            task: result
            for node in current
            if node.parent == shipped_node(plan, name)
            for task, result in store.results_of(node.name).items()
        }
        for name in plan.shipped.models
    }
    for node in current:
        if node.parent is None:
            found[node.arm] = {**found.get(node.arm, {}), **store.results_of(node.name)}
    return {system: results for system, results in found.items() if results}


def _summary(plan: StudyPlan, shipped: ShippedPlan, facts: Facts) -> str:
    arm, adaptation = plan.arms[shipped.models[facts.name]], plan.adaptation
    adapted = ""
    if arm.objective != "none" and adaptation is not None:
        tokens = adaptation.num_steps * adaptation.step_tokens
        adapted = f"adapted by {OBJECTIVES[arm.objective]} on {tokens:,} tokens, then "
    steps = sum(stage.num_steps for stage in _stages(plan, shipped, facts.name))
    return (
        f"Text embeddings from {facts.config.base}: {facts.config.attention} attention, {facts.config.pooling} "
        f"pooling, {adapted}fine-tuned contrastively for {steps:,} steps. One LoRA adapter of rank {facts.rank}; reads "
        f"{facts.config.max_tokens:,} tokens."
    )


def _use(name: str) -> str:
    spec = MODELS.get(name)
    place = name if spec is not None and spec.source == "shipped" else "path/to/this/folder"
    return (
        "```python\nfrom diffembed import Embedder\n\n"
        f'embedder = Embedder.load("{place}")\n'
        'queries = embedder.encode_queries([...], instruction="Given a question, retrieve passages that answer it")\n'
        "documents = embedder.encode_documents([...])\n```\n\n"
        f"`diffembed export {place} FOLDER` writes a folder that plain sentence-transformers loads."
    )


def _scores(
    plan: StudyPlan, shipped: ShippedPlan, name: str, mine: Results, others: Mapping[str, Results]
) -> list[Block]:
    if not mine:
        return [Paragraph("Not scored yet.")]
    rows = []
    for task, result in mine.items():
        interval, cut = result.scores[result.main], result.truncated_fraction
        rows.append(
            [
                marked(task, plan.shipped_row_sets),
                result.main,
                "-" if cut is None else f"{100 * cut:.0f} %",
                f"{100 * interval.value:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})",
                *(f"{100 * found[task].value:.1f}" if task in found else "-" for found in others.values()),
            ]
        )
    limits = "; ".join(f"{column} {_token_limits(found)}" for column, found in {name: mine, **others}.items())
    return [
        Paragraph(
            "Points of 100 with 95 % intervals over queries; cut: documents that this model did not read to their end. "
            f"\\*: trained on rows of the same kind. {name} was scored in {shipped.dtype or plan.dtype}. Tokens at "
            f"which texts are cut: {limits}."
        ),
        Table(["task", "measure", "cut", name, *others], rows),
    ]


def _token_limits(results: Results) -> str:
    readings = [result.documents or result.queries for result in results.values()]
    limits = sorted({reading.max_tokens for reading in readings if reading is not None})
    return " or ".join(f"{limit:,}" for limit in limits) or "none"


def _on_the_same_tasks(found: Results, mine: Results) -> dict[str, TaskResult]:
    """The results on tasks that the model of the card was scored on too, down to the last text."""
    return {task: r for task, r in found.items() if task in mine and mine[task].task_hash == r.task_hash}


def _training(plan: StudyPlan, shipped: ShippedPlan, store: Store, facts: Facts) -> list[Block]:
    arm = plan.arms[shipped.models[facts.name]]
    blocks: list[Block] = []
    if arm.objective != "none" and plan.adaptation is not None:
        seconds = (store.record(adaptation_name(arm.objective)) or {}).get("seconds", 0)
        blocks += [
            Paragraph(
                f"Adaptation: {OBJECTIVES[arm.objective]}, {plan.adaptation.num_steps} steps of "
                f"{plan.adaptation.step_tokens:,} tokens, {seconds / 60:.0f} minutes."
            ),
            Table(["text", "licence"], [[name, shipped.licences[name]] for name in plan.texts]),
        ]
    stages = _stages(plan, shipped, facts.name)
    batches = f"{stages[0].num_steps:,} steps of {stages[0].batch.rows} rows"
    batches += "".join(f", then {stage.num_steps:,} of {stage.batch.rows}" for stage in stages[1:])
    columns = _share_columns(stages)
    rows = [
        [name, *(_share(name, data) for data in columns.values()), shipped.licences[name]]
        for name in plan.shipped_row_sets
    ]
    blocks += [
        Paragraph(
            f"Fine-tuning: {batches}, read to {_longest(plan, shipped):,} tokens at most. Study `{plan.name}`, node "
            f"`{facts.node}`; keys, hashes of all inputs and versions: provenance.json."
        ),
        Table(["rows", *columns, "licence"], rows),
    ]
    return blocks


def _share(name: str, data: DataConfig) -> str:
    weights = data.mix.weights
    return f"{100 * weights[name] / sum(weights.values()):.0f} %" if name in weights else "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stage:
    """One fine-tuning that a shipped model went through."""

    num_steps: int
    batch: BatchConfig
    data: DataConfig


def _stages(plan: StudyPlan, shipped: ShippedPlan, name: str) -> list[_Stage]:
    """The fine-tuning of the arm, then each stage of further training."""
    arm, tuning = plan.arms[shipped.models[name]], plan.fine_tuning
    first = _Stage(num_steps=arm.num_steps or tuning.num_steps, batch=tuning.batch, data=tuning.data)
    return [first] + [
        _Stage(num_steps=stage.num_steps, batch=stage.batch or tuning.batch, data=stage.data or tuning.data)
        for stage in shipped.further
    ]


def _share_columns(stages: Sequence[_Stage]) -> dict[str, DataConfig]:
    """Title of a column -> the rows of the stages that share it."""
    chosen: list[tuple[DataConfig, list[str]]] = []
    for number, stage in enumerate(stages, 1):
        same = [numbers for data, numbers in chosen if data == stage.data]
        if same:
            same[0].append(str(number))
        else:
            chosen.append((stage.data, [str(number)]))
    if len(chosen) == 1:
        return {"share of batches": chosen[0][0]}
    return {
        f"share of stage{'s' if len(numbers) > 1 else ''} {' and '.join(numbers)}": data for data, numbers in chosen
    }


def _longest(plan: StudyPlan, shipped: ShippedPlan) -> int:
    """Tokens of the longest text that fine-tuning read."""
    batches = [plan.fine_tuning.batch, *(stage.batch for stage in shipped.further if stage.batch is not None)]
    return max(max(batch.query_max_tokens, batch.document_max_tokens) for batch in batches)


def _limits(
    plan: StudyPlan,
    shipped: ShippedPlan,
    store: Store,
    facts: Facts,
    mine: Results,
    others: Mapping[str, Results],
) -> list[str]:
    lines = [
        *shipped.limits,
        f"Fine-tuned on texts of at most {_longest(plan, shipped):,} tokens; longer ones are read, up to "
        f"{facts.config.max_tokens:,} tokens, but no pair of them was trained on.",
    ]
    held = Counter(f.task for f in stored_contamination(plan, store).findings if f.kind == "gold document")
    lines += [
        f"{count:,} gold documents of {task} stand in the study's training data too, without their queries."
        for task, count in sorted(held.items())
    ]
    if plan.evaluation.seen:
        lines.append(f"In training text of another kind too: {', '.join(plan.evaluation.seen)}.")
    for name, found in others.items():
        behind = [task for task, result in mine.items() if task in found and found[task].value > result.value]
        if behind:
            lines.append(f"Scores below {name} on {', '.join(behind)}.")
    return lines
