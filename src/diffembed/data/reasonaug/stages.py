"""The folder of a run's stages: each result on disk under the address of what it was made from.

Read `StageFolder.run` first. A stage whose inputs and settings are those of a result on disk is read, not made; a
killed run therefore goes on where it stopped. This module knows nothing of what stages do.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from diffembed import __version__
from diffembed.data.reasonaug.rows import Dropped, StageResult, hash_rows, read_row, row_line
from diffembed.errors import InputError
from diffembed.provenance import atomic_file, hash_config, write_json

R = TypeVar("R")

INDEX = "stages.json"
DROPPED = "dropped.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutcome(Generic[R]):
    """A stage's result with what was counted on the way."""

    rows: tuple[R, ...]
    dropped: tuple[Dropped, ...]
    notes: Mapping[str, int]


class StageFolder:
    """Stage results below `<run>/stages`, and `dropped.jsonl` with every row that was left behind so far."""

    def __init__(self, folder: Path, base: Any) -> None:
        """base: what every stage depends on, such as the versions of the prompts."""
        self.folder = folder
        self.base = base
        self.outcomes: dict[str, StageOutcome[Any]] = {}
        self._files: dict[str, str] = {}

    def run(
        self,
        name: str,
        kind: type[R],
        *,
        inputs: Sequence[Sequence[Any]],
        settings: Any,
        make: Callable[[dict[str, int]], StageResult[R]],
    ) -> tuple[R, ...]:
        """The rows of a stage, read from disk or made now.

        inputs: the lists of rows it is made from.
        make: called with a dictionary for its notes.
        """
        address = hash_config(
            {
                "stage": name,
                "inputs": [hash_rows(rows) for rows in inputs],
                "settings": settings,
                "base": self.base,
                "version": __version__,
            }
        )
        self._files[name] = f"{len(self._files) + 1:02d}-{name}-{address}"
        path = self.folder / "stages" / self._files[name]
        if path.with_suffix(".json").exists():
            outcome = read_outcome(path, kind)
        else:
            notes: dict[str, int] = {}
            result = make(notes)
            with atomic_file(path.with_suffix(".jsonl")) as part, part.open("w", encoding="utf-8") as file:
                file.writelines(row_line(row) + "\n" for row in result.rows)
            # The summary goes last: where it is, the rows are whole.
            write_json(
                path.with_suffix(".json"),
                {
                    "stage": name,
                    "num_in": len(inputs[0]),
                    "num_out": len(result.rows),
                    "notes": notes,
                    "dropped": [dataclasses.asdict(each) for each in result.dropped],
                },
            )
            outcome = StageOutcome(rows=result.rows, dropped=result.dropped, notes=notes)
        self.outcomes[name] = outcome
        write_json(self.folder / INDEX, self._files)
        self.write_dropped()
        return outcome.rows

    def write_dropped(self, more: Sequence[Dropped] = ()) -> None:
        """Writes `dropped.jsonl` anew from all stages so far."""
        listed = [*more, *(each for outcome in self.outcomes.values() for each in outcome.dropped)]
        with atomic_file(self.folder / DROPPED) as part, part.open("w", encoding="utf-8") as file:
            file.writelines(row_line(each) + "\n" for each in listed)


def read_outcome(path: Path, kind: type[R]) -> StageOutcome[R]:
    """A stage result on disk; InputError when it is damaged."""
    try:
        summary = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        lines = path.with_suffix(".jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        rows = tuple(read_row(kind, json.loads(line)) for line in lines)
        dropped = tuple(read_row(Dropped, each) for each in summary["dropped"])
        if len(rows) != summary["num_out"]:
            raise ValueError(f"{len(rows)} rows instead of {summary['num_out']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}.jsonl is damaged ({error}); delete it with its .json and run again") from error
    return StageOutcome(rows=rows, dropped=dropped, notes=summary["notes"])
