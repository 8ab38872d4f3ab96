"""`diffembed search`."""

import sys
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from diffembed.cli.options import DEFAULT_MODEL, Attention, Dtype, Json, Model, Pooling, Source, say_default
from diffembed.cli.printing import print_hits, print_json


def search(
    source: Source,
    question: str,
    /,
    *,
    model: Model = None,
    top_k: Annotated[int, Parameter(name=["--top-k", "-k"])] = 5,
    instruction: str | None = None,
    text_column: str | None = None,
    id_column: str | None = None,
    pooling: Pooling = None,
    attention: Attention = None,
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Search files by meaning: text, source, html, pdf, rows.

    Files are cut into passages; the nearest ones are shown with file, line and the lines that share most words with
    the question. Everything is encoded anew at each call and held in memory.

    For example:
        diffembed search README.md "how is it installed?"

    Parameters
    ----------
    source
        A folder, a file, or - for standard input; each row of a jsonl, csv, tsv or parquet file is a text.
    question
        What to look for.
    model
        A name that `diffembed models` lists, a folder, or a hub id; gemma-3-270m-diffusion if none is given.
    top_k
        Number of passages to show.
    instruction
        Instruction in front of the question; '' for none, the model's own if none is given.
    text_column
        Column of row files with the text; `text`, or the only one, if none is given.
    id_column
        Column of row files with the id; `_id` or `id` if none is given, and else rows are numbered.
    pooling
        How token states become one vector; the model's own if none is given.
    attention
        Let tokens see both sides or only the past; the model's own if none is given.
    dtype
        Number format of the network; auto is the faster one, as measured.
    json
        Print one JSON line per passage.
    """
    from diffembed.documents import read_corpus
    from diffembed.documents.passages import some_of
    from diffembed.embedding.embedder import Embedder
    from diffembed.embedding.nearest import search_documents

    corpus = read_corpus(source, text_column=text_column, id_column=id_column)
    passages = corpus.make_chunks()
    say_default(model)
    skipped = f"; passed over in whole or part: {some_of(corpus.skipped)}" if corpus.skipped else ""
    print(f"diffembed: {len(corpus.documents)} texts in {len(passages)} passages{skipped}", file=sys.stderr)
    embedder = Embedder.load(model or DEFAULT_MODEL, attention=attention, pooling=pooling, dtype=dtype)
    hits = search_documents(embedder, passages, question, top_k=top_k, instruction=instruction)
    if json:
        for hit in hits:
            print_json({"rank": hit.rank, "score": hit.score, **asdict(hit.document)})
        return
    print_hits(hits, question)
