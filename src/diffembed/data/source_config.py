"""`SourceConfig`: one entry of the list of sources in a training config. Knows nothing of how rows are read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from diffembed.data.published import PUBLIC_E5, REASONIR_SETS
from diffembed.errors import ConfigError, UnknownNameError

PLACEHOLDER = re.compile(r"\{\w+\}")

TURNED, BURIED = "_turned", "_buried"
"""Endings of the names of sources that are made of another one's rows."""
ONLY_FOR: Mapping[str, tuple[str, ...]] = {
    "name": ("rows",),
    "columns": ("rows",),
    "turned_query": ("rows", "folder"),
    "buried_in": ("rows", "folder"),
    "buried_min_words": ("rows", "folder"),
    "buried_max_words": ("rows", "folder"),
    "sets": ("folder", "public_e5", "reasonir"),
    "revision": ("msmarco_instructions", "reasonaug", "reasonir"),
    "instruction": ("rows", "msmarco_instructions"),
    "domain": ("reasonaug",),
    "num_negatives": ("msmarco_instructions",),
    "max_new_negatives": ("msmarco_instructions",),
    "documents": ("reasonir",),
    "documents_revision": ("reasonir",),
}
"""Field -> the kinds it has an effect on; set for another kind it is an error."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of training rows."""

    kind: Literal["rows", "folder", "public_e5", "msmarco_instructions", "reasonaug", "reasonir"]
    """rows: one own file; folder: sub-folders of files in the layout {query, positive, negatives, instruction};
    public_e5, msmarco_instructions, reasonaug, reasonir: the published sets."""
    path: str | None = None
    """File or folder, relative to the data folder of the run. Required for rows, folder and public_e5; none elsewhere
    means the hub."""
    revision: str | None = None
    """Commit of the hub data set, 40 hex digits; none takes the newest one and records it with the run."""
    name: str | None = None
    """Name of a rows source in batches and reports; none takes the file name without its suffixes."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of a triplet (query, positive, negatives, instruction, anti_instruction, id) -> column of a rows source,
    where the names differ."""
    sets: tuple[str, ...] = ()
    """Sets to take from a folder, public_e5 or reasonir (hq, vl); empty takes all."""
    max_rows: int | None = None
    """Rows kept of each set, at least 1; none keeps all."""
    selection: Literal["sample", "first"] = "sample"
    """Which `max_rows` rows: a seeded sample of the set, or its first ones (as the paper did; reads no further)."""
    instruction: str | None = None
    """Given to the rows of a rows source that have none, or in place of the usual one of msmarco_instructions."""
    turned_query: str | None = None
    """Adds a source `<name>_turned` in which documents ask and queries answer: the query under its instruction is the
    positive, under its anti_instruction the negative. Value: how the model's template writes a query, for example
    "{instruction}; {query}". None adds nothing; rows without anti_instruction give no turned row."""
    buried_in: str | None = None
    """Adds a source `<name>_buried` whose documents stand hidden in a stretch of this running text (a file or folder of
    text, relative to the data folder), its negatives in the same stretch. None adds nothing."""
    buried_min_words: int = 64
    """Fewest words of the longest document of a buried row, at least 2; the others are shorter by as much as their
    statement."""
    buried_max_words: int = 512
    """Most words of a buried document; rows whose positive is longer than half of it, and such negatives, are left
    out."""
    keep: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label -> values whose rows are kept, for example {solution_check: [yes, not used], task: [p2i]}."""
    domain: Literal["all", "aops", "leetcode", "theoremqa"] = "all"
    """ReasonAug rows of the domains that train for one BRIGHT task."""
    exclude: str | None = None
    """File of values ({"concept": ...} per line); they and their texts leave as query, positive and negative."""
    without_rows: tuple[str, ...] = ()
    """Ids of rows that are left out, as a contamination check names them; each must be there."""
    min_negatives: int | None = None
    """Rows with fewer negatives are left out; none means 1 for reasonaug and msmarco_instructions, 0 elsewhere."""
    num_negatives: int = 15
    """Negatives of each msmarco_instructions row, at least 1; filled from its ordinary hard negatives."""
    max_new_negatives: int = 3
    """Most negatives of a msmarco_instructions row that fit the query and break its instruction, at least 0."""
    documents: str | None = None
    """Folder or hub data set that resolves the ids of ReasonIR hq; none takes xlangai/BRIGHT."""
    documents_revision: str | None = None
    """Commit of `documents`, 40 hex digits; none takes the newest one and records it with the run."""

    def made_names(self, name: str) -> tuple[str, ...]:
        """Names of what one set of this source becomes: itself, and the sources made of its rows."""
        turned = () if self.turned_query is None else (name + TURNED,)
        return (name, *turned, *(() if self.buried_in is None else (name + BURIED,)))

    def __post_init__(self) -> None:
        for item in fields(self):
            kinds = ONLY_FOR.get(item.name, (self.kind,))
            default = item.default_factory() if callable(item.default_factory) else item.default
            if self.kind not in kinds and getattr(self, item.name) != default:
                raise ConfigError(f"{item.name} has no effect on a {self.kind} source; it is for {', '.join(kinds)}")
        if self.path is None and self.kind in ("rows", "folder", "public_e5"):
            raise ConfigError(f"a {self.kind} source needs a path")
        if self.max_rows is not None and self.max_rows < 1:
            raise ConfigError(f"max_rows must be at least 1, received {self.max_rows}")
        if self.max_rows is None and self.selection == "first":
            raise ConfigError("selection=first has no effect without max_rows")
        if self.num_negatives < 1 or self.max_new_negatives < 0 or (self.min_negatives or 0) < 0:
            raise ConfigError("num_negatives must be at least 1, max_new_negatives and min_negatives at least 0")
        if self.turned_query is not None and not {"{instruction}", "{query}"} <= set(
            PLACEHOLDER.findall(self.turned_query)
        ):
            raise ConfigError(f"turned_query must hold {{instruction}} and {{query}}, received {self.turned_query!r}")
        if not 1 < self.buried_min_words <= self.buried_max_words:
            raise ConfigError(
                "buried_min_words must be at least 2 and at most buried_max_words, received "
                f"{self.buried_min_words} and {self.buried_max_words}"
            )
        default = (SourceConfig.buried_min_words, SourceConfig.buried_max_words)
        if self.buried_in is None and (self.buried_min_words, self.buried_max_words) != default:
            raise ConfigError("buried_min_words and buried_max_words have no effect without buried_in")
        if self.domain != "all" and "domain" in self.keep:
            raise ConfigError("domain and keep[domain] both choose the domain; set one of them")
        known = {"public_e5": tuple(PUBLIC_E5), "reasonir": REASONIR_SETS}.get(self.kind, self.sets)
        for name in self.sets:
            if name not in known:
                raise UnknownNameError.of(f"{self.kind} set", name, known)
