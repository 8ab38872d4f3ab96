"""Where attention goes: past and future mass, distance bands and entropy of every layer and head.

Read `measure_attention`. Weights are recomputed from queries and keys in blocks of rows, inside the forward pass, so
that no [T, T] matrix is ever held: a text of 32k tokens needs 0.2 GB. This module knows nothing of tasks.
"""

# T = tokens of a text, Q = queries of a block, K = keys they see, L = layers, H = heads, G = key heads, B = bands

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from diffembed.backbones.attention import KERNEL_NAME, Direction, PackedLayout, packed_attention, window_reach
from diffembed.embedding.embedder import Embedder
from diffembed.errors import ConfigError, EmptyInputError

METER_NAME = "diffembed_measured"
QUERY_BLOCK = 128
BANDS = ("past > 1000", "past 51-1000", "past 1-50", "itself", "future 1-50", "future 51-1000", "future > 1000")
"""Distance of the key from the query. 50 and 1,000 are the bounds of the paper's own analysis (its repository,
attention_viz/viz.py)."""
BAND_COLUMNS = ("< -1000", "to -51", "to -1", "0", "1 to", "51 to", "> 1000")
"""`BANDS`, narrow enough for a terminal."""
BOUNDS = (-1000, -50, 0, 1, 51, 1001)
"""Smallest distance (key - query) of the second and of every later band."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionMass:
    """Means over all tokens of all texts that were read."""

    mass_LHB: NDArray[np.float64]
    """Share of the attention in each of `BANDS`; sums to 1 over B."""
    entropy_LH: NDArray[np.float64]
    """Of the weights of one query, in nats."""
    is_sliding_L: NDArray[np.bool_]
    num_texts: int
    num_tokens: int

    @property
    def past(self) -> NDArray[np.float64]:
        """[L, H] mass on earlier tokens."""
        return np.asarray(self.mass_LHB[:, :, :3].sum(2))

    @property
    def future(self) -> NDArray[np.float64]:
        """[L, H] mass on later tokens: the reverse attention that a causal network does not have."""
        return np.asarray(self.mass_LHB[:, :, 4:].sum(2))


class _Meter:
    """Sums over the queries of every layer; travels to the attention function as the kwarg `meter`."""

    def __init__(self, num_layers: int) -> None:
        self.mass: list[Tensor | None] = [None] * num_layers
        self.entropy: list[Tensor | None] = [None] * num_layers
        self.is_sliding = np.zeros(num_layers, dtype=np.bool_)

    def add(self, layer: int, mass_HB: Tensor, entropy_H: Tensor) -> None:
        held_mass, held_entropy = self.mass[layer], self.entropy[layer]
        self.mass[layer] = mass_HB if held_mass is None else held_mass + mass_HB
        self.entropy[layer] = entropy_H if held_entropy is None else held_entropy + entropy_H


def measure_attention(
    embedder: Embedder,
    texts: Sequence[str],
    *,
    direction: Direction | tuple[Direction, ...] | None = None,
) -> AttentionMass:
    """Mass and entropy over documents, each read alone and cut at the embedder's limit.

    direction: `None` is the attention the embedder was trained with.
    Raises ConfigError for an embedder that was not loaded with the packed kernel, EmptyInputError without texts.
    """
    if not texts:
        raise EmptyInputError("there are no texts to measure attention on")
    backbone = embedder.backbone
    if backbone.kernel != "packed":
        raise ConfigError(f"{backbone.name} was loaded with kernel={backbone.kernel!r}; load it with kernel='packed'")
    meter = _Meter(int(backbone.config.num_hidden_layers))
    windows = [text.windows[0] for text in embedder.tokenize(texts)]
    with torch.inference_mode(), _measured(backbone.model):
        for window in windows:
            layout = PackedLayout((len(window),), direction or backbone.attention)
            backbone.model(
                input_ids=torch.from_numpy(window.ids.astype(np.int64)).unsqueeze(0).to(backbone.device),
                position_ids=layout.position_ids(backbone.device),
                packed=layout,
                meter=meter,
            )
    num_tokens = sum(len(window) for window in windows)
    mass = [layer for layer in meter.mass if layer is not None]
    entropy = [layer for layer in meter.entropy if layer is not None]
    if len(mass) != len(meter.mass):
        raise ConfigError(f"{backbone.name} has layers whose attention does not pass through transformers' interface")
    return AttentionMass(
        mass_LHB=torch.stack(mass).double().cpu().numpy() / num_tokens,
        entropy_LH=torch.stack(entropy).double().cpu().numpy() / num_tokens,
        is_sliding_L=meter.is_sliding,
        num_texts=len(texts),
        num_tokens=num_tokens,
    )


@contextlib.contextmanager
def _measured(model: Any) -> Iterator[None]:
    """The network with the measuring kernel in place of the packed one."""
    AttentionInterface.register(METER_NAME, _attend_and_measure)
    AttentionMaskInterface.register(METER_NAME, AttentionMaskInterface()[KERNEL_NAME])
    model.set_attn_implementation(METER_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(KERNEL_NAME)


def _attend_and_measure(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    meter: _Meter,
    packed: PackedLayout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    layer = int(getattr(module, "layer_idx", 0) or 0)
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    meter.is_sliding[layer] = sliding_window is not None
    reach = window_reach(packed.direction_of(layer), sliding_window)
    meter.add(layer, *attention_statistics(query[0], key[0], scaling=factor, reach=reach, softcap=softcap))
    out: tuple[Tensor, None] = packed_attention(
        module,
        query,
        key,
        value,
        attention_mask,
        packed=packed,
        scaling=scaling,
        sliding_window=sliding_window,
        softcap=softcap,
        **kwargs,
    )
    return out


def attention_statistics(
    query_HTd: Tensor,
    key_GTd: Tensor,
    *,
    scaling: float,
    reach: tuple[int | None, int | None],
    softcap: float | None = None,
    query_block: int = QUERY_BLOCK,
) -> tuple[Tensor, Tensor]:
    """([H, B] mass per band, [H] entropy in nats), summed over the T queries of one text.

    reach: tokens back and ahead that a query sees besides itself, `None` for all.
    """
    num_heads, length, _ = query_HTd.shape
    key_HTd = key_GTd.repeat_interleave(num_heads // key_GTd.shape[0], 0).float()
    back, ahead = (length if part is None else min(part, length) for part in reach)
    mass_HB = torch.zeros(num_heads, len(BANDS), dtype=torch.float64)
    entropy_H = torch.zeros(num_heads, dtype=torch.float64)
    bounds = torch.tensor(BOUNDS, device=query_HTd.device)
    for start in range(0, length, query_block):
        stop = min(start + query_block, length)
        first, last = max(0, start - back), min(length, stop + ahead)
        scores_HQK = query_HTd[:, start:stop].float() @ key_HTd[:, first:last].transpose(1, 2) * scaling
        if softcap is not None:
            scores_HQK = torch.tanh(scores_HQK / softcap) * softcap
        positions_K = torch.arange(first, last, device=query_HTd.device)
        distance_QK = positions_K[None] - torch.arange(start, stop, device=query_HTd.device)[:, None]
        is_hidden_QK = (distance_QK < -back) | (distance_QK > ahead)
        scores_HQK = scores_HQK.masked_fill(is_hidden_QK, float("-inf"))
        log_weights_HQK = scores_HQK.log_softmax(-1)
        weights_HQK = log_weights_HQK.exp()
        # 0 * log 0 counts as 0 in an entropy; the hidden keys would give NaN.
        entropy_H -= (weights_HQK * log_weights_HQK.masked_fill(is_hidden_QK, 0)).sum((1, 2)).double().cpu()
        band_QK = torch.bucketize(distance_QK, bounds, right=True)
        # Row by row first: a float32 sum over all rows of a long text would lose digits.
        rows_HQB = torch.zeros(num_heads, stop - start, len(BANDS), device=query_HTd.device)
        rows_HQB.scatter_add_(2, band_QK.expand(num_heads, -1, -1), weights_HQK)
        mass_HB += rows_HQB.double().sum(1).cpu()
    return mass_HB, entropy_H
