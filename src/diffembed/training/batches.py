"""From triplets to the batches that the sentence-transformers trainer reads.

Read `TripletCollator`. Which rows form a batch is decided by `data/mixing.py`, what the network reads of a text by the
embedder's tokenizer: the same function as at inference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from diffembed.data.formats import Triplet, hash_texts, text_key
from diffembed.data.mixing import BatchPlan
from diffembed.data.negatives import with_num_negatives
from diffembed.embedding.embedder import Embedder
from diffembed.embedding.text import Kind, Tokenizer
from diffembed.training.config import BatchConfig, LossConfig
from diffembed.training.losses import QUERY_KEY, TEXT_KEY
from diffembed.training.packed import pack_features


def rows_for_loss(triplets: Sequence[Triplet], config: LossConfig, seed: int) -> list[Triplet]:
    """The triplets with exactly the negatives the loss reads; for simcse each query is its own positive."""
    if config.kind == "simcse":
        return [replace(triplet, positive=triplet.query, negatives=()) for triplet in triplets]
    if config.num_negatives == 0:
        return [replace(triplet, negatives=()) for triplet in triplets]
    return with_num_negatives(triplets, config.num_negatives, seed, from_other_rows=config.borrows_negatives)


class PlannedBatches:
    """Row numbers of every batch of a run, one process after the other within a step, as accelerate deals them out."""

    def __init__(self, plan: BatchPlan, num_steps: int, num_processes: int) -> None:
        self.plan = plan
        self.num_steps = num_steps
        self.num_processes = num_processes
        self.batch_size = plan.batch_rows // num_processes
        self.drop_last = True

    def __len__(self) -> int:
        return self.num_steps * self.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.num_steps):
            for rank in range(self.num_processes):
                yield self.plan.shard(step, rank, self.num_processes).tolist()


@dataclass
class CutCount:
    """Texts read, and how many of them were longer than the limit."""

    num_texts: int = 0
    num_cut: int = 0


@dataclass
class TripletCollator:
    """Row numbers -> packed features of the columns query, positive, negative_1, ...

    Every column carries a hash of each of its texts; `row_index` names the rows, for the report on a NaN.
    """

    embedder: Embedder
    triplets: Sequence[Triplet]
    batch: BatchConfig
    is_simcse: bool = False
    valid_label_columns: list[str] = field(default_factory=list)
    """No column is a label; the trainer asks."""
    cuts: CutCount = field(default_factory=CutCount)

    def __post_init__(self) -> None:
        limits = {"query": self.batch.query_max_tokens, "document": self.batch.document_max_tokens}
        self._tokenizers = {
            kind: Tokenizer(
                self.embedder.backbone.tokenizer,
                self.embedder.template,
                max_tokens=limit,
                pools_special_tokens=self.embedder.backbone.family.pools_special_tokens,
            )
            for kind, limit in limits.items()
        }

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        """The trainer's batch: `<column>_<feature>` for every column."""
        numbers = [row["row"] for row in rows]
        triplets = [self.triplets[number] for number in numbers]
        batch: dict[str, Any] = {"row_index": torch.tensor(numbers)}
        for column, texts in columns_of(triplets).items():
            is_query = column == "query" or self.is_simcse
            instructions = [triplet.instruction if is_query else None for triplet in triplets]
            features = self.features("query" if is_query else "document", texts, instructions)
            batch |= {f"{column}_{name}": value for name, value in features.items()}
        return batch

    def features(self, kind: Kind, texts: Sequence[str], instructions: Sequence[str | None]) -> dict[str, Any]:
        """Packed features of one column."""
        tokens = []
        for text, instruction in zip(texts, instructions, strict=True):
            (tokenized,) = self._tokenizers[kind].encode([text], kind=kind, instruction=instruction)
            self.cuts.num_texts += 1
            self.cuts.num_cut += tokenized.is_truncated
            tokens.append(tokenized.windows[0])
        features: dict[str, Any] = {**pack_features(tokens), TEXT_KEY: torch.tensor([key_of(text) for text in texts])}
        if kind == "query":
            pairs = zip(texts, instructions, strict=True)
            features[QUERY_KEY] = torch.tensor([key_of(text, instruction or "") for text, instruction in pairs])
        return features


def columns_of(triplets: Sequence[Triplet]) -> dict[str, list[str]]:
    """Column name -> its texts; all rows have as many negatives as the first."""
    columns = {"query": [t.query for t in triplets], "positive": [t.positive for t in triplets]}
    for place in range(len(triplets[0].negatives)):
        columns[f"negative_{place + 1}"] = [t.negatives[place] for t in triplets]
    return columns


def key_of(*parts: str) -> int:
    """60-bit number that equal texts share, white space and case aside; never 0."""
    return int(hash_texts(*map(text_key, parts))[:15], 16) + 1
