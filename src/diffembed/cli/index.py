"""`diffembed index build | search | add | delete | list | stats | optimize`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from diffembed.cli.options import DEFAULT_MODEL, Attention, Dtype, Json, Model, Pooling, Source, say_default
from diffembed.cli.printing import print_facts, print_hits, print_json, print_table
from diffembed.errors import StoreError

app = App(name="index", help="Keep the vectors of a corpus on disk and search them.")

RowFormat = Literal["txt", "jsonl", "csv", "tsv", "parquet"]


@app.command
def build(
    name: str,
    /,
    *sources: Source,
    model: Model = None,
    chunk: Literal["whole", "fixed", "heading", "late"] | None = None,
    size: int | None = None,
    unit: Literal["characters", "tokens"] | None = None,
    overlap: int | None = None,
    precision: Literal["float32", "int8", "binary"] | None = None,
    dims: int | None = None,
    format: RowFormat | None = None,
    text_column: str | None = None,
    id_column: str | None = None,
    max_file_mb: int | None = None,
    pooling: Pooling = None,
    attention: Attention = None,
    max_tokens: int | None = None,
    dtype: Dtype = "auto",
    ray: str | None = None,
    cores_per_actor: int | None = None,
    replace: bool = False,
    drop_added: bool = False,
    json: Json = False,
) -> None:
    """Make an index equal to its sources.

    What is new or changed is encoded, what is gone is removed. A build that was stopped in whatever way goes on when
    it is run again.

    For example:
        diffembed index build notes docs README.md --model all-minilm-l6-v2

    Parameters
    ----------
    name
        Name of the index, or a folder where there is a / in it.
    sources
        Folders, files (text, source code, html, pdf, jsonl, csv, tsv, parquet), - for standard input, or
        hf://datasets/OWNER/NAME; those of the last build if none is given.
    model
        A name that `diffembed models` lists, a folder, or a hub id; the index's own, or gemma-3-270m-diffusion.
    chunk
        How documents are cut: not at all, in pieces of one size, by headings, or in pieces pooled from one pass over
        the document; heading if none is given.
    size
        Longest chunk; 640 characters or 256 tokens if none is given.
    unit
        What size and overlap count; characters if none is given.
    overlap
        What a chunk repeats of the one before.
    precision
        What is kept of each component of a vector: 4 bytes, 1 byte or 1 bit.
    dims
        Keep this many leading components of each vector (Matryoshka).
    format
        Format of the rows, where the file's suffix does not tell.
    text_column
        Column of row files with the text; `text`, or the only one, if none is given.
    id_column
        Column of row files with the id; `_id` or `id` if none is given, and else rows are numbered.
    max_file_mb
        Largest file read as one text, in millions of bytes; larger ones are passed over.
    pooling
        How token states become one vector; the model's own if none is given.
    attention
        Let tokens see both sides or only the past; the model's own if none is given.
    max_tokens
        Longest chunk read whole; the model's own limit if none is given.
    dtype
        Number format of the network; auto is the faster one, as measured.
    ray
        Address of a Ray cluster that does the work, or auto for one that runs on this machine.
    cores_per_actor
        Cores of each encoder on the cluster; one encoder per GPU or per machine if none is given.
    replace
        Make the index anew; the old one serves until the new one is complete.
    drop_added
        Let the new index lose what was put in by index add.
    json
        Print one JSON line.
    """
    from diffembed.embedding.embedder import Embedder
    from diffembed.index import build_index, prepare_build
    from diffembed.index.settings import make_chunks, make_reading

    # What is wrong with the sources is said before a network is loaded for them.
    stored = prepare_build(name, sources, is_replaced=replace, drops_added=drop_added)
    location, loading = (stored.location, stored.loading) if stored and model is None else (model, {})
    say_default(location)
    asked = {"attention": attention, "pooling": pooling, "max_tokens": max_tokens, "dims": dims}
    loading = {**loading, **{key: value for key, value in asked.items() if value is not None}}
    report = build_index(
        name,
        sources,
        embedder=Embedder.load(location or DEFAULT_MODEL, dtype=dtype, **loading),
        chunks=make_chunks(
            None if stored is None else stored.chunks, kind=chunk, size=size, unit=unit, overlap=overlap
        ),
        precision=precision,
        reading=make_reading(
            None if stored is None else stored.reading,
            format=format,
            text_column=text_column,
            id_column=id_column,
            max_file_mb=max_file_mb,
        ),
        is_replaced=replace,
        drops_added=drop_added,
        ray=ray,
        cores_per_actor=cores_per_actor,
    )
    if json:
        print_json(asdict(report) | {"tokens_per_s": report.tokens_per_s})
        return
    print_facts(
        {
            "index": f"{report.folder}: {report.num_chunks:,} chunks of {report.num_documents:,} texts",
            "model": report.model,
            "texts": f"{report.num_new:,} new, {report.num_changed:,} changed, {report.num_unchanged:,} unchanged, "
            f"{report.num_removed:,} removed"
            + (f", {report.num_kept:,} kept of files that cannot be read now" if report.num_kept else ""),
            "encoded": f"{report.num_encoded:,} chunks, {report.num_tokens:,} tokens in {report.seconds:.1f} s, "
            f"{report.tokens_per_s:,.0f} per second",
            "cut": f"{report.num_truncated or 'no'} chunks were longer than the model reads",
            "skipped": f"{report.num_skipped:,}, see {Path(report.folder) / 'skipped.jsonl'}"
            if report.num_skipped
            else "nothing",
        }
    )


@app.command
def search(
    name: str,
    question: str,
    /,
    *,
    top_k: Annotated[int, Parameter(name=["--top-k", "-k"])] = 5,
    mode: Literal["dense", "bm25", "hybrid"] = "dense",
    fusion: Literal["rank", "score"] = "rank",
    weight: float = 0.5,
    instruction: str | None = None,
    where: str | None = None,
    every_chunk: bool = False,
    model: Model = None,
    json: Json = False,
) -> None:
    """Search an index by meaning, by words or by both.

    For example:
        diffembed index search notes "how is it installed?"

    Parameters
    ----------
    name
        Name or folder of the index.
    question
        What to look for.
    top_k
        Number of passages to show.
    mode
        By vectors, by words (BM25), or by both.
    fusion
        How hybrid joins both: by rank, or by score.
    weight
        Share of the vectors in hybrid, 0 to 1.
    instruction
        Instruction in front of the question; '' for none, the model's own if none is given.
    where
        Condition in SQL, for example "source LIKE '%.md'"; columns are id, document, text, title, source, line ...;
        other columns of row files with "json_get_string(metadata, 'lang') = 'de'", or json_get_int, _float, _bool.
    every_chunk
        Show several passages of one text, and texts that occur several times.
    model
        Refuse the index unless this model made it.
    json
        Print one JSON line per passage.
    """
    from diffembed.embedding.embedder import Embedder
    from diffembed.index import Index, stored_model

    # The model is asked to be the one of the index, so it is loaded as that was.
    embedder = None if model is None else Embedder.load(model, **stored_model(name)[1])
    index = Index.open(name, embedder=embedder)
    hits = index.search(
        question,
        k=top_k,
        mode=mode,
        fusion=fusion,
        weight=weight,
        instruction=instruction,
        where=where,
        collapse=not every_chunk,
    )
    if json:
        for hit in hits:
            print_json({"rank": hit.rank, "score": hit.score, "parts": hit.parts, **asdict(hit.document)})
        return
    print_hits(hits, question)


@app.command
def add(
    name: str,
    rows: Source,
    /,
    *,
    format: RowFormat | None = None,
    text_column: str | None = None,
    id_column: str | None = None,
    json: Json = False,
) -> None:
    """Add the rows of a file to an index, in place of texts of the same ids.

    A row without an id gets one made of its content, so that it replaces nothing and is added once. A later build
    leaves them alone.

    For example:
        echo 'Tides rise.' | diffembed index add notes -

    Parameters
    ----------
    name
        Name or folder of the index.
    rows
        A txt (one text per line), jsonl, csv, tsv or parquet file, or - for standard input.
    format
        Format of the rows, where the file's suffix does not tell; standard input is txt.
    text_column
        Column with the text; `text`, or the only one, if none is given.
    id_column
        Column with the id; `_id` or `id` if none is given.
    json
        Print one JSON line.
    """
    from diffembed.index import Index, read_additions

    index = Index.open(name)
    num_chunks = index.add(read_additions(rows, format=format, text_column=text_column, id_column=id_column))
    if json:
        print_json({"chunks_added": num_chunks, "num_rows": index.num_rows})
        return
    print_facts({"added": f"{num_chunks:,} chunks", "index": f"{index.folder}: {index.num_rows:,} chunks"})


@app.command
def delete(name: str, /, *ids: str, json: Json = False) -> None:
    """Delete texts from an index by their ids.

    For example:
        diffembed index delete notes docs/guide.md

    Parameters
    ----------
    name
        Name or folder of the index.
    ids
        Ids of texts, as `diffembed index search --json` shows them under parent.
    json
        Print one JSON line.
    """
    from diffembed.index import Index

    index = Index.open(name)
    num_deleted = index.delete(ids)
    if json:
        print_json({"texts_deleted": num_deleted, "num_rows": index.num_rows})
        return
    print_facts({"deleted": f"{num_deleted:,} texts", "index": f"{index.folder}: {index.num_rows:,} chunks"})


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """List the indexes that can be named; of one that cannot be read, the reason.

    For example:
        diffembed index list

    Parameters
    ----------
    json
        Print one JSON line per index.
    """
    from diffembed.index import Index, list_indexes

    lines: list[dict[str, object]] = []
    rows: list[list[object]] = []
    for folder in list_indexes():
        try:
            found = Index.open(folder).stats()
        except StoreError as error:
            lines.append({"folder": str(folder), "error": str(error)})
            rows.append([folder.name, str(error), "", "", ""])
        else:
            lines.append(asdict(found))
            megabytes = f"{found.num_bytes / 1e6:.1f}"
            rows.append([folder.name, found.model, found.num_documents, found.num_rows, megabytes])
    if json:
        for line in lines:
            print_json(line)
        return
    print_table(["index", "model", "texts", "chunks", "MB"], rows, numbers=["texts", "chunks", "MB"], names=["index"])


@app.command
def stats(name: str, /, *, json: Json = False) -> None:
    """Say what an index holds.

    For example:
        diffembed index stats notes

    Parameters
    ----------
    name
        Name or folder of the index.
    json
        Print one JSON line.
    """
    from diffembed.index import Index

    _print_stats(Index.open(name).stats(), json)


@app.command
def optimize(name: str, /, *, json: Json = False) -> None:
    """Join what many small additions left, and bring the search indexes up to date.

    For example:
        diffembed index optimize notes

    Parameters
    ----------
    name
        Name or folder of the index.
    json
        Print one JSON line.
    """
    from diffembed.index import Index

    _print_stats(Index.open(name).optimize(), json)


def _print_stats(found: object, json: bool) -> None:
    from diffembed.index import IndexStats

    assert isinstance(found, IndexStats)
    if json:
        print_json(asdict(found))
        return
    print_facts(
        {
            "index": found.folder,
            "model": f"{found.model} ({found.model_hash}), {found.dim} components as {found.precision}",
            "chunks": f"{found.num_rows:,} of {found.num_documents:,} texts; {found.chunks}",
            "added by hand": f"{found.num_added:,} texts",
            "on disk": f"{found.num_bytes / 1e6:.1f} MB in {found.num_fragments} fragments",
            "search indexes": ", ".join(found.indexes) or "none",
            "sources": ", ".join(found.sources) or "none",
        }
    )
