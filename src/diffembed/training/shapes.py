"""The dimensions of a network without its weights: what a memory plan and a count of adapters need.

Read `shape_of`. The config itself comes from `backbones/shapes.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffembed.backbones.shapes import native_config
from diffembed.embedding.checkpoint import base_location, checkpoint_folder, load_config
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


def shape_of(name: str) -> Shape:
    """Dimensions of a model name, checkpoint, folder or hub id; reads no weights.

    Raises CheckpointError for an architecture whose config lacks a dimension, UnknownNameError for an unknown name.
    """
    folder = checkpoint_folder(name)
    if folder is not None:
        return shape_of(base_location(load_config(folder), folder))
    return _shape(native_config(name).to_dict(), name)


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
