"""Texts into packs of a token budget, packs through the network, vectors back in the order of the texts.

Read `encode_packed`, then `make_batches`. There is no padding anywhere: a pack is one row of real tokens.
"""

# T = tokens in the pack, D = hidden width, N = texts

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from diffembed.backbones.allocator import keep_pages
from diffembed.backbones.attention import Direction, PackedLayout
from diffembed.backbones.loading import Backbone
from diffembed.embedding.pooling import pool
from diffembed.embedding.text import Tokens
from diffembed.errors import ConfigError, ResourceError
from diffembed.records import Vectors

TOKEN_BUDGET = 2048
"""Tokens per pack on a CPU; chosen by measurement (docs/benchmarks.md)."""
CUDA_TOKEN_BUDGET = 32_768
"""Chosen to fill a GPU; not measured on one."""


def default_budget(device: torch.device) -> int:
    """Tokens per pack for a device."""
    return CUDA_TOKEN_BUDGET if device.type == "cuda" else TOKEN_BUDGET


def make_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of texts, longest first, in groups of at most `budget` tokens; a longer text is alone.

    Texts of like length stand together, so that equal lengths share a kernel call and few shapes occur.
    """
    if budget < 1:
        raise ConfigError(f"the token budget is {budget}; it must be at least 1")
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or lengths[index] > room:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= lengths[index]
    return batches


def forward_packed(
    backbone: Backbone, tokens: Sequence[Tokens], *, direction: Direction | tuple[Direction, ...] | None = None
) -> Tensor:
    """[T, D] last hidden state of the texts laid end to end; differentiable.

    direction: `None` is the attention the backbone was proved with; others are for the direction ablation.
    """
    if backbone.kernel != "packed":
        raise ConfigError(f"{backbone.name} was loaded with kernel={backbone.kernel!r}; packs need kernel='packed'")
    layout = PackedLayout(tuple(len(text) for text in tokens), direction or backbone.attention)
    ids_1T = torch.from_numpy(np.concatenate([text.ids for text in tokens]).astype(np.int64)).unsqueeze(0)
    out = backbone.model(
        input_ids=ids_1T.to(backbone.device),
        position_ids=layout.position_ids(backbone.device),
        packed=layout,
    )
    return out.last_hidden_state[0]


def pool_ranges(tokens: Sequence[Tokens]) -> list[tuple[int, int]]:
    """(start, stop) in the pack of what is pooled of each text."""
    starts = np.cumsum([0, *(len(text) for text in tokens)])
    return [(int(s) + t.pool_start, int(s) + t.pool_stop) for s, t in zip(starts, tokens, strict=False)]


@torch.inference_mode()
def encode_packed(
    backbone: Backbone,
    tokens: Sequence[Tokens],
    poolings: Sequence[str],
    *,
    budget: int,
    direction: Direction | tuple[Direction, ...] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[str, Vectors]:
    """[N, D] float32 for each pooling, not normalised, in the order of `tokens`; one forward serves all poolings.

    on_batch: called with (texts, tokens) after every pack.
    When memory runs out, the budget halves and the work goes on; ResourceError when a single text does not fit.
    """
    keep_pages()
    vectors = {name: np.zeros((len(tokens), backbone.dim), dtype=np.float32) for name in poolings}
    # A text that pools nothing has the zero vector: the network need not read it.
    readable = [i for i, text in enumerate(tokens) if text.pool_stop > text.pool_start]
    for indices, hidden_TD in forward_batches(backbone, tokens, readable, budget, direction):
        texts = [tokens[i] for i in indices]
        for name in poolings:
            vectors[name][indices] = pool(hidden_TD, pool_ranges(texts), name).cpu().numpy()
        if on_batch is not None:
            on_batch(len(texts), sum(len(text) for text in texts))
    return vectors


def forward_batches(
    backbone: Backbone,
    tokens: Sequence[Tokens],
    readable: Sequence[int],
    budget: int,
    direction: Direction | tuple[Direction, ...] | None = None,
) -> Iterator[tuple[list[int], Tensor]]:
    """(indices, states) of each pack; when one does not fit into memory, what is left is packed again in halves."""
    waiting = list(readable)
    while waiting:
        batches = make_batches([len(tokens[i]) for i in waiting], budget)
        packs = [[waiting[i] for i in batch] for batch in batches]
        waiting = []
        for position, indices in enumerate(packs):
            try:
                hidden_TD = forward_packed(backbone, [tokens[i] for i in indices], direction=direction)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                num_tokens = sum(len(tokens[i]) for i in indices)
                if len(indices) == 1:
                    raise ResourceError(
                        f"memory ran out on one text of {num_tokens} tokens; set a smaller max_tokens, "
                        "which cuts long texts or, with overflow='chunk', reads them in windows of that many"
                    ) from error
                budget = max(num_tokens // 2, 1)
                warnings.warn(f"memory ran out on {num_tokens} tokens; going on with packs of {budget}", stacklevel=2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                waiting = [i for pack in packs[position:] for i in pack]
                break
            yield indices, hidden_TD


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors by which torch says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
