"""Our systems as models of mteb: `encode` for its sentence tasks, `index` and `search` for its retrieval tasks.

Read `MtebModel`. Dense, BM25, fused and int8 systems all search through it, exactly (an index not so), with excluded
documents removed before the cut and candidate lists ranked whole. It keeps every run and every count of cut texts,
which mteb's own results leave out. This module knows nothing of suites.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError, InputError, MissingExtraError
from diffembed.evaluation.suites.instructions import Prompts, find_instruction
from diffembed.evaluation.systems.reading import Reading
from diffembed.evaluation.systems.searching import DenseSystem, Ranking, System
from diffembed.records import Document, Query, Vectors

TASK_KINDS = {
    "Retrieval": "retrieval",
    "Reranking": "reranking",
    "InstructionRetrieval": "instruction",
    "InstructionReranking": "instruction",
    "STS": "similarity",
    "Summarization": "similarity",
    "BitextMining": "similarity",
    "PairClassification": "pair_classification",
    "Classification": "classification",
    "MultilabelClassification": "classification",
    "Clustering": "clustering",
}
"""mteb's task type -> key of the instruction file's defaults."""
BRIGHT_V1 = "BrightRetrieval"
BRIGHT_V1_SETS = {
    "theoremqa_theorems": "BrightTheoremQATheoremsRetrieval",
    "theoremqa_questions": "BrightTheoremQAQuestionsRetrieval",
    "aops": "BrightAopsRetrieval",
    "leetcode": "BrightLeetcodeRetrieval",
}
"""Subset of mteb's BRIGHT v1 task -> the task name its instruction is filed under."""

Place = tuple[str, str, str]
"""mteb task, split, subset."""
Exclusions = Callable[[str, str], Mapping[str, frozenset[str]]]
"""(mteb task, subset) -> query id -> documents it may not retrieve."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Search:
    """What a system needs of a retrieval task; the judgements stay with mteb."""

    name: str
    corpus: Sequence[Document]
    queries: Sequence[Query]
    instruction: str | None
    candidates: Mapping[str, Sequence[str]] | None


class MtebModel:
    """One system under mteb's `EncoderProtocol` and `SearchProtocol`."""

    def __init__(
        self,
        system: System,
        *,
        label: str | None = None,
        prompts: Prompts = "paper",
        exclusions: Exclusions | None = None,
    ) -> None:
        """label: which of the system's labels; `None` takes its only one. exclusions: for tasks whose mteb loader drops
        them (BRIGHT v1)."""
        labels = system.labels
        if label is None and len(labels) != 1:
            raise ConfigError(f"the system has the labels {', '.join(labels)}; name one")
        self.system = system
        self.label = label or labels[0]
        self.prompts = prompts
        self.rankings: dict[Place, Ranking] = {}
        self.readings: dict[Place, list[Reading]] = {}
        self._exclusions = exclusions
        self._corpus: list[Document] = []

    @property
    def mteb_model_meta(self) -> Any:
        """Name and revision under which mteb keeps results; the revision names weights, limit and prompts."""
        try:
            from mteb.models.model_meta import ModelMeta
        except ImportError as error:
            raise MissingExtraError.of("mteb", "eval") from error
        reader = self.system.reader if isinstance(self.system, DenseSystem) else None
        limit = "" if reader is None else f"-{reader.max_tokens}"
        return ModelMeta.create_empty(
            overwrites={
                "name": f"diffembed/{self.label.replace('/', '_').replace(':', '-')}",
                "revision": f"{self.system.identities.get(self.label, 'no-weights')}{limit}-{self.prompts}",
                "max_tokens": None if reader is None else float(reader.max_tokens),
                "embed_dim": None if reader is None else reader.dim,
                "use_instructions": self.system.sends_instructions,
                "framework": ["PyTorch"],
            }
        )

    def instruction(self, metadata: Any, subset: str) -> str:
        """The instruction of a task: the file's, else mteb's own prompt, else the default of its type."""
        name = BRIGHT_V1_SETS.get(subset, metadata.name) if metadata.name == BRIGHT_V1 else metadata.name
        kind = TASK_KINDS.get(metadata.type, "retrieval")
        own = metadata.prompt.get("query") if isinstance(metadata.prompt, dict) else metadata.prompt
        return find_instruction(name, kind, prompts=self.prompts, own=(own or "").strip().rstrip(":").strip())

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> NDArray[np.float32]:
        """[N, dim] of the texts of a data loader. Raises ConfigError for a system without vectors."""
        if not isinstance(self.system, DenseSystem):
            raise ConfigError(f"{self.label} has no vectors, which {task_metadata.name} needs")
        texts = [text for batch in inputs for text in batch["text"]]
        instruction = self.instruction(task_metadata, hf_subset)
        if prompt_type is not None and str(getattr(prompt_type, "value", prompt_type)) == "document":
            vectors, reading = self.system.read_documents(texts)
        else:
            vectors, reading = self.system.read_plain(texts, instruction)
        self.readings.setdefault((task_metadata.name, hf_split, hf_subset), []).append(reading)
        return vectors[self.label]

    def similarity(self, embeddings1: Any, embeddings2: Any) -> NDArray[np.float32]:
        """[N1, N2] cosine; a single vector counts as one row."""
        return np.asarray(_unit(embeddings1) @ _unit(embeddings2).T, dtype=np.float32)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> NDArray[np.float32]:
        """[N] cosine of each row with its partner."""
        return np.asarray((_unit(embeddings1) * _unit(embeddings2)).sum(1), dtype=np.float32)

    def index(
        self,
        corpus: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Any,
        num_proc: int | None = None,
        **_: Any,
    ) -> None:
        """Takes the documents; they are encoded when the first query comes."""
        self._corpus = [
            Document(id=str(row["id"]), text=row["text"] or "", title=row.get("title") or "") for row in corpus
        ]

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Any,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        num_proc: int | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Run over the indexed documents; a query's own instruction is appended to its text, as mteb does."""
        if not self._corpus:
            raise InputError(f"{task_metadata.name} searched before it indexed a corpus")
        excluded = self._exclusions(task_metadata.name, hf_subset) if self._exclusions is not None else {}
        records = [
            Query(
                id=str(row["id"]),
                text=f"{row['text']} {row['instruction']}" if row.get("instruction") else row["text"],
                excluded_ids=excluded.get(str(row["id"]), frozenset()),
            )
            for row in queries
        ]
        request = _Search(
            name=f"{task_metadata.name} {hf_subset} {hf_split}".replace(" default", ""),
            corpus=self._corpus,
            queries=records,
            instruction=self.instruction(task_metadata, hf_subset),
            candidates=None
            if top_ranked is None
            else {str(key): list(map(str, ids)) for key, ids in top_ranked.items()},
        )
        ranking = self.system.rank(request, top_k=top_k)
        self.rankings[task_metadata.name, hf_split, hf_subset] = ranking
        return {query: dict(hits) for query, hits in ranking.runs[self.label].items()}


def _unit(vectors: Any) -> Vectors:
    plain = np.asarray(vectors, dtype=np.float32)
    rows = plain[None] if plain.ndim == 1 else plain
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def read_bright_exclusions(revision: str) -> Exclusions:
    """Excluded documents of BRIGHT v1 from the hub: mteb's loader of that version drops them."""

    def read(task: str, subset: str) -> Mapping[str, frozenset[str]]:
        if task != BRIGHT_V1:
            return {}
        from datasets import load_dataset

        rows = load_dataset("xlangai/BRIGHT", "examples", split=subset, revision=revision)
        return {str(row["id"]): frozenset(key for key in row["excluded_ids"] if key != "N/A") for row in rows}

    return read
