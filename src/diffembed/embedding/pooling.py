"""From the states of a pack to one vector per text.

Read `pool`. All poolings are computed in float32 and read only the tokens named by (start, stop): never padding, never
a beginning-of-text token, the instruction only where the template says so.
"""

# T = tokens in the pack, D = hidden width, N = texts

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffembed.errors import UnknownNameError


def mean(hidden_TD: Tensor) -> Tensor:
    """[D] average of the tokens."""
    return hidden_TD.mean(0)


def weighted_mean(hidden_TD: Tensor) -> Tensor:
    """[D] average with weights 1, 2, ... T, which favours late tokens. Source: SGPT (arXiv 2202.08904)."""
    weights_T = torch.arange(1, len(hidden_TD) + 1, device=hidden_TD.device, dtype=hidden_TD.dtype)
    return weights_T @ hidden_TD / weights_T.sum()


def last(hidden_TD: Tensor) -> Tensor:
    """[D] state of the last token, the only one that has read everything in a causal network."""
    return hidden_TD[-1]


def first(hidden_TD: Tensor) -> Tensor:
    """[D] state of the first pooled token; [CLS] in encoders."""
    return hidden_TD[0]


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": mean,
    "weighted_mean": weighted_mean,
    "last": last,
    "first": first,
}


def find_pooling(name: str) -> Callable[[Tensor], Tensor]:
    """The pooling of a name. Raises UnknownNameError."""
    if name not in POOLINGS:
        raise UnknownNameError.of("pooling", name, list(POOLINGS))
    return POOLINGS[name]


def pool(hidden_TD: Tensor, ranges: Sequence[tuple[int, int]], name: str) -> Tensor:
    """[N, D] float32, not normalised; differentiable.

    hidden_TD: last hidden state of a pack. ranges: (start, stop) in the pack, one a text.
    An empty range gives the zero vector: it is as far from everything as cosine allows, and never NaN.
    """
    reduce = find_pooling(name)
    zero_D = hidden_TD.new_zeros(hidden_TD.shape[-1], dtype=torch.float32)
    return torch.stack([reduce(hidden_TD[start:stop].float()) if stop > start else zero_D for start, stop in ranges])
