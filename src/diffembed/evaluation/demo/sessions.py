"""Systems at work: loaded once, scored on tasks, with what they read and how long it took.

Read `Session.run`. This module knows nothing of processes, of choosing a draw or of the report.
"""

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diffembed.data.burying import TokenSpans, word_spans
from diffembed.evaluation.demo.draws import Draw, make_tasks
from diffembed.evaluation.scoring import TOP_K, TaskResult, score_task
from diffembed.evaluation.suites.reading import load_token_spans
from diffembed.evaluation.suites.stdlib import haystack_text
from diffembed.evaluation.systems.baselines import BM25
from diffembed.evaluation.systems.names import BASELINES
from diffembed.evaluation.systems.reading import Reading, read_embedder, read_with
from diffembed.evaluation.systems.recipes import SystemGroup
from diffembed.evaluation.systems.searching import DenseSystem, HybridSystem, System
from diffembed.evaluation.tasks import AnyTask, Task
from diffembed.records import Document, Encoder, Hit, Query

CALIBRATION_CHARACTERS = (2_000, 1_000, 500, 500)
"""Lengths of the texts whose reading is timed: about a thousand tokens together."""
NUM_CALIBRATIONS = 3
"""The median is taken: the first reading also makes the kernels of its shapes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRun:
    """What one system did with one task."""

    result: TaskResult
    num_tokens: int
    """Tokens of documents and queries that were read; words for a system without a tokenizer."""
    seconds: float
    """Wall time of reading them; systems that share a forward pass share it."""


class AnySession(Protocol):
    """A `Session`, in this process or in another."""

    facts: dict[str, Any]

    def tokens_per_s(self) -> float: ...
    def make_tasks(self, draw: Draw, seed: int) -> list[Task]: ...
    def run(self, task: AnyTask, seed: int) -> dict[str, TaskRun]: ...
    def search(self, label: str, documents: Sequence[Document], question: str, top_k: int) -> list[Hit]: ...
    def peak_bytes(self) -> int | None: ...
    def close(self) -> None: ...


class Session:
    """Systems that are loaded, and share their forward passes."""

    def __init__(self, system: System, token_spans: Callable[[], TokenSpans], facts: dict[str, Any]) -> None:
        """token_spans: loads the tokenizer that counts lengths, when it is asked for."""
        self.facts = facts
        """What was loaded: dim, max_tokens, dtype, attention and hash, where they are known."""
        self._system = system
        self._load_token_spans = token_spans

    @classmethod
    def open(cls, group: SystemGroup) -> "Session":
        """Loads the systems of a group. Raises what loading raises."""
        model = group.specs[0].model
        if group.recipe is None and model not in BASELINES:
            from diffembed.embedding.embedder import Embedder

            spec = group.specs[0]
            embedder = Embedder.load(model, attention=spec.attention, pooling=spec.pooling)
            poolings = {spec.label: spec.pooling or embedder.pooling for spec in group.specs}
            is_encoder = embedder.backbone.family.is_encoder
            return cls.of(embedder, DenseSystem(read_embedder(embedder, poolings), sends_instructions=not is_encoder))
        system = group.open()
        dense = _dense(system)
        if dense is None:
            # The first index also imports the library, which is no part of its speed.
            BM25([Document(id="warm-up", text="the first index")])
        facts = {} if dense is None else {"dim": dense.reader.dim, "max_tokens": dense.reader.max_tokens}
        return cls(system, lambda: load_token_spans("words" if model in BASELINES else model), facts)

    @classmethod
    def of(cls, encoder: Encoder, system: DenseSystem | None = None) -> "Session":
        """A session over an encoder that is loaded."""
        facts: dict[str, Any] = {"dim": encoder.dim, "max_tokens": encoder.max_tokens}
        backbone = getattr(encoder, "backbone", None)
        if backbone is None:
            return cls(system or DenseSystem(read_with(encoder)), lambda: word_spans, facts)
        facts |= {
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "device": str(backbone.device),
            "attention": backbone.attention,
            "source_hash": backbone.source_hash,
        }
        backend = backbone.tokenizer.backend_tokenizer
        return cls(
            system or DenseSystem(read_with(encoder)),
            lambda: lambda text: backend.encode(text, add_special_tokens=False).offsets,
            facts,
        )

    def tokens_per_s(self) -> float:
        """Measured on a few real texts of about a thousand tokens together; words for a lexical system."""
        texts = _calibration_texts()
        dense = _dense(self._system)
        if dense is None:
            started = time.perf_counter()
            BM25([Document(id=str(place), text=text) for place, text in enumerate(texts)])
            return _num_words(texts) / (time.perf_counter() - started)
        speeds = []
        for _ in range(NUM_CALIBRATIONS):
            _, reading = dense.reader.read(texts, "document")
            speeds.append((_num_read(reading) or _num_words(texts)) / reading.seconds)
        return statistics.median(speeds)

    def make_tasks(self, draw: Draw, seed: int) -> list[Task]:
        """The tasks of a draw, their lengths counted with this session's tokenizer."""
        return make_tasks(draw, token_spans=self._load_token_spans(), seed=seed)

    def run(self, task: AnyTask, seed: int) -> dict[str, TaskRun]:
        """Label -> what that system did. Raises ConfigError for a task such systems cannot do."""
        seconds = 0.0
        if _dense(self._system) is None and isinstance(task, Task):
            # A lexical system does not tell its time; it keeps its index, so ranking again below costs little.
            started = time.perf_counter()
            self._system.rank(task, top_k=TOP_K)
            seconds = time.perf_counter() - started
        runs = {}
        for label, result in score_task(self._system, task, seed=seed).items():
            readings = [reading for reading in (result.documents, result.queries) if reading is not None]
            num_tokens = sum(_num_read(reading) for reading in readings)
            if not num_tokens and isinstance(task, Task):
                num_tokens = _num_words([document.full_text for document in task.corpus])
            runs[label] = TaskRun(
                result=result, num_tokens=num_tokens, seconds=sum((reading.seconds for reading in readings), seconds)
            )
        return runs

    def search(self, label: str, documents: Sequence[Document], question: str, top_k: int) -> list[Hit]:
        """The nearest documents by one system of the session, best first."""
        # A task needs a judgement; that the first document is not known to be right says nothing.
        query = Query(id="question", text=question)
        task = Task(name="search", corpus=documents, queries=[query], qrels={query.id: {documents[0].id: 0}})
        by_id = {document.id: document for document in documents}
        best = enumerate(self._system.rank(task, top_k=top_k).runs[label][query.id].items(), start=1)
        return [Hit(document=by_id[key], score=score, rank=rank) for rank, (key, score) in best]

    def peak_bytes(self) -> int | None:
        """Most memory the process has held so far; `None` where the system does not tell."""
        return peak_process_bytes()

    def close(self) -> None:
        """Nothing to give back: the weights go with the object."""


def _dense(system: System) -> DenseSystem | None:
    if isinstance(system, HybridSystem):
        return system.dense
    return system if isinstance(system, DenseSystem) else None


def _num_read(reading: Reading) -> int:
    """Tokens that went through the network now; 0 where the encoder does not count."""
    return reading.num_encoded_tokens or 0


def _num_words(texts: Sequence[str]) -> int:
    return sum(len(word_spans(text)) for text in texts)


def _calibration_texts() -> list[str]:
    hay = haystack_text()
    texts = []
    for length in CALIBRATION_CHARACTERS:
        texts.append(hay[:length])
        hay = hay[length:]
    return texts


def peak_process_bytes() -> int | None:
    """Peak resident memory of this process; `None` where the system does not tell (Windows)."""
    with contextlib.suppress(OSError):
        # getrusage would count what the parent held when it started this process.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
