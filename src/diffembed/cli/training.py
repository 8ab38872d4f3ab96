"""What `diffembed train` and `diffembed adapt` print, and the development score they are given."""

import os
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from diffembed.cli.printing import print_facts, print_json
from diffembed.records import Encoder

if TYPE_CHECKING:
    from diffembed.training.config import DevelopmentConfig
    from diffembed.training.plan import Plan
    from diffembed.training.runs import RunReport


def print_fields(cls: type, *, json: bool) -> None:
    """Every field of a config with its type, default and docstring."""
    from diffembed.training.settings import describe

    for name, kind, default, doc in describe(cls):
        if json:
            print_json({"field": name, "type": kind, "default": default, "meaning": doc})
        else:
            print(f"{name} ({kind}; {default if default == 'required' else f'default {default}'})")
            print(
                textwrap.fill(doc, shutil.get_terminal_size().columns, initial_indent="    ", subsequent_indent="    ")
            )


def print_plan(plan: "Plan", *, json: bool) -> None:
    """The dry run."""
    if json:
        print_json({**asdict(plan), "num_tokens": plan.num_tokens, "peak_bytes": plan.peak_bytes})
        return
    parts = ", ".join(f"{name} {_gigabytes(size)}" for name, size in plan.memory_bytes.items())
    print_facts(
        {
            "model": f"{plan.model}: {plan.num_weights / 1e6:,.0f} million weights, {plan.num_trained:,} trained",
            "rows": _or_unknown(plan.num_rows),
            "steps": f"{_or_unknown(plan.stop_step)} of a schedule of {_or_unknown(plan.num_steps)}",
            "tokens": f"{plan.tokens_per_step:,} a step, {_or_unknown(plan.num_tokens)} in all",
            "memory": f"about {_gigabytes(plan.peak_bytes)} a process: {parts}",
            **{f"note {number}": note for number, note in enumerate(plan.notes, start=1)},
        }
    )


def print_run(report: "RunReport", *, json: bool) -> None:
    """What came of a run, said by the first of several processes."""
    if os.environ.get("RANK", "0") != "0":
        return
    if json:
        print_json(asdict(report))
        return
    scores = ", ".join(f"{name} {value:.4f}" for name, value in report.scores.items())
    print_facts(
        {
            "model": report.model,
            "step": f"{report.step:,} of {report.num_steps:,} made",
            "loss": "none logged" if report.loss is None else f"{report.loss:.4f}",
            "speed": f"{report.tokens_per_s:,.0f} tokens per second",
            "memory": f"{_gigabytes(report.peak_memory_bytes)} at most",
            **({"scores": scores} if scores else {}),
        }
    )


def make_score(config: "DevelopmentConfig | None") -> Callable[[Encoder], dict[str, float]] | None:
    """The score of a development section; None where the config has none."""
    if config is None:
        return None
    from diffembed.evaluation.run import make_development_score
    from diffembed.training.settings import resolve_path

    return make_development_score(config.suite, data=None if config.data is None else resolve_path(config.data))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"


def _or_unknown(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"
