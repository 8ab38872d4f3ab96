"""What a study compares: arms that differ in named factors, and everything they share.

Read `StudyPlan`, then `load_plan`. A plan is checked whole before any compute: unknown arms and suites, and an arm that
differs from its control in more than it says, are refused. Knows nothing of how nodes are run.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffembed.backbones.registry import MODELS, find_model
from diffembed.backbones.shapes import native_config
from diffembed.data.files import row_file_stem
from diffembed.errors import ConfigError, UnknownNameError, require
from diffembed.evaluation.systems.recipes import group_names
from diffembed.study.sections import (
    FACTORS,
    AdaptationPlan,
    ArmConfig,
    CurvePlan,
    DirectionPlan,
    EvaluationPlan,
    FamilyPlan,
    FineTuningPlan,
    LearningRatePlan,
    Objective,
    ShippedPlan,
    named_folder,
)
from diffembed.study.suites import Kind, check_suite, places_of, refuse_namesakes, result_kinds
from diffembed.training.config import DataConfig, OptimiserConfig
from diffembed.training.settings import read_config, resolve_name


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
    notes: tuple[str, ...] = ()
    """What no number shows and a reader must know, such as a choice made after a result; printed on the report."""

    def __post_init__(self) -> None:
        allowed = "it must be the name of a folder: a word without /, and not '..'"
        require(_names_folder(self.name), f"name is {self.name!r}; {allowed}")
        require(self.seed >= 0, f"seed is {self.seed}; it must be 0 or more")
        require(bool(self.arms), "arms is empty; name at least one")
        self._check_baselines()
        for name, arm in self.arms.items():
            require(_names_folder(name) and "@" not in name, f"arms: an arm is named {name!r}; {allowed}, without @")
            self._check_free("arms", name, self.evaluation.baselines, "a baseline")
            self._check_backbone(name, arm)
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
            "num_steps": self.fine_tuning.num_steps if config.num_steps is None else config.num_steps,
        }

    def differences(self, a: str, b: str) -> list[str]:
        """The factors in which two arms differ, found and not declared."""
        mine, theirs = self.factors(a), self.factors(b)
        return [factor for factor in FACTORS if mine[factor] != theirs[factor]]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The adaptations there are, each once."""
        return tuple(dict.fromkeys(arm.objective for arm in self.arms.values() if arm.objective != "none"))

    @property
    def row_sets(self) -> tuple[str, ...]:
        """Names of the sets of rows that the fine-tuning of the arms reads."""
        return _row_sets([self.fine_tuning.data])

    @property
    def shipped_row_sets(self) -> tuple[str, ...]:
        """Names of the sets of rows that shipped models have read, those of the arms first."""
        return _row_sets(self.shipped_data)

    @property
    def shipped_data(self) -> list[DataConfig]:
        """What shipped models were fine-tuned on: the rows of the arms, then those of further training, if others."""
        stages = self.shipped.further if self.shipped is not None else ()
        return [self.fine_tuning.data, *(stage.data for stage in stages if stage.data is not None)]

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

    def _check_baselines(self) -> None:
        try:
            group_names(self.evaluation.baselines)
        except (ConfigError, UnknownNameError) as error:
            raise type(error)(f"evaluation.baselines: {error}") from error

    def _check_backbone(self, name: str, arm: ArmConfig) -> None:
        backbone = self.factors(name)["backbone"]
        try:
            if "$" not in backbone:
                named_folder(backbone)
        except UnknownNameError as error:
            place = "backbone" if arm.backbone is None else f"arms.{name}.backbone"
            raise UnknownNameError(f"{place}: {error}") from error

    def _check_free(self, place: str, name: str, taken: Collection[str], what: str) -> None:
        # The node of a system carries its name, and results of one name are read as seeds of one system.
        require(name not in taken, f"{place}: {name} is {what} of the study; name it otherwise")
        require(
            not name.startswith(("adapted-", "rate-")),
            f"{place}: {name} would be taken for another node; a name must not begin with adapted- or rate-",
        )

    def _check_control(self, name: str, arm: ArmConfig) -> None:
        assert arm.control is not None
        if arm.control not in self.arms:
            raise UnknownNameError(f"arms.{name}.control: {UnknownNameError.of('arm', arm.control, tuple(self.arms))}")
        require(arm.control != name, f"arms.{name} is its own control")
        mine, theirs = self.factors(name), self.factors(arm.control)
        found = set(self.differences(name, arm.control))
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
        require(
            bool(self.objectives) == (self.adaptation is not None),
            "adaptation belongs to arms with an objective, and they need it",
        )
        if self.adaptation is not None:
            alike = {self.factors(n)["backbone"] for n, arm in self.arms.items() if arm.objective != "none"}
            require(len(alike) == 1, f"arms that are adapted must share a backbone, found {', '.join(sorted(alike))}")
        if self.learning_rates is not None:
            wanted = {arm.attention for arm in self.arms.values()}
            probes = self.learning_rates.probes
            require(set(probes) == wanted, f"learning_rates.probes needs one arm each for {', '.join(sorted(wanted))}")
            for attention, name in probes.items():
                require(
                    self.arms[name].attention == attention,
                    f"learning_rates.probes: {name} has {self.arms[name].attention} attention, not {attention}",
                )
            require(
                self.fine_tuning.optimiser.learning_rate == OptimiserConfig().learning_rate,
                "fine_tuning.optimiser.learning_rate has no effect beside learning_rates",
            )
        if self.shipped is not None:
            self._check_shipped(self.shipped)
        if self.curve is not None:
            require(self.arms[self.curve.arm].objective != "none", f"curve.arm {self.curve.arm} has no adaptation")
            assert self.adaptation is not None
            every, end = self.adaptation.save_every_steps, self.adaptation.num_steps
            for step in self.curve.at_steps:
                require(
                    0 < step < end and step % every == 0,
                    f"curve.at_steps: {step} must be a multiple of save_every_steps {every} below the end, {end}",
                )

    def _check_shipped(self, shipped: ShippedPlan) -> None:
        runs = {f"{name}-s{seed}" for name, arm in self.arms.items() for seed in arm.seeds}
        taken = {*self.arms, *runs, *self.evaluation.baselines}
        for name, arm in shipped.models.items():
            self._check_free("shipped.models", name, taken, "an arm, a run or a baseline")
            base = resolve_name(self.factors(arm)["backbone"])
            require(
                named_folder(base) is None,
                f"shipped.models: {name} is built on the folder {base}, which users do not have; name a published "
                f"model as the backbone of {arm}",
            )
            spec = MODELS.get(name)
            require(spec is None or spec.source == "shipped", f"shipped.models: {name} is the name of other weights")
        for name in shipped.baselines:
            if name not in self.evaluation.baselines:
                found = UnknownNameError.of("baseline of evaluation", name, self.evaluation.baselines)
                raise UnknownNameError(f"shipped.baselines: {found}")
        for arm in self.arms:
            spec = MODELS.get(self.factors(arm)["backbone"])
            require(
                spec is None or spec.source != "shipped",
                f"the backbone of {arm} is shipped itself; a card would not tell what that was trained on",
            )
        for source in (source for data in self.shipped_data for source in data.sources):
            whole = source.kind in ("folder", "public_e5", "reasonir") and not source.sets
            require(not whole, f"shipped models need the sets of every {source.kind} source named, for their licences")


def load_plan(path: Path | str, overrides: Sequence[str] = ()) -> StudyPlan:
    """The plan of a YAML file, checked. Raises ConfigError and UnknownNameError that name file, field and nearest."""
    plan = read_config(StudyPlan, path, overrides)
    for place, suites, purpose in _suites(plan):
        for suite, tasks in suites.items():
            try:
                check_suite(suite, tasks, purpose)
            except (ConfigError, UnknownNameError) as error:
                raise type(error)(f"{path}: {place}: {error}") from error
    _refuse_choices_on_tests(path, plan)
    _check_ranges(path, plan)
    for place, suites, _ in _suites(plan):
        refuse_namesakes(f"{path}: {place}", suites)
    kinds: dict[str, Kind] = {}
    for suite, tasks in plan.evaluation.suites.items():
        kinds |= result_kinds(suite, tasks)
    for skill, tasks in plan.primary.skills.items():
        place = f"{path}: primary.skills.{skill}"
        for task in tasks:
            if task not in kinds:
                raise UnknownNameError(f"{place}: {UnknownNameError.of('task', task, tuple(kinds))}")
            if kinds[task] == "clusters":
                raise ConfigError(
                    f"{place}: {task} has one value for all its texts, which no test can redraw; leave it out"
                )
            if kinds[task] == "pairs" and len(tasks) > 1:
                raise ConfigError(
                    f"{place}: {task} is a rank correlation over pairs, which has no mean over queries to average with "
                    "other tasks; give it a skill of its own"
                )
    return plan


def _suites(plan: StudyPlan) -> Iterator[tuple[str, Mapping[str, tuple[str, ...]], str]]:
    yield "evaluation.suites", plan.evaluation.suites, "test"
    if plan.direction is not None:
        yield "direction.suites", plan.direction.suites, "test"
    if plan.shipped is not None:
        yield "shipped.suites", plan.shipped.suites, "test"
    if plan.learning_rates is not None:
        yield "learning_rates.suites", plan.learning_rates.suites, "development"


def _row_sets(read: Sequence[DataConfig]) -> tuple[str, ...]:
    names = (
        made
        for data in read
        for source in data.sources
        for name in source.sets or (source.name or row_file_stem(Path(source.path or source.kind)),)
        for made in source.made_names(name)
    )
    return tuple(dict.fromkeys(names))


def _names_folder(name: str) -> bool:
    return name not in ("", "..") and Path(name).name == name


def _refuse_choices_on_tests(path: Path | str, plan: StudyPlan) -> None:
    """What decides the learning rate is no test, by whichever name it is read."""
    found: dict[Path, str] = {}
    # The development suites come last.
    for field, suites, purpose in _suites(plan):
        for suite, tasks in suites.items():
            for place in sorted(places_of(suite, tasks)):
                if purpose == "test":
                    found.setdefault(place, f"{field} ({suite})")
                elif place in found:
                    raise ConfigError(
                        f"{path}: {field}: {suite} decides the learning rate and is tested on, for {found[place]} "
                        f"reads {place} too; name a development suite, or a folder that no test reads"
                    )


def _check_ranges(path: Path | str, plan: StudyPlan) -> None:
    """A network of fewer layers than ranges is refused, where its shape is known without asking the hub."""
    if plan.direction is None or plan.direction.num_ranges == 1:
        return
    for arm in plan.direction.arms:
        backbone = resolve_name(plan.factors(arm)["backbone"])
        if find_model(backbone) is not None or Path(backbone).is_dir():
            num_layers = native_config(backbone).num_hidden_layers
            require(
                plan.direction.num_ranges <= num_layers,
                f"{path}: direction.num_ranges is {plan.direction.num_ranges}; {backbone}, the backbone of {arm}, has "
                f"{num_layers} layers, allowed is 1 to that",
            )
