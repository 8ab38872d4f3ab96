"""Hard negatives for training rows: near the query by words or by vectors, and not its answer.

Read `mine_negatives`. Works in small parts that reach the disk whole, so a killed run goes on where it stopped and the
output appears only when it is complete. Takes any `Encoder`; knows nothing of models.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffembed.data.candidates import Corpus, make_corpus, rank_candidates
from diffembed.data.formats import Triplet, hash_triplets, text_key, write_triplets
from diffembed.data.negatives import row_generator
from diffembed.data.reasonaug.ranking import BM25Ranker
from diffembed.errors import ConfigError, EmptyInputError, InputError
from diffembed.provenance import RunFolder, atomic_file, hash_bytes, write_json
from diffembed.records import Document, Encoder, Vectors

# Q = queries of a part, N = documents

PART_ROWS = 64
"""Rows scored and written at a time; a kill costs at most so many."""
BLOCK_DOCUMENTS = 1024
"""Documents encoded and kept at a time."""
ABOVE = "scores above the positive"
OWN = "is a negative of the row already"
PROBE = "A killed run must go on with the same encoder."


@dataclass(frozen=True, kw_only=True)
class MiningConfig:
    """Which negatives are taken."""

    num_negatives: int = 7
    """Negatives wanted per row, those it has included; at least 1. A row gets fewer where too few pass."""
    proposers: Literal["bm25", "encoder", "both"] = "bm25"
    """What ranks the documents; both takes candidates from the two rankings in turn."""
    min_rank: int = 1
    """Best rank a negative may have, from 1, counted without the row's own answers; above 1 skips likely answers."""
    max_rank: int = 100
    """Worst rank a negative may have, from 1."""
    choice: Literal["top", "random"] = "top"
    """The nearest candidates that pass, or a seeded draw of them."""
    margin: float | None = 0.0
    """A candidate that scores more than the positive plus this is taken for an answer and left out. Cosine where there
    is an encoder, BM25 score otherwise; negative values are stricter; none turns the filter off."""
    same_label: str | None = None
    """Label of the rows whose value an answer shares (concept): documents of rows with the row's value are left out."""
    keeps_own: bool = True
    """Keep the negatives a row has, in front; false replaces them."""
    language: str = "en"
    """Stop words of BM25, as a two-letter code."""
    seed: int = 0
    """Of the random choice."""

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise ConfigError(f"num_negatives must be at least 1, received {self.num_negatives}")
        if not 1 <= self.min_rank <= self.max_rank:
            raise ConfigError(f"ranks must satisfy 1 <= {self.min_rank} <= {self.max_rank}")
        if self.margin is not None and not np.isfinite(self.margin):
            raise ConfigError(f"margin must be a number, received {self.margin}; none turns the filter off")
        if self.choice == "top" and self.seed:
            raise ConfigError("seed has no effect on choice=top")
        if self.max_rank - self.min_rank + 1 < self.num_negatives and self.proposers != "both":
            raise ConfigError(
                f"ranks {self.min_rank} to {self.max_rank} hold fewer than num_negatives={self.num_negatives} documents"
            )

    @property
    def num_own(self) -> int | None:
        """Where the negatives that a row keeps end; None keeps them all."""
        return None if self.keeps_own else 0


@dataclass(kw_only=True)
class MiningReport:
    """What was found, and why candidates were left out."""

    num_rows: int = 0
    num_documents: int = 0
    num_mined: int = 0
    """Negatives added over all rows."""
    num_short: int = 0
    """Rows with fewer negatives than wanted."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Reason -> candidates within the ranks that were left out."""

    def add(self, part: Mapping[str, Any]) -> None:
        """Counts one part."""
        self.num_rows += len(part["mined"])
        self.num_mined += sum(map(len, part["mined"]))
        self.num_short += part["num_short"]
        self.rejected.update(part["rejected"])


def mine_negatives(
    triplets: Sequence[Triplet],
    output: Path | str,
    config: MiningConfig,
    *,
    encoder: Encoder | None = None,
    documents: Sequence[Document] = (),
    progress: Callable[[int, int], None] | None = None,
) -> MiningReport:
    """Writes the rows with mined negatives to `output` (.jsonl, .jsonl.zst), in their order.

    documents: further texts to draw from; the positives and negatives of the rows always are.
    encoder: proposes, where the config says so, and judges the margin in any case.
    progress: called with the number of rows done and the number of all rows.
    The run's parts lie in a folder beside the output, and are removed at the end. Raises InputError when the output
    exists, CheckpointError when the parts are of a run with other rows, documents, settings or another encoder.
    """
    output = Path(output)
    if output.exists():
        raise InputError(f"{output} already exists; choose another name or remove it")
    if config.proposers != "bm25" and encoder is None:
        raise ConfigError(f"proposers={config.proposers} needs an encoder")
    if not triplets:
        raise EmptyInputError("there are no rows to mine for")
    corpus = make_corpus(triplets, documents, config.same_label)
    parts = output.parent / f".{output.name}.parts"
    RunFolder(parts, _identity(triplets, corpus, config, encoder))
    miner = _Miner(config, corpus, encoder, parts)
    report = MiningReport(num_documents=len(corpus.texts))
    starts = range(0, len(triplets), PART_ROWS)
    for start in starts:
        path = _part_path(parts, start)
        if not path.exists():
            write_json(path, miner.mine(triplets[start : start + PART_ROWS]))
        report.add(_read_part(path))
        if progress is not None:
            progress(report.num_rows, len(triplets))

    def finished() -> Iterator[Triplet]:
        for start in starts:
            mined = _read_part(_part_path(parts, start))["mined"]
            for triplet, positions in zip(triplets[start : start + PART_ROWS], mined, strict=True):
                own = triplet.negatives[: config.num_own]
                yield replace(triplet, negatives=(*own, *(corpus.texts[position] for position in positions)))

    write_triplets(output, finished())
    shutil.rmtree(parts)
    return report


def _part_path(parts: Path, start: int) -> Path:
    return parts / f"part-{start:08d}.json"


def _read_part(path: Path) -> dict[str, Any]:
    part: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return part


def _identity(
    triplets: Sequence[Triplet], corpus: Corpus, config: MiningConfig, encoder: Encoder | None
) -> dict[str, Any]:
    """What a resumed run must have in common with the first."""
    probe = None
    if encoder is not None:
        # Rounded: the same weights may differ in the last bit between runs.
        probe = hash_bytes((encoder.encode_documents([PROBE]) * 1000).round().astype(np.int64).tobytes())[:16]
    return {
        **asdict(config),
        "rows": hash_triplets(triplets),
        "documents": corpus.content_hash,
        "encoder": None if encoder is None else f"{encoder.name} {probe}",
    }


class _Miner:
    """Scores rows against the corpus and chooses their negatives; document vectors are encoded once, onto the disk."""

    def __init__(self, config: MiningConfig, corpus: Corpus, encoder: Encoder | None, folder: Path) -> None:
        self.config = config
        self.corpus = corpus
        self.encoder = encoder
        self.folder = folder
        self._bm25 = BM25Ranker(config.language)
        self._blocks: list[Vectors] = []

    def mine(self, rows: Sequence[Triplet]) -> dict[str, Any]:
        """Positions of the mined documents of each row, and the counts of the report."""
        rejected: Counter[str] = Counter()
        lexical_QN = self._lexical(rows) if self.config.proposers != "encoder" or self.encoder is None else None
        dense_QN = self._dense(rows) if self.encoder is not None else None
        mined = [
            self._mine_row(
                triplet,
                None if lexical_QN is None else lexical_QN[place],
                None if dense_QN is None else dense_QN[place],
                rejected,
            )
            for place, triplet in enumerate(rows)
        ]
        wanted = self.config.num_negatives
        own = [len(triplet.negatives[: self.config.num_own]) for triplet in rows]
        num_short = sum(len(found) + num_own < wanted for found, num_own in zip(mined, own, strict=True))
        return {"mined": mined, "num_short": num_short, "rejected": rejected}

    def _mine_row(
        self,
        triplet: Triplet,
        lexical_N: NDArray[np.float32] | None,
        dense_N: NDArray[np.float32] | None,
        rejected: Counter[str],
    ) -> list[int]:
        config = self.config
        ranks = (config.min_rank, config.max_rank)
        forbidden = self.corpus.forbidden(triplet)
        ranked: list[tuple[int, int, int]] = []
        if lexical_N is not None and config.proposers != "encoder":
            found = rank_candidates(lexical_N, forbidden, ranks, rejected, is_lexical=True)
            ranked += [(rank, 0, position) for rank, position in found]
        if dense_N is not None and config.proposers != "bm25":
            found = rank_candidates(dense_N, forbidden, ranks, rejected, is_lexical=False)
            ranked += [(rank, 1, position) for rank, position in found]
        # Sorted by rank, so that two proposers take turns; a document both propose counts once.
        candidates = list(dict.fromkeys(position for _, _, position in sorted(ranked)))
        own = [text_key(text) for text in triplet.negatives[: config.num_own]]
        taken = {self.corpus.places[key] for key in own}
        judge_N = dense_N if dense_N is not None else lexical_N
        assert judge_N is not None
        limit = np.inf if config.margin is None else judge_N[self.corpus.positive(triplet)] + config.margin
        passed = []
        for position in candidates:
            if judge_N[position] > limit:
                rejected[ABOVE] += 1
            elif position in taken:
                rejected[OWN] += 1
            else:
                passed.append(position)
        if config.choice == "random":
            order = row_generator(config.seed, triplet.source, triplet.id, "mining").permutation(len(passed))
            passed = [passed[place] for place in order]
        return passed[: max(0, config.num_negatives - len(own))]

    def _lexical(self, rows: Sequence[Triplet]) -> Vectors:
        return self._bm25.scores([triplet.query for triplet in rows], self.corpus.texts)

    def _dense(self, rows: Sequence[Triplet]) -> Vectors:
        assert self.encoder is not None
        queries_QD = np.empty((len(rows), self.encoder.dim), np.float32)
        for instruction in dict.fromkeys(triplet.instruction for triplet in rows):
            places = [place for place, triplet in enumerate(rows) if triplet.instruction == instruction]
            queries_QD[places] = self.encoder.encode_queries([rows[place].query for place in places], instruction)
        return np.hstack([self.encoder.similarity(queries_QD, block_ND) for block_ND in self._vectors()])

    def _vectors(self) -> list[Vectors]:
        """Document vectors in blocks, mapped from disk; a block that a killed run finished is not encoded again."""
        assert self.encoder is not None
        for start in range(len(self._blocks) * BLOCK_DOCUMENTS, len(self.corpus.texts), BLOCK_DOCUMENTS):
            path = self.folder / f"vectors-{start:08d}.npy"
            if not path.exists():
                vectors_ND = self.encoder.encode_documents(self.corpus.texts[start : start + BLOCK_DOCUMENTS])
                with atomic_file(path) as part, part.open("wb") as out:
                    np.save(out, vectors_ND)
            self._blocks.append(np.load(path, mmap_mode="r"))
        return self._blocks
