"""`diffembed reasonaug run | replay | report`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from diffembed.cli.options import Json, Model
from diffembed.cli.printing import print_facts, print_json, print_table
from diffembed.records import Encoder

app = App(name="reasonaug", help="Make training rows for reasoning with any language model.")

Out = Annotated[Path, Parameter(name=["--out", "-o"])]
PERCENT_COLUMNS = ("top_1", "top_5", "top_10")


@app.command
def run(config: Path, /, *, out: Out, json: Json = False) -> None:
    """Make problems, check them and turn them into training rows.

    The same command continues a run that was stopped: nothing is asked for twice.

    For example:
        diffembed reasonaug run recipes/reasonaug/run.yaml --out rows

    Parameters
    ----------
    config
        A YAML file: endpoint, model, budget, concept list (see docs/reasonaug.md).
    out
        Folder of the run: triplets.jsonl, its card, report.json, dropped.jsonl, answers.jsonl.
    json
        Print one JSON line.
    """
    from diffembed.data.reasonaug.batch import answers_path
    from diffembed.data.reasonaug.config import load_config
    from diffembed.data.reasonaug.pipeline import run as run_pipeline

    outcome = run_pipeline(load_config(config), out, load_encoder=_load_encoder, progress=_say)
    if json:
        print_json({"folder": str(outcome.folder), "rows": outcome.num_rows, "pending": outcome.pending})
    elif outcome.pending:
        print_facts(
            {
                "requests to submit": ", ".join(map(str, outcome.pending)),
                "answers awaited as": ", ".join(str(answers_path(path)) for path in outcome.pending),
            }
        )
    else:
        _print_report(outcome.report)


@app.command
def replay(
    answers: Path, /, *, out: Out, config: Path | None = None, drop_lost: bool = False, json: Json = False
) -> None:
    """Make the data set again from stored answers, without a network.

    For example:
        diffembed reasonaug replay reasonaug_raw --out replayed

    Parameters
    ----------
    answers
        The published request and answer files, or the folder of an earlier run.
    out
        Folder for the result.
    config
        Settings to use; an earlier run needs the config it was made with.
    drop_lost
        Leave out pairs whose published verdict is about a replacement that was not published.
    json
        Print one JSON line.
    """
    from diffembed.data.reasonaug.config import load_config
    from diffembed.data.reasonaug.pipeline import replay as replay_answers

    outcome = replay_answers(
        answers,
        out,
        config=None if config is None else load_config(config),
        keep_lost=not drop_lost,
        load_encoder=_load_encoder,
    )
    if json:
        print_json(outcome.report)
    else:
        _print_report(outcome.report)


@app.command
def report(folder: Path, /, *, model: Model = None, json: Json = False) -> None:
    """Say how good the rows of a run are.

    For example:
        diffembed reasonaug report replayed --model all-minilm-l6-v2

    Parameters
    ----------
    folder
        Folder of a finished run.
    model
        Also judge difficulty and negatives by this model; BM25 alone if none is given.
    json
        Print one JSON line.
    """
    from diffembed.data.reasonaug.report import report_folder

    found = report_folder(folder, encoder=None if model is None else _load_encoder(model))
    if json:
        print_json(found)
    else:
        _print_report(found)


def _print_report(found: Mapping[str, Any]) -> None:
    columns = ["domain", "concepts", "defined", "checked pairs", "kept pairs", "concepts with pairs"]
    print_table(columns, [list(row.values()) for row in found["yield"]], numbers=columns[1:])
    rows = ", ".join(f"{count:,} {task}" for task, count in found["rows"].items())
    near = found["near_duplicates"]
    print_facts(
        {
            "rows": f"{found['num_rows']:,}: {rows}; {found['rows_with_written_negatives']:,} with written negatives",
            "concepts by pairs": ", ".join(f"{num} with {each}" for each, num in found["pairs_per_concept"].items()),
            "verdict unsure": f"{found['verdict_on_unpublished_pair']} kept pairs had replacements that are not here",
            "near-duplicates": f"{near['within_concept']} within a concept, {near['across_concepts']} across",
            "concept named": "in {problems} problems ({fraction:.1%})".format_map(found["concept_named_in_problem"]),
            "answer shown": "in {problems} problems ({fraction:.1%})".format_map(found["answer_in_problem"]),
        }
    )
    print_table(
        ["dropped at", "reason", "rows"],
        [[stage, reason, n] for stage, reasons in found["dropped"].items() for reason, n in reasons.items()],
        numbers=["rows"],
    )
    print_table(["on the way", "count"], list(found["notes"].items()), numbers=["count"])
    for judge, domains in found["difficulty"].items():
        lines = [
            [name, each["problems"], *(f"{each[column]:.1%}" for column in PERCENT_COLUMNS), each["median_rank"]]
            for name, each in domains.items()
        ]
        columns = [f"rank of the concept by {judge}", "problems", "first", "top 5", "top 10", "median"]
        print_table(columns, lines, numbers=columns[1:])
    for judge, tasks in found["negative_above_positive"].items():
        lines = [[name, each["rows"], each["above"], each["tied"]] for name, each in tasks.items()]
        columns = [f"negative against positive by {judge}", "rows", "above", "tied"]
        print_table(columns, lines, numbers=columns[1:])


def _load_encoder(name: str) -> Encoder:
    """Most runs need no network, and then none of its libraries."""
    from diffembed.embedding.embedder import Embedder

    return Embedder.load(name)


def _say(stage: str, num_done: int, num_needed: int) -> None:
    """Progress on one line of a terminal; in a log, only the last of each stage."""
    is_last = num_done == num_needed
    if sys.stderr.isatty() or is_last:
        print(f"\r{stage}: {num_done}/{num_needed} answers", end="\n" if is_last else "", file=sys.stderr, flush=True)
