"""Writes native safetensors shards from byte ranges of published ones, one block in memory at a time.

Read `write_shards`. Knows neither layouts nor torch: a converted tensor is a renamed tensor, or some of its rows.
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from diffembed.backbones.conversion.source import INDEX_NAME, SINGLE_NAME, StoredTensor
from diffembed.errors import ResourceError
from diffembed.provenance import hash_text, write_json

MAX_SHARD_BYTES = 4_500_000_000
"""Chosen below 5 GB, the size the hub and most file systems of clusters handle well."""


def write_shards(
    tensors: Mapping[str, StoredTensor],
    folder: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """Writes `tensors` under their new names into `folder`; returns the sha256 of each one's bytes.

    progress: called with (bytes written, bytes in total) after every tensor.
    Raises ResourceError when the disk cannot hold the result, before anything is written.
    """
    total = sum(tensor.num_bytes for tensor in tensors.values())
    free = shutil.disk_usage(folder).free
    if total > free:
        raise ResourceError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, the converted weights need {total / 1e9:.1f}"
        )
    shards = _group(tensors, max_shard_bytes)
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [SINGLE_NAME]
    hashes: dict[str, str] = {}
    written = 0
    for file_name, shard in zip(names, shards, strict=True):
        with (folder / file_name).open("wb") as file:
            file.write(_header(shard))
            for name, tensor in shard.items():
                digest = hashlib.sha256()
                for block in tensor.read_blocks():
                    file.write(block)
                    digest.update(block)
                hashes[name] = digest.hexdigest()
                written += tensor.num_bytes
                if progress:
                    progress(written, total)
    if len(shards) > 1:
        weight_map = {name: file_name for file_name, shard in zip(names, shards, strict=True) for name in shard}
        write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return hashes


def _group(tensors: Mapping[str, StoredTensor], max_shard_bytes: int) -> list[dict[str, StoredTensor]]:
    """Tensors in the order they lie on disk, cut where a shard would grow past its limit."""
    shards: list[dict[str, StoredTensor]] = [{}]
    size = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].file.name, item[1].start)):
        if shards[-1] and size + tensor.num_bytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.num_bytes
    return shards


def _header(shard: Mapping[str, StoredTensor]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in shard.items():
        stop = offset + tensor.num_bytes
        entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    # The format asks for data that starts on a multiple of 8; spaces after the JSON are legal padding.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def hash_tensors(tensors: Mapping[str, StoredTensor], hashes: Mapping[str, str]) -> str:
    """One sha256 for a set of weights, the same however they are sharded or ordered."""
    lines = [f"{name} {tensors[name].dtype} {list(tensors[name].shape)} {hashes[name]}" for name in sorted(hashes)]
    return hash_text("\n".join(lines))
