"""What watches a training run: stop step, progress, metrics, and the development score that picks the best weights.

Read `DevelopmentScore`. The score is a function given from outside; this module does not know any suite.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from diffembed.errors import ConfigError
from diffembed.provenance import RunFolder, write_json
from diffembed.records import Encoder

Score = Callable[[Encoder], Mapping[str, float]]
"""Measures of an encoder on development data; higher is better for the one that picks the best weights."""


class StopAfter(TrainerCallback):
    """Ends training after `steps` optimiser steps, with a checkpoint; the schedule keeps its own length.

    The learning rate at the last step is therefore what the longer run would have had there.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Asks the trainer to save and stop."""
        if state.global_step >= self.steps:
            control.should_save = control.should_training_stop = True
        return control


class Throughput:
    """Tokens read and seconds spent in training steps; the trainer adds, the callbacks read."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.seconds = 0.0
        self._started: float | None = None

    def add(self, num_tokens: int) -> None:
        """Counts the tokens of a micro-batch of this process."""
        self.num_tokens += num_tokens

    def start(self) -> None:
        """Marks the start of a step."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Adds the time since `start`; scoring and saving lie between steps and do not count."""
        if self._started is not None:
            self.seconds += time.perf_counter() - self._started
            self._started = None

    @property
    def tokens_per_s(self) -> float:
        """Over all steps of this process since it started."""
        return self.num_tokens / self.seconds if self.seconds else 0.0


class Progress(TrainerCallback):
    """A bar on stderr with loss, tokens per second and time left; and one line of `metrics.jsonl` per log."""

    def __init__(self, run: RunFolder, throughput: Throughput, stop_step: int, *, is_shown: bool) -> None:
        """`is_shown`: draws the bar; off where nobody looks (another process than the first, a pipe)."""
        self.run = run
        self.throughput = throughput
        self.stop_step = stop_step
        self._is_shown = is_shown
        self._bar: Any = None
        self._task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Opens the bar at the step the run stands at."""
        if self._is_shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(file=sys.stderr))
            self._task = self._bar.add_task("train", total=self.stop_step, completed=state.global_step, facts="")
            self._bar.start()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts the clock of the step."""
        self.throughput.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stops the clock and moves the bar."""
        self.throughput.stop()
        if self._bar is not None:
            loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), None)
            facts = f"{self.throughput.tokens_per_s:,.0f} tokens/s" + (f", loss {loss:.4f}" if loss is not None else "")
            self._bar.update(self._task, completed=state.global_step, facts=facts)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Appends the numbers to the run's metrics; only the first process writes."""
        if state.is_world_process_zero and logs and "loss" in logs:
            self.run.log(step=state.global_step, tokens_per_s=round(self.throughput.tokens_per_s, 1), **logs)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Closes the bar."""
        self.close()

    def close(self) -> None:
        """Takes the bar off the screen, also when training raised."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class DevelopmentScore(TrainerCallback):
    """Scores the weights before the first step, every so many steps and at the end; keeps the best ones.

    The best is the highest `measure`, or mean of all, the earliest of equals; `best.json` and `last.json` name step and
    scores, and `best-<step>/` holds the model. Scores are a function of the weights alone, so a resumed run finds the
    same best.
    """

    def __init__(
        self,
        score: Score,
        encoder: Encoder,
        run: RunFolder,
        *,
        every_steps: int,
        measure: str | None,
        stop_step: int,
        save_model: Callable[[Path, Path], None] | None,
    ) -> None:
        """`measure`: key of the scores that picks the best; None is their mean. `save_model`: None keeps no best."""
        self.score = score
        self.encoder = encoder
        self.run = run
        self.every_steps = every_steps
        self.measure = measure
        self.stop_step = stop_step
        self.save_model = save_model
        # Read before anything is written, so that all processes hold the same.
        stored = run.path / "best.json"
        self._best = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """The score that training starts from."""
        if state.global_step == 0:
            self._take(state, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """A score at its turn, and always at the last step."""
        if state.global_step % self.every_steps == 0 or state.global_step == self.stop_step:
            self._take(state, model)

    def _take(self, state: Any, model: Any) -> None:
        """Every process scores, for sharded weights are whole only while all of them read; the first one writes."""
        # Without dropout; the trainer switches back before its next step.
        model.eval()
        with untouched_random_state():
            scores = {name: float(value) for name, value in self.score(self.encoder).items()}
        measure = self.measure or "mean"
        if measure != "mean" and measure not in scores:
            raise ConfigError(f"the development scores have no {measure!r}; they are {', '.join(scores)}")
        scores["mean"] = sum(scores.values()) / len(scores)
        best = self._best
        is_best = best is None or (scores[measure], -state.global_step) > (best["score"], -best["step"])
        folder = self.run.path / f"best-{state.global_step}"
        if is_best and self.save_model is not None and not folder.exists():
            self.save_model(folder, folder)
        taken = {"step": state.global_step, "measure": measure, "score": scores[measure], "scores": scores}
        if is_best:
            self._best = taken
        if not state.is_world_process_zero:
            return
        self.run.log(step=state.global_step, development=scores)
        write_json(self.run.path / "last.json", taken)
        if is_best:
            write_json(self.run.path / "best.json", taken)
            # The old best goes only after the new one is named.
            for old in self.run.path.glob("best-*"):
                if old != folder:
                    shutil.rmtree(old)


@contextmanager
def untouched_random_state() -> Iterator[None]:
    """Whatever is drawn inside leaves the global random states as they were: scoring must not change training."""
    import random

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
