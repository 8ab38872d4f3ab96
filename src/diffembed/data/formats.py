"""Triplets, and the files they come from.

Read `Triplet` first, then `load_triplets`. A row that cannot be used is counted with its reason in a `RowReport`;
more than `max_bad_rows` of them stop the caller before any training. Knows nothing of where data sets live.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from diffembed.data.files import COMPRESSIONS, STDIN, read_rows, row_file_stem
from diffembed.errors import ConfigError, EmptyInputError, InputError
from diffembed.provenance import atomic_file, hash_file, hash_text

DEFAULT_MAX_BAD_ROWS = 100
NUM_EXAMPLES = 5
FIELDS = ("query", "positive", "negatives", "instruction", "anti_instruction", "id")
ALIASES = {"_id": "id", "negative": "negatives", "anchor": "query"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Triplet:
    """One training row: a query, a text that answers it, and texts that look like answers but are not."""

    id: str
    """Given by the data, else the first 16 hex digits of the hash of its texts; unique within a source."""
    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    instruction: str | None = None
    """Put before the query by the embedder's template: None = the embedder's default, '' = none."""
    anti_instruction: str | None = None
    """Instruction under which the same query does *not* want the positive: (anti_instruction, query) is a negative
    query of the positive (see `turned_query` of a source). None = the row has no such twin."""
    source: str = ""
    """Data set the row came from; a batch holds rows of one source."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Other scalar columns of the row (concept, domain, task, ...), as text; used by filters and set-asides."""


class Defect(StrEnum):
    """Why a row cannot be used."""

    MALFORMED = "not a JSON object"
    MISSING = "missing field"
    WRONG_TYPE = "field of the wrong type"
    EMPTY_QUERY = "empty query"
    EMPTY_POSITIVE = "empty positive"
    POSITIVE_IS_QUERY = "positive equal to the query"
    DUPLICATE_ID = "duplicate id"
    NOT_UNICODE = "text that is not valid Unicode"
    UNRESOLVED_ID = "positive id without a document"
    REPEATED_ROW = "exact repeat of another row"
    """Only for rows without an id of their own; harmless, so it counts as filtered and not as bad."""


@dataclass(kw_only=True)
class RowReport:
    """Counts of what was read, kept, dropped and why; grows while rows are read."""

    source: str
    num_rows: int = 0
    num_kept: int = 0
    defects: Counter[str] = field(default_factory=Counter)
    """Defect -> number of rows that were dropped for it."""
    filtered: Counter[str] = field(default_factory=Counter)
    """Rule -> number of sound rows that a filter left out on purpose."""
    dropped_negatives: Counter[str] = field(default_factory=Counter)
    """Reason -> number of negatives taken off rows that were kept."""
    examples: list[str] = field(default_factory=list)
    """The first few bad rows, as `file:line: reason`."""
    inputs: dict[str, str] = field(default_factory=dict)
    """File or data set -> content hash or revision, for the provenance of a run."""

    @property
    def num_bad(self) -> int:
        """Rows dropped because they could not be used."""
        return self.defects.total()

    def count_defect(self, defect: Defect, where: str) -> None:
        """Counts a bad row and keeps the first few places."""
        self.defects[defect.value] += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append(f"{where}: {defect.value}")

    def merge(self, other: "RowReport") -> None:
        """Adds the counts of another report to this one."""
        self.num_rows += other.num_rows
        self.num_kept += other.num_kept
        self.defects.update(other.defects)
        self.filtered.update(other.filtered)
        self.dropped_negatives.update(other.dropped_negatives)
        self.examples.extend(other.examples[: NUM_EXAMPLES - len(self.examples)])
        self.inputs.update(other.inputs)

    def check(self, max_bad_rows: int) -> None:
        """Raises InputError when more than `max_bad_rows` rows were bad, EmptyInputError when none is left."""
        if self.num_bad > max_bad_rows:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.defects.most_common())
            raise InputError(
                f"{self.source}: {self.num_bad} of {self.num_rows} rows are bad ({reasons}), more than "
                f"max_bad_rows={max_bad_rows}; first: {'; '.join(self.examples)}"
            )
        if not self.num_kept:
            drops = (self.defects + self.filtered).most_common()
            reasons = ", ".join(f"{count} {reason}" for reason, count in drops) or "the source is empty"
            raise EmptyInputError(f"{self.source}: none of {self.num_rows} rows is usable: {reasons}")


class TripletReader:
    """Turns rows of one source into triplets, counting in `report` what it cannot use.

    Ids are checked over everything the reader has seen, so one reader serves all files of a source.
    """

    def __init__(self, source: str, columns: Mapping[str, str] | None = None) -> None:
        """`columns`: field of `Triplet` -> column of the data, where the names differ."""
        for name in columns or {}:
            if name not in FIELDS:
                raise ConfigError(f"columns may rename {', '.join(FIELDS)}; received {name!r}")
        self.source = source
        self.columns = dict(columns or {})
        self.report = RowReport(source=source)
        self._ids: set[bytes] = set()

    def read(self, rows: Iterable[tuple[str, Any]]) -> Iterator[Triplet]:
        """Triplets of (place, row) pairs, every row counted."""
        for where, row in rows:
            if (triplet := self.take(where, row)) is not None:
                yield triplet

    def take(self, where: str, row: Any) -> Triplet | None:
        """The triplet of one row, or None; counts the row either way."""
        self.report.num_rows += 1
        parsed = self.parse(row)
        if isinstance(parsed, Triplet):
            self.report.num_kept += 1
            return parsed
        if parsed is Defect.REPEATED_ROW:
            self.report.filtered[parsed.value] += 1
        else:
            self.report.count_defect(parsed, where)
        return None

    def parse(self, row: Any) -> "Triplet | Defect":
        """The triplet of one row, or why there is none; a `Defect` in place of a row is handed on."""
        if isinstance(row, Defect):
            return row
        if not isinstance(row, Mapping):
            return Defect.MALFORMED
        values, labels = self._split(row)
        query, positive = values.get("query"), values.get("positive")
        if query is None or positive is None:
            return Defect.MISSING
        negatives = values.get("negatives")
        if negatives is None or isinstance(negatives, str):
            negatives = [negatives] if "negatives" in values else []
        if not isinstance(negatives, list | tuple):
            return Defect.WRONG_TYPE
        instruction, anti_instruction = values.get("instruction"), values.get("anti_instruction")
        texts = [text for text in (query, positive, instruction, anti_instruction, *negatives) if text is not None]
        if not all(isinstance(text, str) for text in texts):
            return Defect.WRONG_TYPE
        if not query.strip():
            return Defect.EMPTY_QUERY
        if not positive.strip():
            return Defect.EMPTY_POSITIVE
        if positive.strip() == query.strip():
            return Defect.POSITIVE_IS_QUERY
        if not all(is_unicode(text) for text in texts):
            return Defect.NOT_UNICODE
        kept = tuple(self._usable_negatives(query, positive, negatives))
        given = values.get("id")
        row_id = str(given) if given is not None else hash_texts(query, positive, instruction or "", *kept)[:16]
        if not self._is_new(row_id):
            return Defect.DUPLICATE_ID if given is not None else Defect.REPEATED_ROW
        return Triplet(
            id=row_id,
            query=query,
            positive=positive,
            negatives=kept,
            instruction=instruction,
            anti_instruction=anti_instruction,
            source=self.source,
            labels=labels,
        )

    def _split(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """The values of the triplet's fields, and the other scalar columns."""
        values: dict[str, Any] = {name: row.get(column) for name, column in self.columns.items()}
        labels = {}
        taken = set(self.columns.values())
        for column, value in row.items():
            name = ALIASES.get(column, column)
            if column in taken:
                continue
            if name in FIELDS:
                # The exact name wins over an alias, whatever the order of the columns.
                if name not in self.columns and (column == name or values.get(name) is None):
                    values[name] = value
            elif isinstance(value, str | int | float):
                labels[column] = str(value)
        return values, labels

    def _usable_negatives(self, query: str, positive: str, negatives: Sequence[str | None]) -> Iterator[str]:
        seen: set[str] = set()
        for negative in negatives:
            text = (negative or "").strip()
            if not text:
                reason = "null or empty"
            elif text == positive.strip():
                reason = "equal to the positive"
            elif text == query.strip():
                reason = "equal to the query"
            elif text in seen:
                reason = "repeated in its row"
            else:
                seen.add(text)
                yield negative or ""
                continue
            self.report.dropped_negatives[reason] += 1

    def _is_new(self, row_id: str) -> bool:
        key = hashlib.blake2b(row_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key in self._ids:
            return False
        self._ids.add(key)
        return True


def load_triplets(
    path: Path | str,
    *,
    source: str | None = None,
    columns: Mapping[str, str] | None = None,
    max_bad_rows: int = DEFAULT_MAX_BAD_ROWS,
) -> tuple[list[Triplet], RowReport]:
    """Triplets of one file (.jsonl, .jsonl.zst, .jsonl.gz, .parquet) or `-`, and the report of what was dropped.

    Raises InputError when more than `max_bad_rows` rows cannot be used, after counting them all.
    """
    path = Path(path)
    reader = TripletReader(source or row_file_stem(path), columns)
    triplets = list(reader.read(read_rows(path)))
    if path != STDIN:
        reader.report.inputs[path.name] = hash_file(path)
    reader.report.check(max_bad_rows)
    return triplets, reader.report


def write_triplets(path: Path | str, triplets: Iterable[Triplet]) -> int:
    """Writes triplets as JSON lines (compressed when the name ends so), atomically; returns their number."""
    import pyarrow as pa

    num_rows = 0
    with (
        atomic_file(path) as part,
        pa.output_stream(str(part), compression=COMPRESSIONS.get(Path(path).suffix)) as stream,
    ):
        for triplet in triplets:
            stream.write(json.dumps(triplet_row(triplet), ensure_ascii=False).encode("utf-8") + b"\n")
            num_rows += 1
    return num_rows


def triplet_row(triplet: Triplet) -> dict[str, Any]:
    """The JSON row that reads back as the same triplet (its source excepted: that is the reader's)."""
    row: dict[str, Any] = {"id": triplet.id, "query": triplet.query, "positive": triplet.positive}
    row["negatives"] = list(triplet.negatives)
    if triplet.instruction is not None:
        row["instruction"] = triplet.instruction
    if triplet.anti_instruction is not None:
        row["anti_instruction"] = triplet.anti_instruction
    return row | dict(triplet.labels)


def hash_triplets(triplets: Iterable[Triplet]) -> str:
    """sha256 over every field that reaches training, in order: the data hash of a run."""
    digest = hashlib.sha256()
    for triplet in triplets:
        row = triplet_row(triplet) | {"source": triplet.source}
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def hash_texts(*texts: str) -> str:
    """Hash of several texts, in which ('ab', 'c') differs from ('a', 'bc')."""
    return hash_text(json.dumps(texts))


def text_key(text: str) -> str:
    """The form under which two texts count as the same: white space collapsed, case folded."""
    return " ".join(text.split()).casefold()


def is_unicode(text: str) -> bool:
    """False for lone surrogates, which JSON can carry and no tokenizer accepts."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
