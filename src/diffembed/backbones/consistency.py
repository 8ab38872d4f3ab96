"""Is a backbone alive? What can be checked of a conversion without outputs of the original code.

Read `check_consistency`: the attention contract, finite states, and whether masked words of a plain English paragraph
are restored better than by knowing how often each word occurs in it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffembed.backbones.denoising import Denoiser, read_states
from diffembed.backbones.loading import Backbone
from diffembed.errors import CheckpointError

NUM_FOLDS = 7
"""Each token is hidden once, with a seventh of the others: about the easiest noise a diffusion model is trained on."""

PARAGRAPH = (
    "The river rises in the hills behind the town and reaches the sea after two hundred kilometres. In spring, when "
    "the snow melts, the water is high and brown, and the old mill by the bridge has to close its gates. In summer "
    "the children of the town swim below the bridge, where the water is slow and clear. The farmers use the river to "
    "water their fields, and in autumn they bring the harvest to the market by boat, as their grandparents did before "
    "the railway was built. In winter the river freezes in some years, and then the people walk across the ice to "
    "visit their friends on the other side."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsistencyReport:
    """What a backbone shows of itself."""

    contract: dict[str, Any]
    """The verdict of the attention contract, proved at load."""
    num_tokens: int
    """Tokens of the paragraph."""
    largest_state: float
    """Largest absolute hidden state; all are finite, or the check raises."""
    masked_nll: float | None
    """Mean -log probability of hidden tokens, in nats; `None` without a head or a mask token."""
    unigram_nll: float
    """The same for the guess that knows the paragraph's own word counts: the entropy of its tokens, in nats."""

    @property
    def is_alive(self) -> bool | None:
        """True where masked words are restored better than by counting; random weights are not. `None`: unknown."""
        return None if self.masked_nll is None else self.masked_nll < self.unigram_nll


def check_consistency(backbone: Backbone, text: str = PARAGRAPH) -> ConsistencyReport:
    """Reads one paragraph. Raises CheckpointError when a state is not finite."""
    ids_T = torch.tensor(backbone.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
    states = read_states(backbone, ids_T).float()
    if not bool(torch.isfinite(states).all()):
        raise CheckpointError(f"{backbone.name} gives states that are not finite on a plain paragraph")
    counts = torch.bincount(ids_T)
    shares = counts[counts > 0] / len(ids_T)
    return ConsistencyReport(
        contract=backbone.verdict.as_dict(),
        num_tokens=len(ids_T),
        largest_state=float(states.abs().max()),
        masked_nll=_masked_nll(backbone, ids_T),
        unigram_nll=float(-(shares * shares.log()).sum()),
    )


def _masked_nll(backbone: Backbone, ids_T: Tensor) -> float | None:
    """Every token hidden in one of `NUM_FOLDS` passes."""
    if backbone.mask_token_id is None or backbone.attention != "bidirectional":
        return None
    try:
        denoiser = Denoiser(backbone)
    except CheckpointError:
        return None
    total = 0.0
    for fold in range(NUM_FOLDS):
        positions_N = torch.arange(fold, len(ids_T), NUM_FOLDS)
        masked_T = ids_T.clone()
        masked_T[positions_N] = denoiser.mask_token_id
        scores_NV = denoiser.score(masked_T, positions_N)
        total -= float(scores_NV[torch.arange(len(positions_N)), ids_T[positions_N]].sum())
    return total / len(ids_T)
