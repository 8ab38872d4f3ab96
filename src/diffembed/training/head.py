"""The language-model head that an embedder leaves out and adaptation needs.

Read `load_head`. Tied heads are the embedding table; others are read from the checkpoint's own files.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from diffembed.backbones.loading import Backbone, locate
from diffembed.backbones.registry import find_model
from diffembed.errors import CheckpointError

HEAD = "lm_head.weight"


def load_head(backbone: Backbone) -> Tensor:
    """[vocabulary, width] in the network's dtype; the embedding table itself where the two are tied.

    Raises CheckpointError when the checkpoint was saved without its head.
    """
    if getattr(backbone.config, "tie_word_embeddings", False):
        return backbone.model.get_input_embeddings().weight
    from safetensors import safe_open

    folder = locate(backbone.name, find_model(backbone.name))
    file = _file_of(folder)
    if file is None:
        raise CheckpointError(
            f"{backbone.name} has no tensor {HEAD}: it was saved without its language-model head, which adaptation "
            "needs; take the checkpoint it was made from"
        )
    with safe_open(file, framework="pt") as opened:
        weight: Tensor = opened.get_tensor(HEAD)
    with torch.no_grad():
        return weight.to(backbone.device, backbone.dtype)


def _file_of(folder: Path) -> Path | None:
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.exists():
        name = json.loads(index.read_text(encoding="utf-8"))["weight_map"].get(HEAD)
        return folder / name if name else None
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            if HEAD in opened.keys():  # noqa: SIM118 - the handle is no mapping
                return file
    return None
