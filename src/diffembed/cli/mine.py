"""`diffembed mine`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from diffembed.cli.options import Attention, Dtype, Json, Model, Pooling, Source
from diffembed.cli.printing import print_facts, print_json
from diffembed.errors import ConfigError


def mine(
    source: Source,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], validator=validators.Path(dir_okay=False))],
    corpus: Source | None = None,
    model: Model = None,
    proposers: Literal["bm25", "encoder", "both"] | None = None,
    num_negatives: int = 7,
    min_rank: int = 1,
    max_rank: int = 100,
    margin: float | None = 0.0,
    choice: Literal["top", "random"] = "top",
    same_label: str | None = None,
    drop_own: bool = False,
    seed: int = 0,
    max_bad_rows: int = 100,
    pooling: Pooling = None,
    attention: Attention = None,
    max_tokens: int | None = None,
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Mine hard negatives for training rows.

    Documents near a row's query become its negatives, unless they are, or seem to be, answers. A killed run goes on
    where it stopped when the same command is given again.

    For example:
        printf '{"query":"big","positive":"big ox"}\\n{"query":"ox","positive":"ox cart"}' | diffembed mine - -o m.jsonl

    Parameters
    ----------
    source
        Rows {query, positive, negatives, instruction}: a jsonl (also .zst, .gz) or parquet file, or - for jsonl on
        standard input.
    out
        The file to write, .jsonl or .jsonl.zst; it appears when it is complete.
    corpus
        More documents to draw from, one per row of a txt, jsonl, csv, tsv or parquet file; the rows' texts always are.
    model
        Encoder that proposes documents and judges them; without one, BM25 does both.
    proposers
        What ranks the documents: bm25, the encoder, or both in turn; the encoder if a model is given.
    num_negatives
        Negatives wanted per row.
    min_rank
        Best rank of a negative, from 1; above 1 skips likely answers.
    max_rank
        Worst rank of a negative.
    margin
        Leave out what scores more than the positive plus this (cosine, or BM25 score without a model); none for no
        filter.
    choice
        The nearest documents that pass, or a seeded draw of them.
    same_label
        Label (concept, say) whose value the row's answers share; documents of such rows are left out.
    drop_own
        Replace the negatives that rows have, in place of keeping them in front.
    seed
        Seed of the random choice.
    max_bad_rows
        Rows that cannot be used past which nothing is mined.
    pooling
        How token states become one vector; the model's own if none is given.
    attention
        Let tokens see both sides or only the past; the model's own if none is given.
    max_tokens
        Longest text read whole; the model's own limit if none is given.
    dtype
        Number format of the network; auto is the faster one, as measured.
    json
        Print one JSON line.
    """
    from rich.console import Console
    from rich.progress import Progress

    from diffembed.data.formats import load_triplets
    from diffembed.data.mining import MiningConfig, mine_negatives
    from diffembed.documents import read_rows

    config = MiningConfig(
        num_negatives=num_negatives,
        proposers=proposers or ("encoder" if model else "bm25"),
        min_rank=min_rank,
        max_rank=max_rank,
        margin=margin,
        choice=choice,
        same_label=same_label,
        keeps_own=not drop_own,
        seed=seed,
    )
    if model is None and any(option is not None for option in (pooling, attention, max_tokens)):
        raise ConfigError("pooling, attention and max_tokens are of the encoder; they need --model")
    triplets, rows = load_triplets(source, max_bad_rows=max_bad_rows)
    documents = [] if corpus is None else list(read_rows(corpus))
    embedder = None
    if model is not None:
        from diffembed.embedding.embedder import Embedder

        embedder = Embedder.load(model, attention=attention, pooling=pooling, max_tokens=max_tokens, dtype=dtype)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("mining", total=len(triplets))
        report = mine_negatives(
            triplets,
            out,
            config,
            encoder=embedder,
            documents=documents,
            progress=lambda done, _: bar.update(task, completed=done),
        )
    if json:
        print_json({"out": out, **asdict(report), "rows": {"bad": rows.defects, "repeated": rows.filtered}})
        return
    print_facts(
        {
            "rows": f"{out}: {report.num_rows:,} rows, {report.num_mined:,} negatives mined",
            "bad": f"{rows.num_bad or 'no'} rows could not be used",
            "short": f"{report.num_short:,} rows have fewer than {num_negatives} negatives",
            "documents": f"{report.num_documents:,} to draw from",
            **{f"left out ({reason})": f"{count:,}" for reason, count in report.rejected.most_common()},
        }
    )
