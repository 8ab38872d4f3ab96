"""Results of nodes on disk: what may be committed, under the keys of what it was made from.

Read `Store.states`, then `Store.keep`. `results/<study>/<node>/node.json` is what makes a result whole; checkpoints
and everything large stay under `runs/`. Knows nothing of how a node is computed.
"""

import contextlib
import fcntl
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffembed.code import hash_code
from diffembed.embedding.checkpoint import CONFIG_FILE, load_config
from diffembed.embedding.lora import WEIGHTS
from diffembed.errors import CheckpointError, InputError
from diffembed.evaluation.results import load_result
from diffembed.evaluation.scoring import TaskResult
from diffembed.provenance import atomic_folder, environment, hash_config, hash_text, write_json
from diffembed.study.graph import CODE, Graph, Node, config_key
from diffembed.study.inputs import hash_inputs, hash_path, say_missing
from diffembed.study.weights import hash_weights

RECORD = "node.json"
FAMILY = "family.json"
"""The primary family as it was before the first result."""
LOCK_TRIES, LOCK_WAIT_S = 5, 0.05
"""A look at a lock holds it for a moment: who wants to work asks again before it takes the node for another's."""
StateName = Literal["done", "running", "stale", "ready", "waiting"]


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Where a node stands."""

    name: StateName
    about: str = ""
    """Why it is stale, or what it waits for."""


class Store:
    """The results and runs of one study below a folder."""

    def __init__(self, study: str, folder: Path | str = ".", *, accepts_code: bool = False) -> None:
        """accepts_code: True takes results of changed code as done, where everything else is as it was."""
        self.results = Path(folder) / "results" / study
        self.runs = Path(folder) / "runs" / study
        self.accepts_code = accepts_code

    def record(self, name: str) -> dict[str, Any] | None:
        """What is known of a node's result; None where there is none."""
        path = self.results / name / RECORD
        if not path.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{path} is damaged ({error}); remove its folder to run the node again") from error
        return found

    def states(self, graph: Graph) -> dict[str, State]:
        """Every node's state, parents first."""
        states: dict[str, State] = {}
        for name, node in graph.items():
            states[name] = self._state(graph, node, states)
        return states

    def _state(self, graph: Graph, node: Node, states: Mapping[str, State]) -> State:
        if self.is_locked(node.name):
            return State(name="running")
        unfinished = [other for other in node.needs if states[other].name != "done"]
        record = self.record(node.name)
        if record is None:
            if not unfinished and not self.has_weights(node):
                return State(name="waiting", about=f"the weights of {node.parent} are not here")
            return State(name="waiting", about=f"for {', '.join(unfinished)}") if unfinished else State(name="ready")
        if reason := self._change(graph, node, record):
            return State(name="stale", about=reason)
        if unfinished:
            return State(name="stale", about=f"{', '.join(unfinished)} will change")
        return State(name="done")

    def _change(self, graph: Graph, node: Node, record: Mapping[str, Any]) -> str:
        if record["config_key"] != config_key(graph, node.name):
            return "its config changed"
        if not self.accepts_code and record["code_key"] != hash_code(*CODE[node.kind]):
            return "its code changed"
        inputs = hash_inputs(node)
        if inputs is not None and inputs != record["inputs"]:
            changed = sorted(k for k in inputs.keys() | record["inputs"] if inputs.get(k) != record["inputs"].get(k))
            return f"{', '.join(changed)} changed"
        if node.parent is not None and not _comes_from(record, self.record(node.parent), node.weights):
            return f"{node.parent} was run again"
        return ""

    def is_current(self, graph: Graph, name: str) -> bool:
        """Whether a result belongs to the plan as it is, and to the model it was made from; code and data aside."""
        record, parent = self.record(name), graph[name].parent
        if record is None or record["config_key"] != config_key(graph, name):
            return False
        if parent is None:
            return True
        return _comes_from(record, self.record(parent), graph[name].weights) and self.is_current(graph, parent)

    def key(self, graph: Graph, node: Node) -> dict[str, Any]:
        """What a result made now would depend on, and the hash of it."""
        parent = None if node.parent is None else self.record(node.parent)
        inputs = hash_inputs(node)
        if inputs is None:
            raise InputError(say_missing([node]))
        facts = {
            "config_key": config_key(graph, node.name),
            "code_key": hash_code(*CODE[node.kind]),
            "inputs": inputs,
            "parent_key": None if parent is None else parent["key"],
            "parent_made": None if parent is None else parent["made"].get(node.weights),
        }
        return {**facts, "key": hash_config(facts)}

    def run_folder(self, node: Node, key: Mapping[str, Any]) -> Path:
        """Where a node computes; another one as soon as anything it depends on changes, or how often it saves."""
        return self.runs / node.name / hash_config([key["key"], node.config])

    def model(self, node: Node) -> Path:
        """The folder of weights that a node starts from. Raises CheckpointError as `weights` does."""
        assert node.parent is not None
        return self.weights(node.parent, node.weights)

    def weights(self, name: str, model: str = "model") -> Path:
        """A folder of weights that a node made. Raises CheckpointError where they are not here, or are others."""
        folder = self.results / name / model
        if not _is_whole(folder):
            raise CheckpointError(
                f"the weights of {name} are not in {folder}; remove {folder.parent} to have it run again"
            )
        if hash_weights(folder) != (self.record(name) or {"made": {}})["made"].get(model):
            raise CheckpointError(
                f"the weights in {folder} are not those that {RECORD} beside them speaks of and that were scored; "
                f"restore them, or remove {folder.parent} to have it run again with all that follows"
            )
        return folder

    def has_weights(self, node: Node) -> bool:
        """Whether the weights a node starts from are on this machine: not all are committed, nor kept at each step."""
        return node.parent is None or _is_whole(self.results / node.parent / node.weights)

    def seconds_so_far(self, name: str) -> float | None:
        """Time spent on the newest run of a node that is not finished; None where none began."""
        clocks = sorted((self.runs / name).glob("*.seconds"), key=lambda path: path.stat().st_mtime_ns)
        return float(clocks[-1].read_text()) if clocks else None

    def keep(
        self, node: Node, key: Mapping[str, Any], write: Callable[[Path], Mapping[str, Any]], seconds: float
    ) -> None:
        """Puts a node's result in its place: `write` fills a folder and returns facts for the record."""
        place = self.results / node.name
        aside, before = (self.results / f".{node.name}.{what}" for what in ("new", "old"))
        shutil.rmtree(aside, ignore_errors=True)
        with atomic_folder(aside) as part:
            facts = write(part)
            models = sorted(part.glob("model*")) if node.kind in ("adapt", "train") else []
            made = {model.name: hash_weights(model) for model in models}
            record = {"node": node.name, "kind": node.kind, **key, "made": made, "seconds": round(seconds, 1), **facts,
                      "environment": environment()}  # fmt: skip
            write_json(part / RECORD, record)
        shutil.rmtree(before, ignore_errors=True)
        if place.exists():
            place.rename(before)
        aside.rename(place)
        shutil.rmtree(before, ignore_errors=True)

    def results_of(self, name: str) -> dict[str, TaskResult]:
        """Task -> result of an evaluate node. Raises CheckpointError where one of them is damaged."""
        folders = sorted((self.results / name).glob("*/*/result.json"), key=_by_number)
        try:
            return {result.task: result for result in (load_result(path.parent) for path in folders)}
        except CheckpointError as error:
            # Without one task's folder the node would count as done, and its report lack the task.
            raise CheckpointError(
                f"{error.__cause__ or error} in a result of {name}; remove {self.results / name} to have it run again"
            ) from error

    def fingerprint(self, graph: Graph) -> str:
        """Hash of the scores of every query that a report reads: any that changes changes it."""
        names = [name for name in graph if self.is_current(graph, name)]
        files = [
            path
            for name in names
            for pattern in ("*/*/*.parquet", "*/*/result.json", "direction.json")
            for path in sorted((self.results / name).glob(pattern))
        ]
        return hash_text("\n".join(f"{path.relative_to(self.results)} {hash_path(path)}" for path in files))[:16]

    def directions_of(self, name: str) -> list[dict[str, Any]]:
        """Rows of a direction node, as plain values."""
        found: list[dict[str, Any]] = json.loads((self.results / name / "direction.json").read_text(encoding="utf-8"))
        return found

    def is_locked(self, name: str) -> bool:
        """Whether a living process works on a node."""
        path = self.runs / f"{name}.lock"
        if not path.exists():
            return False
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """True while this process alone works on the node; False where another one does. Ends with the process."""
        self.runs.mkdir(parents=True, exist_ok=True)
        with (self.runs / f"{name}.lock").open("ab") as file:
            for attempt in range(LOCK_TRIES):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt + 1 == LOCK_TRIES:
                        yield False
                        return
                    time.sleep(LOCK_WAIT_S)
            yield True


def _comes_from(record: Mapping[str, Any], parent: Mapping[str, Any] | None, model: str) -> bool:
    """Whether a result was made from the parent's as it is now: the same choices, and the same weights."""
    if parent is None:
        return False
    return bool(record["parent_key"] == parent["key"] and record["parent_made"] == parent["made"].get(model))


def _is_whole(model: Path) -> bool:
    if not (model / CONFIG_FILE).is_file():
        return False
    return all((model / adapter / WEIGHTS).is_file() for adapter in load_config(model).adapters)


def _by_number(path: Path) -> list[str]:
    """Names in order, and needle-256 before needle-1024."""
    return [part.zfill(9) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]
