"""The accounts of a study: learning rates, cost, machines, and what training has seen of the tests.

Read `cost_blocks`. The last sections of the report, made like all of it from stored results alone.
"""

import json
from collections.abc import Sequence
from dataclasses import fields

from diffembed.provenance import to_plain
from diffembed.study.contamination import is_compared
from diffembed.study.cost import costs_key, predicted_share
from diffembed.study.findings import Findings, marked
from diffembed.study.page import Block, Heading, Items, Paragraph, Table
from diffembed.study.run import chosen_rates
from diffembed.study.sections import FamilyPlan
from diffembed.study.store import FAMILY, Store
from diffembed.training.adapt_config import AdaptConfig
from diffembed.training.config import TrainConfig


def rates_blocks(findings: Findings, store: Store) -> list[Block]:
    """The learning rates that were tried and chosen."""
    plan = findings.plan
    if plan.learning_rates is None:
        return []
    chosen = chosen_rates(plan, store)
    lines = [
        f"{attention}: {chosen[attention]:g}" if attention in chosen else f"{attention}: not chosen yet"
        for attention in plan.learning_rates.probes
    ]
    tried = ", ".join(f"{value:g}" for value in plan.learning_rates.values)
    return [
        Heading("Learning rates"),
        Paragraph(f"Tried in each attention: {tried}; chosen on {', '.join(plan.learning_rates.suites)}."),
        Items(lines),
    ]


def cost_blocks(findings: Findings, store: Store) -> list[Block]:
    """Tokens, hours and FLOPs of each arm."""
    plan = findings.plan
    costs_path = store.results / "costs.json"
    counted = json.loads(costs_path.read_text(encoding="utf-8")) if costs_path.is_file() else {}
    costs = counted["arms"] if counted.get("key") == costs_key(plan) else {}
    rows = []
    for name, arm in plan.arms.items():
        mine = [
            (n, findings.records[n.name])
            for n in findings.graph.values()
            if n.arm == name and n.name in findings.records
        ]
        trains = [record for node, record in mine if node.kind == "train"]
        scored = [record for node, record in mine if node.kind == "evaluate"]
        adapt = findings.records.get(f"adapt-{arm.objective}")
        config = findings.graph[f"adapt-{arm.objective}"].config if arm.objective != "none" else None
        predicted = "-"
        if isinstance(config, AdaptConfig) and plan.adaptation is not None:
            read = plan.adaptation.num_steps * plan.adaptation.step_tokens
            predicted = (
                f"{read * predicted_share(config.objective, config.text.row_tokens) / 1e6:.2f} of {read / 1e6:.2f} M"
            )
        cost = costs.get(name, {})
        rows.append(
            [
                name,
                predicted,
                "-" if adapt is None else _hours(adapt["seconds"]),
                _hours(mean([r["seconds"] for r in trains])) if trains else "-",
                f"{mean([r['report']['tokens_per_s'] for r in trains]):,.0f}" if trains else "-",
                _hours(mean([r["seconds"] for r in scored])) if scored else "-",
                f"{cost['flops'] / 1e15:.2f}" if cost else "-",
                f"{cost['keys_seen']:,}" if cost.get("keys_seen") else "-",
            ]
        )
    sliding = (
        " A sliding layer is no equal either: see the keys a token sees in it, on one side where attention is causal "
        "and on both where it is bidirectional."
        if any(cost.get("keys_seen") for cost in costs.values())
        else ""
    )
    return [
        Heading("Cost"),
        Paragraph(
            "Equal tokens are a control of the data, not of the compute: the objectives predict different shares of "
            "what they read." + sliding + " One seed, on average; PFLOP: adaptation and fine-tuning, counted from "
            "the shapes. Hours and tokens/s are of the processors below, partly beside other work: they cannot be "
            "compared between arms, PFLOP can."
        ),
        Table(
            ["arm", "predicted in adaptation", "adapt, h", "fine-tune, h", "tokens/s", "evaluate, h", "PFLOP", "keys"],
            rows,
        ),
    ]


def machines_blocks(findings: Findings) -> list[Block]:
    """Processors and versions, and how many nodes each computed: more than one line is a difference between arms."""
    counts: dict[str, int] = {}
    for record in findings.records.values():
        env = record["environment"]
        versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
        name = f"{env['processor']}, {env['num_cores']} cores; {versions}"
        counts[name] = counts.get(name, 0) + 1
    if not counts:
        return []
    lines = [f"{name}: {count} nodes" for name, count in sorted(counts.items())]
    return [Heading("Where it was computed"), Items([*lines, *_unlike(findings)])]


def _unlike(findings: Findings) -> list[str]:
    """Nodes of one kind that were made by different code, or read other weights or rows than they should share."""
    codes: dict[str, dict[str, list[str]]] = {}
    read: dict[str, dict[str, list[str]]] = {}
    for name, record in findings.records.items():
        node = findings.graph[name]
        if node.is_further:
            continue
        codes.setdefault(node.kind, {}).setdefault(record["code_key"], []).append(name)
        if isinstance(node.config, TrainConfig):
            rows = f"training rows of seed {node.config.run.seed}"
            read.setdefault(rows, {}).setdefault(record["read"]["training rows"], []).append(name)
        if isinstance(node.config, TrainConfig | AdaptConfig):
            weights = f"base weights of {node.config.model.name}"
            read.setdefault(weights, {}).setdefault(record["read"].get("base weights", ""), []).append(name)
    found = [(f"Different code made the {kind} nodes", versions) for kind, versions in codes.items()]
    found += [(f"Not all read the same {what}", versions) for what, versions in read.items()]
    return [
        f"{said}: {'; '.join(', '.join(names) for names in versions.values())}"
        for said, versions in found
        if len(versions) > 1
    ]


def family_blocks(findings: Findings, store: Store) -> list[Block]:
    """A warning where the comparisons are not those that were kept before the first result."""
    path = store.results / FAMILY
    if not path.is_file():
        return []
    before, now = json.loads(path.read_text(encoding="utf-8")), to_plain(findings.plan.primary)
    # An option that did not exist then stood at what is its default now.
    defaults = {field.name: to_plain(field.default) for field in fields(FamilyPlan)}
    changed = sorted(key for key in now if before.get(key, defaults[key]) != now[key])
    if not changed:
        return []
    return [Paragraph(f"**The primary family was changed after the first result:** {', '.join(changed)} ({FAMILY}).")]


def contamination_blocks(findings: Findings, store: Store) -> list[Block]:
    """What training holds of the tests."""
    path = store.results / "contamination.json"
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    is_stale, seen = not is_compared(findings.plan, store), findings.plan.evaluation.seen
    kinds: dict[tuple[str, str], int] = {}
    for finding in found["findings"]:
        kinds[finding["kind"], finding["task"]] = kinds.get((finding["kind"], finding["task"]), 0) + 1
    counts: dict[str, list[str]] = {}
    for (kind, task), count in sorted(kinds.items()):
        counts.setdefault(task, []).append(_counted(count, kind))
    rows = [
        [
            marked(task, findings.plan.shipped_row_sets),
            f"{facts['num_texts']:,}",
            f"{100 * facts['mean_cover']:.1f} %",
            f"{100 * facts['max_cover']:.0f} %",
            ", ".join(counts.get(task, ["none"])),
        ]
        for task, facts in found["tasks"].items()
    ]
    # Sentences of passkey and needle tasks are sought whatever is tested, and belong to all lengths.
    rows += [[task, "-", "-", "-", ", ".join(counts[task])] for task in sorted(counts.keys() - found["tasks"].keys())]
    return [
        Heading("What training has seen of the tests"),
        Paragraph(
            f"{found['num_row_texts']:,} texts of training rows and {found['num_text_words']:,} words of adaptation "
            "text were compared with every test. A query, a (query, gold) pair, a gold document "
            "of which more than a fifth of the runs of 13 words occur, or a passkey or needle sentence stops the "
            "study; gold documents of sets that share them with training by design (package descriptions, abstracts) "
            "are counted instead. \\* in-domain."
            + (f" In other training text too, and left in the test: {', '.join(seen)}." if seen else "")
            + (" **This was the check of an earlier plan; the next node makes it anew.**" if is_stale else "")
        ),
        Table(["task", "texts", "mean cover", "largest cover", "found"], rows),
    ]


def _counted(count: int, kind: str) -> str:
    many = "queries" if kind == "query" else f"{kind}s"
    return f"{count:,} {kind if count == 1 else many}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)
