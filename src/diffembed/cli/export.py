"""`diffembed export`."""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from diffembed.cli.options import Attention, Json, Pooling
from diffembed.cli.printing import print_facts, print_json


def export(
    model: str,
    out: Path,
    /,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    attention: Attention = None,
    pooling: Pooling = None,
    max_tokens: int | None = None,
    evaluation: Path | None = None,
    json: Json = False,
) -> None:
    """Write a model as a plain sentence-transformers folder.

    Adapters are merged; the folder loads without diffembed and without remote code, and is compared before it appears.

    For example:
        diffembed export all-minilm-l6-v2 exported

    Parameters
    ----------
    model
        A name that `diffembed models` lists, a checkpoint folder, or a hub id.
    out
        The folder to write.
    dtype
        Number format of the stored weights.
    attention
        Let tokens see both sides or only the past; the model's own if none is given.
    pooling
        How token states become one vector; the model's own if none is given.
    max_tokens
        Longest text read whole; the model's own limit if none is given.
    evaluation
        Folder of an evaluation run, whose results the model card names.
    json
        Print one JSON line.
    """
    from diffembed.embedding.export import export_embedder

    report = export_embedder(
        model, out, dtype=dtype, attention=attention, pooling=pooling, max_tokens=max_tokens, evaluation=evaluation
    )
    if json:
        print_json(asdict(report))
        return
    print_facts(
        {
            "folder": f"{report.out}: {report.model}, {report.attention}, {report.dtype}",
            "adapters": f"{report.num_adapters} merged",
            "compared": f"{report.num_texts} texts, largest difference {report.largest_difference:.1e}",
            "licence": report.licence,
        }
    )
