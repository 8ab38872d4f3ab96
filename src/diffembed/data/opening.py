"""The raw rows behind a source: which sets it has, which files or hub data sets hold them, how a raw row is turned.

Read `open_sets`. Nothing is read before the rows of a set are asked for. Knows nothing of seeds and filters.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.data.files import COMPRESSIONS, ROW_SUFFIXES, read_rows, row_file_stem
from diffembed.data.formats import RowReport
from diffembed.data.hub import pin_revision, stream_rows
from diffembed.data.published import (
    BRIGHT_REPOSITORY,
    MSMARCO_INSTRUCTION,
    MSMARCO_REPOSITORY,
    PUBLIC_E5,
    REASONAUG_REPOSITORY,
    REASONIR_REPOSITORY,
    REASONIR_SETS,
    e5_row,
    msmarco_row,
    reasonaug_row,
    reasonir_row,
)
from diffembed.data.source_config import SourceConfig
from diffembed.errors import ConfigError, InputError, UnknownNameError
from diffembed.provenance import hash_file

Rows = Iterator[tuple[str, Any]]
OpenRows = Callable[[RowReport], Rows]
"""Opens the raw rows of a set and notes in the report which files or commits they come from."""
Convert = Callable[[Any, int], Any]
"""(raw row, its number from 0) -> a row, or the `Defect` it has, for `TripletReader`."""

TRAINING_WORDS = ("pairs", "triplets")
ASIDE_PREFIXES = ("test", "dev", "valid", "heldout")


@dataclass(frozen=True, kw_only=True)
class OpenSet:
    """One set of a source, before reading."""

    name: str
    rows: OpenRows
    convert: Convert


def open_sets(config: SourceConfig, data_root: Path) -> Iterator[OpenSet]:
    """The sets of a source in a fixed order.

    Raises InputError for a missing file or folder, UnknownNameError for a set that a folder does not have.
    """
    path = None if config.path is None else resolve(config.path, data_root)
    if config.kind == "msmarco_instructions":
        instruction = MSMARCO_INSTRUCTION if config.instruction is None else config.instruction
        rows = _hub_or_files(path, MSMARCO_REPOSITORY, None, config.revision)
        yield OpenSet(name=config.kind, rows=rows, convert=lambda row, _: msmarco_row(row, instruction))
    elif config.kind == "reasonaug":
        rows = _hub_or_files(path, REASONAUG_REPOSITORY, None, config.revision)
        yield OpenSet(name=config.kind, rows=rows, convert=lambda row, _: reasonaug_row(row))
    elif config.kind == "reasonir":
        for name in config.sets or REASONIR_SETS:
            rows = _hub_or_files(path, REASONIR_REPOSITORY, name, config.revision)
            if name == "hq":
                yield _with_bright_documents(config, rows, data_root)
            else:
                yield OpenSet(name=f"reasonir_{name}", rows=rows, convert=lambda row, _: reasonir_row(row))
    elif path is None:
        raise ConfigError(f"a {config.kind} source needs a path")
    elif config.kind == "public_e5":
        for name in config.sets or tuple(PUBLIC_E5):
            yield OpenSet(name=name, rows=_files([_row_file(path, name)]), convert=_in_turn(PUBLIC_E5[name]))
    elif config.kind == "folder":
        for name, files in _folder_sets(path, config.sets).items():
            yield OpenSet(name=name, rows=_files(files), convert=_as_it_is)
    else:
        yield OpenSet(name=config.name or row_file_stem(path), rows=_files([path]), convert=_as_it_is)


def resolve(text: str, data_root: Path) -> Path:
    """The path that a config names; relative ones lie in the data folder of the run."""
    return data_root / Path(os.path.expandvars(text)).expanduser()


def _as_it_is(row: Any, _: int) -> Any:
    return row


def _in_turn(instructions: Sequence[str]) -> Convert:
    return lambda row, number: e5_row(row, number, instructions)


def _with_bright_documents(config: SourceConfig, rows: OpenRows, data_root: Path) -> OpenSet:
    """ReasonIR `hq`, whose rows are read twice: once for the ids they need, so that no more than those are kept."""
    documents: dict[str, str] = {}

    def opened(report: RowReport) -> Rows:
        needed = {str(pair[1]) for _, row in rows(report) if (pair := _first_positive(row))}
        documents.update(_bright_documents(config, needed, data_root, report))
        yield from rows(report)

    return OpenSet(name="reasonir_hq", rows=opened, convert=lambda row, _: reasonir_row(row, documents))


def _first_positive(row: Any) -> Any:
    positives = row.get("pos") if isinstance(row, dict) else None
    pair = positives[0] if isinstance(positives, list) and positives else None
    return pair if isinstance(pair, list | tuple) and len(pair) == 2 else None


def _bright_documents(config: SourceConfig, needed: set[str], data_root: Path, report: RowReport) -> dict[str, str]:
    """Id -> text over all BRIGHT domains; an id that two domains share has the text of the first."""
    place = BRIGHT_REPOSITORY
    if config.documents is not None:
        folder = resolve(config.documents, data_root)
        place = str(folder) if folder.is_dir() else config.documents
    commit = pin_revision(place, config.documents_revision)
    report.inputs[f"{place} documents" if commit else f"{Path(place).name} documents"] = commit or "local folder"
    documents: dict[str, str] = {}
    for _, row in stream_rows(place, config="documents", split=None, revision=commit):
        if row["id"] in needed:
            documents.setdefault(row["id"], row["content"])
    return documents


def _hub_or_files(path: Path | None, repository: str, subset: str | None, revision: str | None) -> OpenRows:
    """The hub data set; or a row file, a folder of row files, or a copy of the hub's folder at `path`."""
    if path is None:
        return _hub(repository, subset, revision)
    if revision is not None:
        raise ConfigError(f"revision has no effect on the files of {path}; leave it out")
    if path.is_file():
        return _files([path])
    if not path.is_dir():
        raise InputError(f"no file or folder {path}")
    return _hub(str(path), subset, None) if (path / "README.md").is_file() else _files(_training_files(path))


def _hub(place: str, subset: str | None, revision: str | None) -> OpenRows:
    def opened(report: RowReport) -> Rows:
        commit = pin_revision(place, revision)
        report.inputs[place if commit else Path(place).name] = commit or "local folder"
        return stream_rows(place, config=subset, split="train", revision=commit)

    return opened


def _files(paths: Sequence[Path]) -> OpenRows:
    def opened(report: RowReport) -> Rows:
        for path in paths:
            if not path.is_file():
                raise InputError(f"no file {path}")
            report.inputs[f"{path.parent.name}/{path.name}"] = hash_file(path)
            yield from read_rows(path)

    return opened


def _folder_sets(folder: Path, names: Sequence[str]) -> dict[str, list[Path]]:
    """Set name -> its training files, for the named sub-folders or for all that have such files."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    found = {child.name: _training_files(child) for child in sorted(folder.iterdir()) if child.is_dir()}
    found = {name: files for name, files in found.items() if files}
    if not found:
        raise InputError(f"{folder} has no sub-folder with *pairs.jsonl or *triplets.jsonl files")
    for name in names:
        if name not in found:
            raise UnknownNameError.of(f"set in {folder.name}", name, tuple(found))
    return {name: found[name] for name in names or found}


def _training_files(folder: Path) -> list[Path]:
    """Row files whose stem ends in `pairs` or `triplets`, but for those that start with test, dev, valid, heldout."""
    files = []
    for path in sorted(folder.iterdir()):
        stem = row_file_stem(path)
        is_row_file = any(suffix in ROW_SUFFIXES for suffix in path.suffixes)
        if is_row_file and stem.endswith(TRAINING_WORDS) and not stem.startswith(ASIDE_PREFIXES):
            files.append(path)
    return files


def _row_file(folder: Path, name: str) -> Path:
    endings = [f"{row}{packing}" for row in ROW_SUFFIXES for packing in ("", *COMPRESSIONS)]
    found = next((folder / f"{name}{ending}" for ending in endings if (folder / f"{name}{ending}").is_file()), None)
    if found is None:
        raise InputError(f"no file {folder / name}.jsonl (or .jsonl.zst, .jsonl.gz, .parquet)")
    return found
