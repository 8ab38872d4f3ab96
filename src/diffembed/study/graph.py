"""From a plan to nodes: adapt, then train, then evaluate and direction; each with all that its result depends on.

Read `make_graph`. A node's config holds no path of this machine; what it reads is named by the node it comes from.
Knows nothing of the disk.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from diffembed.backbones.registry import Attention
from diffembed.errors import ConfigError
from diffembed.evaluation.results import slug
from diffembed.evaluation.suites.named import SUITES
from diffembed.provenance import choices, hash_config
from diffembed.study.plan import StudyPlan
from diffembed.study.sections import Objective
from diffembed.training.adapt_config import AdaptConfig, ObjectiveConfig
from diffembed.training.config import ModelConfig, RunConfig, TrainConfig

Kind = Literal["adapt", "train", "evaluate", "direction"]
FURTHER_SEED = 1_000
"""Added to the seed of an arm at each stage of further training, so that it meets its rows in another order."""
PLACE = "-"
"""Stands in a config for the folder of the run, which is no part of what it computes."""
CODE: Mapping[Kind, tuple[str, ...]] = {
    "adapt": ("diffembed.training.adapt", "diffembed.study.weights"),
    "train": ("diffembed.training.contrast", "diffembed.study.weights"),
    "evaluate": ("diffembed.evaluation.run", "diffembed.study.loading"),
    "direction": ("diffembed.analysis.direction", "diffembed.evaluation.run", "diffembed.study.loading"),
}
"""Kind -> modules whose code makes the result."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What a model is scored on, and how it is read."""

    suites: Mapping[str, tuple[str, ...]]
    """Suite -> tasks, empty for all."""
    system: str | None
    """Name of a baseline; None for the model of the node before."""
    max_tokens: int | None
    counted_by: str
    dtype: str
    seed: int
    num_ranges: int | None = None
    """Ranges of layers of a direction node."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One piece of compute whose result is kept."""

    name: str
    kind: Kind
    config: AdaptConfig | TrainConfig | ScoreConfig
    parent: str | None = None
    """Node whose model it starts from."""
    weights: str = "model"
    """Folder of that model in the parent's result."""
    waits_for: tuple[str, ...] = ()
    """Nodes that must be done because the config follows from their results."""
    kept_steps: tuple[int, ...] = ()
    """Steps of an adaptation whose models are kept besides the last."""
    arm: str = ""
    """The arm of a train, evaluate or direction node; empty where there is none."""
    seed: int | None = None
    """Fine-tuning seed of the arm."""
    joined_rank: int | None = None
    """Rank that the adapters of the parent are joined to before this node trains on; None takes them as they are."""
    is_further: bool = False
    """True for a model that was trained on for users, and for what it is held against there: no part of the
    comparison, whose arms share steps, rows and tasks."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Every node that must be done before."""
        return (*([self.parent] if self.parent else []), *self.waits_for)


Graph = Mapping[str, Node]
"""Name -> node, parents first."""


def config_key(graph: Graph, name: str) -> str:
    """Hash of a node's choices and of those it builds on: equal plans give equal keys on every machine.

    Fields at their default do not count, so that an option that did not exist when a result was made leaves it valid.
    A default that changes is seen as changed code only, which reports and runs with `accepts_code` do not ask for; a
    test pins the defaults (tests/study/defaults.json).
    """
    node = graph[name]
    before: list[Any] | None = None if node.parent is None else [node.weights, config_key(graph, node.parent)]
    if before is not None and node.joined_rank is not None:
        before.append(node.joined_rank)
    return hash_config({"kind": node.kind, "config": choices(_computed(node.config)), "parent": before})


def _computed(config: AdaptConfig | TrainConfig | ScoreConfig) -> AdaptConfig | TrainConfig | ScoreConfig:
    """The config without what changes no result: how often a run saves, measures and logs."""
    if isinstance(config, ScoreConfig):
        return config
    run = replace(
        config.run,
        save_every_steps=RunConfig.save_every_steps,
        keep_checkpoints=RunConfig.keep_checkpoints,
        log_every_steps=RunConfig.log_every_steps,
    )
    if isinstance(config, AdaptConfig):
        return replace(config, run=run, measure_every_steps=AdaptConfig.measure_every_steps)
    return replace(config, run=run)


def ancestors(graph: Graph, name: str) -> list[str]:
    """All nodes that a node needs, near and far, in the order they are made."""
    found: set[str] = set()
    waiting = list(graph[name].needs)
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting += graph[other].needs
    return [other for other in graph if other in found]


def make_graph(plan: StudyPlan, rates: Mapping[Attention, float] | None = None) -> dict[str, Node]:
    """Every node of a study. rates: attention -> learning rate chosen so far; runs of other attentions wait."""
    nodes = [*_adaptations(plan), *_rate_probes(plan), *_arms(plan, rates or {}), *_curve(plan, rates or {})]
    nodes += [*_shipped(plan, rates or {}), *_baselines(plan), *_shipped_baselines(plan)]
    order: Mapping[Kind, int] = {"adapt": 0, "train": 1, "evaluate": 2, "direction": 3}
    probes = {node.name for node in _rate_probes(plan)}
    names = Counter(node.name for node in nodes)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"two nodes would be named {twice[0]}; suites of one folder name need other names")
    nodes.sort(key=lambda node: (node.kind != "adapt", node.name not in probes, order[node.kind]))
    return {node.name: node for node in nodes}


def adaptation_name(objective: Objective) -> str:
    """Node of an objective."""
    return f"adapt-{objective}"


def rate_probes(plan: StudyPlan) -> dict[Attention, dict[float, str]]:
    """Attention -> learning rate -> the node that scores it."""
    rates = plan.learning_rates
    if rates is None:
        return {}
    return {
        attention: {value: f"evaluate-rate-{attention}-{value:g}" for value in rates.values}
        for attention in rates.probes
    }


def _adaptations(plan: StudyPlan) -> list[Node]:
    settings = plan.adaptation
    if settings is None:
        return []
    backbone = next(plan.factors(name)["backbone"] for name, arm in plan.arms.items() if arm.objective != "none")
    nodes = []
    for objective in plan.objectives:
        kept: tuple[int, ...] = ()
        if plan.curve is not None and plan.arms[plan.curve.arm].objective == objective:
            kept = plan.curve.at_steps
        config = AdaptConfig(
            model=_model(plan, backbone, None, "mean"),
            text=settings.text,
            objective=ObjectiveConfig(kind=objective),  # type: ignore[arg-type]
            lora=settings.lora,
            batch=settings.batch,
            optimiser=settings.optimiser,
            measure_every_steps=settings.measure_every_steps,
            run=RunConfig(
                output=PLACE,
                seed=settings.seed,
                schedule_steps=settings.num_steps,
                save_every_steps=settings.save_every_steps,
                # All of them, so that a curve can be asked for while the run is under way.
                keep_checkpoints=settings.num_steps // settings.save_every_steps + 1,
                log_every_steps=5,
            ),
        )
        nodes.append(Node(name=adaptation_name(objective), kind="adapt", config=config, kept_steps=kept))
    if plan.evaluation.adapted_only:
        nodes += [
            _evaluate(plan, f"evaluate-adapted-{objective}", adaptation_name(objective), arm=f"adapted-{objective}")
            for objective in plan.objectives
        ]
    return nodes


def _arms(plan: StudyPlan, rates: Mapping[Attention, float]) -> list[Node]:
    nodes = []
    for name, arm in plan.arms.items():
        rate, waits_for = _rate(plan, arm.attention, rates)
        for seed in arm.seeds:
            train = _train(plan, name, seed, rate, waits_for)
            nodes += [train, _evaluate(plan, f"evaluate-{name}-s{seed}", train.name, arm=name, seed=seed)]
            if plan.direction is not None and name in plan.direction.arms and seed == arm.seeds[0]:
                direction = _score(plan, plan.direction.suites, num_ranges=plan.direction.num_ranges)
                nodes.append(
                    Node(name=f"direction-{name}", kind="direction", config=direction, parent=train.name, arm=name,
                         seed=seed)
                )  # fmt: skip
    return nodes


def _curve(plan: StudyPlan, rates: Mapping[Attention, float]) -> list[Node]:
    if plan.curve is None:
        return []
    name, nodes = plan.curve.arm, []
    arm = plan.arms[name]
    rate, waits_for = _rate(plan, arm.attention, rates)
    for step in plan.curve.at_steps:
        train = replace(
            _train(plan, name, arm.seeds[0], rate, waits_for),
            name=f"train-{name}@{step}",
            weights=f"model-{step}",
            arm=f"{name}@{step}",
        )
        nodes += [train, _evaluate(plan, f"evaluate-{name}@{step}", train.name, arm=train.arm, seed=arm.seeds[0])]
    return nodes


def shipped_node(plan: StudyPlan, name: str) -> str:
    """The train node whose model is shipped under a name."""
    assert plan.shipped is not None
    arm, last = plan.shipped.models[name], len(plan.shipped.further)
    return further_name(name, last) if last else f"train-{arm}-s{plan.arms[arm].seeds[0]}"


def further_name(name: str, stage: int) -> str:
    """Train node of a stage of further training, counted from 1."""
    return f"train-{name}" if stage == 1 else f"train-{name}-{stage}"


def _shipped(plan: StudyPlan, rates: Mapping[Attention, float]) -> list[Node]:
    shipped, nodes = plan.shipped, []
    if shipped is None or not shipped.further:
        return []
    for name, arm in shipped.models.items():
        seed = plan.arms[arm].seeds[0]
        rate, waits_for = _rate(plan, plan.arms[arm].attention, rates)
        last = first = _train(plan, arm, seed, rate, waits_for)
        assert isinstance(first.config, TrainConfig)
        for stage, further in enumerate(shipped.further, 1):
            config = replace(
                first.config,
                model=replace(first.config.model, dtype=further.dtype or plan.dtype),
                data=further.data or first.config.data,
                batch=further.batch or first.config.batch,
                run=replace(first.config.run, seed=seed + stage * FURTHER_SEED, schedule_steps=further.num_steps),
            )
            last = Node(
                name=further_name(name, stage), kind="train", config=config, parent=last.name, arm=name, seed=seed,
                joined_rank=further.joined_rank, is_further=True,
            )  # fmt: skip
            nodes.append(last)
        # A node for each suite, for all of them take hours.
        for suite, tasks in (shipped.suites or plan.evaluation.suites).items():
            score = replace(
                _score(plan, {suite: tasks}),
                max_tokens=shipped.max_tokens or plan.evaluation.max_tokens,
                dtype=shipped.dtype or plan.dtype,
            )
            scored = f"evaluate-{name}-{slug(Path(suite).name)}"
            nodes.append(Node(name=scored, kind="evaluate", config=score, parent=last.name, arm=name, is_further=True))
    return nodes


def _rate_probes(plan: StudyPlan) -> list[Node]:
    rates = plan.learning_rates
    if rates is None:
        return []
    nodes = []
    for attention, by_value in rate_probes(plan).items():
        arm = rates.probes[attention]
        for value, name in by_value.items():
            train = replace(
                _train(plan, arm, plan.arms[arm].seeds[0], value, ()), name=name.replace("evaluate-", "train-"), arm=""
            )
            nodes += [
                train,
                Node(name=name, kind="evaluate", config=_score(plan, rates.suites), parent=train.name),
            ]
    return nodes


def _baselines(plan: StudyPlan) -> list[Node]:
    return [
        Node(
            name=_baseline_name(system),
            kind="evaluate",
            config=_score(plan, plan.evaluation.suites, system=system),
            arm=system,
        )
        for system in plan.evaluation.baselines
    ]


def _shipped_baselines(plan: StudyPlan) -> list[Node]:
    """Baselines on the tasks of shipped models that they are not scored on beside the arms."""
    shipped, evaluated = plan.shipped, plan.evaluation.suites
    if shipped is None or not shipped.baselines:
        return []
    known = {
        task for suite, tasks in evaluated.items() if suite in SUITES for task in tasks or SUITES[suite].task_names
    }
    beyond = {
        suite: tuple(task for task in tasks or SUITES[suite].task_names if task not in known)
        if suite in SUITES
        else tasks
        for suite, tasks in shipped.suites.items()
        if evaluated.get(suite) != tasks
    }
    beyond = {suite: tasks for suite, tasks in beyond.items() if tasks or suite not in SUITES}
    if not beyond:
        raise ConfigError("shipped.baselines has no effect: evaluation scores every task of shipped.suites")
    config = replace(_score(plan, beyond), max_tokens=shipped.max_tokens or plan.evaluation.max_tokens)
    return [
        Node(
            name=f"{_baseline_name(system)}-beyond",
            kind="evaluate",
            config=replace(config, system=system),
            arm=system,
            is_further=True,
        )
        for system in shipped.baselines
    ]


def _baseline_name(system: str) -> str:
    return f"evaluate-{system.replace(':', '-').replace('/', '-')}"


def _rate(
    plan: StudyPlan, attention: Attention, rates: Mapping[Attention, float]
) -> tuple[float | None, tuple[str, ...]]:
    """(learning rate or None while it is not chosen, nodes that decide it)."""
    if plan.learning_rates is None:
        return plan.fine_tuning.optimiser.learning_rate, ()
    return rates.get(attention), tuple(rate_probes(plan)[attention].values())


def _train(plan: StudyPlan, name: str, seed: int, rate: float | None, waits_for: tuple[str, ...]) -> Node:
    arm, shared, factors = plan.arms[name], plan.fine_tuning, plan.factors(name)
    optimiser = shared.optimiser if rate is None else replace(shared.optimiser, learning_rate=rate)
    config = TrainConfig(
        model=_model(plan, factors["backbone"], arm.attention, arm.pooling),
        data=shared.data,
        loss=shared.loss,
        lora=shared.lora,
        batch=shared.batch,
        optimiser=optimiser,
        template=replace(shared.template, pools_instruction=arm.pools_instruction),
        run=RunConfig(
            output=PLACE,
            seed=seed,
            schedule_steps=factors["num_steps"],
            save_every_steps=shared.save_every_steps,
            log_every_steps=5,
        ),
    )
    parent = None if arm.objective == "none" else adaptation_name(arm.objective)
    return Node(
        name=f"train-{name}-s{seed}", kind="train", config=config, parent=parent, waits_for=waits_for, arm=name,
        seed=seed,
    )  # fmt: skip


def _evaluate(plan: StudyPlan, name: str, parent: str, *, arm: str, seed: int | None = None) -> Node:
    return Node(
        name=name, kind="evaluate", config=_score(plan, plan.evaluation.suites), parent=parent, arm=arm, seed=seed
    )


def _score(plan: StudyPlan, suites: Mapping[str, tuple[str, ...]], **settings: Any) -> ScoreConfig:
    evaluation = plan.evaluation
    return ScoreConfig(
        suites=suites,
        system=settings.pop("system", None),
        max_tokens=evaluation.max_tokens,
        counted_by=evaluation.counted_by,
        dtype=plan.dtype,
        seed=plan.seed,
        **settings,
    )


def _model(plan: StudyPlan, backbone: str, attention: Attention | None, pooling: str) -> ModelConfig:
    return ModelConfig(
        name=backbone,
        attention=attention,
        pooling=pooling,
        dtype=plan.dtype,
        gradient_checkpointing=plan.gradient_checkpointing,
    )
