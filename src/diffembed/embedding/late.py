"""Late chunking: the whole document goes through the network once, then each chunk of it is pooled.

Read `encode_late`. A chunk's vector knows what stands around it, where `Embedder.encode` of the chunk alone does not.
Source: Guenther et al. 2024 (arXiv 2409.04701).
"""

# T = tokens of a text with what the template pools around them, S = spans of a text, D = hidden width

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diffembed.backbones.allocator import keep_pages
from diffembed.embedding.embedder import Embedder
from diffembed.embedding.packing import forward_batches
from diffembed.embedding.precision import cut_dims, normalise
from diffembed.embedding.text import WindowedText
from diffembed.errors import ConfigError, InputError
from diffembed.records import EncodeReport, Vectors

Span = tuple[int, int]
"""[start, stop) characters of a text."""
OVERLAP_FRACTION = 0.25
"""Of a window, shared with the one before: a quarter of the reading pays for context at the borders."""
SLAB_CHARACTERS = 4_000_000
"""Texts read at a time: enough to fill packs, little enough that memory does not grow with the corpus."""


def encode_late(
    embedder: Embedder,
    texts: Sequence[str],
    spans: Sequence[Sequence[Span]],
    *,
    dims: int | None = None,
    overlap_tokens: int | None = None,
) -> tuple[list[Vectors], EncodeReport]:
    """(for each text [S, dim] float32, one row per span in its order; tokens read per text).

    A token belongs to every span that holds its first character that is no space, so spans that share no character
    share no token. What the template pools around a text (`[CLS]`, end-of-text) goes with the span of the text's first
    or last token: one span over the whole text is `Embedder.encode`. A span without a token has the zero vector.
    Characters are those of `text.clean(text)`.

    A text beyond `max_tokens` is read in windows that share `overlap_tokens` (a quarter of `max_tokens` if `None`) with
    the one before. Each token is read from one window: where both sides are seen, the overlap is parted in the middle;
    where only the past is seen, the earlier window, which saw more of it, has the whole overlap.

    Raises InputError for spans outside their text, ConfigError for pooling `first`, which reads one token for a text.
    """
    if isinstance(texts, str):
        raise InputError("encode_late takes a list of texts, got one string; write [text] and [spans]")
    if len(texts) != len(spans):
        raise InputError(f"{len(texts)} texts come with spans for {len(spans)}")
    if embedder.pooling not in _WEIGHTS:
        raise ConfigError(
            f"{embedder.name} pools by {embedder.pooling!r}, one token that stands for the whole text; "
            f"late chunking pools by {', '.join(_WEIGHTS)}"
        )
    for place, (text, parts) in enumerate(zip(texts, spans, strict=True)):
        wrong = next((span for span in parts if not 0 <= span[0] <= span[1] <= len(text)), None)
        if wrong is not None:
            raise InputError(f"span {wrong} is outside text {place}, which has {len(text)} characters")
    started = time.perf_counter()
    width = embedder.dim if dims is None else dims
    overlap = int(embedder.max_tokens * OVERLAP_FRACTION) if overlap_tokens is None else overlap_tokens
    vectors: list[Vectors] = []
    num_tokens: list[int] = []
    for slab in _slabs(texts):
        windowed = embedder.tokenize_windows(texts[slab], overlap_tokens=overlap)
        for pooled_SD in _pool_spans(embedder, windowed, spans[slab], overlap):
            unit_SD = normalise(pooled_SD) if embedder.is_normalised else pooled_SD
            vectors.append(cut_dims(unit_SD, width, is_normalised=embedder.is_normalised))
        num_tokens += [sum(map(len, text.windows)) for text in windowed]
    report = EncodeReport(
        num_tokens=np.array(num_tokens, dtype=np.int64),
        is_truncated=np.zeros(len(texts), dtype=np.bool_),
        seconds=time.perf_counter() - started,
        max_tokens=embedder.max_tokens,
    )
    return vectors, report


def _slabs(texts: Sequence[str]) -> list[slice]:
    slabs, first, size = [], 0, 0
    for place, text in enumerate(texts):
        size += len(text)
        if size >= SLAB_CHARACTERS or place == len(texts) - 1:
            slabs.append(slice(first, place + 1))
            first, size = place + 1, 0
    return slabs


# Every pooling here is a weighted sum of states with weights that are known before any state is: a span that several
# windows read is summed up window by window, and no state is kept.
_WEIGHTS: dict[str, Callable[[NDArray[np.int64], int], NDArray[np.floating]]] = {
    "mean": lambda places_T, count: np.full(len(places_T), 1 / count),
    "weighted_mean": lambda places_T, count: (places_T + 1) / (count * (count + 1) / 2),
    "last": lambda places_T, count: (places_T == count - 1).astype(np.float64),
}
"""Pooling -> weights of some tokens of a span, from their places in it and the number of its tokens."""


@torch.inference_mode()
def _pool_spans(
    embedder: Embedder, texts: Sequence[WindowedText], spans: Sequence[Sequence[Span]], overlap: int
) -> list[Vectors]:
    """For each text [S, D], not normalised."""
    keep_pages()
    backbone = embedder.backbone
    pooled = [np.zeros((len(parts), backbone.dim), dtype=np.float32) for parts in spans]
    ranges = [_token_ranges(text, parts) for text, parts in zip(texts, spans, strict=True)]
    kept = overlap // 2 if embedder.attention == "bidirectional" else overlap
    owners = [(place, number) for place, text in enumerate(texts) for number in range(len(text.windows))]
    windows = [texts[place].windows[number] for place, number in owners]
    for indices, hidden_TD in forward_batches(backbone, windows, range(len(windows)), embedder.token_budget):
        offset = 0
        for index in indices:
            place, number = owners[index]
            first, stop, state = _kept_tokens(texts[place], number, kept)
            starts_S, ends_S = ranges[place].T
            for row in np.flatnonzero(np.maximum(starts_S, first) < np.minimum(ends_S, stop)):
                start, end = ranges[place][row]
                low, high = max(start, first), min(end, stop)
                weights_T = _WEIGHTS[embedder.pooling](np.arange(low - start, high - start), end - start)
                states_TD = hidden_TD[offset + state + low - first : offset + state + high - first].float()
                weights = torch.from_numpy(weights_T.astype(np.float32)).to(states_TD.device)
                pooled[place][row] += (weights @ states_TD).cpu().numpy()
            offset += len(windows[index])
    return pooled


def _token_ranges(text: WindowedText, spans: Sequence[Span]) -> NDArray[np.int64]:
    """[S, 2] start and stop of each span in the tokens 0 ... T: pooled before the text, its own, pooled after."""
    if not text.windows:
        return np.zeros((len(spans), 2), dtype=np.int64)
    before, after = _num_pooled_around(text)
    anchors_T: NDArray[np.int64] = np.pad(text.anchors, (before, after), mode="edge")
    return np.searchsorted(anchors_T, np.array(spans, dtype=np.int64).reshape(-1, 2))


def _kept_tokens(text: WindowedText, number: int, kept: int) -> tuple[int, int, int]:
    """(first, stop) among the tokens 0 ... T that are read from a window, and where the first stands in it."""
    before, after = _num_pooled_around(text)
    is_first, is_last = number == 0, number == len(text.windows) - 1
    first = 0 if is_first else before + text.starts[number] + kept
    stop = before + len(text.anchors) + after if is_last else before + text.starts[number + 1] + kept
    state = text.num_before - before if is_first else text.num_before + kept
    return first, stop, state


def _num_pooled_around(text: WindowedText) -> tuple[int, int]:
    """Tokens of the template that are pooled before the text's first token and after its last."""
    num_own = len(text.anchors) - text.starts[-1]
    return (
        text.num_before - text.windows[0].pool_start,
        text.windows[-1].pool_stop - text.num_before - num_own,
    )
