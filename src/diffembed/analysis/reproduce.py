"""One row of the paper from recipe to difference: train or take a checkpoint, score its suite, subtract.

Read `plan_row`, then `run_row`. A checkpoint on another backbone, or another suite, exercises the same path; the
report then says that the published form was not run.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffembed.analysis.paper import PaperRow, PaperTable, average_of, find_row, find_table
from diffembed.backbones.registry import MODELS
from diffembed.embedding.checkpoint import checkpoint_folder, load_config
from diffembed.errors import ConfigError, InputError
from diffembed.evaluation.hub.longembed import make_columns
from diffembed.evaluation.reports.summary import SummaryRow
from diffembed.evaluation.run import EvaluateConfig
from diffembed.evaluation.suite_runs import run_suites
from diffembed.provenance import write_json

RECIPES = Path("recipes/paper")
BRIGHT_COLUMNS = {
    "TheoT": "BrightRetrieval-theoremqa_theorems",
    "TheoQ": "BrightRetrieval-theoremqa_questions",
    "AoPS": "BrightRetrieval-aops",
    "Leet": "BrightRetrieval-leetcode",
}
FOLLOWIR_MEASURES = {"Robust04": "og AP@1000", "News21": "og nDCG@5", "Core17": "og AP@1000"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RowPlan:
    """What running a row means."""

    row: PaperRow
    table: PaperTable
    recipe: Path | None
    """`None` for a row that the paper quotes."""
    backbone: str
    """Model name in the recipe; empty where the recipe file is not at hand."""

    @property
    def steps(self) -> list[str]:
        """The commands, for people."""
        if self.recipe is None:
            return [f"quoted from others; score a checkpoint with: diffembed evaluate MODEL {self.table.suite}"]
        under = f" --set model.name=FOLDER (the backbone with {self.row.base} merged)" if self.row.base else ""
        suffix = f":{self.table.attention}" if self.table.attention else ""
        return [
            f"diffembed train {self.recipe}{under}",
            f"diffembed evaluate CHECKPOINT{suffix} {self.table.suite}",
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnResult:
    """One column: ours, the paper's, and the difference."""

    column: str
    ours: float
    """Points of 100."""
    printed: float | None
    """`None` for a column that the paper's table does not have."""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.printed is None else self.ours - self.printed


@dataclass(frozen=True, kw_only=True, slots=True)
class RowResult:
    """A row as it came out."""

    plan: RowPlan
    model: str
    suite: str
    is_published_form: bool
    """False when backbone or suite are not the row's own: differences then mean nothing and are left out."""
    columns: Sequence[ColumnResult]
    notes: Sequence[str]

    @property
    def status(self) -> str:
        """One sentence."""
        if self.is_published_form:
            return f"{self.plan.row.id} run in its published form on {self.suite}"
        backbone = self.plan.backbone or "its own backbone"
        return (
            f"{self.plan.row.id}: the published form ({backbone} on {self.plan.table.suite}) was NOT run; "
            f"{self.model} on {self.suite} stands in for it"
        )


def plan_row(name: str, *, recipes: Path = RECIPES) -> RowPlan:
    """The plan of a row (`table3/diffembed`). Raises UnknownNameError."""
    row = find_row(name)
    recipe = recipes / f"{row.recipe}.yaml" if row.recipe else None
    backbone = ""
    if recipe is not None and recipe.is_file():
        from diffembed.training.config import TrainConfig
        from diffembed.training.settings import read_config

        backbone = read_config(TrainConfig, recipe).model.name
    return RowPlan(row=row, table=find_table(row.table), recipe=recipe, backbone=backbone)


def run_row(
    name: str,
    *,
    model: str | None = None,
    suite: str | None = None,
    data: Path | str | None = None,
    out: Path | str | None = None,
    recipes: Path = RECIPES,
    config: EvaluateConfig | None = None,
    notify: Callable[[str], None] | None = None,
) -> RowResult:
    """Runs a row: trains by its recipe unless `model` names a checkpoint, scores, compares; `out` keeps everything.

    suite: another suite in place of the row's own, for machines without the hub. Raises ConfigError for a quoted row
    without a model, and for a row over an MNTP or SimCSE base without one.
    """
    plan = plan_row(name, recipes=recipes)
    checkpoint = model or _train(plan)
    chosen = suite or plan.table.suite
    suffix = f":{plan.table.attention}" if plan.table.attention else ""
    runs = run_suites([f"{checkpoint}{suffix}"], [chosen], out=out, data=data, config=config, notify=notify)
    is_published = chosen == plan.table.suite and _is_backbone(checkpoint, plan.backbone)
    if chosen == plan.table.suite:
        found = columns_of(plan.table, runs.rows)
        printed: Mapping[str, float] = plan.row.columns if is_published else {}
    else:
        found = {f"{row.task} {row.measure}": 100 * row.value for row in runs.rows}
        printed = {}
    columns = [ColumnResult(column=key, ours=value, printed=printed.get(key)) for key, value in found.items()]
    if is_published:
        means = average_of(plan.table, found)
        printed_means = (("average", plan.row.average), ("average p-MRR", plan.row.average_p_mrr))
        for ours, (column, mean) in zip(means, printed_means, strict=True):
            if ours is not None and mean is not None:
                columns.append(ColumnResult(column=column, ours=ours, printed=mean))
    result = RowResult(
        plan=plan,
        model=checkpoint,
        suite=chosen,
        is_published_form=is_published,
        columns=columns,
        notes=runs.notes,
    )
    if out is not None:
        write_json(Path(out) / "reproduce.json", as_plain(result))
    return result


def columns_of(table: PaperTable, rows: Sequence[SummaryRow]) -> dict[str, float]:
    """The table's columns from the scores of its suite, in points. Raises InputError for one that is missing."""
    values = {(row.task, row.measure): 100 * row.value for row in rows}
    mains: dict[str, float] = {}
    for row in rows:
        mains.setdefault(row.task, 100 * row.value)
    if table.id == "table2":
        return make_columns(mains)
    found = {}
    for column in table.columns:
        if table.suite == "bright":
            value = mains.get(BRIGHT_COLUMNS[column])
        elif table.id == "table4":
            name, _, change = column.partition(" ")
            value = values.get((f"{name}InstructionRetrieval", change or FOLLOWIR_MEASURES[name]))
        else:
            value = next((mains[task] for task in mains if task == column or task.startswith(f"{column}-")), None)
        if value is None:
            raise InputError(f"column {column!r} of {table.id} was not scored")
        found[column] = value
    return found


def _train(plan: RowPlan) -> str:
    if plan.recipe is None:
        raise ConfigError(f"{plan.row.id} is quoted from others and has no recipe; name a checkpoint with --model")
    if plan.row.base:
        raise ConfigError(
            f"{plan.row.id} starts from {plan.row.base}; merge it, train with {plan.recipe}, and name the checkpoint "
            "with --model"
        )
    if not plan.recipe.is_file():
        raise ConfigError(f"no recipe {plan.recipe}; run in the repository, or name its folder with --recipes")
    from diffembed.training.config import TrainConfig
    from diffembed.training.contrast import train
    from diffembed.training.settings import read_config

    return str(train(read_config(TrainConfig, plan.recipe)).model)


def _is_backbone(checkpoint: str, backbone: str) -> bool:
    """Whether a checkpoint was trained from the recipe's backbone, under its short name or its hub id."""
    folder = checkpoint_folder(checkpoint)
    if not backbone or folder is None:
        # A network without a checkpoint of ours is not trained.
        return False
    spec = MODELS.get(backbone)
    return load_config(folder).base in (backbone, spec.location if spec is not None else backbone)


def as_plain(result: RowResult) -> dict[str, object]:
    """For JSON."""
    return {
        "row": dataclasses.asdict(result.plan.row),
        "recipe": str(result.plan.recipe or ""),
        "backbone": result.plan.backbone,
        "model": result.model,
        "suite": result.suite,
        "is_published_form": result.is_published_form,
        "status": result.status,
        "columns": [{**dataclasses.asdict(column), "difference": column.difference} for column in result.columns],
        "notes": list(result.notes),
    }
