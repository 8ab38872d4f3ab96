"""Rows of a table ranked for a question: by vectors, by words, or by both.

Read `Searcher.dense`, `Searcher.bm25` and `fuse`. Vectors come in ready made: knows no encoder.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffembed.embedding.precision import hamming, pack_signs, unpack_signs
from diffembed.errors import ConfigError, StoreError, UnknownNameError
from diffembed.index.maintenance import EXACT_ROWS
from diffembed.index.store import Store, fixed_rows
from diffembed.index.writing import called, table_errors
from diffembed.records import Document, Hit, Vectors

# N = rows of the table, K = rows found, D = components, B = bytes of a row of bits

Mode = Literal["dense", "bm25", "hybrid"]
Fusion = Literal["rank", "score"]

COLUMNS = ("id", "document", "text", "title", "source", "metadata", "start", "line")
RANK_CONSTANT = 60
"""Added to a rank before it is divided into 1. Source: Cormack et al. 2009."""
OVERSAMPLE = 10
"""Rows that a coarse code finds for each one that the finer code keeps."""
NUM_PROBES = 48
"""Parts of an IVF index that are read for a question."""
REFINED_COMPONENTS = 96_000
"""Float32 components that are read again for a question, at least: 150 rows of 640. The fewer a row has, the coarser is
its one bit for each, and the more rows it takes to have the best ones among them."""
MIN_CANDIDATES = 50
"""Rows that each component of a search finds at least, so that fusing and collapsing have a choice."""


@dataclass(frozen=True, slots=True)
class Found:
    """A row with its scores."""

    row: Mapping[str, Any]
    score: float
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Matrix:
    """The vectors of one state of the table in memory, in the order of its rows."""

    state: tuple[str, int]
    """`made` of the index, and the version of its table."""
    row_ids_N: NDArray[np.uint64]
    codes: NDArray[Any]
    """[N, D] float32 or int8, or [N, B] bits."""


class Searcher:
    """Searches the newest state of a table; safe to use from several threads."""

    def __init__(self, store: Store, *, exact_rows: int = EXACT_ROWS, num_probes: int = NUM_PROBES) -> None:
        """exact_rows: up to this many rows every vector is compared, in memory."""
        self.store = store
        self.exact_rows = exact_rows
        self.num_probes = num_probes
        self._matrix: _Matrix | None = None

    def dense(self, query_D: Vectors, num: int, where: str | None = None) -> list[Found]:
        """The `num` rows of highest cosine, best first; an estimate of it where the index keeps less than 4 bytes.

        query_D: of length 1.
        """
        dataset = self.store.refresh()
        with table_errors(self.store.folder):
            if dataset.count_rows() <= self.exact_rows:
                return self._exact(dataset, query_D, num, where)
            if self.store.settings.precision == "float32":
                return self._approximate(dataset, query_D, num, where)
            return self._by_bits(dataset, query_D, num, where)

    def bm25(self, question: str, num: int, where: str | None = None) -> list[Found]:
        """The `num` rows whose words score highest, best first; rows that share no word are not found."""
        from lance.query import MatchQuery

        dataset = self.store.refresh()
        if not dataset.count_rows():
            return []
        if not any(index["name"] == "text_idx" for index in dataset.list_indices()):
            raise StoreError(
                f"{self.store.folder} has no full-text index; make it with: "
                f"diffembed index optimize {called(self.store.folder)}"
            )
        with table_errors(self.store.folder):
            rows = dataset.scanner(
                columns=[*COLUMNS, "_score"],
                full_text_query=MatchQuery(question, "text"),
                limit=num,
                with_row_id=True,
                **_filtered(where),
            ).to_table()
        found = [Found(row, row["_score"], {"bm25": row["_score"]}) for row in rows.to_pylist()]
        return sorted(found, key=lambda each: -each.score)

    def _exact(self, dataset: Any, query_D: Vectors, num: int, where: str | None) -> list[Found]:
        matrix = self._load_matrix(dataset)
        scores_N = self._scores(query_D, matrix.codes)
        places = np.arange(len(scores_N))
        if where is not None:
            allowed = dataset.scanner(columns=[], filter=where, with_row_id=True).to_table()["_rowid"].to_numpy()
            places = np.flatnonzero(np.isin(matrix.row_ids_N, allowed))
        if self.store.settings.precision == "binary":
            # Bits of both sides say which rows are near; the components of the question then order them.
            places = _best(places, scores_N, num * OVERSAMPLE)
            scores_N[places] = self._fine_scores(query_D, matrix.codes[places])
        best = _best(places, scores_N, num)
        if not len(best):
            return []
        rows = dataset.take(best.tolist(), columns=list(COLUMNS)).to_pylist()
        return [
            _dense({**row, "_rowid": int(matrix.row_ids_N[place])}, float(scores_N[place]))
            for row, place in zip(rows, best, strict=True)
        ]

    def _scores(self, query_D: Vectors, codes: NDArray[Any]) -> Vectors:
        """Cosines with what the codes stand for; of binary codes, with the signs of the question."""
        settings = self.store.settings
        if settings.precision == "float32":
            return codes @ query_D
        if settings.precision == "int8":
            calibration = self.store.codes
            assert calibration is not None, "int8 rows are written after their calibration"
            return calibration.scores(query_D[None], codes)[0]
        num_different_N = hamming(pack_signs(query_D[None]), codes)[0]
        return ((settings.dim - 2 * num_different_N) / settings.dim).astype(np.float32)

    def _load_matrix(self, dataset: Any) -> _Matrix:
        matrix = self._matrix
        state = (self.store.settings.made, dataset.version)
        if matrix is None or matrix.state != state:
            column = self.store.vector_column
            table = dataset.scanner(columns=[column], with_row_id=True, scan_in_order=True).to_table()
            matrix = _Matrix(state, table["_rowid"].to_numpy(), fixed_rows(table[column]))
            self._matrix = matrix
        return matrix

    def _approximate(self, dataset: Any, query_D: Vectors, num: int, where: str | None) -> list[Found]:
        nearest = {
            "column": "vector",
            "q": query_D,
            "k": num,
            "metric": "dot",
            "nprobes": self.num_probes,
            "refine_factor": max(2, -(-REFINED_COMPONENTS // (self.store.settings.dim * num))),
        }
        rows = dataset.scanner(
            columns=[*COLUMNS, "_distance"], nearest=nearest, with_row_id=True, **_filtered(where)
        ).to_table()
        return [_dense(row, 1 - row["_distance"]) for row in rows.to_pylist()]

    def _by_bits(self, dataset: Any, query_D: Vectors, num: int, where: str | None) -> list[Found]:
        import pyarrow as pa

        settings = self.store.settings
        finer = "code" if settings.precision == "int8" else "bits"
        nearest = {
            "column": "bits",
            "q": pa.array(pack_signs(query_D[None])[0]),
            "k": num * OVERSAMPLE,
            "metric": "hamming",
            "nprobes": self.num_probes,
        }
        rows = dataset.scanner(
            columns=[*COLUMNS, finer, "_distance"], nearest=nearest, with_row_id=True, **_filtered(where)
        ).to_table()
        scores_K = self._fine_scores(query_D, fixed_rows(rows[finer]))
        order_K = np.argsort(-scores_K, kind="stable")[:num]
        kept = rows.drop_columns([finer]).take(order_K).to_pylist()
        return [_dense(row, float(scores_K[place])) for row, place in zip(kept, order_K, strict=True)]

    def _fine_scores(self, query_D: Vectors, codes: NDArray[Any]) -> Vectors:
        """Cosines of the question's own components with the int8 codes, or with the signs."""
        settings = self.store.settings
        if settings.precision == "int8":
            return self._scores(query_D, codes)
        return unpack_signs(codes, settings.dim) @ query_D / np.float32(np.sqrt(settings.dim))


def fuse(dense: Sequence[Found], bm25: Sequence[Found], *, fusion: Fusion, weight: float) -> list[Found]:
    """Both rankings as one, best first.

    fusion: `rank` sums 1 / (60 + rank), `score` sums the scores of each, stretched to 0 ... 1 over what it found; what
        a component did not find has 0 of it. weight: share of the vectors, 0 to 1; the words have the rest.
    """
    if fusion not in get_args(Fusion):
        raise UnknownNameError.of("fusion", fusion, get_args(Fusion))
    if not 0 <= weight <= 1:
        raise ConfigError(f"weight is {weight}; it is the share of the vectors, 0 to 1")
    rows: dict[int, Mapping[str, Any]] = {}
    parts: dict[int, dict[str, float]] = {}
    totals: dict[int, float] = {}
    for found, share in ((dense, weight), (bm25, 1 - weight)):
        for each, points in zip(found, _points(found, fusion), strict=True):
            key = each.row["_rowid"]
            rows[key] = each.row
            parts.setdefault(key, {}).update(each.parts)
            totals[key] = totals.get(key, 0.0) + share * points
    order = sorted(totals, key=lambda key: -totals[key])
    return [Found(rows[key], totals[key], parts[key]) for key in order]


def _points(found: Sequence[Found], fusion: Fusion) -> list[float]:
    if fusion == "rank":
        return [1 / (RANK_CONSTANT + rank) for rank in range(1, len(found) + 1)]
    if not found:
        return []
    low, high = found[-1].score, found[0].score
    return [(each.score - low) / (high - low) if high > low else 1.0 for each in found]


def collapse_documents(found: Sequence[Found]) -> list[Found]:
    """The best row of each document, and of texts that are the same but for case and white space."""
    seen: set[str] = set()
    kept = []
    for each in found:
        keys = {f"document {each.row['document']}", f"text {' '.join(each.row['text'].casefold().split())}"}
        if seen.isdisjoint(keys):
            kept.append(each)
            seen |= keys
    return kept


def make_document(row: Mapping[str, Any]) -> Document:
    """The chunk of a row that has `COLUMNS`."""
    return Document(
        id=row["id"],
        text=row["text"],
        title=row["title"],
        source=row["source"],
        start=row["start"],
        line=row["line"],
        parent=row["document"],
        metadata=json.loads(row["metadata"]),
    )


def make_hits(found: Sequence[Found]) -> list[Hit]:
    """Hits in the order given."""
    return [
        Hit(document=make_document(each.row), score=each.score, rank=rank, parts=dict(each.parts))
        for rank, each in enumerate(found, start=1)
    ]


def _best(places: NDArray[np.intp], scores_N: Vectors, num: int) -> NDArray[np.intp]:
    """The `num` places of highest score, best first; of equal ones the earlier."""
    if num < len(places):
        places = places[np.argpartition(-scores_N[places], num)[:num]]
    return places[np.lexsort((places, -scores_N[places]))]


def _dense(row: Mapping[str, Any], score: float) -> Found:
    return Found(row, score, {"dense": score})


def _filtered(where: str | None) -> dict[str, Any]:
    return {"filter": where, "prefilter": True} if where is not None else {}
