"""`diffembed encode`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from diffembed.cli.options import DEFAULT_MODEL, Attention, Dtype, Json, Model, Pooling, Source, say_default
from diffembed.cli.printing import print_facts, print_json


def encode(
    source: Source,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], validator=validators.Path(dir_okay=False, ext="parquet"))],
    model: Model = None,
    format: Literal["txt", "jsonl", "csv", "tsv", "parquet"] | None = None,
    text_column: str | None = None,
    id_column: str | None = None,
    query: bool = False,
    instruction: str | None = None,
    dims: int | None = None,
    pooling: Pooling = None,
    attention: Attention = None,
    overflow: Literal["error", "truncate", "chunk"] = "truncate",
    max_tokens: int | None = None,
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Encode the texts of a file into a parquet file of vectors.

    Columns: id, vector (float32), num_tokens, is_truncated. Rows keep the order and the ids of the file.

    For example:
        echo 'Tides rise.' | diffembed encode - --out vectors.parquet --model all-minilm-l6-v2

    Parameters
    ----------
    source
        A txt (one text per line), jsonl, csv, tsv or parquet file, or - for standard input.
    out
        The parquet file to write.
    model
        A name that `diffembed models` lists, a folder, or a hub id; gemma-3-270m-diffusion if none is given.
    format
        Format of the rows, where the file's suffix does not tell; standard input is txt.
    text_column
        Column with the text; `text`, or the only one, if none is given.
    id_column
        Column with the id; `_id` or `id` if none is given, and else rows are numbered from 1.
    query
        Encode the texts as queries, with the model's instruction, not as documents.
    instruction
        Instruction in front of each query; '' for none.
    dims
        Keep this many leading components of each vector (Matryoshka).
    pooling
        How token states become one vector; the model's own if none is given.
    attention
        Let tokens see both sides or only the past; the model's own if none is given.
    overflow
        What to do with a text longer than max_tokens.
    max_tokens
        Longest text read whole; the model's own limit if none is given.
    dtype
        Number format of the network; auto is the faster one, as measured.
    json
        Print one JSON line.
    """
    from diffembed.documents import read_rows
    from diffembed.embedding.embedder import Embedder
    from diffembed.embedding.files import encode_to_parquet

    rows = read_rows(source, format=format, text_column=text_column, id_column=id_column)
    say_default(model)
    embedder = Embedder.load(
        model or DEFAULT_MODEL, attention=attention, pooling=pooling, max_tokens=max_tokens, dtype=dtype
    )
    kind: Literal["query", "document"] = "query" if query else "document"
    report = encode_to_parquet(embedder, rows, out, kind=kind, instruction=instruction, dims=dims, overflow=overflow)
    if json:
        print_json({"model": embedder.name, **asdict(report)})
        return
    print_facts(
        {
            "vectors": f"{report.out}: {report.num_texts:,} rows of {report.dim} components, by {embedder.name}",
            "tokens": f"{report.num_tokens:,} in {report.seconds:.1f} s, {report.tokens_per_s:,.0f} per second",
            "cut": f"{report.num_truncated or 'no'} texts were longer than {embedder.max_tokens:,} tokens",
        }
    )
