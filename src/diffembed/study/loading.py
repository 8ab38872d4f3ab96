"""A trained model as the evaluation of a study reads it: part of the code that scores depend on (`graph.CODE`)."""

from pathlib import Path

from diffembed.embedding.embedder import Embedder
from diffembed.evaluation.systems.recipes import with_limit


def load_scored(model: Path, *, dtype: str, name: str) -> Embedder:
    """A trained model as it is scored, under another name than its folder, so that no path reaches a result."""
    embedder = Embedder.load(str(model), dtype=dtype)
    # Training reads the beginnings of long texts, its model all of them; suites and the plan set their own limits.
    embedder = with_limit(embedder, embedder.backbone.max_tokens)
    embedder.name = name
    return embedder
