"""The paper's result tables as data, and whether their averages are what their columns say.

Read `load_rows`, then `check_average`. The file is `paper.toml`; this module runs nothing.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from diffembed.errors import UnknownNameError
from diffembed.evaluation.hub.longembed import official_average

SOURCE = "arXiv 2505.15045v1"
ROUNDING = 0.1001
"""Points by which a mean of columns rounded to 0.1 may differ from a mean that was rounded itself (0.05 each)."""
P_MRR = "p-MRR"


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperTable:
    """One table of the paper."""

    id: str
    title: str
    suite: str
    """Suite that scores the columns."""
    columns: tuple[str, ...]
    average: str = ""
    """How the printed average comes about; empty where none is printed."""
    attention: str = ""
    """Attention at test time where it is not the trained one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """One row as printed, and what it takes to run it."""

    table: str
    name: str
    label: str
    values: tuple[float, ...]
    """In the order of the table's columns, points of 100."""
    average: float | None = None
    average_p_mrr: float | None = None
    recipe: str = ""
    """File of recipes/paper without its suffix; empty for a row that the paper quotes or takes from others."""
    base: str = ""
    """Adapter or checkpoint under the recipe's training; empty for the bare backbone."""

    @property
    def id(self) -> str:
        """What a user types."""
        return f"{self.table}/{self.name}"

    @property
    def columns(self) -> dict[str, float]:
        """Column -> printed value."""
        return dict(zip(find_table(self.table).columns, self.values, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class AverageCheck:
    """A printed average beside the one its row's columns give."""

    row: str
    printed: float
    recomputed: float

    @property
    def is_wrong(self) -> bool:
        """Further apart than rounding allows."""
        return abs(self.printed - self.recomputed) > ROUNDING


@lru_cache(maxsize=1)
def _load() -> dict[str, Any]:
    return tomllib.loads(files("diffembed.analysis").joinpath("paper.toml").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def load_tables() -> tuple[PaperTable, ...]:
    """Every table of the file."""
    return tuple(PaperTable(**{**table, "columns": tuple(table["columns"])}) for table in _load()["table"])


@lru_cache(maxsize=1)
def load_rows() -> tuple[PaperRow, ...]:
    """Every row of every table."""
    return tuple(PaperRow(**{**row, "values": tuple(row["values"])}) for row in _load()["row"])


def find_table(name: str) -> PaperTable:
    """A table by id. Raises UnknownNameError."""
    for table in load_tables():
        if table.id == name:
            return table
    raise UnknownNameError.of("table", name, [table.id for table in load_tables()])


def find_row(name: str) -> PaperRow:
    """A row by id (`table2/diffembed`). Raises UnknownNameError."""
    for row in load_rows():
        if row.id == name:
            return row
    raise UnknownNameError.of("row", name, [row.id for row in load_rows()])


def average_of(table: PaperTable, columns: Mapping[str, float]) -> tuple[float, float | None]:
    """(mean of the scores, mean of the p-MRR columns where the table has them)."""
    scores = [columns[name] for name in table.columns if not name.endswith(P_MRR)]
    changes = [columns[name] for name in table.columns if name.endswith(P_MRR)]
    return sum(scores) / len(scores), sum(changes) / len(changes) if changes else None


def check_average(row: PaperRow) -> list[AverageCheck]:
    """The row's printed averages, recomputed; empty where none is printed."""
    scores, changes = average_of(find_table(row.table), row.columns)
    checks = []
    if row.average is not None:
        checks.append(AverageCheck(row=row.id, printed=row.average, recomputed=scores))
    if row.average_p_mrr is not None and changes is not None:
        checks.append(AverageCheck(row=f"{row.id} p-MRR", printed=row.average_p_mrr, recomputed=changes))
    return checks


def official_longembed_averages() -> dict[str, float]:
    """Row of table 2 -> the benchmark's own average over six tasks, which the paper does not print."""
    return {row.label: official_average(row.columns) for row in load_rows() if row.table == "table2"}
