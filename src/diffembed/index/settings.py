"""What an index is: the model, the chunks and the precision it was made with, as `index.json` in its folder.

Read `IndexSettings`. Everything here must be the same for all rows; a query made in another way is refused.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from diffembed.documents import ChunkPolicy, ReadOptions
from diffembed.documents.chunking import ChunkKind, ChunkUnit
from diffembed.embedding.embedder import Embedder
from diffembed.errors import StoreError, UnknownNameError
from diffembed.index.writing import called
from diffembed.provenance import hash_config, hash_file, user_data, write_json
from diffembed.records import Encoder

SETTINGS_FILE = "index.json"
FORMAT = 2
"""2 added the column `metadata`."""

Precision = Literal["float32", "int8", "binary"]
"""What is kept of each component of a vector: 4 bytes, 1 byte (and a bit to search by), or 1 bit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexSettings:
    """How all rows of an index were made."""

    model: str
    """Short name of the encoder, as in tables."""
    model_hash: str
    """`identify` of the encoder; a query encoded by another one is refused."""
    dim: int
    """Components of each vector."""
    location: str | None = None
    """What `Embedder.load` takes to load the encoder again; None where it was handed in ready made."""
    loading: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `Embedder.load` beside the location."""
    chunks: ChunkPolicy = field(default_factory=ChunkPolicy)
    precision: Precision = "float32"
    sources: tuple[str, ...] = ()
    """What the last build read; `build` without sources reads them again."""
    reading: ReadOptions = field(default_factory=ReadOptions)
    made: str = ""
    """Tells an index from one made anew in its place; builds that go on keep it. Empty before the next build of an old
    index."""

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise UnknownNameError.of("precision", self.precision, get_args(Precision))

    def differences(self, other: "IndexSettings") -> list[str]:
        """What tells the rows of two indexes apart, in words; sources and ways of loading do not."""
        found = []
        if self.model_hash != other.model_hash or self.dim != other.dim:
            found.append(f"model {self.model} ({self.model_hash}, {self.dim} components)")
        if self.chunks != other.chunks:
            found.append(f"chunks {describe_chunks(self.chunks)}")
        if self.precision != other.precision:
            found.append(f"precision {self.precision}")
        return found

    def save(self, folder: Path) -> None:
        """Writes index.json."""
        write_json(folder / SETTINGS_FILE, {"format": FORMAT, **dataclasses.asdict(self)})


def describe_chunks(policy: ChunkPolicy) -> str:
    """`heading, 640 characters` and the like."""
    if policy.kind == "whole":
        return "whole"
    overlap = f", {policy.overlap} shared" if policy.overlap else ""
    return f"{policy.kind}, {policy.longest} {policy.unit}{overlap}"


def load_settings(folder: Path) -> IndexSettings:
    """index.json of a folder. Raises StoreError where there is none or it cannot be read."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        raise StoreError(f"there is no index in {folder}; make one with: diffembed index build {called(folder)} SOURCE")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("format") != FORMAT:
            raise StoreError(
                f"{path} is of another version than {FORMAT}; make the index anew with --replace, or update diffembed"
            )
        return IndexSettings(
            **{
                **stored,
                "chunks": ChunkPolicy(**stored["chunks"]),
                "reading": ReadOptions(**stored["reading"]),
                "sources": tuple(stored["sources"]),
            }
        )
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise StoreError(
            f"{path} is damaged ({error}); "
            f"make the index anew with: diffembed index build {called(folder)} SOURCE --replace"
        ) from error


def index_folder(name_or_path: str | Path) -> Path:
    """The folder of an index: a name lies in the user's data folder, whatever has a separator is a path."""
    name = os.fspath(name_or_path)
    is_name = isinstance(name_or_path, str) and name == Path(name).name and not name.startswith(".")
    return user_data() / "indexes" / name if is_name else Path(name_or_path)


def stored_model(name_or_path: str | Path) -> tuple[str | None, Mapping[str, Any]]:
    """(location, arguments) by which `Embedder.load` makes the encoder of an index; (None, {}) where there is none."""
    folder = index_folder(name_or_path)
    if not (folder / SETTINGS_FILE).exists():
        return None, {}
    settings = load_settings(folder)
    return settings.location, settings.loading


def make_chunks(
    stored: ChunkPolicy | None,
    *,
    kind: ChunkKind | None,
    size: int | None = None,
    unit: ChunkUnit | None = None,
    overlap: int | None = None,
) -> ChunkPolicy | None:
    """The stored policy, or the usual one, with the parts that were named; None where none was.

    Of another kind nothing that is stored has a meaning.
    """
    asked: dict[str, Any] = {"kind": kind, "size": size, "unit": unit, "overlap": overlap}
    named = {name: value for name, value in asked.items() if value is not None}
    base = ChunkPolicy() if stored is None or kind not in (None, stored.kind) else stored
    return dataclasses.replace(base, **named) if named else None


def make_reading(
    stored: ReadOptions | None,
    *,
    format: str | None = None,
    text_column: str | None = None,
    id_column: str | None = None,
    max_file_mb: int | None = None,
) -> ReadOptions | None:
    """The stored options, or the usual ones, with the parts that were named; None where none was."""
    max_file_bytes = None if max_file_mb is None else max_file_mb * 1_000_000
    asked: dict[str, Any] = {
        "format": format,
        "text_column": text_column,
        "id_column": id_column,
        "max_file_bytes": max_file_bytes,
    }
    named = {name: value for name, value in asked.items() if value is not None}
    return dataclasses.replace(stored or ReadOptions(), **named) if named else None


def identify(encoder: Encoder) -> str:
    """16 hex digits that change with the weights and with every setting that changes a vector."""
    if not isinstance(encoder, Embedder):
        return hash_config({"name": encoder.name, "dim": encoder.dim})
    return hash_config(
        {
            "weights": encoder.backbone.source_hash,
            "adapters": [
                hash_file(path)
                for folder in encoder.adapter_folders
                for path in sorted(Path(folder).glob("*.safetensors"))
            ],
            "attention": encoder.attention,
            "pooling": encoder.pooling,
            # A field that is None changes nothing: what was made before the field was there keeps its hash.
            "template": {
                key: value for key, value in dataclasses.asdict(encoder.template).items() if value is not None
            },
            "max_tokens": encoder.max_tokens,
            "is_normalised": encoder.is_normalised,
            "dim": encoder.dim,
        }
    )
