"""The dimensions of a network without its weights: what a memory plan and a count of adapters need.

Read `shape_of`. Dimensions come from config.json where it is at hand, from the hub, or from the published values below.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.backbones.loading import locate
from diffembed.backbones.registry import find_model
from diffembed.embedding.checkpoint import base_location, is_checkpoint, load_config
from diffembed.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Dimensions of a llama-like network."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    ffn_width: int
    vocabulary: int
    has_tied_head: bool = False

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Linear layer -> (inputs, outputs), per layer."""
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        return {
            "q_proj": (self.width, queries),
            "k_proj": (self.width, keys),
            "v_proj": (self.width, keys),
            "o_proj": (queries, self.width),
            "gate_proj": (self.width, self.ffn_width),
            "up_proj": (self.width, self.ffn_width),
            "down_proj": (self.ffn_width, self.width),
        }

    @property
    def num_body_weights(self) -> int:
        """Weights of the layers and the embedding table; norms and biases, some thousandths, are left out."""
        return self.layers * sum(i * o for i, o in self.projections.values()) + self.vocabulary * self.width

    def num_lora_weights(self, rank: int, targets: tuple[str, ...]) -> int:
        """Weights of adapters of a rank on the named layers."""
        sizes = self.projections
        return self.layers * rank * sum(sum(sizes[name]) for name in targets if name in sizes)


PUBLISHED: Mapping[str, Shape] = {
    **dict.fromkeys(
        ("dream-7b", "qwen2.5-7b"),
        Shape(layers=28, width=3584, heads=28, kv_heads=4, head_width=128, ffn_width=18944, vocabulary=152064),
    ),
    **dict.fromkeys(
        ("llada-8b", "llada-1.5"),
        Shape(layers=32, width=4096, heads=32, kv_heads=32, head_width=128, ffn_width=12288, vocabulary=126464),
    ),
    "llama-3-8b": Shape(
        layers=32, width=4096, heads=32, kv_heads=8, head_width=128, ffn_width=14336, vocabulary=128256
    ),
    "mistral-7b": Shape(layers=32, width=4096, heads=32, kv_heads=8, head_width=128, ffn_width=14336, vocabulary=32000),
}
"""Name -> dimensions in the published config.json, for machines without the hub."""


def shape_of(name: str) -> tuple[Shape, str]:
    """(dimensions, where they were read) of a model name, folder or hub id; loads no weights from the hub.

    Raises CheckpointError for an architecture whose config lacks a dimension, UnknownNameError for an unknown name.
    """
    if is_checkpoint(name):
        folder = Path(name)
        return shape_of(base_location(load_config(folder), folder))
    spec = find_model(name)
    if spec is not None and spec.source == "tiny":
        from diffembed.backbones.tiny import build_tiny

        return _shape(build_tiny(spec.family)[0].config.to_dict(), name), "its definition"
    if (spec is None and Path(name).is_dir()) or (spec is not None and spec.source != "hub"):
        path = locate(name, spec) / "config.json"
        return _shape(json.loads(path.read_text(encoding="utf-8")), name), "config.json"
    if spec is not None and spec.name in PUBLISHED:
        return PUBLISHED[spec.name], "the published values"
    from transformers import AutoConfig

    hub_id = spec.location if spec is not None else name
    try:
        config = AutoConfig.from_pretrained(hub_id.partition("@")[0])
    except (OSError, ValueError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise CheckpointError(f"the config of {name} cannot be read ({first}); give a local folder") from error
    return _shape(config.to_dict(), name), "the hub"


def _shape(config: Mapping[str, Any], name: str) -> Shape:
    try:
        width, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return Shape(
            layers=int(config["num_hidden_layers"]),
            width=width,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_width=int(config.get("head_dim") or width // heads),
            ffn_width=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            has_tied_head=bool(config.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise CheckpointError(
            f"the config of {name} has no {error.args[0]!r}, so its memory cannot be planned"
        ) from error
