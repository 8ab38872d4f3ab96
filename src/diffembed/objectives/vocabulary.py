"""Cross-entropy over a whole vocabulary at chosen positions, without a [positions, vocabulary] tensor.

Read `vocabulary_cross_entropy` first. A vocabulary of 262k entries makes full logits of a 32k-token batch 17 GB; here
one chunk of rows at a time is multiplied, normalised and turned into its gradient at once, in two buffers that are
reused. Nothing is approximated: the softmax runs over every entry. Knows nothing of masks, schedules or models.
"""

# N = positions with a loss, D = hidden width, V = vocabulary, C = positions in one chunk

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 64 << 20
"""Memory of one logits buffer (two are held): 128 rows of 262k bfloat16 entries. Chosen because fewer rows slow the
matrix products and more gain little (4.3, 2.6, 2.4 ms per position with 32, 128, 256 rows on two cores)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyLoss:
    """What the vocabulary says about each chosen position."""

    nll_N: Tensor
    """float32, -log probability of the target in nats; differentiable."""
    is_correct_N: Tensor
    """bool, True where the target has the largest logit."""


def vocabulary_cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, *, softcap: float | None = None
) -> VocabularyLoss:
    """-log softmax(hidden @ head.T)[target] of each position, exact over all V entries.

    hidden_ND: final hidden states of the positions, in the dtype of head_VD.
    target_N: int64 in [0, V).
    softcap: logits become `softcap * tanh(logits / softcap)` (gemma 2); None leaves them alone.
    Gradients reach hidden_ND and, if it asks for one, head_VD. They are computed in the forward pass while a chunk's
    probabilities exist, so the backward pass only scales them, and costs no second product over the vocabulary.
    """
    if hidden_ND.shape[0] == 0:
        # Keeps the graph connected: a batch may, by chance, mask nothing.
        return VocabularyLoss(nll_N=hidden_ND.sum(-1).float(), is_correct_N=torch.zeros(0, dtype=torch.bool))
    nll_N, is_correct_N = _VocabularyCrossEntropy.apply(hidden_ND, head_VD, target_N, softcap)
    return VocabularyLoss(nll_N=nll_N, is_correct_N=is_correct_N)


class _VocabularyCrossEntropy(torch.autograd.Function):
    """d nll / d hidden = (p - onehot(target)) @ head; the outer gradient arrives in backward, as a factor per row."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, softcap: float | None) -> Any:
        num_positions, vocabulary = hidden_ND.shape[0], head_VD.shape[0]
        chunk_rows = min(num_positions, max(1, CHUNK_BYTES // (vocabulary * hidden_ND.element_size())))
        logits_CV = hidden_ND.new_empty(chunk_rows, vocabulary)
        probability_CV = torch.empty_like(logits_CV)
        nll_N = torch.empty(num_positions, dtype=torch.float32, device=hidden_ND.device)
        is_correct_N = torch.empty(num_positions, dtype=torch.bool, device=hidden_ND.device)
        needs_hidden, needs_head = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        gradient_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        for start in range(0, num_positions, chunk_rows):
            rows = slice(start, min(start + chunk_rows, num_positions))
            hidden_CD, target_C = hidden_ND[rows], target_N[rows]
            nll_N[rows], is_correct_N[rows] = _fill_chunk(
                hidden_CD, head_VD, target_C, softcap, logits_CV[: len(target_C)], probability_CV[: len(target_C)]
            )
            if gradient_ND is not None:
                slope_CV = _logit_slopes(logits_CV[: len(target_C)], probability_CV[: len(target_C)], target_C, softcap)
                torch.mm(slope_CV, head_VD, out=gradient_ND[rows])
        # The gradient of the head mixes rows of different outer weights, so it cannot be made before backward.
        ctx.save_for_backward(*((hidden_ND, head_VD, target_N) if needs_head else (None, None, None)), gradient_ND)
        ctx.softcap, ctx.chunk_rows = softcap, chunk_rows
        ctx.mark_non_differentiable(is_correct_N)
        return nll_N, is_correct_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nll_N: Tensor, _grad_is_correct_N: Tensor) -> Any:
        hidden_ND, head_VD, target_N, gradient_ND = ctx.saved_tensors
        grad_hidden_ND = grad_head_VD = None
        if gradient_ND is not None:
            grad_hidden_ND = gradient_ND * grad_nll_N[:, None].to(gradient_ND.dtype)
        if head_VD is not None:
            grad_head_VD = _head_gradient(hidden_ND, head_VD, target_N, grad_nll_N, ctx.softcap, ctx.chunk_rows)
        return grad_hidden_ND, grad_head_VD, None, None


def _fill_chunk(
    hidden_CD: Tensor,
    head_VD: Tensor,
    target_C: Tensor,
    softcap: float | None,
    logits_CV: Tensor,
    probability_CV: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fills both buffers; returns the nll (float32) and whether the target wins.

    log Z is recovered from the largest entry, log Z = logit_max - log p_max: p_max >= 1/V, so it never underflows, and
    the softmax kernel, which adds up in float32, has already done the sum.
    """
    torch.mm(hidden_CD, head_VD.T, out=logits_CV)
    if softcap is not None:
        logits_CV.div_(softcap).tanh_().mul_(softcap)
    torch.softmax(logits_CV, dim=-1, out=probability_CV)
    largest_C, winner_C = logits_CV.max(dim=-1)
    log_z_C = largest_C.float() - probability_CV.gather(1, winner_C[:, None])[:, 0].float().log()
    target_logit_C = (hidden_CD.float() * head_VD[target_C].float()).sum(dim=-1)
    if softcap is not None:
        target_logit_C = softcap * torch.tanh(target_logit_C / softcap)
    return log_z_C - target_logit_C, winner_C == target_C


def _logit_slopes(logits_CV: Tensor, probability_CV: Tensor, target_C: Tensor, softcap: float | None) -> Tensor:
    """[C, V] d nll / d (hidden @ head.T), written into the probability buffer; spoils both buffers."""
    # p - 1 is exact in bfloat16 near p = 1, so a confident position gets a slope of zero and not of rounding noise.
    slope_CV = probability_CV.scatter_add_(1, target_C[:, None], -torch.ones_like(probability_CV[:, :1]))
    if softcap is not None:
        slope_CV.mul_(logits_CV.div_(softcap).square_().neg_().add_(1))
    return slope_CV


def _head_gradient(
    hidden_ND: Tensor,
    head_VD: Tensor,
    target_N: Tensor,
    grad_nll_N: Tensor,
    softcap: float | None,
    chunk_rows: int,
) -> Tensor:
    """[V, D] gradient of the head: one more product per chunk, only in full adaptation."""
    logits_CV = hidden_ND.new_empty(chunk_rows, head_VD.shape[0])
    probability_CV = torch.empty_like(logits_CV)
    grad_head_VD = torch.zeros_like(head_VD)
    for start in range(0, len(target_N), chunk_rows):
        rows = slice(start, min(start + chunk_rows, len(target_N)))
        target_C = target_N[rows]
        buffers = logits_CV[: len(target_C)], probability_CV[: len(target_C)]
        _fill_chunk(hidden_ND[rows], head_VD, target_C, softcap, *buffers)
        slope_CV = _logit_slopes(*buffers, target_C, softcap)
        grad_head_VD.addmm_(slope_CV.T, hidden_ND[rows] * grad_nll_N[rows, None].to(hidden_ND.dtype))
    return grad_head_VD
