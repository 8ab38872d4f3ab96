"""The finished data set: one row per line in the nine published keys, and a card that says what it is.

Read `write_data_set` first. The card is a Markdown file with the header that dataset hubs read.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffembed.data.reasonaug.rows import Dropped, StageResult, Triplet, row_line
from diffembed.data.reasonaug.tokens import TokenCounter
from diffembed.errors import EmptyInputError
from diffembed.provenance import atomic_file

STAGE = "publish"
DATA = "triplets.jsonl"
CARD = "README.md"
FIELDS = (
    ("id", "number of the row"),
    ("domain", "kind of concept"),
    ("instance", "the concept"),
    ("task_type", "p2i: problem to concept; i2ps: concept to solved problem; p2ps, ps2ps: problem to solved problem"),
    ("task", "instruction of the query"),
    ("user_query", "the query"),
    ("positive_document", "a text that answers it"),
    ("hard_negative_document", "a near text that does not"),
    ("negative_instance", "concept of that text, or GENERATED when a language model wrote it"),
)


def finish_rows(rows: Sequence[Triplet]) -> StageResult[Triplet]:
    """The rows numbered from 0, without repeated ones and without any empty value.

    A row is repeated when query, positive and negative are those of an earlier one.
    """
    seen: set[tuple[str, ...]] = set()
    kept: list[Triplet] = []
    dropped: list[Dropped] = []
    for row in rows:
        texts = (row.task_type, row.user_query, row.positive_document, row.hard_negative_document)
        if texts in seen:
            dropped.append(Dropped(stage=STAGE, id=str(row.id), reason="repeated row", detail=row.user_query[:80]))
        elif not all(str(value).strip() for value in dataclasses.astuple(row)):
            dropped.append(Dropped(stage=STAGE, id=str(row.id), reason="empty value", detail=row.user_query[:80]))
        else:
            kept.append(dataclasses.replace(row, id=len(kept)))
        seen.add(texts)
    return StageResult(rows=tuple(kept), dropped=tuple(dropped))


def write_data_set(folder: Path, rows: Sequence[Triplet], *, facts: Mapping[str, Any], tokens: TokenCounter) -> None:
    """Writes the rows and their card. facts: name, language, model, seed, concepts and notes of the run.

    Raises EmptyInputError when there is no row: a data set of nothing is a failed run.
    """
    if not rows:
        raise EmptyInputError(f"no row came through; {folder / 'dropped.jsonl'} says why each was dropped")
    with atomic_file(folder / DATA) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(row_line(row) + "\n" for row in rows)
    with atomic_file(folder / CARD) as part:
        part.write_text(make_card(rows, facts=facts, lengths=token_lengths(rows, tokens), tokenizer=tokens.name))


def token_lengths(rows: Sequence[Triplet], tokens: TokenCounter) -> dict[str, dict[str, float | int]]:
    """Token counts of each text of the rows; the query counts with its instruction, as models read it."""
    return {
        "query with instruction": tokens.describe(f"{row.task} {row.user_query}" for row in rows),
        "positive document": tokens.describe(row.positive_document for row in rows),
        "hard negative document": tokens.describe(row.hard_negative_document for row in rows),
    }


def make_card(
    rows: Sequence[Triplet],
    *,
    facts: Mapping[str, Any],
    lengths: Mapping[str, Mapping[str, float | int]],
    tokenizer: str,
) -> str:
    """The card's text."""
    tasks = sorted({row.task_type for row in rows})
    domains = list(dict.fromkeys(row.domain for row in rows))
    counts = Counter((row.domain, row.task_type) for row in rows)
    by_task = Counter(row.task_type for row in rows)
    by_domain = Counter(row.domain for row in rows)
    concepts = {domain: len({row.instance for row in rows if row.domain == domain}) for domain in domains}
    table: list[list[str | float]] = [["domain", "concepts", *tasks, "rows"]]
    for domain in domains:
        table.append([domain, concepts[domain], *(counts[domain, task] for task in tasks), by_domain[domain]])
    table.append(["all", sum(concepts.values()), *(by_task[task] for task in tasks), len(rows)])
    measured: list[list[str | float]] = [["text", "mean", "median", "95 %", "longest"]]
    for name, each in lengths.items():
        measured.append([name, each["mean"], each["median"], each["p95"], each["max"]])
    notes = facts["notes"]
    return "\n".join(
        [
            "---",
            f"language: [{facts['language']}]",
            "task_categories: [text-retrieval]",
            f"size_categories: [{_size(len(rows))}]",
            f"configs: [{{config_name: default, data_files: {DATA}}}]",
            "---",
            f"# {facts['name']}",
            "",
            f"{len(rows):,} rows for training retrieval that needs reasoning, made by the ReasonAug pipeline of "
            f"diffembed with `{facts['model']}`, seed {facts['seed']}. The texts are a language model's: solutions "
            "were checked by the same model, not by people, and some are wrong. That model's terms apply to them.",
            "",
            *_table(table),
            "",
            f"Tokens ({tokenizer}):",
            "",
            *_table(measured),
            "",
            "Columns:",
            "",
            *(f"- `{name}`: {meaning}" for name, meaning in FIELDS),
            "",
            "What happened on the way:",
            "",
            *(f"- {note}: {count:,}" for note, count in notes.items()),
            *([] if notes else ["- nothing worth a note"]),
            "",
            "`report.json` has the quality report, `dropped.jsonl` every row that was left out and why, and "
            "`provenance.json` the versions of prompts and software.",
            "",
        ]
    )


def _size(num_rows: int) -> str:
    """Size category in the words of dataset hubs."""
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if num_rows < bound), "n>1M")


def _table(rows: Sequence[Sequence[str | float]]) -> list[str]:
    head, *body = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return [_line(head), _line(["---"] + ["---:"] * (len(head) - 1)), *(_line(row) for row in body)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
