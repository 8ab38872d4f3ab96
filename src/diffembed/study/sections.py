"""The sections of a plan: arms, what they share, what is scored, what is compared, what users get.

Read `ArmConfig`. Each section refuses what makes no sense by itself; what depends on other sections, `plan.py` checks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from diffembed.backbones.registry import Attention, find_model, names_folder
from diffembed.embedding.text import TextTemplate
from diffembed.errors import UnknownNameError, require
from diffembed.evaluation.suites.named import COUNTED_BY
from diffembed.training.adapt_config import StepConfig, TextConfig
from diffembed.training.config import BatchConfig, DataConfig, LoraConfig, LossConfig, OptimiserConfig

Objective = Literal["none", "diffusion", "mntp", "causal"]
SHIPPED_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
FACTORS = ("backbone", "attention", "objective", "pooling", "pools_instruction", "num_steps")
"""What arms may differ in; their seeds are repetitions, and the learning rate follows from the attention."""


def named_folder(model: str) -> Path | None:
    """The folder that a model is named by, there or not; None for a known name and a hub id.

    Raises UnknownNameError for a bare word that is none of them.
    """
    return Path(model).expanduser() if find_model(model) is None and names_folder(model) else None


def _require_once(place: str, names: Sequence[str]) -> None:
    """Raises ConfigError for a name that stands in a list twice."""
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, f"{place} names {twice} twice; name it once")


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """One way to make an embedder of the backbone."""

    attention: Attention
    """Who sees whom in fine-tuning and afterwards; adaptation takes what its objective needs."""
    objective: Objective = "none"
    """Adaptation before fine-tuning; arms with one objective share one adaptation."""
    pooling: Literal["mean", "weighted_mean", "last", "first"] = "mean"
    """How token states become one vector."""
    seeds: tuple[int, ...] = (0,)
    """Fine-tuning is repeated under each; the same seed is the same order of rows in every arm."""
    control: str | None = None
    """The arm that this one is read against; none for the control itself."""
    differs_in: tuple[str, ...] = ()
    """The factors, and all of them, in which this arm differs from its control."""
    backbone: str | None = None
    """A backbone of its own; none takes the plan's."""
    pools_instruction: bool = False
    """True averages the instruction's tokens too, the setting of arXiv 2505.15045."""
    num_steps: int | None = None
    """Fine-tuning steps of its own, > 0; none takes the plan's."""

    def __post_init__(self) -> None:
        require(
            self.num_steps is None or self.num_steps > 0,
            f"num_steps is {self.num_steps}; it must be positive, or left out to take the plan's",
        )
        require(bool(self.seeds), "seeds is empty; name at least one")
        require(len(set(self.seeds)) == len(self.seeds), f"seeds {list(self.seeds)} name one twice")
        for name in self.differs_in:
            if name not in FACTORS:
                raise UnknownNameError.of("factor", name, FACTORS)
        require(self.control is not None or not self.differs_in, "differs_in has no effect without a control")


@dataclass(frozen=True, kw_only=True)
class AdaptationPlan:
    """What all adaptations share; each objective reads the same rows in the same order."""

    text: TextConfig
    """The text; max_tokens is the budget of each objective."""
    batch: StepConfig = field(default_factory=StepConfig)
    """How much is read per step."""
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(dropout=0.0))
    """Low-rank adapters."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(warmup_steps=20))
    """How weights move."""
    seed: int = 0
    """Of rows, noise and first values, for all objectives; >= 0."""
    save_every_steps: int = 25
    """Steps between checkpoints, and what an interruption can cost; > 0."""
    measure_every_steps: int = 50
    """Steps between measurements on held-out text; > 0."""

    def __post_init__(self) -> None:
        require(self.text.max_tokens is not None, "text.max_tokens is the budget of an objective; name it")
        require(self.num_steps > 0, f"text.max_tokens {self.text.max_tokens} does not fill one step")
        require(self.save_every_steps > 0, f"save_every_steps is {self.save_every_steps}; it must be positive")

    @property
    def step_tokens(self) -> int:
        """Tokens of a step."""
        return self.batch.rows * self.text.row_tokens

    @property
    def num_steps(self) -> int:
        """Whole steps in the budget."""
        return (self.text.max_tokens or 0) // self.step_tokens


@dataclass(frozen=True, kw_only=True)
class FineTuningPlan:
    """What all fine-tunings share."""

    data: DataConfig
    """The rows."""
    num_steps: int
    """Steps of every run; > 0."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    """How much is read per step."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is learnt."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank adapters."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """How weights move; `learning_rates` of the plan stand in for learning_rate."""
    template: TextTemplate = field(default_factory=TextTemplate)
    """How texts are dressed; pools_instruction is a factor of the arms."""
    save_every_steps: int = 25
    """Steps between checkpoints, and what an interruption can cost; > 0."""

    def __post_init__(self) -> None:
        require(self.num_steps > 0, f"num_steps is {self.num_steps}; it must be positive")
        require(not self.template.pools_instruction, "template.pools_instruction is a factor of the arms; set it there")


@dataclass(frozen=True, kw_only=True)
class LearningRatePlan:
    """The same values tried in each attention, chosen on development suites."""

    values: tuple[float, ...]
    """Peak learning rates; at least two."""
    probes: Mapping[Attention, str]
    """Attention -> arm that is trained under each value, on its first seed."""
    suites: Mapping[str, tuple[str, ...]]
    """Development suite -> its tasks, empty for all; the mean of their main measures decides."""

    def __post_init__(self) -> None:
        require(len(set(self.values)) > 1, "values needs two different learning rates; one is optimiser.learning_rate")
        require(min(self.values) > 0, "learning rates are positive")
        require(bool(self.suites), "suites is empty; name at least one development suite, for its scores decide")


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What every finished model is scored on."""

    suites: Mapping[str, tuple[str, ...]]
    """Test suite, or folder of tasks -> its tasks, empty for all."""
    max_tokens: int | None = None
    """Texts are cut here, at the suite's limit or at the model's, whichever is least; > 0."""
    counted_by: str = COUNTED_BY
    """Model whose tokenizer counts the tokens of passkey and needle documents, or `words`."""
    baselines: tuple[str, ...] = ()
    """Systems that are scored beside the arms: bm25, all-minilm-l6-v2, the backbone as it is."""
    adapted_only: bool = False
    """True scores every adaptation without fine-tuning too."""
    seen: tuple[str, ...] = ()
    """`task/id` of gold documents that training holds outside the sets that share them by design, and that stay in
    the test all the same: the report and the cards name them. All others are refused."""

    def __post_init__(self) -> None:
        require(bool(self.suites), "suites is empty; name at least one")
        require(
            self.max_tokens is None or self.max_tokens > 0,
            f"max_tokens is {self.max_tokens}; it must be positive, or left out to cut at the model's limit",
        )
        if self.counted_by != "words":
            try:
                folder = named_folder(self.counted_by)
            except UnknownNameError as error:
                raise UnknownNameError(f"counted_by: {error}, or words") from error
            require(
                folder is None or folder.is_dir(),
                f"counted_by: no folder {self.counted_by}; name one that is there, a model, a hub id, or words",
            )


@dataclass(frozen=True, kw_only=True)
class DirectionPlan:
    """Full, causal and anti-causal attention at test time."""

    arms: tuple[str, ...]
    """Arms whose first seed is taken."""
    suites: Mapping[str, tuple[str, ...]]
    """Suite -> its tasks, empty for all."""
    num_ranges: int = 1
    """Equal ranges of layers that are changed alone, 1 to the number of layers; 1 changes the whole network only."""

    def __post_init__(self) -> None:
        require(bool(self.arms) and bool(self.suites), "direction needs arms and suites; name them, or leave it out")
        require(
            self.num_ranges >= 1,
            f"num_ranges is {self.num_ranges}; it must be 1, for the whole network only, to the number of layers",
        )


@dataclass(frozen=True, kw_only=True)
class CurvePlan:
    """Score against tokens of adaptation: intermediate checkpoints fine-tuned like the last one."""

    arm: str
    """An arm with an adaptation; its first seed is taken."""
    at_steps: tuple[int, ...]
    """Steps of the adaptation, multiples of its save_every_steps, before its end."""


@dataclass(frozen=True, kw_only=True)
class FurtherPlan:
    """One stage in which finished arms are trained on before they are shipped."""

    num_steps: int
    """Steps, under another seed; > 0."""
    data: DataConfig | None = None
    """The rows; none takes those of fine_tuning."""
    batch: BatchConfig | None = None
    """How much is read per step; none takes that of fine_tuning."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of the weights in this stage; none takes the study's."""
    joined_rank: int | None = None
    """The adapters so far become one of this rank before the stage, the nearest to their sum; none keeps them all. A
    shipped adapter has this rank and that of fine_tuning.lora for each stage since."""

    def __post_init__(self) -> None:
        require(self.num_steps > 0, f"num_steps is {self.num_steps}; it must be positive")
        require(
            self.joined_rank is None or self.joined_rank > 0, f"joined_rank is {self.joined_rank}; it must be positive"
        )


@dataclass(frozen=True, kw_only=True)
class ShippedPlan:
    """Models for users: `diffembed study ship` joins the adapters of each into one and writes its card."""

    models: Mapping[str, str]
    """Name that a user types -> the arm it comes from, at its first seed."""
    licences: Mapping[str, str]
    """Set of rows or file of text, without its endings -> licence; whatever training read needs one."""
    notice: str
    """What the terms of the base weights ask to be passed on with an adapter; becomes NOTICE beside it."""
    limits: tuple[str, ...] = ()
    """Sentences for the card that no result can tell, such as the language of the data."""
    further: tuple[FurtherPlan, ...] = ()
    """Stages in which each is trained on, one after another; empty ships the arm as it is."""
    suites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Test suite -> its tasks that they are scored on after the last stage; empty takes those of evaluation."""
    baselines: tuple[str, ...] = ()
    """Those of evaluation.baselines that are scored on the suites too, where evaluation does not name the tasks."""
    max_tokens: int | None = None
    """Texts are cut here when they are scored; none takes that of evaluation."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Number format they are scored in after the last stage; none takes the study's."""

    def __post_init__(self) -> None:
        require(bool(self.models), "models is empty; name at least one, or leave shipped out")
        require(
            bool(self.further) or not (self.suites or self.dtype or self.max_tokens),
            "suites, max_tokens and dtype have no effect without a stage in further: the arm's own scores are shown",
        )
        require(bool(self.suites) or not self.baselines, "baselines have no effect without suites of their own")
        require(len(set(self.baselines)) == len(self.baselines), "baselines names one twice")
        require(self.max_tokens is None or self.max_tokens > 0, f"max_tokens is {self.max_tokens}; it must be positive")
        for name in self.models:
            require(
                SHIPPED_NAME.fullmatch(name) is not None,
                f"model {name!r} must be a word of small letters, digits, dots and hyphens",
            )


@dataclass(frozen=True, kw_only=True)
class FamilyPlan:
    """The comparisons that are fixed before any result; all others are exploratory."""

    subject: str
    """The arm that is compared."""
    controls: tuple[str, ...]
    """The arms it is compared with."""
    skills: Mapping[str, tuple[str, ...]]
    """Skill -> tasks whose main measures are averaged; similarity tasks stand alone."""
    level: float = 0.95
    """Coverage of intervals, and one minus the level of the tests, in (0, 1)."""
    margin: float = 0.02
    """Where no advantage is claimed: the most the subject may fall behind and still count as no worse, in [0, 1)."""

    def __post_init__(self) -> None:
        require(0 <= self.margin < 1, f"margin is {self.margin}; it must lie in [0, 1)")
        require(bool(self.controls) and bool(self.skills), "a family needs controls and skills")
        _require_once("controls", self.controls)
        for skill, tasks in self.skills.items():
            require(bool(tasks), f"skills.{skill} is empty; name its tasks, or leave the skill out")
            _require_once(f"skills.{skill}", tasks)
        require(self.subject not in self.controls, f"{self.subject} is compared with itself")
        require(0 < self.level < 1, f"level is {self.level}; it must lie in (0, 1)")
