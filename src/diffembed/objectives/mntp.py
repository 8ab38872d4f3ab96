"""Masked next-token prediction, llm2vec's step after opening attention, and causal language modelling as its control.

Read `noise_for_mntp`. Both return the `NoisyRows` that `diffusion.token_loss` reads; both predict position i from
i - 1 where the backbone shifts its logits. The mask token is the one masked diffusion uses.
"""

# B = rows in batch, T = tokens in a row

import torch
from torch import Tensor

from diffembed.errors import ConfigError
from diffembed.objectives.diffusion import NoisyRows


def noise_for_mntp(
    token_BT: Tensor,
    maskable_BT: Tensor,
    *,
    mask_token_id: int,
    vocabulary_size: int,
    rate: float = 0.2,
    mask_fraction: float = 0.8,
    random_fraction: float = 0.1,
    generator: torch.Generator | None = None,
) -> NoisyRows:
    """Chooses a fixed share of the tokens; the loss is the mean over a row's chosen ones, averaged over rows.

    What they were replaced by makes no difference to the loss.

    rate: probability that a maskable token is chosen, in (0, 1].
    mask_fraction, random_fraction: of the chosen tokens, how many become the mask token and how many a random token of
    the vocabulary; the rest stays as it is. 0.8 and 0.1 is BERT's rule, 1.0 and 0.0 masks every chosen one.
    Source: llm2vec (arXiv 2404.05961, section 2.2).
    """
    if not 0 < rate <= 1:
        raise ConfigError(f"rate is {rate}; it must lie in (0, 1]")
    if mask_fraction < 0 or random_fraction < 0 or mask_fraction + random_fraction > 1 + 1e-9:
        raise ConfigError(f"mask_fraction {mask_fraction} and random_fraction {random_fraction} must be shares of one")
    is_chosen_BT = maskable_BT & (_uniform(token_BT, generator) < rate)
    fate_BT = _uniform(token_BT, generator)
    random_BT = torch.randint(vocabulary_size, token_BT.shape, generator=generator).to(token_BT.device)
    noisy_BT = token_BT.masked_fill(is_chosen_BT & (fate_BT < mask_fraction), mask_token_id)
    is_random_BT = is_chosen_BT & (fate_BT >= mask_fraction) & (fate_BT < mask_fraction + random_fraction)
    return NoisyRows(
        token_BT=torch.where(is_random_BT, random_BT, noisy_BT),
        target_BT=token_BT,
        is_predicted_BT=is_chosen_BT,
        weight_BT=_mean_weight(is_chosen_BT),
    )


def rows_for_causal(token_BT: Tensor, maskable_BT: Tensor) -> NoisyRows:
    """Clean rows, every maskable token predicted: plain language modelling, which spends the same tokens as the others.

    It only means something with causal attention and shifted logits; the caller checks both.
    """
    return NoisyRows(
        token_BT=token_BT, target_BT=token_BT, is_predicted_BT=maskable_BT, weight_BT=_mean_weight(maskable_BT)
    )


def _mean_weight(is_predicted_BT: Tensor) -> Tensor:
    # Per row: micro-batches and processes then add up to the same loss, however a step is cut.
    return is_predicted_BT / is_predicted_BT.sum(dim=1, keepdim=True).clamp(min=1) / len(is_predicted_BT)


def _uniform(like_BT: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like_BT.shape, generator=generator).to(like_BT.device)
