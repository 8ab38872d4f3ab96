"""Absorbing-state masked diffusion: noise clean tokens, weigh the loss, and bound the likelihood.

Read `noise_for_diffusion`, then `token_loss`, which masked next-token prediction and causal language modelling share.
Every objective turns clean rows into `NoisyRows`; the network reads them; `token_loss` does the rest. The network and
its vocabulary arrive as tensors.
"""

# B = rows in batch, T = tokens in a row, D = hidden width, V = vocabulary, N = positions with a loss

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffembed.errors import EmptyInputError
from diffembed.objectives.schedules import schedule_named
from diffembed.objectives.vocabulary import vocabulary_cross_entropy


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisyRows:
    """What the network reads, and which positions count how much in the loss."""

    token_BT: Tensor
    """int64, what the network reads."""
    target_BT: Tensor
    """int64, the clean tokens."""
    is_predicted_BT: Tensor
    """bool, positions that carry a loss."""
    weight_BT: Tensor
    """float32, factor of each position's -log probability; the loss is the weighted sum. 0 where not predicted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLoss:
    """Loss of one batch, and what a person wants to see of it."""

    loss: Tensor
    """Scalar to minimise, differentiable. For masked diffusion an unbiased estimate of the NELBO in nats per token."""
    mean_nll: Tensor
    """Scalar, plain mean of -log probability over predicted positions, in nats; 0 if there are none."""
    num_correct: Tensor
    """Scalar int64, predicted positions whose most likely token is the clean one."""
    num_predicted: int


def noise_for_diffusion(
    token_BT: Tensor,
    maskable_BT: Tensor,
    t_B: Tensor,
    *,
    mask_token_id: int,
    schedule: str = "linear",
    generator: torch.Generator | None = None,
) -> NoisyRows:
    """Each row masks each of its maskable tokens with probability 1 - alpha(t).

    maskable_BT: bool; False for special tokens, and for position 0 where logits are shifted.
    t_B: times in (0, 1], see `schedules.draw_times`; one per row, so all tokens of a row share the weight.
    The weight is w(t) / (maskable tokens of the row) / B, so that the loss is the NELBO per token, averaged over rows:
    a short row counts as much as a long one. Source: MDLM (arXiv 2406.07524), LLaDA (arXiv 2502.09992, eq. 3).
    """
    num_maskable_B = _count_maskable(maskable_BT)
    noise = schedule_named(schedule)
    draw_BT = torch.rand(token_BT.shape, generator=generator).to(token_BT.device)
    is_masked_BT = maskable_BT & (draw_BT >= noise.alpha(t_B)[:, None])
    weight_B = noise.weight(t_B) / num_maskable_B / token_BT.shape[0]
    return NoisyRows(
        token_BT=token_BT.masked_fill(is_masked_BT, mask_token_id),
        target_BT=token_BT,
        is_predicted_BT=is_masked_BT,
        weight_BT=is_masked_BT * weight_B[:, None],
    )


def stack_rows(parts: Sequence[NoisyRows]) -> NoisyRows:
    """One batch of rows that were noised apart, each with its own generator; the loss is the mean of their losses."""
    return NoisyRows(
        token_BT=torch.cat([part.token_BT for part in parts]),
        target_BT=torch.cat([part.target_BT for part in parts]),
        is_predicted_BT=torch.cat([part.is_predicted_BT for part in parts]),
        weight_BT=torch.cat([part.weight_BT for part in parts]) / len(parts),
    )


def token_loss(
    hidden_BTD: Tensor, rows: NoisyRows, head_VD: Tensor, *, shifts_logits: bool, softcap: float | None = None
) -> TokenLoss:
    """Weighted cross-entropy over the full vocabulary, at the predicted positions only.

    shifts_logits: the token at position i is read from the hidden state at i - 1, as in every network that was born
    autoregressive and in Dream; False reads it at i (LLaDA, BERT).
    """
    is_predicted_BT, target_BT, weight_BT = rows.is_predicted_BT, rows.target_BT, rows.weight_BT
    if shifts_logits:
        assert not bool(is_predicted_BT[:, 0].any()), "position 0 has no predecessor to be predicted from"
        hidden_BTD, is_predicted_BT = hidden_BTD[:, :-1], is_predicted_BT[:, 1:]
        target_BT, weight_BT = target_BT[:, 1:], weight_BT[:, 1:]
    hidden_ND = hidden_BTD[is_predicted_BT]
    scored = vocabulary_cross_entropy(hidden_ND, head_VD, target_BT[is_predicted_BT], softcap=softcap)
    nll_N = scored.nll_N
    return TokenLoss(
        loss=(nll_N * weight_BT[is_predicted_BT]).sum(),
        mean_nll=nll_N.detach().mean() if len(nll_N) else nll_N.detach().sum(),
        num_correct=scored.is_correct_N.sum(),
        num_predicted=len(nll_N),
    )


def maskable_positions(token_BT: Tensor, special_ids: Tensor, *, shifts_logits: bool) -> Tensor:
    """bool [B, T]: tokens that may be masked or predicted: not special, and not position 0 where logits are shifted.

    special_ids: [S] int64, tokens that carry no text (begin, end, padding, mask).
    """
    maskable_BT = ~torch.isin(token_BT, special_ids)
    if shifts_logits:
        maskable_BT[:, 0] = False
    return maskable_BT


def _count_maskable(maskable_BT: Tensor) -> Tensor:
    num_maskable_B = maskable_BT.sum(dim=1)
    if not bool((num_maskable_B > 0).all()):
        row = int((num_maskable_B == 0).nonzero()[0])
        raise EmptyInputError(f"row {row} of the batch has no token that can be masked; drop such rows")
    return num_maskable_B
