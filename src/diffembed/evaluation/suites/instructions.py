"""Which instruction a task sends: one file of them, with the paper's and mteb's wording and defaults by task type.

Read `find_instruction`. The file is `instructions.toml`; this module knows nothing of encoders.
"""

import tomllib
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

from diffembed.errors import UnknownNameError
from diffembed.evaluation.tasks import AnyTask, InstructionTask, LabelTask, PairTask

Prompts = Literal["paper", "mteb"]
PROMPTS: tuple[Prompts, ...] = ("paper", "mteb")


@lru_cache(maxsize=1)
def load_instructions() -> dict[str, Any]:
    """The file as it is: `defaults` by type, `tasks` by name."""
    return tomllib.loads(files("diffembed.evaluation.suites").joinpath("instructions.toml").read_text(encoding="utf-8"))


def find_instruction(task: str, kind: str, *, prompts: Prompts = "paper", own: str = "") -> str:
    """The instruction of a task in the chosen wording, else in the other, else the default of its type.

    kind: a key of the file's `defaults`. own: mteb's wording where the file has none.
    """
    table = load_instructions()
    if prompts not in PROMPTS:
        raise UnknownNameError.of("prompts", prompts, list(PROMPTS))
    if kind not in table["defaults"]:
        raise UnknownNameError.of("task type", kind, list(table["defaults"]))
    wordings: dict[str, str] = ({"mteb": own} if own else {}) | table["tasks"].get(task, {})
    for choice in (prompts, *PROMPTS):
        if choice in wordings:
            return wordings[choice]
    return str(table["defaults"][kind])


def kind_of(task: AnyTask) -> str:
    """The task's type as `find_instruction` names it."""
    if isinstance(task, LabelTask):
        return task.kind
    if isinstance(task, PairTask):
        return "similarity"
    return "instruction" if isinstance(task, InstructionTask) else "retrieval"
