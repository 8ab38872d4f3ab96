"""Text embeddings from diffusion language models, and the honest comparison with autoregressive ones.

The names below are the public door; each is imported when it is first used, so `import diffembed` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_DOOR = {
    "Embedder": "diffembed.embedding.embedder",
    "load_backbone": "diffembed.backbones.loading",
    "DiffEmbedError": "diffembed.errors",
    "Document": "diffembed.records",
    "Encoder": "diffembed.records",
    "Query": "diffembed.records",
    "evaluate": "diffembed.evaluation.run",
    "Index": "diffembed.index.index",
    "build_index": "diffembed.index.jobs",
    "adapt": "diffembed.training.adapt",
    "train": "diffembed.training.contrast",
}

if TYPE_CHECKING:
    from diffembed.backbones.loading import load_backbone
    from diffembed.embedding.embedder import Embedder
    from diffembed.errors import DiffEmbedError
    from diffembed.evaluation.run import evaluate
    from diffembed.index.index import Index
    from diffembed.index.jobs import build_index
    from diffembed.records import Document, Encoder, Query
    from diffembed.training.adapt import adapt
    from diffembed.training.contrast import train

__all__ = [
    "DiffEmbedError",
    "Document",
    "Embedder",
    "Encoder",
    "Index",
    "Query",
    "adapt",
    "build_index",
    "evaluate",
    "load_backbone",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _DOOR:
        return getattr(import_module(_DOOR[name]), name)
    raise AttributeError(f"module 'diffembed' has no attribute {name!r}; it has {', '.join(sorted(_DOOR))}")


def __dir__() -> list[str]:
    return sorted(_DOOR)
