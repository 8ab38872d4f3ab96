"""The sentence-transformers pipeline a published embedding checkpoint brings along: pooling, normalising, quantiser.

Read `read_pipeline`; `quantise_tanh` is pplx-embed's own last module. Knows no torch.
"""

import json
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffembed.backbones.conversion.layout import Layout
from diffembed.backbones.conversion.source import Source, read_object
from diffembed.errors import ConversionError, UnknownNameError


def read_pipeline(source: Source, layout: Layout) -> dict[str, Any] | None:
    """Pooling of the checkpoint's own sentence-transformers pipeline; `None` where it has no pipeline.

    Raises ConversionError for a module this project does not implement, naming it.
    """
    path = source.folder / "modules.json"
    if not path.is_file():
        return None
    modules = json.loads(path.read_text(encoding="utf-8"))
    pipeline: dict[str, Any] = {"pooling": None, "normalise": False, "quantiser": None}
    for module in modules:
        kind = module["type"]
        short = kind.rsplit(".", 1)[-1] if kind.startswith("sentence_transformers.") else None
        if short == "Pooling":
            pipeline["pooling"] = _pooling_mode(source, module["path"])
        elif short == "Normalize":
            pipeline["normalise"] = True
        elif kind in layout.modules:
            pipeline["quantiser"] = kind
        elif short != "Transformer":
            known = ["Transformer", "Pooling", "Normalize", *layout.modules]
            raise ConversionError(
                f"{source.name}: modules.json names {kind}, which is not implemented; known are {', '.join(known)}"
            )
    return pipeline


def _pooling_mode(source: Source, path: str) -> str:
    config = read_object(source.folder / path / "config.json", source.name)
    if mode := config.get("pooling_mode"):
        modes = [mode]
    else:
        modes = [key.removeprefix("pooling_mode_") for key, is_on in config.items() if "mode_" in key and is_on is True]
    names = {"mean_tokens": "mean", "mean": "mean", "cls_token": "first", "cls": "first"}
    names |= {"lasttoken": "last", "weightedmean_tokens": "weighted_mean", "weightedmean": "weighted_mean"}
    if len(modes) != 1 or modes[0] not in names:
        raise ConversionError(f"{source.name}: {path}/config.json pools by {modes}; expected one of {', '.join(names)}")
    return names[modes[0]]


def quantise_tanh(vectors: NDArray[np.float32], kind: Literal["int8", "binary", "ubinary"]) -> NDArray[Any]:
    """pplx-embed's quantiser on pooled, unnormalised vectors [N, D].

    int8: round(127 tanh(x)), halves to even. binary: the sign of x itself as -1 or 1 in int8 (0 counts as 1).
    ubinary: the same signs as bits, most significant first, [N, D / 8] uint8. Compare by cosine.
    """
    if kind == "int8":
        return np.rint(127 * np.tanh(vectors)).astype(np.int8)
    is_positive = vectors >= 0
    if kind == "binary":
        return np.where(is_positive, 1, -1).astype(np.int8)
    if kind == "ubinary":
        return np.packbits(is_positive, axis=-1)
    raise UnknownNameError.of("quantisation", kind, ["int8", "binary", "ubinary"])
