"""`diffembed leakage`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from diffembed.cli.options import Json
from diffembed.cli.printing import print_json, print_table

MAX_SHOWN = 20


def leakage(
    rows: Path,
    suite: str,
    /,
    *,
    data: Annotated[Path | None, Parameter(validator=validators.Path(file_okay=False))] = None,
    task: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)] = (),
    ngram: int = 8,
    ratio: float = 0.7,
    json: Json = False,
) -> None:
    """Check whether training rows hold what a suite tests.

    Queries and gold documents of the suite are looked for in the rows: equal texts, shared runs of words, near copies.
    Leaks are printed, and counted in the exit code: 1 if there is one.

    For example:
        diffembed leakage README.md needle --task needle-256

    Parameters
    ----------
    rows
        A file of rows {query, positive, negatives}, a folder of such files, or a text file, checked by paragraph.
    suite
        An offline suite of `diffembed evaluate --list`, or a folder of tasks.
    data
        Folder that the suite reads; the environment variable DIFFEMBED_DATA if none is given.
    task
        Only these tasks of the suite.
    ngram
        Words in a run that counts as shared.
    ratio
        difflib ratio from which a text is a near copy.
    json
        Print one JSON line per task.
    """
    from diffembed.errors import InputError
    from diffembed.evaluation.leakage import check_suite

    reports = check_suite(rows, suite, data=data, tasks=task, ngram_words=ngram, ratio_threshold=ratio)
    if json:
        for report in reports:
            print_json(asdict(report))
    else:
        print_table(
            ["task", "test texts", "training texts", "exact", "ngram", "ratio", "highest ratio"],
            [
                (
                    r.task,
                    r.num_test_texts,
                    r.num_train_texts,
                    r.count("exact"),
                    r.count("ngram"),
                    r.count("ratio"),
                    f"{r.max_ratio:.2f}",
                )
                for r in reports
            ],
            numbers=["test texts", "training texts", "exact", "ngram", "ratio", "highest ratio"],
        )
        leaks = [(report.task, leak) for report in reports for leak in report.leaks]
        if leaks:
            print_table(
                ["task", "kind", "test", "training", "covered", "shared"],
                [
                    (
                        name,
                        leak.kind,
                        f"{leak.role} {leak.test_id}",
                        leak.train_id,
                        f"{100 * leak.covered_fraction:.0f} %",
                        leak.shared,
                    )
                    for name, leak in leaks[:MAX_SHOWN]
                ],
                numbers=["covered"],
            )
    num_leaks = sum(len(report.leaks) for report in reports)
    if num_leaks:
        raise InputError(f"{num_leaks} test texts are in the training rows")
