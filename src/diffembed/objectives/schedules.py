"""Noise schedules of masked diffusion: how likely a token is still clean at time t, and the weight of its loss.

Read `NoiseSchedule` first. t runs from 0 (clean) to 1 (all masked) and is drawn once per row.
Source of both weights: Sahoo et al. 2024 (arXiv 2406.07524), w(t) = -alpha'(t) / (1 - alpha(t)).
"""

# B = rows in batch

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffembed.errors import ConfigError, UnknownNameError


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseSchedule:
    """alpha(t), the probability that a token is still clean, and the loss weight w(t)."""

    name: str
    alpha: Callable[[Tensor], Tensor]
    """t in [0, 1] -> probability that a token is still clean, 1 at t = 0 and 0 at t = 1."""
    weight: Callable[[Tensor], Tensor]
    """t in (0, 1] -> -alpha'(t) / (1 - alpha(t))."""


def _linear_alpha(t_B: Tensor) -> Tensor:
    return 1 - t_B


def _linear_weight(t_B: Tensor) -> Tensor:
    return 1 / t_B


def _cosine_alpha(t_B: Tensor) -> Tensor:
    return 1 - torch.cos(math.pi / 2 * (1 - t_B))


def _cosine_weight(t_B: Tensor) -> Tensor:
    return math.pi / 2 * torch.tan(math.pi / 2 * (1 - t_B))


SCHEDULES = {
    "linear": NoiseSchedule(name="linear", alpha=_linear_alpha, weight=_linear_weight),
    "cosine": NoiseSchedule(name="cosine", alpha=_cosine_alpha, weight=_cosine_weight),
}


def schedule_named(name: str) -> NoiseSchedule:
    """The schedule called `name`; raises UnknownNameError."""
    if name not in SCHEDULES:
        raise UnknownNameError.of("noise schedule", name, tuple(SCHEDULES))
    return SCHEDULES[name]


def draw_times(
    num_rows: int,
    *,
    t_min: float,
    low_discrepancy: bool,
    generator: torch.Generator | None = None,
) -> Tensor:
    """[num_rows] float32 times, each uniform on [t_min, 1].

    low_discrepancy: one uniform draw, then evenly spaced points modulo 1: a batch covers the whole range, which takes
    most of the variance out of the 1/t weight (Kingma et al. 2021, arXiv 2107.00630).
    num_rows: of a whole step: processes and micro-batches take their parts of one draw, or the points would not spread.
    """
    if not 0 < t_min < 1:
        raise ConfigError(f"t_min is {t_min}; it must lie between 0 and 1, both excluded")
    uniform_B = torch.rand(1 if low_discrepancy else num_rows, dtype=torch.float64, generator=generator)
    if low_discrepancy:
        uniform_B = (uniform_B + torch.arange(num_rows, dtype=torch.float64) / num_rows) % 1
    return (t_min + (1 - t_min) * uniform_B).float()
