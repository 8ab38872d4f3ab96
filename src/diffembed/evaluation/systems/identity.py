"""Which model made a vector: a hash of the weights as they are and of every setting that changes the vector.

Read `identify`. Two embedders with the same identity give the same vector for the same ids and the same token limit,
which is why the vector cache is keyed by it. This module knows nothing of tasks.
"""

import dataclasses
import hashlib
from typing import Any

from diffembed.backbones.attention import Direction
from diffembed.embedding.embedder import Embedder
from diffembed.provenance import hash_config


def identify(embedder: Embedder, *, pooling: str, direction: Direction | tuple[Direction, ...] | None = None) -> str:
    """16 hex digits. The token limit is left out: the cache keeps it with every vector."""
    backbone = embedder.backbone
    return hash_config(
        {
            "weights": hash_weights(backbone.model),
            "attention": backbone.attention,
            "direction": direction,
            "kernel": backbone.kernel,
            "dtype": str(backbone.dtype),
            "pooling": pooling,
            # A field that is None changes nothing: what was made before the field was there keeps its hash.
            "template": {
                key: value for key, value in dataclasses.asdict(embedder.template).items() if value is not None
            },
            "is_normalised": embedder.is_normalised,
            "dim": embedder.dim,
        }
    )


def hash_weights(model: Any) -> str:
    """sha256 over the names, types and bytes of all tensors of a torch module; merged adapters are part of them."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
