"""`diffembed reproduce`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from diffembed.cli.options import Dtype, Json
from diffembed.cli.printing import print_facts, print_json, print_table
from diffembed.errors import ConfigError

Folder = Annotated[Path | None, Parameter(validator=validators.Path(file_okay=False))]


def reproduce(
    row: str | None = None,
    /,
    *,
    model: str | None = None,
    suite: str | None = None,
    data: Folder = None,
    out: Annotated[Folder, Parameter(name=["--out", "-o"])] = None,
    recipes: Path = Path("recipes/paper"),
    dry_run: bool = False,
    dtype: Dtype = "auto",
    list_: Annotated[bool, Parameter(name="--list")] = False,
    json: Json = False,
) -> None:
    """Run one row of the paper's tables and subtract.

    A row is trained by its recipe, scored on its suite, and set beside the printed values. With --model a checkpoint
    takes the place of training; with --suite an offline suite takes the place of the row's own. On another suite, or
    with a model not trained from the row's backbone, what ran is not the published form, and the result says so.
    --list recomputes every printed average.

    For example:
        diffembed reproduce --list

    Parameters
    ----------
    row
        TABLE/NAME as --list shows it.
    model
        A checkpoint to score instead of training one.
    suite
        An offline suite, or a folder of tasks, instead of the row's own.
    data
        Folder that an offline suite reads; the environment variable DIFFEMBED_DATA if none is given.
    out
        Folder that keeps the scores and the differences.
    recipes
        Folder of the paper's recipes.
    dry_run
        Say what would be run, and stop.
    dtype
        Number format of the network; auto is the faster one, as measured.
    list_
        List the rows with their printed and recomputed averages, and stop.
    json
        Print JSON lines.
    """
    from diffembed.analysis.paper import load_rows
    from diffembed.analysis.reproduce import as_plain, plan_row, run_row

    if list_:
        _print_rows([row.id for row in load_rows()], json=json)
        return
    if row is None:
        raise ConfigError("name a row, for example table3/diffembed; `diffembed reproduce --list` shows all")
    if dry_run:
        plan = plan_row(row, recipes=recipes)
        facts = {"row": plan.row.id, "model": plan.row.label, "backbone": plan.backbone or "-", "steps": plan.steps}
        if json:
            print_json({**facts, "printed": plan.row.columns, "average": plan.row.average})
        else:
            print_facts({**facts, "steps": "\n".join(plan.steps)})
            print_table(list(plan.row.columns), [[f"{value:.1f}" for value in plan.row.values]])
        return
    from diffembed.evaluation.run import EvaluateConfig

    result = run_row(
        row,
        model=model,
        suite=suite,
        data=data,
        out=out,
        recipes=recipes,
        config=EvaluateConfig(dtype=dtype),
        notify=lambda line: print(f"diffembed: {line}", file=sys.stderr),
    )
    if json:
        print_json(as_plain(result))
        return
    print_table(
        ["column", "ours", "paper", "difference"],
        [
            (
                column.column,
                f"{column.ours:.1f}",
                "-" if column.printed is None else f"{column.printed:.1f}",
                "-" if column.difference is None else f"{column.difference:+.1f}",
            )
            for column in result.columns
        ],
        numbers=["ours", "paper", "difference"],
    )
    print(result.status)


def _print_rows(names: list[str], *, json: bool) -> None:
    from diffembed.analysis.paper import SOURCE, check_average, find_row, official_longembed_averages

    official = official_longembed_averages()
    rows = []
    for name in names:
        row = find_row(name)
        checks = check_average(row)
        if json:
            averages = [{**asdict(check), "is_wrong": check.is_wrong} for check in checks]
            print_json({**asdict(row), "id": row.id, "averages": averages})
            continue
        first = checks[0] if checks else None
        is_wrong = " WRONG" if any(check.is_wrong for check in checks) else ""
        rows.append(
            (
                row.id,
                row.recipe or "quoted",
                "-" if first is None else f"{first.printed:.2f}".removesuffix("0") + is_wrong,
                "-" if first is None else f"{first.recomputed:.2f}",
                f"{official[row.label]:.1f}" if row.table == "table2" else "",
            )
        )
    if json:
        return
    print_table(
        ["row", "recipe", "printed", "computed", "6-task"],
        rows,
        numbers=["printed", "computed", "6-task"],
    )
    print(f"Printed values: {SOURCE}. WRONG: the printed average is not that of the row's printed columns.")
