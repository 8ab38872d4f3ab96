"""`diffembed evaluate`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from diffembed.cli.options import Dtype, Json
from diffembed.cli.printing import print_json, print_table
from diffembed.errors import ConfigError

Folder = Annotated[Path | None, Parameter(validator=validators.Path(file_okay=False))]
Names = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)]


def evaluate(
    model: str | None = None,
    /,
    *suites: str,
    data: Folder = None,
    task: Names = (),
    out: Annotated[Folder, Parameter(name=["--out", "-o"])] = None,
    prompts: Literal["paper", "mteb"] = "paper",
    max_tokens: int | None = None,
    dtype: Dtype = "auto",
    counted_by: str = "gemma-3-270m",
    seed: int = 0,
    list_: Annotated[bool, Parameter(name="--list")] = False,
    json: Json = False,
) -> None:
    """Score a model on suites of tasks.

    Every score comes with its 95 % interval, the share of documents that were cut, and the difference to a published
    value where there is one. Vectors are kept, so that a second suite on the same documents costs seconds; with --out
    the results are kept too, query by query, and the same command goes on where it was interrupted.

    For example:
        diffembed evaluate --list

    Parameters
    ----------
    model
        NAME[:causal|:bidirectional][:POOLING] with a name of `diffembed models`, a folder or a hub id; bm25; random; or
        RECIPE@NAME with e5-style, echo, llm2vec (BASE+ADAPTER), hybrid, int8, maxp or index.
    suites
        Names that --list shows, mteb:TASK, or folders of tasks in BEIR's or FollowIR's layout.
    data
        Folder that the offline suites read; the environment variable DIFFEMBED_DATA if none is given.
    task
        Only these tasks of the suites.
    out
        Run folder for results, per-query values and the page.
    prompts
        Wording of the instructions: the paper's or mteb's.
    max_tokens
        Cut texts here even where the model reads more.
    dtype
        Number format of the network; auto is the faster one, as measured.
    counted_by
        Model whose tokenizer counts the tokens of passkey and needle documents, or `words`.
    seed
        Of generated tasks, label draws and resampling.
    list_
        List the suites and stop.
    json
        Print one JSON line per score.
    """
    from diffembed.evaluation.suites.named import SUITES

    if list_:
        for suite in SUITES.values():
            if json:
                print_json(asdict(suite))
        if not json:
            rows = [(s.name, s.purpose, len(s.tasks) + len(s.mteb_tasks), s.about) for s in SUITES.values()]
            print_table(["suite", "purpose", "tasks", "about"], rows, numbers=["tasks"])
        return
    if model is None or not suites:
        raise ConfigError("name a model and at least one suite; `diffembed evaluate --list` shows the suites")

    from diffembed.evaluation.run import EvaluateConfig
    from diffembed.evaluation.suite_runs import run_suites

    config = EvaluateConfig(prompts=prompts, max_tokens=max_tokens, dtype=dtype, counted_by=counted_by, seed=seed)
    found = run_suites(
        [model],
        suites,
        out=out,
        data=data,
        tasks=task,
        config=config,
        notify=lambda line: print(f"diffembed: {line}", file=sys.stderr),
    )
    if json:
        for row in found.rows:
            print_json({**asdict(row), "difference": row.difference})
        return
    print_table(
        ["task", "measure", "score", "95 % interval", "cut", "tokens/s", "published"],
        [
            (
                f"{row.task}{' *' if row.in_domain else ''}",
                row.measure,
                f"{100 * row.value:.1f}",
                "-" if row.low is None or row.high is None else f"{100 * row.low:.1f} to {100 * row.high:.1f}",
                "-" if row.truncated_fraction is None else f"{100 * row.truncated_fraction:.0f} %",
                "-" if row.tokens_per_s is None else f"{row.tokens_per_s:,.0f}",
                "-" if row.difference is None else f"{row.published:.1f} ({row.difference:+.1f})",
            )
            for row in found.rows
        ],
        numbers=["score", "cut", "tokens/s", "published"],
    )
    if any(row.in_domain for row in found.rows):
        print("* in-domain: training rows of the same kind exist")
