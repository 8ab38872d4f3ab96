"""The language-model head, which an embedder leaves out and adaptation and denoising need.

Read `load_head`. Tied heads are the embedding table; others are read from the checkpoint's own files.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffembed.backbones.conversion.sidecar import read_sidecar
from diffembed.backbones.loading import Backbone, locate
from diffembed.backbones.registry import find_model
from diffembed.errors import CheckpointError

HEAD = "lm_head.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Hidden states to logits."""

    weight_VD: Tensor
    scale: float = 1.0
    """Factor on the logits (LLaDA's scale_logits)."""
    softcap: float | None = None
    """Logits become softcap * tanh(logits / softcap) (gemma 2); `None` leaves them alone."""

    @torch.no_grad()
    def logits(self, hidden_ND: Tensor) -> Tensor:
        """[N, V] float32, without gradients: losses take `weight_VD` in chunks (`objectives/vocabulary.py`)."""
        logits_NV = (hidden_ND.to(self.weight_VD.dtype) @ self.weight_VD.T).float() * self.scale
        return logits_NV if self.softcap is None else self.softcap * torch.tanh(logits_NV / self.softcap)


def load_head(backbone: Backbone) -> Head:
    """The head of a loaded backbone, in its dtype and on its device; the embedding table itself where the two are tied.

    Raises CheckpointError for encoders and for checkpoints that were published or saved without their head.
    """
    spec = find_model(backbone.name)
    folder = None if spec is not None and spec.source == "tiny" else locate(backbone.name, spec)
    facts = (read_sidecar(folder) if folder else None) or {}
    if backbone.family.is_encoder or not facts.get("has_head", True):
        raise CheckpointError(f"{backbone.name} has no language-model head: it was published as an encoder")
    if getattr(backbone.config, "tie_word_embeddings", False):
        weight_VD = backbone.model.get_input_embeddings().weight
    else:
        assert folder is not None, "the tiny models tie their weights"
        weight_VD = _read_head(folder, backbone.name).to(backbone.device, backbone.dtype)
    return Head(
        weight_VD=weight_VD,
        scale=facts.get("logit_scale", 1.0),
        softcap=getattr(backbone.config, "final_logit_softcapping", None),
    )


def _read_head(folder: Path, name: str) -> Tensor:
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.exists():
        file = json.loads(index.read_text(encoding="utf-8"))["weight_map"].get(HEAD)
        files = [folder / file] if file else []
    else:
        files = sorted(folder.glob("*.safetensors"))
    for path in files:
        with safe_open(path, framework="pt") as opened:
            if HEAD in opened.keys():  # noqa: SIM118 - the handle is no mapping
                return opened.get_tensor(HEAD)
    raise CheckpointError(
        f"{name} has no tensor {HEAD}: it was saved without its language-model head; "
        "take the checkpoint it was made from"
    )
