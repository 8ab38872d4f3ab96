"""Everything that can be set for an adaptation, from autoregressive to diffusion: `AdaptConfig`.

As in `config.py`, each field's docstring is its help, its YAML comment and its unit. Knows nothing of torch.
"""

from dataclasses import dataclass, field
from typing import Literal

from diffembed.backbones.registry import Attention
from diffembed.errors import require
from diffembed.training.config import DevelopmentConfig, LoraConfig, ModelConfig, OptimiserConfig, RunConfig


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text a model is adapted on."""

    files: tuple[str, ...]
    """Text files (.txt, .md, also .zst, .gz, .bz2) or row files with a `text` column; folders stand for their files."""
    held_out: tuple[str, ...]
    """Files of the same kinds that are only measured on."""
    row_tokens: int = 512
    """Length of a training row; rows are cut from one stream without padding; > 1."""
    max_tokens: int | None = None
    """Tokens of text to read, from a seeded sample of rows; none reads all."""
    held_out_rows: int = 64
    """Rows of held-out text to measure on, evenly spread over the files; > 0."""

    def __post_init__(self) -> None:
        require(bool(self.files), "files is empty; name text files or folders")
        require(bool(self.held_out), "held_out is empty; name text that is not trained on")
        require(self.row_tokens > 1, f"row_tokens is {self.row_tokens}; it must be at least 2")
        require(self.held_out_rows > 0, f"held_out_rows is {self.held_out_rows}; it must be positive")
        require(self.max_tokens is None or self.max_tokens > 0, f"max_tokens is {self.max_tokens}; it must be positive")
        shared = set(self.files) & set(self.held_out)
        require(not shared, f"{', '.join(sorted(shared))} is both trained on and held out")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What the adapted model learns to predict."""

    kind: Literal["diffusion", "mntp", "causal"] = "diffusion"
    """diffusion: restore tokens masked at a random rate; mntp: at a fixed rate; causal: the next token, as control."""
    schedule: Literal["linear", "cosine"] = "linear"
    """diffusion: probability of a clean token over time t."""
    t_min: float = 1e-3
    """diffusion: smallest time; bounds the loss weight 1/t; in (0, 1)."""
    low_discrepancy: bool = True
    """diffusion: spreads the times of a batch evenly, which takes noise out of the loss."""
    rate: float = 0.2
    """mntp: share of the tokens that is predicted, in (0, 1]."""
    mask_fraction: float = 0.8
    """mntp: share of the predicted tokens that is masked; the rest is random or kept."""
    random_fraction: float = 0.1
    """mntp: share of the predicted tokens that becomes a random token."""
    mask_token: str | None = None
    """The token that masks; none takes the tokenizer's own. Name an unused token where there is none."""

    def __post_init__(self) -> None:
        require(0 < self.t_min < 1, f"t_min is {self.t_min}; it must lie in (0, 1)")
        require(0 < self.rate <= 1, f"rate is {self.rate}; it must lie in (0, 1]")
        shares = (self.mask_fraction, self.random_fraction)
        require(min(shares) >= 0 and sum(shares) <= 1 + 1e-9, "mask_fraction and random_fraction must be shares of one")
        for names, kind in (
            (("schedule", "t_min", "low_discrepancy"), "diffusion"),
            (("rate", "mask_fraction", "random_fraction"), "mntp"),
        ):
            for name in names:
                is_default = getattr(self, name) == type(self).__dataclass_fields__[name].default
                require(self.kind == kind or is_default, f"{name} has no effect with kind: {self.kind}")
        require(self.kind != "causal" or self.mask_token is None, "mask_token has no effect with kind: causal")


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """How much is read per step."""

    rows: int = 16
    """Rows per optimiser step over all processes; a multiple of their number times `micro_rows`."""
    micro_rows: int = 4
    """Rows of one process whose activations are held at a time; > 0."""

    def __post_init__(self) -> None:
        require(self.micro_rows > 0, f"micro_rows is {self.micro_rows}; it must be positive")
        require(
            self.rows > 0 and self.rows % self.micro_rows == 0,
            f"rows {self.rows} must be a positive multiple of micro_rows {self.micro_rows}",
        )


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """Adaptation of an autoregressive model into a masked-diffusion model: `diffembed adapt`."""

    model: ModelConfig
    """The network; its attention follows from the objective."""
    text: TextConfig
    """The text."""
    run: RunConfig
    """Folder, length, checkpoints."""
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    """Low-rank adapters; null trains all weights."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is predicted."""
    batch: StepConfig = StepConfig()
    """How much is read per step."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(warmup_steps=20))
    """How weights move."""
    measure_every_steps: int = 100
    """Optimiser steps between measurements on held-out text; there is one before the first step; > 0."""
    development: DevelopmentConfig | None = None
    """A probe of the embedder the model would make, while it is adapted; null for none."""

    def __post_init__(self) -> None:
        if self.development is not None:
            require(
                self.development.suite != "set_aside", "text has no rows to set aside; name a suite or a task folder"
            )
        require(self.measure_every_steps > 0, f"measure_every_steps is {self.measure_every_steps}; it must be positive")
        wanted = "causal" if self.objective.kind == "causal" else "bidirectional"
        require(
            self.model.attention in (None, wanted),
            f"kind: {self.objective.kind} trains {wanted} attention, model.attention says {self.model.attention}",
        )

    @property
    def attention(self) -> Attention:
        """The attention the objective needs."""
        return "causal" if self.objective.kind == "causal" else "bidirectional"
