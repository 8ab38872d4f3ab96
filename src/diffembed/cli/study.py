"""`diffembed study run | status | report | ship`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from diffembed.cli.options import Json
from diffembed.cli.printing import print_json, print_table

if TYPE_CHECKING:
    from diffembed.study.plan import StudyPlan
    from diffembed.study.store import Store

app = App(name="study", help="Compare ways of making an embedder, from a plan to a report.")

Set = Annotated[list[str] | None, Parameter(name=["--set", "-s"])]


@app.command
def run(
    plan: Path,
    /,
    *,
    only: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)] = (),
    max_minutes: float | None = None,
    accept_code: bool = False,
    set: Set = None,
    dry_run: bool = False,
    json: Json = False,
) -> None:
    """Compute what a study still lacks, node by node.

    The same command goes on where it was stopped. Results come to results/NAME, runs and checkpoints to runs/NAME.

    For example:
        diffembed study run recipes/study/gemma-3-270m-small.yaml --dry-run

    Parameters
    ----------
    plan
        A YAML file: arms, what they share, suites (see docs/study-plans.md and recipes/study).
    only
        Compute these nodes of `study status` and no other; may be repeated.
    max_minutes
        Stop then, in the middle of a node too; the next run goes on from there.
    accept_code
        Take results as done though the code that made them changed since.
    set
        Set a field over the file: section.field=value; may be repeated.
    dry_run
        Print every arm with its tokens, predicted tokens, FLOPs and memory; compute nothing.
    json
        Print JSON lines.
    """
    from diffembed.study.plan import load_plan
    from diffembed.study.run import run_study
    from diffembed.study.store import Store

    found = load_plan(plan, set or [])
    if dry_run:
        _print_costs(found, json=json)
        return
    store = Store(found.name, accepts_code=accept_code)
    run_study(
        found,
        store,
        only=only,
        max_minutes=max_minutes,
        notify=lambda line: print(f"diffembed: {line}", file=sys.stderr, flush=True),
    )
    _print_states(found, store, json=json)


@app.command
def status(plan: Path, /, *, accept_code: bool = False, set: Set = None, json: Json = False) -> None:
    """Show which nodes of a study are done, running, stale, ready or waiting.

    For example:
        diffembed study status recipes/study/gemma-3-270m-small.yaml

    Parameters
    ----------
    plan
        A YAML file.
    accept_code
        Take results as done though the code that made them changed since.
    set
        Set a field over the file: section.field=value; may be repeated.
    json
        Print JSON lines.
    """
    from diffembed.study.plan import load_plan
    from diffembed.study.store import Store

    found = load_plan(plan, set or [])
    _print_states(found, Store(found.name, accepts_code=accept_code), json=json)


@app.command
def report(
    plan: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("docs/study.md"),
    html: Path = Path("report.html"),
    set: Set = None,
    json: Json = False,
) -> None:
    """Write the report of a study from its stored results.

    Nothing is trained or encoded; nodes without a result are listed in it.

    For example:
        diffembed study report recipes/study/gemma-3-270m-small.yaml --out study.md

    Parameters
    ----------
    plan
        A YAML file.
    out
        The Markdown page.
    html
        The HTML page.
    set
        Set a field over the file: section.field=value; may be repeated.
    json
        Print one JSON line.
    """
    from diffembed.study.plan import load_plan
    from diffembed.study.report import write_study
    from diffembed.study.store import Store

    found = load_plan(plan, set or [])
    # A path as the reader of the page would type it, from the folder that the study is run in.
    place = plan.resolve().relative_to(Path.cwd()) if plan.resolve().is_relative_to(Path.cwd()) else plan.name
    command = shlex.join(["diffembed", "study", "report", str(place), *(f"--set={change}" for change in set or [])])
    findings = write_study(found, Store(found.name), page=out, html=html, command=command)
    done, total = len(findings.graph) - len(findings.missing), len(findings.graph)
    if json:
        print_json({"page": str(out), "html": str(html), "done": done, "nodes": total})
        return
    print(f"{out}, {html}: {done} of {total} nodes have results")


@app.command
def ship(
    plan: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    set: Set = None,
    json: Json = False,
) -> None:
    """Write the models of a finished study for users: one adapter each, with settings and a card.

    An older model of the same name is replaced. Nothing is trained or scored.

    For example:
        diffembed study ship recipes/study/gemma-3-270m-small.yaml --out shipped

    Parameters
    ----------
    plan
        A YAML file with a section `shipped`.
    out
        The folder below which each model gets one; by default the package's own, where names are looked up.
    set
        Set a field over the file: section.field=value; may be repeated.
    json
        Print one JSON line per model.
    """
    from dataclasses import asdict

    from diffembed.embedding.checkpoint import SHIPPED
    from diffembed.study.plan import load_plan
    from diffembed.study.ship import ship as write_models
    from diffembed.study.store import Store

    found = load_plan(plan, set or [])
    for model in write_models(found, Store(found.name), out or SHIPPED):
        if json:
            print_json({**asdict(model), "folder": str(model.folder)})
            continue
        print(
            f"{model.folder}: from {model.node}, rank {model.rank}, {model.num_bytes / 1e6:.1f} MB, "
            f"{model.num_scores} tasks on its card"
        )


def _print_states(plan: "StudyPlan", store: "Store", *, json: bool) -> None:
    from diffembed.study.run import node_rows

    rows = node_rows(plan, store)
    if json:
        for row in rows:
            print_json(row)
        return
    print_table(
        ["node", "state", "minutes", "about"],
        [
            (row["node"], row["state"], "-" if row["seconds"] is None else f"{row['seconds'] / 60:.1f}", row["about"])
            for row in rows
        ],
        numbers=["minutes"],
        names=["node"],
    )


def _print_costs(plan: "StudyPlan", *, json: bool) -> None:
    from dataclasses import asdict

    from diffembed.study.cost import arm_costs

    costs = arm_costs(plan)
    if json:
        for cost in costs:
            print_json({**asdict(cost), "flops": cost.flops, "num_seeds": len(plan.arms[cost.arm].seeds)})
        return
    columns = ["arm", "seeds", "read", "predicted", "tuned on", "PFLOP", "memory", "keys"]
    print_table(
        columns,
        [
            (
                cost.arm,
                len(plan.arms[cost.arm].seeds),
                f"{cost.adapt_tokens / 1e6:.2f} M",
                f"{cost.predicted_tokens / 1e6:.2f} M",
                f"{cost.tune_tokens / 1e6:.2f} M",
                f"{cost.flops / 1e15:,.2f}",
                f"{cost.peak_bytes / 1e9:.1f} GB",
                "-" if cost.keys_seen is None else f"{cost.keys_seen:,}",
            )
            for cost in costs
        ],
        numbers=columns[1:],
    )
    print("read, predicted: tokens of adaptation; tuned on: tokens of one seed; keys: what a token sees in a sliding")
    print("layer, on one side where attention is causal and on both where it is bidirectional")
    for note in dict.fromkeys(note for cost in costs for note in cost.notes):
        print(f"note: {note}")
