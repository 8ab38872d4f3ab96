"""What happens to weights between two nodes of a study: narrowed, shared, joined, and named.

Read `hash_weights`. All of it changes numbers, so it is part of the code that a result depends on (`graph.CODE`).
Knows no plan, no graph and no store.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from diffembed.embedding.checkpoint import CONFIG_FILE, load_config
from diffembed.embedding.lora import ADAPTER, WEIGHTS, join_lora
from diffembed.errors import ConfigError
from diffembed.provenance import atomic_folder, hash_config, hash_file, write_json


def hash_weights(model: Path) -> str:
    """16 hex digits: which adapters a checkpoint has, in their order."""
    return hash_config([hash_file(model / adapter / WEIGHTS) for adapter in load_config(model).adapters])


def narrow_adapters(folder: Path) -> None:
    """Turns every adapter below a folder into bfloat16, in which it is kept, scored and built upon."""
    import torch
    from safetensors.torch import load_file, save_file

    for path in sorted(folder.glob(f"*/adapter-*/{WEIGHTS}")):
        tensors = load_file(path)
        if any(tensor.dtype != torch.bfloat16 for tensor in tensors.values()):
            save_file({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, path, {"format": "pt"})


def link_adapters(model: Path, parent: Path | None, final: Path) -> None:
    """Replaces adapters that `model` shares with its parent's model by links to them, for it will stand at `final`."""
    if parent is None:
        return
    for adapter in sorted(parent.glob("adapter-*")):
        twin = model / adapter.name
        if twin.is_dir() and hash_file(twin / WEIGHTS) == hash_file(adapter / WEIGHTS):
            shutil.rmtree(twin)
            twin.symlink_to(os.path.relpath(adapter.resolve(), final.resolve()), target_is_directory=True)


def join_adapters(model: Path, target: Path, *, rank: int) -> Path:
    """`target`: a copy of a checkpoint whose adapters are one of the given rank."""
    config = load_config(model)
    if not config.adapters:
        raise ConfigError(f"{model.parent.name} has no adapters to join; leave joined_rank out")
    if not target.exists():
        with atomic_folder(target) as part:
            join_lora([model / adapter for adapter in config.adapters], part / ADAPTER, rank=rank)
            write_json(part / CONFIG_FILE, replace(config, adapters=(ADAPTER,)).as_dict())
    return target
