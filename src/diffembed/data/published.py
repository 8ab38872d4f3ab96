"""The published training sets of the paper and its successors, row by row, as rows that `TripletReader` understands.

Read `PUBLIC_E5` and the four `*_row` functions. Each takes one row in the published schema and is pure; a row that
cannot be turned comes back as the `Defect` that says why. Knows nothing of files, seeds or the hub.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from diffembed.data.formats import Defect
from diffembed.records import Document

WIKIPEDIA = "Given a question, retrieve Wikipedia passages that answer the question"

PUBLIC_E5: Mapping[str, tuple[str, ...]] = {
    "allnli": (
        "Given a premise, retrieve a hypothesis that is entailed by the premise",
        "Retrieve semantically similar text",
    ),
    "eli5_question_answer": ("Provided a user question, retrieve the highest voted answers on Reddit ELI5 forum",),
    "fever": ("Given a claim, retrieve documents that support or refute the claim",),
    "hotpot_qa": ("Given a multi-hop question, retrieve documents that can help answer the question",),
    "miracl": (WIKIPEDIA,),
    "mrtydi": (WIKIPEDIA,),
    "msmarco_passage": ("Given a web search query, retrieve relevant passages that answer the query",),
    "msmarco_document": ("Given a web search query, retrieve relevant documents that answer the query",),
    "nq": (WIKIPEDIA,),
    "quora_duplicates": (
        "Given a question, retrieve questions that are semantically equivalent to the given question",
        "Find questions that have the same meaning as the input question",
    ),
    "squad": ("Retrieve Wikipedia passages that answer the question",),
    "trivia_qa": ("Retrieve Wikipedia passages that answer the question",),
}
"""Set (file name without suffix) -> query instructions; rows of a set with two take them in turn.

Source: arXiv 2505.15045, the twelve sets of the echo-embeddings collection that the paper trains on.
"""

MSMARCO_REPOSITORY = "samaya-ai/msmarco-w-instructions"
MSMARCO_INSTRUCTION = "Retrieve text based on user query"
REASONAUG_REPOSITORY = "siyue/ReasonAug"
REASONIR_REPOSITORY = "reasonir/reasonir-data"
REASONIR_SETS = ("hq", "vl")
BRIGHT_REPOSITORY = "xlangai/BRIGHT"

REASONAUG_DOMAINS: Mapping[str, frozenset[str]] = {
    "aops": frozenset({"math theorem"}),
    "leetcode": frozenset({"algorithm", "data structure"}),
    "theoremqa": frozenset({"math theorem", "physics theorem", "finance formula"}),
}
"""BRIGHT task -> the ReasonAug domains that train for it."""


def e5_row(row: Any, number: int, instructions: Sequence[str]) -> Any:
    """`{query, positive, negative}` with the instruction of its place; `number` counts from 0 within the file."""
    if not isinstance(row, Mapping):
        return row
    return {**row, "instruction": instructions[number % len(instructions)]}


def msmarco_row(row: Any, instruction: str) -> Any:
    """MS MARCO with instructions: the first positive, `new_negatives` first among the negatives.

    The row's own instruction is part of its query. `new_negatives` fit the query and break the instruction.
    """
    if not isinstance(row, Mapping):
        return row
    passages = [row.get(column) for column in ("positive_passages", "new_negatives", "negative_passages")]
    if not passages[0]:
        return Defect.MISSING
    if any(found is not None and not _are_passages(found) for found in passages):
        return Defect.WRONG_TYPE
    positives, new, negatives = ([_passage_text(passage) for passage in found or ()] for found in passages)
    labels = {name: row[name] for name in ("query_id", "has_instruction") if row.get(name) is not None}
    return {
        "query": row.get("query"),
        "positive": positives[0],
        "negatives": new + negatives,
        "new_negatives": new,
        "instruction": instruction,
        **labels,
    }


def reasonaug_row(row: Any) -> Any:
    """The nine published keys, renamed; a row in the layout of a training folder passes as it is.

    The published id names the problem and not the row, so it becomes a label.
    """
    if not isinstance(row, Mapping) or "user_query" not in row:
        return row
    return {
        "query": row.get("user_query"),
        "positive": row.get("positive_document"),
        "negatives": row.get("hard_negative_document"),
        "instruction": row.get("task"),
        "task": row.get("task_type"),
        "domain": row.get("domain"),
        "concept": row.get("instance"),
        "negative_concept": row.get("negative_instance"),
        "problem_id": row.get("id"),
    }


def reasonir_row(row: Any, documents: Mapping[str, str] | None = None) -> Any:
    """ReasonIR: `query`, and each of `pos` and `neg`, is a pair (instruction, text).

    documents: id -> text where the positives are ids of BRIGHT documents (`hq`), None where they are texts (`vl`).
    A full stop after the instruction is taken off: the embedder's template adds its own mark.
    """
    if not isinstance(row, Mapping):
        return row
    query, positives, negatives = row.get("query"), row.get("pos"), row.get("neg")
    if not query or not positives:
        return Defect.MISSING
    pairs = [query, positives[0], *(negatives or ())] if isinstance(positives, list | tuple) else [None]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return Defect.WRONG_TYPE
    positive = positives[0][1]
    if documents is not None:
        if str(positive) not in documents:
            return Defect.UNRESOLVED_ID
        positive = documents[str(positive)]
    return {
        "query": query[1],
        "positive": positive,
        "negatives": [text for _, text in negatives or ()],
        "instruction": str(query[0] or "").strip().removesuffix("."),
    }


def _are_passages(found: Any) -> bool:
    return isinstance(found, list | tuple) and all(
        isinstance(passage, Mapping) and isinstance(passage.get("text"), str) for passage in found
    )


def _passage_text(passage: Mapping[str, Any]) -> str:
    title = str(passage.get("title") or "")
    # MS MARCO writes a missing title as a hyphen.
    return Document(id="", title="" if title == "-" else title, text=passage["text"]).full_text
