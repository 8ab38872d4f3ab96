"""What a study compares: arms that differ in named factors, and everything they share.

Read `StudyPlan`, then `load_plan`. A plan is checked whole before any compute: unknown arms and suites, and an arm that
differs from its control in more than it says, are refused. Knows nothing of how nodes are run.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from diffembed.backbones.registry import MODELS, Attention
from diffembed.data.files import row_file_stem
from diffembed.embedding.text import TextTemplate
from diffembed.errors import ConfigError, UnknownNameError
from diffembed.evaluation.suites.named import COUNTED_BY, SUITES, find_suite
from diffembed.evaluation.systems.recipes import group_names
from diffembed.training.config import (
    BatchConfig,
    DataConfig,
    LoraConfig,
    LossConfig,
    OptimiserConfig,
    StepConfig,
    TextConfig,
)
from diffembed.training.settings import read_config, resolve_path

Objective = Literal["none", "diffusion", "mntp", "causal"]
SHIPPED_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
FACTORS = ("backbone", "attention", "objective", "pooling", "pools_instruction", "num_steps")
"""What arms may differ in; their seeds are repetitions, and the learning rate follows from the attention."""


def _check(condition: bool, sentence: str) -> None:
    if not condition:
        raise ConfigError(sentence)


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
    """Fine-tuning steps of its own; none takes the plan's."""

    def __post_init__(self) -> None:
        _check(bool(self.seeds), "seeds is empty; name at least one")
        _check(len(set(self.seeds)) == len(self.seeds), f"seeds {list(self.seeds)} name one twice")
        for name in self.differs_in:
            if name not in FACTORS:
                raise UnknownNameError.of("factor", name, FACTORS)
        _check(self.control is not None or not self.differs_in, "differs_in has no effect without a control")


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
        _check(self.text.max_tokens is not None, "text.max_tokens is the budget of an objective; name it")
        _check(self.num_steps > 0, f"text.max_tokens {self.text.max_tokens} does not fill one step")

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
        _check(self.num_steps > 0, f"num_steps is {self.num_steps}; it must be positive")
        _check(not self.template.pools_instruction, "template.pools_instruction is a factor of the arms; set it there")


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
        _check(len(set(self.values)) > 1, "values needs two different learning rates; one is optimiser.learning_rate")
        _check(min(self.values) > 0, "learning rates are positive")


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What every finished model is scored on."""

    suites: Mapping[str, tuple[str, ...]]
    """Test suite, or folder of tasks -> its tasks, empty for all."""
    max_tokens: int | None = None
    """Texts are cut here, at the suite's limit or at the model's, whichever is least."""
    counted_by: str = COUNTED_BY
    """Model whose tokenizer counts the tokens of passkey and needle documents, or `words`."""
    baselines: tuple[str, ...] = ()
    """Systems that are scored beside the arms: bm25, all-minilm-l6-v2, the backbone as it is."""
    adapted_only: bool = False
    """True scores every adaptation without fine-tuning too."""

    def __post_init__(self) -> None:
        _check(bool(self.suites), "suites is empty; name at least one")


@dataclass(frozen=True, kw_only=True)
class DirectionPlan:
    """Full, causal and anti-causal attention at test time."""

    arms: tuple[str, ...]
    """Arms whose first seed is taken."""
    suites: Mapping[str, tuple[str, ...]]
    """Suite -> its tasks, empty for all."""
    num_ranges: int = 1
    """Equal ranges of layers that are changed alone; 1 changes the whole network only."""


@dataclass(frozen=True, kw_only=True)
class CurvePlan:
    """Score against tokens of adaptation: intermediate checkpoints fine-tuned like the last one."""

    arm: str
    """An arm with an adaptation; its first seed is taken."""
    at_steps: tuple[int, ...]
    """Steps of the adaptation, multiples of its save_every_steps, before its end."""


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
    further_steps: int = 0
    """Steps that each is trained on for, under another seed; 0 ships the arm as it is."""
    batch: BatchConfig | None = None
    """How much is read per further step; none takes that of fine_tuning."""

    def __post_init__(self) -> None:
        _check(self.further_steps >= 0, f"further_steps is {self.further_steps}; it must not be negative")
        _check(bool(self.models), "models is empty; name at least one, or leave shipped out")
        for name in self.models:
            _check(
                SHIPPED_NAME.fullmatch(name) is not None,
                f"model {name!r} must be a word of small letters, digits, dots and hyphens",
            )
        _check(self.further_steps > 0 or self.batch is None, "batch has no effect without further_steps")


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
        _check(0 <= self.margin < 1, f"margin is {self.margin}; it must lie in [0, 1)")
        _check(bool(self.controls) and bool(self.skills), "a family needs controls and skills")
        _check(self.subject not in self.controls, f"{self.subject} is compared with itself")
        _check(0 < self.level < 1, f"level is {self.level}; it must lie in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """A study: `diffembed study run`."""

    name: str
    """Folder of the results under `results/` and of the runs under `runs/`."""
    backbone: str
    """Name, folder or hub id of the network that all arms start from."""
    arms: Mapping[str, ArmConfig]
    """Name -> arm."""
    fine_tuning: FineTuningPlan
    """What all fine-tunings share."""
    evaluation: EvaluationPlan
    """What all models are scored on."""
    primary: FamilyPlan
    """The comparisons fixed in advance."""
    adaptation: AdaptationPlan | None = None
    """What all adaptations share; null where no arm has an objective."""
    learning_rates: LearningRatePlan | None = None
    """Values tried in each attention; null takes fine_tuning.optimiser.learning_rate."""
    direction: DirectionPlan | None = None
    """Attention ablation; null for none."""
    curve: CurvePlan | None = None
    """Score against adaptation; null for none."""
    shipped: ShippedPlan | None = None
    """What users get; null for nothing."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the networks in every node: a study that measures it anew in each would mix two."""
    gradient_checkpointing: bool = False
    """Recomputes each layer in the backward pass, in all training."""
    seed: int = 0
    """Of resampling and of generated tasks; >= 0."""

    def __post_init__(self) -> None:
        _check(bool(self.name) and Path(self.name).name == self.name, f"name {self.name!r} must be a folder's name")
        _check(bool(self.arms), "arms is empty; name at least one")
        for name, arm in self.arms.items():
            _check(Path(name).name == name and "@" not in name, f"arm {name!r} must be a folder's name without @")
            if arm.control is not None:
                self._check_control(name, arm)
        self._check_mentions()
        self._check_effects()

    def factors(self, arm: str) -> dict[str, Any]:
        """Factor -> value of an arm, with what it takes from the plan."""
        config = self.arms[arm]
        return {
            "backbone": config.backbone or self.backbone,
            "attention": config.attention,
            "objective": config.objective,
            "pooling": config.pooling,
            "pools_instruction": config.pools_instruction,
            "num_steps": config.num_steps or self.fine_tuning.num_steps,
        }

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The adaptations there are, each once."""
        return tuple(dict.fromkeys(arm.objective for arm in self.arms.values() if arm.objective != "none"))

    @property
    def row_sets(self) -> tuple[str, ...]:
        """Names of the sets of rows that fine-tuning reads."""
        return tuple(
            name
            for source in self.fine_tuning.data.sources
            for name in source.sets or (source.name or row_file_stem(Path(source.path or source.kind)),)
        )

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the files that adaptation reads, without their endings."""
        files = () if self.adaptation is None else self.adaptation.text.files
        return tuple(Path(name).name.partition(".")[0] for name in files)

    def mentioned(self) -> Iterator[tuple[str, str]]:
        """(field, arm) of every mention of an arm."""
        yield "primary.subject", self.primary.subject
        yield from (("primary.controls", name) for name in self.primary.controls)
        if self.learning_rates is not None:
            yield from (("learning_rates.probes", name) for name in self.learning_rates.probes.values())
        if self.direction is not None:
            yield from (("direction.arms", name) for name in self.direction.arms)
        if self.curve is not None:
            yield "curve.arm", self.curve.arm
        if self.shipped is not None:
            yield from (("shipped.models", name) for name in self.shipped.models.values())

    def _check_control(self, name: str, arm: ArmConfig) -> None:
        assert arm.control is not None
        if arm.control not in self.arms:
            raise UnknownNameError(f"arms.{name}.control: {UnknownNameError.of('arm', arm.control, tuple(self.arms))}")
        _check(arm.control != name, f"arms.{name} is its own control")
        mine, theirs = self.factors(name), self.factors(arm.control)
        found = {factor for factor in FACTORS if mine[factor] != theirs[factor]}
        said = set(arm.differs_in)
        if more := [factor for factor in FACTORS if factor in found - said]:
            values = ", ".join(f"{factor} ({mine[factor]} against {theirs[factor]})" for factor in more)
            raise ConfigError(
                f"arms.{name} differs from its control {arm.control} in {values} besides what differs_in names "
                f"({', '.join(arm.differs_in) or 'nothing'}); "
                "a comparison of the two would not tell which of them matters"
            )
        if fewer := [factor for factor in FACTORS if factor in said - found]:
            raise ConfigError(
                f"arms.{name} says that it differs from {arm.control} in {', '.join(fewer)}, but there they are alike"
            )

    def _check_mentions(self) -> None:
        for place, name in self.mentioned():
            if name not in self.arms:
                raise UnknownNameError(f"{place}: {UnknownNameError.of('arm', name, tuple(self.arms))}")

    def _check_effects(self) -> None:
        _check(
            bool(self.objectives) == (self.adaptation is not None),
            "adaptation belongs to arms with an objective, and they need it",
        )
        if self.adaptation is not None:
            alike = {self.factors(n)["backbone"] for n, arm in self.arms.items() if arm.objective != "none"}
            _check(len(alike) == 1, f"arms that are adapted must share a backbone, found {', '.join(sorted(alike))}")
        if self.learning_rates is not None:
            wanted = {arm.attention for arm in self.arms.values()}
            probes = self.learning_rates.probes
            _check(set(probes) == wanted, f"learning_rates.probes needs one arm each for {', '.join(sorted(wanted))}")
            for attention, name in probes.items():
                _check(
                    self.arms[name].attention == attention,
                    f"learning_rates.probes: {name} has {self.arms[name].attention} attention, not {attention}",
                )
            _check(
                self.fine_tuning.optimiser.learning_rate == OptimiserConfig().learning_rate,
                "fine_tuning.optimiser.learning_rate has no effect beside learning_rates",
            )
        if self.shipped is not None:
            self._check_shipped(self.shipped)
        if self.curve is not None:
            _check(self.arms[self.curve.arm].objective != "none", f"curve.arm {self.curve.arm} has no adaptation")
            assert self.adaptation is not None
            every, end = self.adaptation.save_every_steps, self.adaptation.num_steps
            for step in self.curve.at_steps:
                _check(
                    0 < step < end and step % every == 0,
                    f"curve.at_steps: {step} must be a multiple of save_every_steps {every} below the end, {end}",
                )

    def _check_shipped(self, shipped: ShippedPlan) -> None:
        # The node of a model carries its name: no other node may have it.
        runs = {f"{name}-s{seed}" for name, arm in self.arms.items() for seed in arm.seeds}
        for name in shipped.models:
            taken = name in self.arms or name in runs or name in self.evaluation.baselines
            _check(not taken, f"shipped.models: {name} is an arm, a run or a baseline of the study; name it otherwise")
            _check(
                not name.startswith(("adapted-", "rate-")), f"shipped.models: {name} would be taken for another node"
            )
            spec = MODELS.get(name)
            _check(spec is None or spec.source == "shipped", f"shipped.models: {name} is the name of other weights")
        for arm in self.arms:
            spec = MODELS.get(self.factors(arm)["backbone"])
            _check(
                spec is None or spec.source != "shipped",
                f"the backbone of {arm} is shipped itself; a card would not tell what that was trained on",
            )
        for source in self.fine_tuning.data.sources:
            whole = source.kind in ("folder", "public_e5", "reasonir") and not source.sets
            _check(not whole, f"shipped models need the sets of every {source.kind} source named, for their licences")


def load_plan(path: Path | str, overrides: Sequence[str] = ()) -> StudyPlan:
    """The plan of a YAML file, checked. Raises ConfigError and UnknownNameError that name file, field and nearest."""
    plan = read_config(StudyPlan, path, overrides)
    for place, suites, purpose in _suites(plan):
        for suite, tasks in suites.items():
            try:
                _check_suite(plan, suite, tasks, purpose)
            except (ConfigError, UnknownNameError) as error:
                raise type(error)(f"{path}: {place}: {error}") from error
    both = (
        plan.evaluation.suites.keys() & (plan.learning_rates.suites if plan.learning_rates is not None else {}).keys()
    )
    _check(not both, f"{path}: {', '.join(sorted(both))} is tested on and decides the learning rate")
    group_names(plan.evaluation.baselines)
    known = [task for suite, tasks in plan.evaluation.suites.items() for task in tasks or _task_names(suite)]
    for skill, tasks in plan.primary.skills.items():
        for task in tasks:
            if task not in known and all(suite in SUITES for suite in plan.evaluation.suites):
                raise UnknownNameError(f"{path}: primary.skills.{skill}: {UnknownNameError.of('task', task, known)}")
    for skill, tasks in plan.primary.skills.items():
        if len(tasks) > 1 and (odd := [task for task in tasks if task.startswith("stsb")]):
            raise ConfigError(
                f"{path}: primary.skills.{skill}: {odd[0]} is a rank correlation over pairs, which has no mean over "
                "queries to average with other tasks; give it a skill of its own"
            )
    return plan


def suite_name(suite: str) -> str:
    """What `find_suite` takes: a name, or a folder with its variables filled in."""
    return suite if suite in SUITES else str(resolve_path(suite))


def _suites(plan: StudyPlan) -> Iterator[tuple[str, Mapping[str, tuple[str, ...]], str]]:
    yield "evaluation.suites", plan.evaluation.suites, "test"
    if plan.direction is not None:
        yield "direction.suites", plan.direction.suites, "test"
    if plan.learning_rates is not None:
        yield "learning_rates.suites", plan.learning_rates.suites, "development"


def _check_suite(plan: StudyPlan, name: str, tasks: Sequence[str], purpose: str) -> None:
    if name not in SUITES and ("/" not in name and "$" not in name):
        raise UnknownNameError.of("suite", name, tuple(SUITES))
    suite = find_suite(suite_name(name))
    _check(not suite.mteb_tasks, f"suite {name} is run through mteb, which keeps no per-query values; name another")
    if name not in SUITES:
        return
    # Choices on test data would make the report worthless; development data in it would be no test.
    _check(suite.purpose == purpose, f"{name} is a {suite.purpose} suite; a {purpose} suite is needed here")
    for task in tasks:
        if task not in _task_names(name):
            raise UnknownNameError.of(f"task in suite {name!r}", task, _task_names(name))


def _task_names(suite: str) -> tuple[str, ...]:
    return tuple(spec.name for spec in SUITES[suite].tasks) if suite in SUITES else ()
