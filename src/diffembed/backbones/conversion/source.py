"""A published checkpoint folder, read without loading it: config, tensor table, bytes of one tensor at a time.

Read `open_source`. Only safetensors headers and byte ranges are touched, so memory stays at one block however large the
checkpoint is, and no code of the folder ever runs. Knows no layouts.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.errors import CheckpointError, ConversionError

BLOCK_BYTES = 16 << 20
MAX_HEADER_BYTES = 100 << 20
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

BYTES_OF_DTYPE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Dtypes of weights that can be converted; quantised ones cannot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """Where one tensor lies on disk."""

    file: Path
    dtype: str
    """Safetensors code, such as BF16."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        return self.num_elements * BYTES_OF_DTYPE[self.dtype]

    @property
    def num_elements(self) -> int:
        """Number of values."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    def rows(self, first: int, last: int) -> "StoredTensor":
        """Rows `first` up to, not including, `last`: a contiguous part of the same bytes."""
        row_bytes = self.num_bytes // self.shape[0]
        return StoredTensor(
            file=self.file,
            dtype=self.dtype,
            shape=(last - first, *self.shape[1:]),
            start=self.start + first * row_bytes,
        )

    def read_blocks(self) -> Iterator[bytes]:
        """Its bytes in blocks of at most 16 MiB."""
        left = self.num_bytes
        with self.file.open("rb") as file:
            file.seek(self.start)
            while left:
                block = file.read(min(BLOCK_BYTES, left))
                if not block:
                    raise ConversionError(f"{self.file.name} ended while it was read; it changed or is cut short")
                left -= len(block)
                yield block


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A published checkpoint."""

    folder: Path
    name: str
    """What the user called it: a path or a hub id."""
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def open_source(folder: Path, name: str) -> Source:
    """Config and tensor table of a folder.

    Raises ConversionError for weights that are pickled, missing, cut short or quantised, naming file or tensor.
    """
    config = read_config(folder, name)
    if quantisation := config.get("quantization_config"):
        raise ConversionError(f"{name}: config.json has quantization_config {quantisation!r}; convert full weights")
    return Source(folder=folder, name=name, config=config, tensors=read_table(folder, name))


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """config.json as a dictionary. Raises CheckpointError when it is missing or no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{name} has no config.json; expected a transformers checkpoint folder")
    return read_object(path, name)


def read_object(path: Path, name: str) -> dict[str, Any]:
    """A JSON file that holds an object. Raises CheckpointError naming the file otherwise."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{name}: {path.name} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name}: {path.name} must hold an object, found {type(value).__name__}")
    return value


def shard_files(folder: Path, name: str) -> list[Path]:
    """Weight files in the order of the index. Raises ConversionError when one is missing or none is safetensors."""
    if (folder / INDEX_NAME).is_file():
        names = sorted(set(_weight_map(folder, name).values()))
        for file in names:
            if Path(file).name != file:
                raise ConversionError(f"{name}: {INDEX_NAME} names {file!r}, which is not a file of the folder itself")
            if not (folder / file).is_file():
                raise ConversionError(f"{name}: {INDEX_NAME} names {file}, which is not in the folder")
        return [folder / file for file in names]
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ConversionError(
            f"{name} has its weights only as pickles ({', '.join(pickles[:3])}), which can run code when opened; "
            "expected safetensors"
        )
    raise ConversionError(f"{name} has no weights; expected {SINGLE_NAME} or {INDEX_NAME}")


def _weight_map(folder: Path, name: str) -> dict[str, str]:
    found = read_object(folder / INDEX_NAME, name).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise ConversionError(f"{name}: {INDEX_NAME} has no weight_map from tensor names to files")
    return found


def read_table(folder: Path, name: str) -> dict[str, StoredTensor]:
    """Every tensor of every shard. Raises ConversionError for damaged, missing or contradicting files."""
    tensors: dict[str, StoredTensor] = {}
    for path in shard_files(folder, name):
        for tensor_name, tensor in _read_named_header(path, name).items():
            if other := tensors.get(tensor_name):
                raise ConversionError(f"{name}: tensor {tensor_name} is in both {other.file.name} and {path.name}")
            tensors[tensor_name] = tensor
    if (folder / INDEX_NAME).is_file():
        for tensor_name, file in _weight_map(folder, name).items():
            if tensor_name not in tensors or tensors[tensor_name].file.name != file:
                raise ConversionError(f"{name}: {INDEX_NAME} places tensor {tensor_name} in {file}, which lacks it")
    return tensors


def _read_named_header(path: Path, name: str) -> dict[str, StoredTensor]:
    try:
        return read_header(path)
    except ConversionError as error:
        raise ConversionError(f"{name}: {error}") from error


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensor table of one safetensors file.

    Raises ConversionError for a file that is damaged, cut short, or holds dtypes that are not plain weights.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if 8 + length > size or length > MAX_HEADER_BYTES:
            raise ConversionError(f"{path.name} is damaged or cut short: its header reaches past the end of the file")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = {name: _parse_entry(entry) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConversionError(f"{path.name} is damaged: its header is not a safetensors table") from error
    table = {}
    end = 0
    for name, (dtype, shape, start, stop) in entries.items():
        if dtype not in BYTES_OF_DTYPE:
            raise ConversionError(
                f"tensor {name} in {path.name} has dtype {dtype}; expected one of {', '.join(BYTES_OF_DTYPE)}"
            )
        tensor = StoredTensor(file=path, dtype=dtype, shape=shape, start=8 + length + start)
        if stop - start != tensor.num_bytes or start < 0:
            raise ConversionError(
                f"tensor {name} in {path.name} has {stop - start} bytes, its shape {shape} needs {tensor.num_bytes}"
            )
        table[name] = tensor
        end = max(end, stop)
    if 8 + length + end != size:
        raise ConversionError(
            f"{path.name} has {size} bytes, its header promises {8 + length + end}: an interrupted download?"
        )
    return table


def _parse_entry(entry: dict[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    start, stop = entry["data_offsets"]
    return str(entry["dtype"]), tuple(int(size) for size in entry["shape"]), int(start), int(stop)
