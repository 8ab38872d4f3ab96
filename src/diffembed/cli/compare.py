"""`diffembed compare`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from diffembed.cli.options import Json
from diffembed.cli.printing import print_json
from diffembed.errors import ConfigError, DiffEmbedError

BUDGET_S = 240.0
"""That of `evaluation.demo.compare`, which would import numpy here."""
DrawName = Literal["auto", "paper", "large", "double", "full", "half", "quarter", "eighth", "least"]


def compare(
    *models: str,
    draw: DrawName = "auto",
    budget_s: float = BUDGET_S,
    seed: int = 0,
    out: Annotated[Path, Parameter(name=["--out", "-o"], validator=validators.Path(dir_okay=False, ext="html"))] = Path(
        "report.html"
    ),
    folder: Annotated[Path | None, Parameter(validator=validators.Path(file_okay=False))] = None,
    suite: str | None = None,
    data: Annotated[Path | None, Parameter(validator=validators.Path(file_okay=False))] = None,
    markdown: Annotated[Path | None, Parameter(validator=validators.Path(dir_okay=False, ext="md"))] = None,
    json: Json = False,
) -> None:
    """Compare encoders on real text that every Python carries.

    Three tasks made of the standard library's documentation: find the rest of a docstring by its first paragraph, and
    LongEmbed's passkey and needle, one sentence hidden in 256 to 8192 tokens. Every system reads the same texts. The
    table shows scores with intervals, the share of documents that were cut, speed and memory; the page has the plot.

    For example:
        diffembed compare bm25 all-minilm-l6-v2 --draw quarter

    Parameters
    ----------
    models
        NAME[:causal|:bidirectional][:POOLING], where NAME is one that `diffembed models` lists, a folder, a hub id,
        bm25 or random. If none is given: bm25, all-minilm-l6-v2, gemma-3-270m as causal:last, causal:mean and
        bidirectional:mean, and the two embedders made of it, gemma-3-270m-ar and gemma-3-270m-diffusion.
    draw
        How much is read; auto measures the speed and takes the largest that fits the budget. paper is LongEmbed's
        own size, full about 150,000 tokens a model.
    budget_s
        Seconds of encoding, all models together, that the automatic draw must fit.
    seed
        Of the drawn texts and of the resampling.
    out
        The page to write.
    folder
        Keep every finished model here; the same command then goes on where it was interrupted.
    suite
        Compare on an offline suite of `diffembed evaluate --list`, or on a folder of tasks, instead; the page then
        shows, side by side, the queries on which the systems differ most.
    data
        Folder that a suite reads; the environment variable DIFFEMBED_DATA if none is given.
    markdown
        Write the table and the tests there too, as a page of Markdown without texts.
    json
        Print one JSON line instead of the tables.
    """
    from diffembed.evaluation.demo.compare import DEFAULT_SYSTEMS
    from diffembed.evaluation.demo.compare import compare as run
    from diffembed.evaluation.reports.markdown import write_markdown
    from diffembed.evaluation.reports.page import write_report
    from diffembed.evaluation.reports.table import print_comparison
    from diffembed.evaluation.suite_runs import compare_on_suite

    def notify(line: str) -> None:
        print(f"diffembed: {line}", file=sys.stderr)

    if suite is not None:
        if draw != "auto" or budget_s != BUDGET_S:
            raise ConfigError("--draw and --budget-s have no effect on a suite; leave them out")
        comparison = compare_on_suite(models or DEFAULT_SYSTEMS, suite, out=folder, data=data, seed=seed, notify=notify)
    elif data is not None:
        raise ConfigError("--data has no effect without --suite; leave it out or name a suite")
    else:
        comparison = run(
            models or DEFAULT_SYSTEMS, draw=draw, budget_s=budget_s, seed=seed, folder=folder, notify=notify
        )
    if json:
        print_json(comparison.as_dict())
    else:
        print_comparison(comparison)
    write_report(comparison, out)
    if markdown is not None:
        write_markdown(comparison, markdown, command=f"diffembed {' '.join(sys.argv[1:])}")
    print(f"diffembed: {out} has the same with the plot and the tests", file=sys.stderr)
    if comparison.failed:
        names = ", ".join(system.label for system in comparison.failed)
        raise DiffEmbedError(f"{len(comparison.failed)} of {len(comparison.systems)} systems failed: {names}")
