"""Attention over packed documents: many texts in one row of tokens, none sees another, no padding, no L x L mask.

Read `packed_attention`, then `PackedLayout`. It is registered with transformers under the name `diffembed_packed`, so
every native network runs its linear layers on [1, T, D] and its attention per document. Differentiable.
"""

# T = tokens in the pack, L = tokens of one document, n = documents of equal length,
# H = query heads, G = key/value heads, d = head width

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from diffembed.errors import AttentionContractError

KERNEL_NAME = "diffembed_packed"
QUERY_BLOCK = 256
"""Queries per block of a sliding layer: small enough to waste little of the band, large enough to feed the kernel."""

Direction = Literal["bidirectional", "causal", "anticausal"]


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Where each document lies in a pack, and who may see whom; travels to every layer as the kwarg `packed`."""

    lengths: tuple[int, ...]
    """Tokens of each document, in packed order; all > 0. Equal neighbours share one kernel call."""
    direction: Direction | tuple[Direction, ...]
    """For all layers, or one per layer: `causal` sees the past, `anticausal` the future, both themselves."""

    def direction_of(self, layer: int) -> Direction:
        """Direction of one layer."""
        return self.direction if isinstance(self.direction, str) else self.direction[layer]

    @property
    def num_tokens(self) -> int:
        """Tokens in the pack."""
        return sum(self.lengths)

    def position_ids(self, device: torch.device | str = "cpu") -> Tensor:
        """[1, T] positions, counted from 0 in every document."""
        return torch.cat([torch.arange(length, device=device) for length in self.lengths]).unsqueeze(0)

    def runs(self) -> list[tuple[int, int, int]]:
        """(first token, number of documents, length) of each run of equally long neighbours."""
        runs: list[tuple[int, int, int]] = []
        start = 0
        for length in self.lengths:
            if runs and runs[-1][2] == length:
                first, count, _ = runs[-1]
                runs[-1] = (first, count + 1, length)
            else:
                runs.append((start, 1, length))
            start += length
        return runs


def window_reach(direction: Direction, sliding_window: int | None) -> tuple[int | None, int | None]:
    """How many tokens back and ahead a query sees besides itself; `None` = all of them.

    transformers 5 defines the causal window as distance < window and the bidirectional one as distance <= window on
    both sides (`masking_utils.sliding_window_bidirectional_overlay`): 512 keys against 1,025. We follow it.
    """
    if direction == "causal":
        return (None if sliding_window is None else sliding_window - 1), 0
    if direction == "anticausal":
        return 0, (None if sliding_window is None else sliding_window - 1)
    return sliding_window, sliding_window


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed: PackedLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of every document on itself.

    query: [1, H, T, d]; key, value: [1, G, T, d], G divides H.
    Returns ([1, T, H, d], None), the form transformers expects.
    Raises AttentionContractError without a layout, or with one that does not cover the tokens.
    """
    if packed is None:
        raise AttentionContractError(
            f"kernel {KERNEL_NAME!r} was called without a layout; encode through diffembed, or load with kernel='sdpa'"
        )
    if query.shape[0] != 1 or query.shape[2] != packed.num_tokens:
        raise AttentionContractError(
            f"the layout covers {packed.num_tokens} tokens in one row, the network got {tuple(query.shape)}"
        )
    direction = packed.direction_of(getattr(module, "layer_idx", 0) or 0)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    is_half = query.dtype in (torch.float16, torch.bfloat16)
    if query.is_cuda and is_half and softcap is None and direction != "anticausal":
        return _varlen(query, key, value, packed, direction, sliding_window, scaling), None
    pieces = []
    runs = packed.runs()
    # Split, not sliced: the backward pass of a slice fills and adds a whole pack, once for every run.
    sizes = [count * length for _, count, length in runs]
    spans = (x.squeeze(0).split(sizes, dim=1) for x in (query, key, value))
    for (_, count, length), *span in zip(runs, *spans, strict=True):
        query_nHLd, key_nGLd, value_nGLd = (x.unflatten(1, (count, length)).transpose(0, 1) for x in span)
        out_nHLd = _attend(query_nHLd, key_nGLd, value_nGLd, direction, sliding_window, scaling, dropout, softcap)
        pieces.append(out_nHLd.transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces).unsqueeze(0), None


def _attend(
    query_nHLd: Tensor,
    key_nGLd: Tensor,
    value_nGLd: Tensor,
    direction: Direction,
    sliding_window: int | None,
    scaling: float,
    dropout: float,
    softcap: float | None,
) -> Tensor:
    """[n, H, L, d] for documents of one length; long windows are cut into blocks of queries and their band of keys."""
    length, repeat = query_nHLd.shape[2], query_nHLd.shape[1] // key_nGLd.shape[1]
    if repeat > 1:
        # A view for one key head (stride 0), a copy otherwise; SDPA's own enable_gqa copies in both cases on the CPU.
        key_nGLd, value_nGLd = (x.repeat_interleave(repeat, 1) if x.shape[1] > 1 else x.expand(-1, repeat, -1, -1)
                                for x in (key_nGLd, value_nGLd))  # fmt: skip
    back, ahead = window_reach(direction, sliding_window)
    back = length if back is None else min(back, length)
    ahead = length if ahead is None else min(ahead, length)
    sees_all_past, sees_all_future = back >= length - 1, ahead >= length - 1
    if softcap is None and sees_all_past and (sees_all_future or direction == "causal"):
        return scaled_dot_product_attention(
            query_nHLd,
            key_nGLd,
            value_nGLd,
            dropout_p=dropout,
            is_causal=direction == "causal" and length > 1,
            scale=scaling,
        )
    blocks = []
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        first, last = max(0, start - back), min(length, stop + ahead)
        mask = _band(stop - start, last - first, start - first, back, ahead, query_nHLd.device)
        query, keys, values = query_nHLd[:, :, start:stop], key_nGLd[:, :, first:last], value_nGLd[:, :, first:last]
        if softcap is None:
            blocks.append(scaled_dot_product_attention(query, keys, values, mask, dropout, scale=scaling))
        else:
            scores = torch.tanh(query @ keys.transpose(-1, -2) * (scaling / softcap)) * softcap
            weights = scores.masked_fill(~mask, float("-inf")).float().softmax(-1).to(query.dtype)
            blocks.append(torch.dropout(weights, dropout, train=dropout > 0) @ values)
    return torch.cat(blocks, dim=2)


@lru_cache(maxsize=64)
def _band(num_queries: int, num_keys: int, offset: int, back: int, ahead: int, device: torch.device) -> Tensor:
    """[queries, keys] True where key - query lies in [-back, ahead]; `offset` = position of query 0 among the keys."""
    distance = torch.arange(num_keys, device=device)[None, :] - (
        torch.arange(num_queries, device=device)[:, None] + offset
    )
    return (distance >= -back) & (distance <= ahead)


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed: PackedLayout,
    direction: Direction,
    sliding_window: int | None,
    scaling: float,
) -> Tensor:
    """[1, T, H, d] by torch's variable-length flash kernel. Written for CUDA; not run on the build machines."""
    from torch.nn.attention.varlen import varlen_attn

    back, ahead = window_reach(direction, sliding_window)
    bounds = torch.tensor([0, *packed.lengths], device=query.device).cumsum(0).to(torch.int32)
    query_THd, key_TGd, value_TGd = (x[0].transpose(0, 1) for x in (query, key, value))
    out_THd = varlen_attn(
        query_THd,
        key_TGd,
        value_TGd,
        bounds,
        bounds,
        max(packed.lengths),
        max(packed.lengths),
        scale=scaling,
        window_size=(-1 if back is None else back, -1 if ahead is None else ahead),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out_THd, Tensor)
    return out_THd.unsqueeze(0)


def _no_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> None:
    """The packed kernel needs no mask; a padded batch would be read as one document, so it is refused."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise AttentionContractError(
            f"kernel {KERNEL_NAME!r} got a padded batch; pack the texts, or load with kernel='sdpa'"
        )


def register_kernel() -> None:
    """Makes `diffembed_packed` known to transformers; calling it again changes nothing."""
    AttentionInterface.register(KERNEL_NAME, packed_attention)
    AttentionMaskInterface.register(KERNEL_NAME, _no_mask)
