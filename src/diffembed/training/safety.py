"""What keeps a training run safe: whole checkpoints or none, exact resume, and a stop at the first NaN.

Read `SafeTrainer`, a mixin in front of a transformers or sentence-transformers trainer; the training loop stays theirs.
Knows neither losses nor data.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffembed.errors import CheckpointError, DiffEmbedError, ResourceError
from diffembed.provenance import atomic_file
from diffembed.training.adapters import load_whole_weights, whole_weights
from diffembed.training.callbacks import Throughput

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
STAGING = ".saving"
WEIGHTS = "trainable.safetensors"
MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class Safety:
    """What the mixin must be told of a run."""

    module: torch.nn.Module
    """Its parameters that ask for a gradient are the trained weights."""
    folder: Path
    """Holds `checkpoint-<step>` folders and, after a NaN, `offending_rows-<step>.jsonl`."""
    keep_checkpoints: int
    """Newest checkpoints that stay; > 0."""
    save_model: Callable[[Path, Path], None]
    """Writes the model as a user loads it into an absent folder, which will be renamed to the second path; each
    checkpoint holds one under `model/`. Every process calls it, the first one writes."""
    rows: Callable[[Sequence[int]], list[dict[str, Any]]]
    """Row numbers of a batch -> the rows, for the report on a NaN."""
    throughput: Throughput
    """Told of every token that is read."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run; a folder with this name is always whole, for it is renamed into place."""
    found = [
        (int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := CHECKPOINT.fullmatch(path.name))
    ]
    return max(found)[1] if found else None


class SafeTrainer:
    """Mixin: `class Trainer(SafeTrainer, transformers.Trainer)`, with `safety=` as one more argument."""

    args: Any
    accelerator: Any
    state: Any

    def __init__(self, *arguments: Any, safety: Safety, **settings: Any) -> None:
        self.safety = safety
        self._is_saving = False
        self._batch_rows: list[int] = []
        super().__init__(*arguments, **settings)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **settings: Any) -> Any:
        """The trainer's loss, refused when it is not a finite number."""
        # Several micro-batches make one step; a bad gradient is known only at its end.
        self._batch_rows += inputs.pop("row_index").tolist()
        self.safety.throughput.add(sum(value.numel() for key, value in inputs.items() if key.endswith("input_ids")))
        out = super().compute_loss(model, inputs, *arguments, **settings)  # type: ignore[misc]
        loss = out[0] if isinstance(out, tuple) else out
        if not bool(torch.isfinite(loss.detach()).all()):
            self._stop_at_nan(f"the loss is {float(loss.detach())}")
        return out

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called after backward and before the optimiser moves: the last moment to keep NaN out of the weights."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        value = norm.detach() if isinstance(norm, Tensor) else torch.tensor(norm)
        if not bool(torch.isfinite(value)):
            self._stop_at_nan(f"the gradient norm is {float(value)}")
        self._batch_rows = []
        return norm

    def _stop_at_nan(self, what: str) -> None:
        step = self.state.global_step + 1
        path = self.safety.folder / f"offending_rows-{step}.jsonl"
        with atomic_file(path) as part:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in self.safety.rows(self._batch_rows))
            part.write_text("".join(lines), encoding="utf-8")
        kept = last_checkpoint(self.safety.folder)
        raise DiffEmbedError(
            f"step {step}: {what}, so training stopped before the weights were touched; the rows of the batch are in "
            f"{path}, the last good checkpoint is {kept.name if kept else 'the start'}"
        )

    def _get_output_dir(self, trial: Any) -> str:
        folder = str(super()._get_output_dir(trial))  # type: ignore[misc]
        return str(Path(folder) / STAGING) if self._is_saving else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The trainer's own checkpoint, written aside and renamed: a kill or a full disk leaves the last good one."""
        name = f"checkpoint-{self.state.global_step}"
        folder = self.safety.folder
        if self.args.should_save:
            shutil.rmtree(folder / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._is_saving = True
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                _sync(folder / STAGING / name)
        except Exception as error:
            shutil.rmtree(folder / STAGING, ignore_errors=True)
            # torch and safetensors wrap the system's error; the number survives only in some, the words in all.
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
                kept = last_checkpoint(folder)
                raise ResourceError(
                    f"the disk is full while saving {name}; {kept.name if kept else 'no checkpoint'} is kept, "
                    "free some space and run the same command to go on"
                ) from error
            raise
        finally:
            self._is_saving = False
        if self.args.should_save:
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / STAGING / name).replace(folder / name)
            (folder / STAGING).rmdir()
            _prune(folder, self.safety.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The trained weights, for an exact resume, and the model as a user loads it; every process calls it."""
        from safetensors.torch import save_file

        assert output_dir is not None
        folder = Path(output_dir)
        weights = whole_weights(self.safety.module)
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(weights, folder / WEIGHTS)
        self.safety.save_model(folder / MODEL, self.safety.folder / folder.name / MODEL)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The trainer's own would gather sharded weights in its way; ours are gathered in `_save`."""
        self._save(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from safetensors.torch import load_file

        stored = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        names = {name for name, weight in self.safety.module.named_parameters() if weight.requires_grad}
        if stored.keys() != names:
            odd = sorted(stored.keys() ^ names)[0]
            raise CheckpointError(f"{resume_from_checkpoint} holds other trained weights than this run, first {odd!r}")
        load_whole_weights(self.safety.module, stored)


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _checkpoint_steps(folder: Path) -> list[int]:
    return sorted(int(match[1]) for path in folder.glob("*") if (match := CHECKPOINT.fullmatch(path.name)))


def _prune(folder: Path, keep: int) -> None:
    for step in _checkpoint_steps(folder)[:-keep]:
        shutil.rmtree(folder / f"checkpoint-{step}")
