"""`diffembed precision`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from diffembed.cli.options import Dtype, Json
from diffembed.cli.printing import print_json, print_table


def precision(
    model: str,
    /,
    *,
    suite: str,
    dims: Annotated[tuple[int, ...], Parameter(negative=(), consume_multiple=True)] = (),
    data: Annotated[Path | None, Parameter(validator=validators.Path(file_okay=False))] = None,
    task: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)] = (),
    markdown: Annotated[Path | None, Parameter(validator=validators.Path(dir_okay=False, ext="md"))] = None,
    dtype: Dtype = "auto",
    seed: int = 0,
    json: Json = False,
) -> None:
    """Measure what fewer bytes per vector cost.

    Documents are stored as float32, as one byte per component (int8), as one bit (binary), and as both, where the bits
    find 100 documents and the bytes rank them; each at several widths. Texts are encoded once and their vectors kept.

    For example:
        diffembed precision all-minilm-l6-v2 --suite needle --task needle-256 --dims 384 128

    Parameters
    ----------
    model
        A name of `diffembed models`, a folder or a hub id, or one of the names that `diffembed evaluate` takes.
    suite
        An offline suite of `diffembed evaluate --list`, or a folder of tasks; tasks of retrieval are scored.
    dims
        Leading components kept (Matryoshka); the whole width and its halves down to 64 if none are given.
    data
        Folder that the suite reads; the environment variable DIFFEMBED_DATA if none is given.
    task
        Only these tasks of the suite.
    markdown
        Write the table to this file, too.
    dtype
        Number format of the network; auto is the faster one, as measured.
    seed
        Of generated tasks and resampling.
    json
        Print one JSON line per row.
    """
    from diffembed.evaluation.reports.precision_table import measure_precision, write_markdown

    table = measure_precision(
        model,
        suite,
        dims=dims,
        data=data,
        tasks=task,
        dtype=dtype,
        seed=seed,
        notify=lambda line: print(f"diffembed: {line}", file=sys.stderr),
    )
    if markdown is not None:
        write_markdown(table, markdown, command=f"diffembed {' '.join(sys.argv[1:])}")
    if json:
        for row in table.rows:
            print_json({"model": table.model, "suite": table.suite, "measure": table.measure, **asdict(row)})
        return
    print_table(
        ["dims", "stored as", "bytes", table.measure, "95 % interval", "kept"],
        [
            (
                row.dims,
                row.precision,
                f"{row.num_bytes:,}",
                f"{100 * row.score.value:.1f}",
                f"{100 * row.score.low:.1f} to {100 * row.score.high:.1f}",
                row.kept_text,
            )
            for row in table.rows
        ],
        numbers=["dims", "bytes", table.measure, "kept"],
    )
    if table.left_out:
        print(f"left out, because nothing is searched in them: {', '.join(table.left_out)}")
