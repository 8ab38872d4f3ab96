"""`diffembed direction`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from diffembed.cli.options import Dtype, Json
from diffembed.cli.printing import print_json, print_table

Folder = Annotated[Path | None, Parameter(validator=validators.Path(file_okay=False))]


def direction(
    model: str,
    suite: str,
    /,
    *,
    data: Folder = None,
    task: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)] = (),
    ranges: int = 3,
    texts: int = 8,
    max_tokens: int | None = None,
    dtype: Dtype = "auto",
    counted_by: str = "gemma-3-270m",
    seed: int = 0,
    out: Annotated[Folder, Parameter(name=["--out", "-o"])] = None,
    json: Json = False,
) -> None:
    """Evaluate one model with its attention, causal and anti-causal.

    Nothing is trained: tokens lose their view of later ones (causal) or of earlier ones (anticausal), in the whole
    network and in ranges of its layers, and the scores tell what the trained model relies on. The share of attention
    that goes to the past and to the future is measured too.

    For example:
        diffembed direction tiny:bidirectional needle --task needle-256 --counted-by words --ranges 1 --texts 2

    Parameters
    ----------
    model
        NAME[:causal|:bidirectional][:POOLING], a checkpoint folder, or a hub id.
    suite
        An offline suite of `diffembed evaluate --list`, or a folder of tasks.
    data
        Folder that the suite reads; the environment variable DIFFEMBED_DATA if none is given.
    task
        Only these tasks of the suite.
    ranges
        Equal ranges of layers that are changed alone; 1 changes the whole network only.
    texts
        Documents whose attention is measured, the longest of the first task; 0 for none.
    max_tokens
        Cut texts here even where the model reads more.
    dtype
        Number format of the network; auto is the faster one, as measured.
    counted_by
        Model whose tokenizer counts the tokens of passkey and needle documents, or `words`.
    seed
        Of generated tasks and resampling.
    out
        Folder for the table and the figures.
    json
        Print one JSON line per row.
    """
    from diffembed.analysis.attention_mass import BAND_COLUMNS
    from diffembed.analysis.direction_run import DirectionConfig, run_direction
    from diffembed.evaluation.run import EvaluateConfig

    found = run_direction(
        DirectionConfig(
            model=model,
            suite=suite,
            tasks=task,
            num_ranges=ranges,
            num_texts=texts,
            evaluate=EvaluateConfig(max_tokens=max_tokens, dtype=dtype, counted_by=counted_by, seed=seed),
        ),
        out=out,
        data=data,
        notify=lambda line: print(f"diffembed: {line}", file=sys.stderr),
    )
    if json:
        for row in found.rows:
            print_json(asdict(row))
        return
    for name, measure in dict.fromkeys((row.task, row.measure) for row in found.rows):
        print(f"{name}, {measure}")
        print_table(
            ["attention", "score", "95 % interval", "against trained", "p (Holm)"],
            [
                (
                    row.variant,
                    f"{100 * row.score.value:.1f}",
                    f"{100 * row.score.low:.1f} to {100 * row.score.high:.1f}",
                    "" if row.against_trained is None else f"{100 * row.against_trained.difference.value:+.1f}",
                    "" if row.p_holm is None else f"{row.p_holm:.4f}",
                )
                for row in found.rows
                if row.task == name
            ],
            numbers=["score", "against trained", "p (Holm)"],
        )
        print()
    if found.mass is not None:
        print("Share of attention in % by distance of the key in tokens, the past negative; mean over heads.")
        print_table(
            ["layer", *BAND_COLUMNS, "entropy"],
            [
                (
                    f"{layer}{' ~' if found.mass.is_sliding_L[layer] else ''}",
                    *(f"{100 * share:.1f}" for share in found.mass.mass_LHB[layer].mean(0)),
                    f"{found.mass.entropy_LH[layer].mean():.2f}",
                )
                for layer in range(len(found.mass.mass_LHB))
            ],
            numbers=[*BAND_COLUMNS, "entropy"],
        )
        print("~ a sliding layer; entropy in nats")
