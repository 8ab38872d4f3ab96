"""Training rows of every source as triplets, with a report of what was left out.

Read `load_sources`. What is kept depends on the seed, the name of the set and its rows: never on other sources, on
order, or on global random state. Knows nothing of models; hub sets need the extra `train`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from diffembed.data.burying import bury, read_hay
from diffembed.data.formats import DEFAULT_MAX_BAD_ROWS, RowReport, Triplet, TripletReader
from diffembed.data.negatives import choose_negatives, row_generator
from diffembed.data.opening import OpenSet, open_sets, resolve
from diffembed.data.published import REASONAUG_DOMAINS
from diffembed.data.set_aside import exclude_values, read_values
from diffembed.data.source_config import BURIED, TURNED, SourceConfig
from diffembed.errors import ConfigError
from diffembed.provenance import hash_file

Item = TypeVar("Item")
NUM_NAMED_VALUES = 8


@dataclass(frozen=True, kw_only=True)
class LoadedSource:
    """The rows of one set in their own order, and what happened while they were read."""

    name: str
    triplets: list[Triplet]
    report: RowReport


def load_sources(
    configs: Sequence[SourceConfig],
    *,
    seed: int,
    data_root: Path | str | None = None,
    max_bad_rows: int = DEFAULT_MAX_BAD_ROWS,
) -> dict[str, LoadedSource]:
    """Set name -> its rows, in the order of the configs and then of the sets.

    max_bad_rows: of each set. Raises InputError past it, EmptyInputError for a set without a usable row, ConfigError
    when two sets have one name or a filter matches nothing.
    """
    loaded: dict[str, LoadedSource] = {}
    root = Path(data_root or "")
    for config in configs:
        left_out: set[str] = set()
        for part in open_sets(config, root):
            source = _load_set(config, part, seed, root, max_bad_rows, left_out)
            for found in (source, *_made_of(source, config, seed, root)):
                if found.name in loaded:
                    raise ConfigError(f"two sources are named {found.name!r}; name one of them")
                loaded[found.name] = found
        # Checked over all sets of a source: a row is in one of them, and a misspelt id would leave it in training.
        if missing := [row for row in config.without_rows if row not in left_out]:
            raise ConfigError(f"without_rows has no effect: {config.path or config.kind} has no row {missing[0]!r}")
    return loaded


def _made_of(source: LoadedSource, config: SourceConfig, seed: int, data_root: Path) -> Iterator[LoadedSource]:
    """The further sources that a config asks to be made of a source's rows."""
    if config.turned_query is not None:
        yield _turned(source, config.turned_query)
    if config.buried_in is not None:
        yield _buried(source, config, seed, resolve(config.buried_in, data_root))


def _buried(source: LoadedSource, config: SourceConfig, seed: int, path: Path) -> LoadedSource:
    report = RowReport(source=source.name + BURIED, num_rows=len(source.triplets), inputs={**source.report.inputs})
    rows = bury(
        source.triplets,
        read_hay(path, report),
        min_words=config.buried_min_words,
        max_words=config.buried_max_words,
        seed=seed,
        report=report,
    )
    report.num_kept = len(rows)
    report.check(0)
    return LoadedSource(name=report.source, triplets=rows, report=report)


def _turned(source: LoadedSource, query_format: str) -> LoadedSource:
    """The rows whose query has a twin, seen from the document: which of the two queries does it answer?"""
    name = source.name + TURNED

    def written(triplet: Triplet, instruction: str) -> str:
        return query_format.replace("{instruction}", instruction).replace("{query}", triplet.query)

    rows = [
        replace(
            triplet,
            id=f"{triplet.id} turned",
            query=triplet.positive,
            positive=written(triplet, triplet.instruction),
            negatives=(written(triplet, triplet.anti_instruction),),
            instruction="",
            anti_instruction=None,
            source=name,
        )
        for triplet in source.triplets
        if triplet.instruction is not None and triplet.anti_instruction is not None
    ]
    if not rows:
        raise ConfigError(f"turned_query has no effect on {source.name}: no row has an instruction and its opposite")
    report = RowReport(source=name, num_rows=len(source.triplets), num_kept=len(rows), inputs=source.report.inputs)
    return LoadedSource(name=name, triplets=rows, report=report)


def _load_set(
    config: SourceConfig, part: OpenSet, seed: int, data_root: Path, max_bad_rows: int, left_out: set[str]
) -> LoadedSource:
    """left_out: receives the ids of `without_rows` that were met."""
    reader = TripletReader(part.name, config.columns)
    report = reader.report
    triplets: Iterable[Triplet] = _triplets(config, part, reader, seed)
    if config.without_rows:
        triplets = _without_rows(config, list(triplets), report, left_out)
    if config.exclude is not None:
        triplets = _excluded(list(triplets), resolve(config.exclude, data_root), report)
    kept = _select(config, _filtered(config, triplets, report), report, seed)
    report.num_kept = len(kept)
    report.check(max_bad_rows)
    return LoadedSource(name=part.name, triplets=kept, report=report)


def _triplets(config: SourceConfig, part: OpenSet, reader: TripletReader, seed: int) -> Iterator[Triplet]:
    for number, (where, raw) in enumerate(part.rows(reader.report)):
        row = part.convert(raw, number)
        triplet = reader.take(where, row)
        if triplet is None:
            continue
        if config.kind == "msmarco_instructions":
            # They come first in the row, and the reader keeps the order of the negatives it keeps.
            new = {text.strip() for text in row["new_negatives"]}
            num_new = sum(text.strip() in new for text in triplet.negatives)
            triplet = choose_negatives(
                triplet, config.num_negatives, seed, num_first=num_new, max_first=config.max_new_negatives
            )
        elif config.instruction is not None and triplet.instruction is None:
            triplet = replace(triplet, instruction=config.instruction)
        yield triplet


def _without_rows(
    config: SourceConfig, triplets: list[Triplet], report: RowReport, left_out: set[str]
) -> list[Triplet]:
    kept = [triplet for triplet in triplets if triplet.id not in config.without_rows]
    left_out.update(triplet.id for triplet in triplets if triplet.id in config.without_rows)
    report.filtered["without_rows"] += len(triplets) - len(kept)
    return kept


def _excluded(triplets: list[Triplet], path: Path, report: RowReport) -> list[Triplet]:
    report.inputs[f"{path.parent.name}/{path.name}"] = hash_file(path)
    kept, dropped = exclude_values(triplets, read_values(path))
    report.filtered.update({f"exclude, by {reason}": count for reason, count in dropped.rows.items()})
    report.dropped_negatives.update({f"exclude, by {reason}": count for reason, count in dropped.negatives.items()})
    return kept


def _filtered(config: SourceConfig, triplets: Iterable[Triplet], report: RowReport) -> Iterator[Triplet]:
    """Rows that pass the filters; a value that no row has is a mistake in the config, and said so."""
    rules = {label: frozenset(values) for label, values in config.keep.items()}
    if config.domain != "all":
        rules["domain"] = REASONAUG_DOMAINS[config.domain]
    seen: dict[str, set[str]] = {label: set() for label in config.keep}
    num_rows = 0
    for triplet in triplets:
        num_rows += 1
        for label in seen.keys() & triplet.labels.keys():
            seen[label].add(triplet.labels[label])
        failed = next((label for label, allowed in rules.items() if triplet.labels.get(label) not in allowed), None)
        if failed is not None:
            report.filtered[f"keep {failed}"] += 1
        elif len(triplet.negatives) < _min_negatives(config):
            report.filtered["min_negatives"] += 1
        else:
            yield triplet
    for label, found in seen.items() if num_rows else ():
        for value in config.keep[label]:
            if value not in found:
                known = ", ".join(sorted(found)[:NUM_NAMED_VALUES]) or "no such label"
                raise ConfigError(f"no row of {report.source} has {label}={value!r}; the rows have {known}")


def _select(config: SourceConfig, triplets: Iterator[Triplet], report: RowReport, seed: int) -> list[Triplet]:
    if config.max_rows is None:
        return list(triplets)
    if config.selection == "first":
        return [triplet for _, triplet in zip(range(config.max_rows), triplets, strict=False)]
    kept, num_seen = _sample(triplets, config.max_rows, row_generator(seed, report.source, "selection"))
    if num_seen > len(kept):
        report.filtered["max_rows"] += num_seen - len(kept)
    return kept


def _sample(items: Iterable[Item], size: int, generator: np.random.Generator) -> tuple[list[Item], int]:
    """A uniform sample of a stream (Vitter's algorithm R) in the order of the stream, and the stream's length."""
    reservoir: list[tuple[int, Item]] = []
    number = -1
    for number, item in enumerate(items):
        if number < size:
            reservoir.append((number, item))
        elif (place := int(generator.integers(number + 1))) < size:
            reservoir[place] = (number, item)
    return [item for _, item in sorted(reservoir, key=lambda pair: pair[0])], number + 1


def _min_negatives(config: SourceConfig) -> int:
    default = 1 if config.kind in ("reasonaug", "msmarco_instructions") else 0
    return default if config.min_negatives is None else config.min_negatives
