"""Tasks from folders: BEIR, FollowIR form, sentence pairs, labelled texts; plain or compressed (.zst, .gz, .bz2).

Read `read_folder` first. Every defect is refused with the file and the id: a missing file, a row without its fields, a
duplicate id, a judgement of an unknown document, a query nobody judged. This module knows nothing of suites.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffembed.data.files import COMPRESSIONS, read_lines, read_rows
from diffembed.errors import EmptyInputError, InputError
from diffembed.evaluation.tasks import AnyTask, InstructionTask, LabelTask, NarrativeSlot, PairTask, Task
from diffembed.records import Document, Query

RETRIEVAL_MEASURES = ("nDCG@10", "R@100", "Acc@1")
INSTRUCTION_MEASURES = ("nDCG@5", "AP@1000")
QRELS_HEADER = ("query-id", "corpus-id", "score")
PAIRS_HEADER = ("score", "sentence1", "sentence2")
LABELS_HEADER = ("label", "text")
SUBSET_COLUMN = "kind"
"""Column of queries.jsonl whose values become subsets, where there are two or more of them."""


def read_folder(path: Path | str, *, name: str = "", narrative_slot: NarrativeSlot = "text") -> list[AnyTask]:
    """The tasks of a folder or of one .tsv file, by the files it holds.

    `qrels/og.tsv` and `qrels/changed.tsv` make an instruction task, `qrels/test.tsv` a retrieval task, `train.tsv` and
    `test.tsv` of labels a classification and a clustering task, each .tsv of sentence pairs a similarity task.
    Raises InputError for anything else, naming what is missing.
    """
    path = Path(path)
    if path.is_file():
        return [read_pairs(path, name=name)]
    if not path.is_dir():
        raise InputError(f"no folder {path}")
    name = name or path.name
    if _find(path / "qrels", "og.tsv") or _find(path / "qrels", "changed.tsv"):
        return [read_instruction_task(path, name=name, narrative_slot=narrative_slot)]
    if (path / "qrels").is_dir() or _find(path, "queries.jsonl"):
        return [read_retrieval_task(path, name=name)]
    if _find(path, "test.tsv") and _find(path, "train.tsv"):
        return list(read_label_tasks(path, name=name))
    tables = sorted(file for file in path.iterdir() if _stem(file).endswith(".tsv"))
    if tables:
        return [read_pairs(file) for file in tables]
    raise InputError(
        f"{path} is no task folder: it holds neither qrels/test.tsv (BEIR), qrels/og.tsv (FollowIR), "
        "train.tsv with test.tsv (labels) nor a .tsv of sentence pairs"
    )


def read_retrieval_task(
    folder: Path | str, *, name: str = "", measures: Sequence[str] = RETRIEVAL_MEASURES, instruction: str | None = None
) -> Task:
    """A folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/test.tsv.

    Queries without a judgement in the split are left out, as BEIR does. A document with the id and the text of a query
    is excluded for it: it is the query itself (BRIGHT's and ArguAna's rule).
    """
    folder = Path(folder)
    corpus = read_corpus(folder)
    qrels = read_qrels(_require(folder / "qrels", "test.tsv"))
    rows = _read_query_rows(folder)
    own_text = {document.id: document.full_text for document in corpus}
    queries = [_query(row, own_text) for row in rows if row["_id"] in qrels]
    task_name = name or folder.name
    with _told_in(folder):
        return Task(
            name=task_name,
            corpus=corpus,
            queries=queries,
            qrels=qrels,
            measures=tuple(measures),
            instruction=instruction,
            candidates=_read_candidates(folder),
            subsets=_subsets(rows, qrels),
        )


def read_instruction_task(
    folder: Path | str, *, name: str = "", narrative_slot: NarrativeSlot = "text"
) -> InstructionTask:
    """A folder in FollowIR's form: `instruction_og`, `instruction_changed` per query; qrels/og.tsv, changed.tsv."""
    folder = Path(folder)
    task_name = name or folder.name
    corpus = read_corpus(folder)
    rows = _read_query_rows(folder)
    candidates = _read_candidates(folder)
    for column in ("instruction_og", "instruction_changed"):
        bare = next((row["_id"] for row in rows if not isinstance(row.get(column), str)), None)
        if bare is not None:
            raise InputError(f"query {bare!r} in {folder}/queries.jsonl has no {column}")
    sides = {}
    for side in ("og", "changed"):
        with _told_in(folder):
            sides[side] = Task(
                name=f"{task_name}-{side}",
                corpus=corpus,
                queries=[
                    Query(id=row["_id"], text=row["text"], instruction=row[f"instruction_{side}"]) for row in rows
                ],
                qrels=read_qrels(_require(folder / "qrels", f"{side}.tsv")),
                measures=INSTRUCTION_MEASURES,
                candidates=candidates,
            )
    return InstructionTask(name=task_name, og=sides["og"], changed=sides["changed"], narrative_slot=narrative_slot)


def read_pairs(path: Path | str, *, name: str = "") -> PairTask:
    """A table with the columns score, sentence1, sentence2."""
    path = Path(path)
    rows = list(_read_table(path, PAIRS_HEADER))
    gold = []
    for place, (score, _, _) in rows:
        try:
            gold.append(float(score))
        except ValueError as error:
            raise InputError(f"{place}: the score {score!r} is no number") from error
    with _told_in(path):
        return PairTask(
            name=name or _stem(path).removesuffix(".tsv"),
            left=[left for _, (_, left, _) in rows],
            right=[right for _, (_, _, right) in rows],
            gold=gold,
        )


def read_label_tasks(folder: Path | str, *, name: str = "") -> tuple[LabelTask, LabelTask]:
    """Classification (train.tsv to test.tsv) and clustering (of test.tsv) of one folder of labelled texts."""
    folder = Path(folder)
    name = name or folder.name
    train, test = (
        [row for _, row in _read_table(_require(folder, f"{split}.tsv"), LABELS_HEADER)] for split in ("train", "test")
    )
    texts, labels = [text for _, text in test], [label for label, _ in test]
    with _told_in(folder):
        classification = LabelTask(
            name=f"{name}-classification",
            kind="classification",
            texts=texts,
            labels=labels,
            train_texts=[text for _, text in train],
            train_labels=[label for label, _ in train],
        )
        clustering = LabelTask(name=f"{name}-clustering", kind="clustering", texts=texts, labels=labels)
    return classification, clustering


def read_corpus(folder: Path) -> list[Document]:
    """Documents of a folder, or of the folder its `CORPUS` file points to (`corpus = ../other/corpus.jsonl`)."""
    path = find_corpus(folder)
    documents = []
    for row in _read_id_rows(path):
        title, text = row.get("title") or "", row.get("text")
        if not isinstance(text, str) or not isinstance(title, str):
            raise InputError(f"document {row['_id']!r} in {path} has no text")
        documents.append(Document(id=row["_id"], text=text, title=title, source=path.parent.name))
    if not documents:
        raise EmptyInputError(f"{path} holds no documents")
    return documents


def find_corpus(folder: Path) -> Path:
    """The file that `read_corpus` reads. Raises InputError where there is none."""
    pointer = folder / "CORPUS"
    if not pointer.is_file():
        return _require(folder, "corpus.jsonl")
    key, _, target = pointer.read_text(encoding="utf-8").partition("=")
    if key.strip() != "corpus" or not target.strip():
        raise InputError(f"{pointer} must read: corpus = path/to/corpus.jsonl")
    source = folder / target.strip()
    return _require(source.parent, source.name)


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """query id -> document id -> grade, from a table with the header query-id, corpus-id, score."""
    qrels: dict[str, dict[str, int]] = {}
    for place, (query, document, grade) in _read_table(path, QRELS_HEADER):
        judged = qrels.setdefault(query, {})
        if document in judged:
            raise InputError(f"{place}: query {query!r} judges document {document!r} twice")
        try:
            judged[document] = int(grade)
        except ValueError as error:
            raise InputError(f"{place}: the grade {grade!r} is no whole number") from error
    if not qrels:
        raise EmptyInputError(f"{path} holds no judgements")
    return qrels


def _query(row: Mapping[str, Any], own_text: Mapping[str, str]) -> Query:
    key, text = row["_id"], row["text"]
    excluded = frozenset(map(str, row.get("excluded_ids") or ()))
    if own_text.get(key) == text:
        excluded |= {key}
    return Query(id=key, text=text, instruction=row.get("instruction"), excluded_ids=excluded)


def _read_query_rows(folder: Path) -> list[dict[str, Any]]:
    path = _require(folder, "queries.jsonl")
    rows = _read_id_rows(path)
    bare = next((row["_id"] for row in rows if not isinstance(row.get("text"), str) or not row["text"].strip()), None)
    if bare is not None:
        raise InputError(f"query {bare!r} in {path} has no text")
    if not rows:
        raise EmptyInputError(f"{path} holds no queries")
    return rows


def _read_candidates(folder: Path) -> dict[str, list[str]] | None:
    path = _find(folder, "candidates.jsonl")
    if path is None:
        return None
    candidates = {}
    for row in _read_id_rows(path):
        if not isinstance(row.get("candidates"), list):
            raise InputError(f"query {row['_id']!r} in {path} has no list of candidates")
        candidates[row["_id"]] = [str(key) for key in row["candidates"]]
    return candidates


def _read_id_rows(path: Path) -> list[dict[str, Any]]:
    """Rows with a unique `_id`, which may be a number in the file and is text here."""
    rows, seen = [], set()
    for place, row in read_rows(path):
        if not isinstance(row, dict) or not isinstance(row.get("_id"), str | int):
            raise InputError(f"{path.parent.name}/{place} is no JSON object with an _id")
        row["_id"] = str(row["_id"])
        if row["_id"] in seen:
            raise InputError(f"{path.parent.name}/{place}: the id {row['_id']!r} occurs twice")
        seen.add(row["_id"])
        rows.append(row)
    return rows


def _read_table(path: Path, header: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """(place, cells) of a tab-separated file whose first line is `header`."""
    for number, line in enumerate(read_lines(path), start=1):
        place = f"{path.parent.name}/{path.name}:{number}"
        try:
            cells = line.decode("utf-8").rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            raise InputError(f"{place} is not UTF-8") from error
        if number == 1:
            if tuple(cells) != header:
                raise InputError(f"{place}: the header must be {' <tab> '.join(header)}; it is {' <tab> '.join(cells)}")
            continue
        if cells == [""]:
            continue
        if len(cells) != len(header):
            raise InputError(f"{place} has {len(cells)} cells; it must have {len(header)}: {', '.join(header)}")
        yield place, cells


def _subsets(rows: Sequence[Mapping[str, Any]], qrels: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    kinds: dict[str, set[str]] = {}
    for row in rows:
        if row["_id"] in qrels and isinstance(row.get(SUBSET_COLUMN), str):
            kinds.setdefault(row[SUBSET_COLUMN], set()).add(row["_id"])
    return {kind: frozenset(members) for kind, members in sorted(kinds.items())} if len(kinds) > 1 else {}


def _find(folder: Path, name: str) -> Path | None:
    return next((folder / f"{name}{end}" for end in ("", *COMPRESSIONS) if (folder / f"{name}{end}").is_file()), None)


def _require(folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise InputError(
            f"{folder / name} is missing (looked for {', '.join([name, *(name + e for e in COMPRESSIONS)])})"
        )
    return path


def _stem(path: Path) -> str:
    return path.name.removesuffix(path.suffix) if path.suffix in COMPRESSIONS else path.name


@contextlib.contextmanager
def _told_in(place: Path) -> Iterator[None]:
    """Adds the file or folder to what a record refuses."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{error} (read from {place})") from error
