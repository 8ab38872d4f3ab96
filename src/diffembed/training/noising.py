"""Rows of tokens become noisy batches whose noise depends on seed, step and place in the step, and on nothing else.

Read `NoisyCollator`. However a step is cut into processes and micro-batches, and wherever a run resumes, each row of a
step is noised alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffembed.data.negatives import row_generator
from diffembed.objectives.diffusion import NoisyRows, maskable_positions, noise_for_diffusion, stack_rows
from diffembed.objectives.mntp import noise_for_mntp, rows_for_causal
from diffembed.objectives.schedules import draw_times
from diffembed.training.adapt_config import ObjectiveConfig

Place = tuple[int, int, int]
"""(row number, step, place of the row within the step)."""


class PlannedRows:
    """Places of every micro-batch of a run: step after step, and within a step in the order accelerate deals them."""

    def __init__(self, num_rows: int, step_rows: int, micro_rows: int, num_steps: int, seed: int) -> None:
        self.num_rows = num_rows
        self.step_rows = step_rows
        self.num_steps = num_steps
        self.seed = seed
        self.batch_size = micro_rows
        self.drop_last = True
        self._order = lru_cache(maxsize=2)(self._make_order)

    def __len__(self) -> int:
        return self.num_steps * (self.step_rows // self.batch_size)

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.num_steps):
            for first in range(0, self.step_rows, self.batch_size):
                yield [(self._row(step, place), step, place) for place in range(first, first + self.batch_size)]

    def _row(self, step: int, place: int) -> int:
        epoch, within = divmod(step * self.step_rows + place, self.num_rows)
        return int(self._order(epoch)[within])

    def _make_order(self, epoch: int) -> NDArray[np.int64]:
        return row_generator(self.seed, "row order", str(epoch)).permutation(self.num_rows)


class PlannedDataset(torch.utils.data.Dataset[Place]):
    """Hands the collator the places it is asked for; the rows stay in one array."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, place: Place) -> Place:
        return place


@dataclass(frozen=True, kw_only=True)
class NoisyCollator:
    """Places -> the tensors of one micro-batch."""

    rows: NDArray[np.int32]
    objective: ObjectiveConfig
    seed: int
    step_rows: int
    mask_token_id: int | None
    """None for the causal objective, which masks nothing."""
    special_ids: tuple[int, ...]
    vocabulary_size: int
    shifts_logits: bool

    def __call__(self, places: Sequence[Place]) -> dict[str, Any]:
        """Keys of `LanguageModel.forward`, and `row_index` for the report on a NaN."""
        noisy = stack_rows([self.noise(*place) for place in places])
        return {
            "input_ids": noisy.token_BT,
            "target_BT": noisy.target_BT,
            "is_predicted_BT": noisy.is_predicted_BT,
            "weight_BT": noisy.weight_BT,
            "row_index": torch.tensor([row for row, _, _ in places]),
        }

    def noise(self, row: int, step: int, place: int) -> NoisyRows:
        """One row [1, T], noised as it is at this place of this step."""
        token_1T = torch.from_numpy(self.rows[row].astype(np.int64)).unsqueeze(0)
        maskable_1T = maskable_positions(
            token_1T, torch.tensor(self.special_ids, dtype=torch.long), shifts_logits=self.shifts_logits
        )
        if self.objective.kind == "causal":
            return rows_for_causal(token_1T, maskable_1T)
        assert self.mask_token_id is not None
        generator = _generator(self.seed, step, place)
        if self.objective.kind == "mntp":
            return noise_for_mntp(
                token_1T,
                maskable_1T,
                mask_token_id=self.mask_token_id,
                vocabulary_size=self.vocabulary_size,
                rate=self.objective.rate,
                mask_fraction=self.objective.mask_fraction,
                random_fraction=self.objective.random_fraction,
                generator=generator,
            )
        return noise_for_diffusion(
            token_1T,
            maskable_1T,
            self.times(step)[place : place + 1],
            mask_token_id=self.mask_token_id,
            schedule=self.objective.schedule,
            generator=generator,
        )

    def times(self, step: int) -> Tensor:
        """[step_rows] times of all rows of a step, drawn together so that they spread."""
        return draw_times(
            self.step_rows,
            t_min=self.objective.t_min,
            low_discrepancy=self.objective.low_discrepancy,
            generator=_generator(self.seed, step, -1),
        )


def _generator(seed: int, step: int, place: int) -> torch.Generator:
    drawn = row_generator(seed, "noise", str(step), str(place)).integers(2**62)
    return torch.Generator().manual_seed(int(drawn))
