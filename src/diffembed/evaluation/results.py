"""Results on disk: one folder per system and task, with every query's values and best documents as parquet.

Read `save_result` and `load_result`. `result.json` is written last: a folder that has it is whole. This module knows
nothing of suites.
"""

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from diffembed.errors import CheckpointError
from diffembed.evaluation.scoring import TaskResult
from diffembed.evaluation.statistics.significance import Interval
from diffembed.evaluation.systems.reading import Reading
from diffembed.provenance import atomic_file, hash_text, write_json
from diffembed.records import Run

_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
MAX_SLUG = 60
"""Characters of a name that become part of a folder's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A score somebody published."""

    system: str
    task: str
    measure: str
    value: float
    """In points of 100."""
    tolerance: float
    """Difference in points that counts as reproduced."""
    source: str


def slug(name: str) -> str:
    """A folder name for a system or a task; different names stay different."""
    safe = _UNSAFE.sub("_", name).strip("._")
    return name if safe == name else f"{safe[-MAX_SLUG:]}-{hash_text(name)[:6]}"


def save_result(folder: Path, result: TaskResult) -> None:
    """Writes `queries.parquet`, `hits.parquet` and then `result.json`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = {"queries.parquet": pa.table(_query_columns(result.per_query))}
    if result.hits:
        tables["hits.parquet"] = pa.table(_hit_columns(result.hits))
    for name, table in tables.items():
        with atomic_file(folder / name) as part:
            pq.write_table(table, part, compression="zstd")
    head = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name not in ("per_query", "hits", "scores", "documents", "queries")
    }
    scores = {name: dataclasses.asdict(score) for name, score in result.scores.items()}
    readings = {
        side: None if reading is None else dataclasses.asdict(reading)
        for side, reading in (("documents", result.documents), ("queries", result.queries))
    }
    write_json(folder / "result.json", {**head, "scores": scores, **readings})


def has_result(folder: Path) -> bool:
    """Whether `save_result` finished there."""
    return (folder / "result.json").is_file()


def load_result(folder: Path) -> TaskResult:
    """What `save_result` wrote. Raises CheckpointError for a folder that is damaged or lacks a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        head: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        queries = pq.read_table(folder / "queries.parquet").to_pylist()
        hits_path = folder / "hits.parquet"
        hit_rows = pq.read_table(hits_path).to_pylist() if hits_path.exists() else []
        per_query: dict[str, dict[str, float]] = {}
        for row in queries:
            per_query.setdefault(row["measure"], {})[row["query"]] = row["value"]
        hits: dict[str, dict[str, dict[str, float]]] = {}
        for row in hit_rows:
            hits.setdefault(row["side"], {}).setdefault(row["query"], {})[row["document"]] = row["score"]
        for name in ("documents", "queries"):
            head[name] = None if head[name] is None else Reading(**head[name])
        head["scores"] = {name: Interval(**score) for name, score in head["scores"].items()}
        return TaskResult(**head, per_query=per_query, hits=hits)
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"the result in {folder} is damaged ({error}); remove the folder to run it again"
        ) from error


def _query_columns(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, list[Any]]:
    rows = [(measure, query, value) for measure, values in per_query.items() for query, value in values.items()]
    return {
        "measure": [row[0] for row in rows],
        "query": [row[1] for row in rows],
        "value": [float(row[2]) for row in rows],
    }


def _hit_columns(hits: Mapping[str, Run]) -> dict[str, list[Any]]:
    rows = [
        (side, query, document, rank, float(score))
        for side, run in hits.items()
        for query, found in run.items()
        for rank, (document, score) in enumerate(found.items(), start=1)
    ]
    names = ("side", "query", "document", "rank", "score")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


@lru_cache(maxsize=1)
def load_published() -> tuple[Published, ...]:
    """The scores of `expected.toml`."""
    text = files("diffembed.evaluation").joinpath("expected.toml").read_text(encoding="utf-8")
    return tuple(Published(**row) for row in tomllib.loads(text)["score"])


def find_published(results: Sequence[TaskResult]) -> list[tuple[TaskResult, Published, float]]:
    """(result, published score, difference in points) for every result that somebody published."""
    found = []
    for result in results:
        for published in load_published():
            is_same = published.system == result.label and published.task == result.task
            if is_same and published.measure in result.scores:
                difference = 100 * result.scores[published.measure].value - published.value
                found.append((result, published, difference))
    return found
