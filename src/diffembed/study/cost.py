"""What each arm of a plan costs before it is run: tokens read, tokens predicted, FLOPs, memory, keys a layer sees.

Read `arm_costs`. Equal tokens are a control of the data, not of the compute: a diffusion loss predicts about half of
what it reads, a causal one nearly all of it. Knows nothing of results.
"""

import json
import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diffembed.backbones.attention import window_reach
from diffembed.backbones.contract import layer_windows
from diffembed.backbones.loading import locate
from diffembed.backbones.registry import Attention, find_model
from diffembed.errors import CheckpointError
from diffembed.provenance import choices, hash_config, write_json
from diffembed.study.graph import make_graph
from diffembed.study.plan import StudyPlan
from diffembed.training.adapt_config import AdaptConfig, ObjectiveConfig
from diffembed.training.config import TrainConfig
from diffembed.training.plan import Plan, plan_training
from diffembed.training.settings import resolve_name
from diffembed.training.shapes import Shape, shape_of

TIMES = 1000
"""Points of the time axis that a schedule's mean masking rate is taken from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmCost:
    """One arm, one seed."""

    arm: str
    attention: Attention
    objective: str
    adapt_tokens: int
    predicted_tokens: int
    """Tokens of the adaptation whose prediction is part of the loss, expected."""
    adapt_flops: float
    tune_tokens: int
    """Tokens of fine-tuning, or the most that the limits allow where rows or tokenizer are out of reach."""
    tune_flops: float
    num_trained: int
    """Weights of one adapter."""
    peak_bytes: int
    """Of fine-tuning, planned."""
    keys_seen: int | None
    """Keys that a token in the middle sees in a sliding layer while fine-tuning; None without such layers."""
    notes: tuple[str, ...]
    """What was assumed of fine-tuning."""

    @property
    def flops(self) -> float:
        """Of the whole arm."""
        return self.adapt_flops + self.tune_flops


def arm_costs(plan: StudyPlan) -> list[ArmCost]:
    """Every arm of a plan, in its order."""
    graph, costs = make_graph(plan), []
    planned: dict[str, Plan] = {}
    for name, arm in plan.arms.items():
        train = graph[f"train-{name}-s{arm.seeds[0]}"]
        assert isinstance(train.config, TrainConfig)
        backbone = train.config.model.name
        # Rows and their tokens are the same in all arms of a backbone: read once.
        if backbone not in planned:
            planned[backbone] = plan_training(train.config)
        tune = planned[backbone]
        shape = shape_of(resolve_name(backbone))
        windows = sliding_windows(backbone, shape)
        adapt_tokens = predicted = 0
        adapt_flops = 0.0
        if train.parent is not None:
            adapt = graph[train.parent].config
            assert isinstance(adapt, AdaptConfig) and plan.adaptation is not None
            adapt_tokens = plan.adaptation.num_steps * plan.adaptation.step_tokens
            predicted = round(adapt_tokens * predicted_share(adapt.objective, adapt.text.row_tokens))
            adapt_flops = train_flops(
                shape, windows, adapt.attention, adapt_tokens, adapt.text.row_tokens,
                num_forwards=1 + adapt.model.gradient_checkpointing, is_lora=adapt.lora is not None,
            )  # fmt: skip
            adapt_flops += 4 * predicted * shape.vocabulary * shape.width
        steps = train.config.run.schedule_steps or 0
        tune_tokens = steps * tune.tokens_per_step
        num_texts = 2 + train.config.loss.num_negatives
        recomputes = train.config.batch.mini_batch_tokens is not None or train.config.model.gradient_checkpointing
        costs.append(
            ArmCost(
                arm=name,
                attention=arm.attention,
                objective=arm.objective,
                adapt_tokens=adapt_tokens,
                predicted_tokens=predicted,
                adapt_flops=adapt_flops,
                tune_tokens=tune_tokens,
                tune_flops=train_flops(
                    shape, windows, arm.attention, tune_tokens,
                    max(1, tune.tokens_per_step // (train.config.batch.rows * num_texts)),
                    num_forwards=1 + recomputes, is_lora=train.config.lora is not None,
                ),
                num_trained=tune.num_trained,
                peak_bytes=tune.peak_bytes,
                keys_seen=keys_in_window(arm.attention, windows),
                notes=tuple(tune.notes),
            )
        )  # fmt: skip
    return costs


def predicted_share(objective: ObjectiveConfig, row_tokens: int) -> float:
    """Expected share of the tokens read whose prediction is part of the loss; special tokens are left out of it."""
    if objective.kind == "causal":
        return (row_tokens - 1) / row_tokens
    if objective.kind == "mntp":
        return objective.rate
    times = [objective.t_min + (1 - objective.t_min) * (place + 0.5) / TIMES for place in range(TIMES)]
    masked = times if objective.schedule == "linear" else [math.cos(math.pi / 2 * (1 - t)) for t in times]
    return sum(masked) / TIMES


def train_flops(
    shape: Shape,
    windows: list[int | None],
    attention: Attention,
    num_tokens: int,
    text_tokens: int,
    *,
    num_forwards: int,
    is_lora: bool,
) -> float:
    """Multiplications and additions of training the body on texts of one length, adapters themselves left out.

    Products with weights: 2 per weight and token forward, as many backward for the activations, and again for the
    gradients of weights that are trained. Attention: twice forward is backward.
    """
    weights = sum(inputs * outputs for inputs, outputs in shape.projections.values())
    per_layer = 2 * weights * (num_forwards + (1 if is_lora else 2))
    per_key = 4 * shape.heads * shape.head_width * (num_forwards + 2)
    keys = sum(mean_keys(attention, window, text_tokens) for window in windows)
    return num_tokens * (per_layer * shape.layers + per_key * keys)


def mean_keys(attention: Attention, window: int | None, text_tokens: int) -> float:
    """Keys that a token of a text sees in one layer, on average."""
    back, ahead = window_reach(attention, window)
    # `None` is no limit.
    limit_back = text_tokens if back is None else back
    limit_ahead = text_tokens if ahead is None else ahead
    return 1 + _mean_reach(limit_back, text_tokens) + _mean_reach(limit_ahead, text_tokens)


def _mean_reach(limit: int, text_tokens: int) -> float:
    """Mean of min(place, limit) over the places of a text."""
    if limit >= text_tokens:
        return (text_tokens - 1) / 2
    return (limit * (limit + 1) / 2 + limit * (text_tokens - 1 - limit)) / text_tokens


def keys_in_window(attention: Attention, windows: list[int | None]) -> int | None:
    """Keys that a token far from both ends sees in a sliding layer; None where no layer slides."""
    sliding = [window for window in windows if window is not None]
    if not sliding:
        return None
    back, ahead = window_reach(attention, sliding[0])
    return 1 + (back or 0) + (ahead or 0)


@cache
def sliding_windows(name: str, shape: Shape) -> list[int | None]:
    """Window of each layer, None for a whole one; all None where the config is out of reach."""
    spec = find_model(name)
    if spec is not None and spec.base is not None:
        return sliding_windows(spec.base, shape)
    config: Any
    if spec is not None and spec.source == "tiny":
        from diffembed.backbones.tiny import build_tiny

        config = build_tiny(spec.family)[0].config
    elif (spec is None and resolve_name(name) == name and "/" in name) or (spec is not None and spec.source == "hub"):
        return [None] * shape.layers
    else:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(locate(resolve_name(name), spec))
        except (OSError, ValueError, CheckpointError):
            return [None] * shape.layers
    return layer_windows(config, shape.layers)


def costs_key(plan: StudyPlan) -> str:
    """Hash of what of a plan decides the cost of an arm."""
    decisive = [plan.backbone, plan.dtype, plan.arms, plan.adaptation, plan.fine_tuning, plan.gradient_checkpointing]
    return hash_config(choices(decisive))


def keep_costs(plan: StudyPlan, folder: Path) -> None:
    """Writes costs.json once per plan, so that a report needs neither rows nor tokenizer."""
    path = folder / "costs.json"
    key = costs_key(plan)
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["key"] == key:
        return
    arms = {cost.arm: {**asdict(cost), "flops": cost.flops} for cost in arm_costs(plan)}
    write_json(path, {"key": key, "arms": arms})
