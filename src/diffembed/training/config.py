"""Everything that can be set for contrastive training: `TrainConfig`. Its sections on model, adapters, optimiser, run
and development score are those of adaptation too, see `adapt_config.py`.

Each field's docstring is its help, its YAML comment and its unit. A contradiction, or a setting without an effect, is
refused when the config is made. Knows nothing of torch.
"""

from dataclasses import dataclass, field
from typing import Literal

from diffembed.backbones.registry import Attention
from diffembed.data.formats import DEFAULT_MAX_BAD_ROWS
from diffembed.data.mixing import MixConfig
from diffembed.data.source_config import SourceConfig
from diffembed.embedding.text import TextTemplate
from diffembed.errors import require

SEVEN_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network that is trained."""

    name: str
    """A name that `diffembed models` lists, a folder (an adapted model too), or a hub id."""
    attention: Attention | None = None
    """Who sees whom while training and afterwards; none takes what the checkpoint stores."""
    pooling: str | None = None
    """How token states become one vector; none takes the model's own (mean for language models)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights; auto is the faster one, as measured."""
    device: str = "auto"
    """auto is the first GPU, else the CPU; ignored under torchrun, where each process takes its own GPU."""
    gradient_checkpointing: bool = False
    """Recomputes each layer in the backward pass: about a third slower, activations of one layer instead of all."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters; the base weights stay frozen."""

    rank: int = 16
    """Rank r of every adapter; > 0."""
    alpha: int | None = None
    """Scale of the adapters, applied as alpha / rank; none means twice the rank."""
    dropout: float = 0.05
    """Share of an adapter's inputs dropped in training, in [0, 1)."""
    targets: tuple[str, ...] = SEVEN_PROJECTIONS
    """Names of the linear layers that get one; the seven projections of llama-like networks."""
    dtype: Literal["model", "float32"] = "model"
    """Number format of the adapters; `model` avoids casts; the optimiser keeps float32 copies anyway."""

    def __post_init__(self) -> None:
        require(self.rank > 0, f"rank is {self.rank}; it must be positive")
        require(self.alpha is None or self.alpha > 0, f"alpha is {self.alpha}; it must be positive")
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}; it must lie in [0, 1)")
        require(
            bool(self.targets), "targets is empty; name the linear layers, or set lora to null to train all weights"
        )

    @property
    def scale_alpha(self) -> int:
        """alpha, or its default."""
        return 2 * self.rank if self.alpha is None else self.alpha


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW and its learning rate over time."""

    learning_rate: float = 1e-4
    """Peak learning rate; > 0."""
    schedule: Literal["linear", "cosine", "constant", "warmup_stable_decay"] = "linear"
    """Course after the warm-up; warmup_stable_decay stays at the peak and falls over the last `decay_steps`."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises from 0; >= 0."""
    decay_steps: int | None = None
    """Steps of the final fall of warmup_stable_decay; required there, refused elsewhere."""
    weight_decay: float = 0.0
    """Share of a weight taken off per step, times the learning rate; >= 0."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it; > 0."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; it must be positive")
        require(self.warmup_steps >= 0, f"warmup_steps is {self.warmup_steps}; it must not be negative")
        require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}; it must not be negative")
        require(self.max_grad_norm > 0, f"max_grad_norm is {self.max_grad_norm}; it must be positive")
        is_wsd = self.schedule == "warmup_stable_decay"
        require(
            is_wsd == (self.decay_steps is not None),
            "decay_steps belongs to schedule: warmup_stable_decay, and only to it",
        )
        require(
            self.decay_steps is None or self.decay_steps > 0, f"decay_steps is {self.decay_steps}; it must be positive"
        )

    def check_length(self, num_steps: int) -> None:
        """Raises ConfigError where a schedule of `num_steps` ends before the peak learning rate is reached."""
        taken = self.warmup_steps + (self.decay_steps or 0)
        require(
            taken <= num_steps,
            f"warmup_steps and decay_steps take {taken} of {num_steps} steps, so learning_rate would never be reached; "
            "lower them",
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run lives, how long it is, and what it leaves behind."""

    output: str
    """Folder of the run; the same command on the same folder goes on where it stopped. May hold ${VARIABLE}."""
    seed: int = 42
    """Of the data order, the noise, the adapters' first values and dropout; >= 0."""
    num_epochs: float = 1.0
    """Passes over the data that the learning-rate schedule spans; > 0."""
    schedule_steps: int | None = None
    """Length of the schedule in optimiser steps; none derives it from num_epochs."""
    stop_after_steps: int | None = None
    """Ends the run early, at this step of an unchanged schedule; none runs to its end."""
    save_every_steps: int = 100
    """Optimiser steps between checkpoints; > 0."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay on disk; > 0."""
    log_every_steps: int = 10
    """Optimiser steps between lines of metrics.jsonl; > 0."""
    logger: Literal["none", "tensorboard", "trackio"] = "none"
    """Where the metrics go besides metrics.jsonl."""

    def __post_init__(self) -> None:
        require(bool(self.output), "output is empty; name the folder of the run")
        require(self.seed >= 0, f"seed is {self.seed}; it must not be negative")
        require(self.num_epochs > 0, f"num_epochs is {self.num_epochs}; it must be positive")
        for name in ("schedule_steps", "stop_after_steps", "save_every_steps", "keep_checkpoints", "log_every_steps"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} is {value}; it must be positive")
        require(
            self.schedule_steps is None or self.num_epochs == 1.0,
            "schedule_steps and num_epochs both set the length of the schedule; set one of them",
        )
        if self.stop_after_steps is not None and self.schedule_steps is not None:
            require(
                self.stop_after_steps <= self.schedule_steps,
                f"stop_after_steps {self.stop_after_steps} lies behind the schedule's end, {self.schedule_steps}",
            )


@dataclass(frozen=True, kw_only=True)
class DevelopmentConfig:
    """A score on development data while training; never on test data."""

    suite: str
    """Name of a development suite of `diffembed evaluate`, or a task folder; never test data."""
    data: str | None = None
    """Data folder the suite reads; none is the environment variable DIFFEMBED_DATA. May hold ${VARIABLE}."""
    every_steps: int = 100
    """Optimiser steps between scores; there is one before the first step and one after the last; > 0."""
    measure: str | None = None
    """Score that picks the best weights, higher is better; none takes the mean of all."""
    keep: Literal["last", "best"] = "best"
    """Which weights the run gives: those of the last step, or those of the highest score."""

    def __post_init__(self) -> None:
        require(self.every_steps > 0, f"every_steps is {self.every_steps}; it must be positive")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The training rows and how they are mixed."""

    sources: tuple[SourceConfig, ...]
    """Where rows come from; at least one."""
    root: str | None = None
    """Folder that relative paths of sources start from; none is the current one. May hold ${VARIABLE}."""
    mix: MixConfig = field(default_factory=MixConfig)
    """How sources share the steps."""
    max_bad_rows: int = DEFAULT_MAX_BAD_ROWS
    """Unusable rows of a source (missing fields, empty positives, repeated ids ...) past which the run stops; >= 0."""
    set_aside_values: int = 0
    """Values of `set_aside_label` whose rows, and every trace of them, leave training; >= 0. dev-reasoning measures on
    the 30 concepts of ReasonAug, dev-instruction on the 15 topic_tag of the Debian packages, that seed 0 draws."""
    set_aside_label: str = "concept"
    """Column of the rows that set_aside_values draws from."""
    set_aside_seed: int = 0
    """Of the draw; apart from the run's seed, so that runs of several seeds share their development data; >= 0."""

    def __post_init__(self) -> None:
        require(bool(self.sources), "sources is empty; name at least one")
        for name in ("set_aside_values", "set_aside_seed"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must not be negative")
        require(self.max_bad_rows >= 0, f"max_bad_rows is {self.max_bad_rows}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The contrastive loss."""

    kind: Literal["in_batch", "explicit", "simcse"] = "in_batch"
    """in_batch: InfoNCE over the positives and negatives of the whole batch; explicit: over the row's own negatives
    only; simcse: each query is its own positive, told apart by dropout."""
    similarity: Literal["cosine", "dot_over_dim"] = "cosine"
    """Score of a pair; dot_over_dim divides the dot product by the vector's width and does not normalise."""
    temperature: float = 0.02
    """Divides scores before the softmax; > 0. 0.02 equals a scale of 50; 1 leaves dot_over_dim as published."""
    num_negatives: int = 1
    """Hard negatives of each row, chosen by seed and row, repeated where it has fewer; 0 leaves other rows' texts."""
    borrows_negatives: bool = False
    """Fills rows that have too few negatives with positives of other rows of their source, instead of repeating."""
    gathers_across_devices: bool = True
    """in_batch: candidates of all processes, with their gradients; false keeps each process to its own rows."""
    uses_query_negatives: bool = False
    """in_batch: other queries of the batch are candidates too."""
    drops_same_texts: bool = True
    """in_batch: a candidate that equals the positive or the query, or answers the same query, is no negative."""
    false_negative_margin: float | None = None
    """in_batch: candidates that score this much above the positive are no negatives; >= 0, 0.1 in pplx-embed."""
    matryoshka_dims: tuple[int, ...] = ()
    """Widths at which the loss is applied and averaged, the full one among them; empty for the full one only."""

    def __post_init__(self) -> None:
        require(self.temperature > 0, f"temperature is {self.temperature}; it must be positive")
        require(self.num_negatives >= 0, f"num_negatives is {self.num_negatives}; it must not be negative")
        margin = self.false_negative_margin
        require(margin is None or margin >= 0, f"false_negative_margin is {margin}; it must not be negative")
        require(
            all(dim > 0 for dim in self.matryoshka_dims), f"matryoshka_dims {self.matryoshka_dims} must be positive"
        )
        require(
            self.num_negatives > 0 or not self.borrows_negatives, "borrows_negatives has no effect: num_negatives is 0"
        )
        if self.kind != "in_batch":
            for name in ("drops_same_texts", "false_negative_margin"):
                is_default = getattr(self, name) == type(self).__dataclass_fields__[name].default
                require(is_default, f"{name} has no effect with kind: {self.kind}")
        if self.kind == "explicit":
            require(self.num_negatives > 0, "kind: explicit compares a row with its own negatives; set num_negatives")
            require(not self.uses_query_negatives, "uses_query_negatives has no effect with kind: explicit")
            require(self.gathers_across_devices, "gathers_across_devices has no effect with kind: explicit")
        if self.kind == "simcse":
            require(self.num_negatives == 0, "kind: simcse has no hard negatives; set num_negatives: 0")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How much is read per step."""

    rows: int = 16
    """Queries per optimiser step over all processes; a multiple of their number. Each batch has one source."""
    query_max_tokens: int = 512
    """Longest query with its instruction and template; the rest is cut and counted."""
    document_max_tokens: int = 512
    """Longest document; the rest is cut and counted. The larger of the two limits is stored with the model."""
    mini_batch_tokens: int | None = None
    """GradCache: tokens whose activations are held at a time, and the batch is as large as you like, for one more
    forward pass; none holds all of the batch."""

    def __post_init__(self) -> None:
        require(self.rows > 1, f"rows is {self.rows}; a contrastive batch needs at least 2")
        for name in ("query_max_tokens", "document_max_tokens"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; it must be positive")
        budget = self.mini_batch_tokens
        require(budget is None or budget > 0, f"mini_batch_tokens is {budget}; it must be positive")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Contrastive fine-tuning of a language model into an embedder: `diffembed train`."""

    model: ModelConfig
    """The network."""
    data: DataConfig
    """The rows."""
    run: RunConfig
    """Folder, length, checkpoints."""
    lora: LoraConfig | None = LoraConfig()
    """Low-rank adapters; null trains all weights."""
    template: TextTemplate | None = None
    """How texts are dressed, stored with the model; null takes what the checkpoint stores, or the library's default."""
    loss: LossConfig = LossConfig()
    """What is learnt."""
    batch: BatchConfig = BatchConfig()
    """How much is read per step."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """How weights move."""
    development: DevelopmentConfig | None = None
    """A score while training; null for none."""

    def __post_init__(self) -> None:
        dropout = self.lora.dropout if self.lora is not None else 0.0
        if self.loss.kind == "simcse":
            require(dropout > 0, "kind: simcse tells two views apart by dropout; set lora.dropout above 0")
        require(
            not (self.model.gradient_checkpointing and self.batch.mini_batch_tokens is not None),
            "gradient_checkpointing and mini_batch_tokens each recompute the forward pass; set one of them",
        )
