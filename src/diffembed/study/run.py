"""A study, node by node: what is missing is computed, what is there is left alone.

Read `run_study`. Several processes may work on one study; each node belongs to the one that holds its lock.
"""

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from diffembed.backbones.registry import Attention
from diffembed.errors import ConfigError, UnknownNameError
from diffembed.provenance import write_json
from diffembed.study.contamination import is_compared, require_clean, stored_contamination
from diffembed.study.cost import keep_costs
from diffembed.study.execute import execute
from diffembed.study.graph import Graph, make_graph, rate_probes
from diffembed.study.plan import StudyPlan
from diffembed.study.store import FAMILY, State, Store


class OutOfTime(KeyboardInterrupt):
    """The minutes are over; the run under way goes on from its last checkpoint next time."""


def chosen_rates(plan: StudyPlan, store: Store) -> dict[Attention, float]:
    """Attention -> learning rate with the best mean development score, where all values have been tried."""
    graph = make_graph(plan)
    chosen: dict[Attention, float] = {}
    for attention, by_value in rate_probes(plan).items():
        # A probe that is to run again keeps those waiting that train at its rate; the report reads what there is.
        if all(store.is_current(graph, name) for name in by_value.values()):
            scores = {value: store.results_of(name) for value, name in by_value.items()}
            means = {value: sum(r.value for r in found.values()) / len(found) for value, found in scores.items()}
            # The smallest of equals, so that the choice does not depend on the order of the plan.
            chosen[attention] = min(means, key=lambda value: (-means[value], value))
    return chosen


def run_study(
    plan: StudyPlan,
    store: Store,
    *,
    only: Sequence[str] = (),
    max_minutes: float | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> dict[str, State]:
    """Computes the nodes that are not done, parents first, and returns where every node stands afterwards.

    Training is compared with the tests before the first node that is not a baseline, and where nothing is left to
    compute but an older plan was compared.
    only: these nodes and no other; what they need must be done. max_minutes: stops then, in the middle of a node too.
    Raises InputError before any of that when training has seen what is tested.
    """
    graph = make_graph(plan, chosen_rates(plan, store))
    unknown = next((node for node in only if node not in graph), None)
    if unknown is not None:
        raise UnknownNameError.of("node", unknown, tuple(graph))
    deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    tried: set[str] = set()
    is_checked = False
    try:
        while (name := _next(store, graph, only, tried)) is not None:
            tried.add(name)
            node = graph[name]
            keep_family(plan, store)
            # A baseline is trained on nothing of the plan.
            if not is_checked and not (node.kind == "evaluate" and node.parent is None):
                require_clean(plan, store, notify)
                keep_costs(plan, store.results)
                is_checked = True
            with store.lock(name) as is_ours, _limited(deadline):
                # Another process may have finished the node between the look and the lock.
                if not is_ours or (store.record(name) or {}).get("key") == store.key(graph, node)["key"]:
                    continue
                notify(f"{name} begins")
                started = time.perf_counter()
                execute(store, graph, node, lambda line, name=name: notify(f"{name}: {line}"))  # type: ignore[misc]
                notify(f"{name} done in {(time.perf_counter() - started) / 60:.1f} min")
            gc.collect()
            graph = make_graph(plan, chosen_rates(plan, store))
        if not (only or is_checked):
            if is_compared(plan, store):
                stored_contamination(plan, store)
            else:
                require_clean(plan, store, notify)
    except OutOfTime:
        notify(f"{max_minutes:g} minutes are over; the same command goes on from here")
    return store.states(graph)


def keep_family(plan: StudyPlan, store: Store) -> None:
    """Writes family.json before the first result, so that a report can tell whether the comparisons stayed."""
    path = store.results / FAMILY
    if not path.is_file():
        write_json(path, plan.primary)


def _next(store: Store, graph: Graph, only: Sequence[str], tried: set[str]) -> str | None:
    """The first node that can be computed now."""
    states = store.states(graph)
    for name, node in graph.items():
        if name in tried or (only and name not in only) or states[name].name in ("done", "running"):
            continue
        missing = [other for other in node.needs if states[other].name != "done"]
        if not missing and (only or store.has_weights(node)):
            return name
        if only and not set(missing) & set(only):
            reasons = ", ".join(f"{other} ({states[other].name})" for other in missing)
            raise ConfigError(f"{name} needs {reasons}; run that first, or leave --only out")
    return None


@contextmanager
def _limited(deadline: float | None) -> Iterator[None]:
    """Raises OutOfTime at the deadline, wherever the block is; between nodes only, outside the main thread."""
    if deadline is None:
        yield
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise OutOfTime
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, left)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def node_rows(plan: StudyPlan, store: Store) -> list[dict[str, Any]]:
    """One row per node for people and machines: node, kind, state, seconds so far, why."""
    graph = make_graph(plan, chosen_rates(plan, store))
    rows = []
    for name, state in store.states(graph).items():
        record = store.record(name)
        seconds = store.seconds_so_far(name) if record is None or state.name == "stale" else record["seconds"]
        rows.append(
            {"node": name, "kind": graph[name].kind, "state": state.name, "seconds": seconds, "about": state.about}
        )
    return rows
