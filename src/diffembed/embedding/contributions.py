"""Where a similarity comes from: the exact share of every token in the cosine of a text and a question.

Read `explain`. Poolings are linear, so q . mean(h) / |mean(h)| = sum over tokens of q . h_t / (T |mean(h)|): nothing is
approximated, no gradient is taken, and the shares add up to the score. Must not know indexes or servers.
"""

# T = tokens of a window, D = width, C = characters of the text

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffembed.backbones.allocator import keep_pages
from diffembed.embedding.embedder import Embedder
from diffembed.embedding.packing import forward_batches, pool_ranges
from diffembed.embedding.precision import normalise
from diffembed.embedding.text import Overflow, clean
from diffembed.errors import ConfigError, EmptyInputError
from diffembed.records import Vectors

SPREADING_POOLINGS = ("mean", "weighted_mean")
"""Poolings under which every token has a share; under `last` and `first` one token carries all of the score."""

# Scripts without spaces are read sign by sign; elsewhere a word is a run of letters and digits.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_PIECES = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]+|\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A word, a run of punctuation or of white space, with its share of the similarity."""

    text: str
    start: int
    """Offset of its first character."""
    share: float
    num_tokens: float
    """Tokens that it is made of; a token of several pieces counts in parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contributions:
    """The similarity of one text to one question, taken apart."""

    text: str
    """The text as it was read: lone surrogates are U+FFFD."""
    similarity: float
    """Cosine; `shares_T.sum()` up to float32 rounding."""
    spans_T2: NDArray[np.int64]
    """Characters (start, stop) of each pooled token; (0, 0) for special tokens and the template."""
    shares_T: NDArray[np.float32]
    """What each pooled token adds to the similarity; negative where it pulls away."""
    num_tokens: int
    """Tokens the network read, those that are not pooled included."""
    is_truncated: bool
    """True when the end of the text was not read."""

    @property
    def num_chars_read(self) -> int:
        """Where reading stopped; the length of the text when nothing was cut."""
        return int(self.spans_T2[:, 1].max(initial=0)) if self.is_truncated else len(self.text)

    @property
    def outside(self) -> float:
        """Share of the tokens that stand for no character: [CLS], [SEP], a document prefix."""
        return float(self.shares_T[self.spans_T2[:, 1] == self.spans_T2[:, 0]].sum())

    def by_character(self) -> NDArray[np.float64]:
        """[C] the share of each token, spread evenly over its characters, white space left out where it can be."""
        return self._spread(self.shares_T[:, None])[:, 0]

    def _spread(self, values_TK: NDArray[np.float32]) -> NDArray[np.float64]:
        spread_CK = np.zeros((len(self.text), values_TK.shape[1]))
        is_ink_C = np.array([not char.isspace() for char in self.text], dtype=bool)
        for (start, stop), values_K in zip(self.spans_T2.tolist(), values_TK, strict=True):
            ink = np.flatnonzero(is_ink_C[start:stop])
            where = start + ink if len(ink) else np.arange(start, stop)
            if len(where):
                spread_CK[where] += values_K / len(where)
        return spread_CK

    def pieces(self) -> list[Piece]:
        """The text cut into words and what stands between them: joined they are the text, shares and all."""
        spread_C2 = self._spread(np.stack([self.shares_T, np.ones_like(self.shares_T)], axis=1))
        sums_C2 = np.concatenate([np.zeros((1, 2)), np.cumsum(spread_C2, axis=0)])
        found = []
        for match in _PIECES.finditer(self.text):
            share, num_tokens = (sums_C2[match.end()] - sums_C2[match.start()]).tolist()
            found.append(Piece(text=match.group(), start=match.start(), share=share, num_tokens=num_tokens))
        return found

    def along(self, num_bins: int) -> NDArray[np.float64]:
        """[num_bins] shares along the length of the text, cut into ranges of equal numbers of characters."""
        if num_bins < 1:
            raise ConfigError(f"num_bins must be at least 1, got {num_bins}")
        shares_C = self.by_character()
        bins_C = np.arange(len(shares_C)) * num_bins // max(len(shares_C), 1)
        return np.bincount(bins_C, shares_C, minlength=num_bins).astype(np.float64)


def is_spread(embedder: Embedder) -> bool:
    """True when every token takes part in a score; False when the pooling lets one token carry all of it."""
    return embedder.pooling in SPREADING_POOLINGS


def explain(
    embedder: Embedder,
    question: str,
    texts: Sequence[str],
    *,
    instruction: str | None = None,
    overflow: Overflow = "truncate",
) -> list[Contributions]:
    """The `Contributions` of each text to its similarity with the question, in the order of `texts`.

    overflow: as in `Embedder.encode`; under `chunk` the windows are taken together, as their vector is.
    Under the poolings `last` and `first` the whole similarity is the share of that one token: see `is_spread`.
    Raises EmptyInputError for a blank question.
    """
    if not question.strip():
        raise EmptyInputError("the question is empty; ask with words")
    vectors_1D, _ = embedder.encode([question], kind="query", instruction=instruction)
    return explain_vector(embedder, normalise(vectors_1D)[0], texts, overflow=overflow)


@torch.inference_mode()
def explain_vector(
    embedder: Embedder, question_D: Vectors, texts: Sequence[str], *, overflow: Overflow = "truncate"
) -> list[Contributions]:
    """`explain` for a question that is already a vector of length 1."""
    tokenized = embedder.tokenize(texts, kind="document", overflow=overflow)
    windows = [window for text in tokenized for window in text.windows]
    # Of each token only q . h_t is kept, and of each window the sum of its states: memory does not grow with D.
    dots: list[NDArray[np.float32]] = [np.zeros(0, dtype=np.float32)] * len(windows)
    sums_ND = np.zeros((len(windows), embedder.dim), dtype=np.float32)
    totals_N = np.zeros(len(windows), dtype=np.float32)
    question = torch.from_numpy(np.ascontiguousarray(question_D, dtype=np.float32)).to(embedder.backbone.device)
    readable = [i for i, window in enumerate(windows) if window.pool_stop > window.pool_start]
    keep_pages()
    for indices, hidden_TD in forward_batches(embedder.backbone, windows, readable, embedder.token_budget, None):
        for i, (start, stop) in zip(indices, pool_ranges([windows[i] for i in indices]), strict=True):
            states_TD = hidden_TD[start:stop, : embedder.dim].float()
            weights_T = _weights(embedder.pooling, stop - start).to(states_TD.device)
            # A window's vector is the mean of its tokens; windows are averaged by their number of pooled tokens.
            weights_T = weights_T * (stop - start)
            dots[i] = (weights_T * (states_TD @ question)).cpu().numpy()
            sums_ND[i] = (weights_T @ states_TD).cpu().numpy()
            totals_N[i] = stop - start
    results, first = [], 0
    for text, tokens in zip(texts, tokenized, strict=True):
        part = slice(first, first + len(tokens.windows))
        first = part.stop
        total = max(float(totals_N[part].sum()), 1.0)
        length = float(np.linalg.norm(sums_ND[part].sum(0) / total))
        spans_T2 = np.concatenate(
            [
                spans[window.pool_start : window.pool_stop]
                for window, spans in zip(tokens.windows, embedder.token_spans(text, tokens), strict=True)
            ]
        )
        shares_T = np.concatenate(dots[part]) / (total * length) if length > 0 else np.zeros(len(spans_T2))
        results.append(
            Contributions(
                text=clean(text),
                similarity=float(shares_T.sum(dtype=np.float64)),
                spans_T2=spans_T2,
                shares_T=shares_T.astype(np.float32),
                num_tokens=tokens.num_tokens,
                is_truncated=tokens.is_truncated,
            )
        )
    return results


def _weights(pooling: str, num_tokens: int) -> torch.Tensor:
    """[T] the weights by which a pooling averages tokens; they add up to 1."""
    if pooling in ("last", "first"):
        weights_T = torch.zeros(num_tokens)
        weights_T[0 if pooling == "first" else -1] = 1.0
        return weights_T
    weights_T = torch.ones(num_tokens) if pooling == "mean" else torch.arange(1, num_tokens + 1, dtype=torch.float32)
    return weights_T / weights_T.sum()
