"""A diffusion backbone at its own trade: masked tokens restored, the surest first.

Read `Denoiser.fill`. It shows that a converted backbone is alive. Text that is embedded goes through
`embedding/text.py`, not through here.
"""

# T = tokens of the text, N = masked positions, V = vocabulary, D = hidden width

from dataclasses import dataclass

import torch
from torch import Tensor

from diffembed.backbones.contract import forward_kwargs
from diffembed.backbones.head import Head, load_head
from diffembed.backbones.loading import Backbone
from diffembed.errors import ConfigError, InputError

MARK = "[MASK]"


@dataclass(frozen=True, kw_only=True, slots=True)
class FilledToken:
    """One mask, restored."""

    position: int
    """Index among the text's tokens, special ones included."""
    token: str
    """As text, with the space it may begin with."""
    probability: float
    """What the network gave it at the moment it was chosen, in [0, 1]."""
    step: int
    """Step in which it was written, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilledText:
    """A text without masks."""

    text: str
    tokens: tuple[FilledToken, ...]
    """In the order they were written."""


@torch.inference_mode()
def read_states(backbone: Backbone, ids_T: Tensor) -> Tensor:
    """[T, D] last hidden states of one text, on the backbone's device."""
    kwargs = forward_kwargs(backbone.kernel, (len(ids_T),), backbone.attention)
    kwargs = {key: value.to(backbone.device) if isinstance(value, Tensor) else value for key, value in kwargs.items()}
    states_TD: Tensor = backbone.model(input_ids=ids_T[None].to(backbone.device), **kwargs).last_hidden_state[0]
    return states_TD


class Denoiser:
    """A bidirectional backbone with its language-model head."""

    def __init__(self, backbone: Backbone, head: Head | None = None) -> None:
        """`head`: `None` loads the backbone's own.

        Raises ConfigError for a causal backbone or one without a mask token, CheckpointError for one without a head.
        """
        if backbone.attention != "bidirectional":
            raise ConfigError(f"{backbone.name} is causal; restoring masked tokens needs bidirectional attention")
        if backbone.mask_token_id is None:
            raise ConfigError(
                f"{backbone.name} does not say which id is its mask token; convert it with --mask-token-id"
            )
        self.backbone = backbone
        self.mask_token_id = backbone.mask_token_id
        self.head = load_head(backbone) if head is None else head

    @torch.inference_mode()
    def score(self, ids_T: Tensor, positions_N: Tensor) -> Tensor:
        """[N, V] float32 log-probabilities of the token at each position, the mask itself excluded.

        ids_T: int64, masked where the network may not look; positions_N: int64.
        """
        hidden_TD = read_states(self.backbone, ids_T)
        # A shifted network scores a token one place earlier; the first one has no such place and uses its own.
        rows_N = (positions_N - 1).clamp(min=0) if self.backbone.shifts_logits else positions_N
        logits_NV = self.head.logits(hidden_TD[rows_N.to(hidden_TD.device)])
        logits_NV[:, self.mask_token_id] = float("-inf")
        return logits_NV.log_softmax(-1).cpu()

    def fill(self, text: str, *, num_steps: int | None = None) -> FilledText:
        """Restores every `[MASK]`, one token each, in `num_steps` steps; each step writes the surest remaining ones.

        num_steps: `None` takes one step per mask; fewer are faster and surer of less.
        A space before a mask belongs to the token that replaces it.
        Raises InputError for a text without masks or one that is too long, ConfigError for more steps than masks.
        """
        ids_T = self.tokenize(text)
        waiting = (ids_T == self.mask_token_id).nonzero()[:, 0]
        num_masks = len(waiting)
        if num_masks == 0:
            raise InputError(f"the text has no {MARK}; write one for every token to restore")
        if len(ids_T) > self.backbone.max_tokens:
            raise InputError(f"the text has {len(ids_T)} tokens, {self.backbone.name} reads {self.backbone.max_tokens}")
        num_steps = num_masks if num_steps is None else num_steps
        if not 1 <= num_steps <= num_masks:
            raise ConfigError(f"{num_steps} steps for {num_masks} masks; give 1 to {num_masks}")
        filled: list[FilledToken] = []
        for step in range(1, num_steps + 1):
            scores_N, tokens_N = self.score(ids_T, waiting).max(-1)
            count = -(-len(waiting) // (num_steps - step + 1))
            order = scores_N.argsort(descending=True, stable=True)
            for index in order[:count].tolist():
                position, token_id = int(waiting[index]), int(tokens_N[index])
                ids_T[position] = token_id
                probability = float(scores_N[index].exp())
                token = self.backbone.tokenizer.decode([token_id])
                filled.append(FilledToken(position=position, token=token, probability=probability, step=step))
            waiting = waiting[order[count:].sort().values]
        restored = self.backbone.tokenizer.decode(ids_T, skip_special_tokens=True)
        return FilledText(text=restored, tokens=tuple(filled))

    def tokenize(self, text: str) -> Tensor:
        """[T] ids with the mask's id for every `[MASK]`, and the special tokens the checkpoint puts around a text."""
        backend = self.backbone.tokenizer.backend_tokenizer
        bare = backend.encode("a", add_special_tokens=False).ids
        full = backend.encode("a", add_special_tokens=True).ids
        start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        parts = text.split(MARK)
        ids = full[:start]
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            ids += backend.encode(part if is_last else part.removesuffix(" "), add_special_tokens=False).ids
            ids += [] if is_last else [self.mask_token_id]
        return torch.tensor(ids + full[start + len(bare) :])
