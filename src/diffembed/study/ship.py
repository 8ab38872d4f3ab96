"""From a finished study to models for users: one joined adapter each, with settings, provenance and a card.

Read `ship`. Nothing is trained or scored here; the card (`ship_card.py`) says what the plan and the results say.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffembed.backbones.shapes import native_config
from diffembed.embedding.checkpoint import CONFIG_FILE, load_config
from diffembed.embedding.lora import WEIGHTS, join_lora, read_config
from diffembed.errors import CheckpointError, ConfigError
from diffembed.provenance import atomic_folder, hash_file, write_json
from diffembed.study.graph import Graph, ancestors, make_graph, shipped_node
from diffembed.study.plan import StudyPlan
from diffembed.study.run import chosen_rates
from diffembed.study.ship_card import Facts, make_card, read_sets
from diffembed.study.store import Store

LARGEST_BYTES = 16_000_000
"""Of one adapter: what a package may grow by."""
ADAPTER = "adapter-0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shipped:
    """What was written for one model."""

    name: str
    folder: Path
    node: str
    """The train node it comes from."""
    rank: int
    """Of the joined adapter."""
    num_bytes: int
    """Size of the adapter."""
    num_scores: int
    """Tasks on the card."""


def ship(plan: StudyPlan, store: Store, folder: Path | str) -> list[Shipped]:
    """Writes every model of `plan.shipped` as a checkpoint folder below `folder`, over an older one of its name.

    All are checked before the first is written. Raises ConfigError for a plan that ships nothing, names no licence for
    what training read, or builds on a folder that users do not have; CheckpointError for a node without a result that
    fits the plan and for an adapter that is too large.
    """
    if plan.shipped is None:
        raise ConfigError(f"study {plan.name} ships nothing; give its plan a section `shipped`")
    graph = make_graph(plan, chosen_rates(plan, store))
    _require_licences(plan)
    for name in plan.shipped.models:
        _require_done(store, graph, name, shipped_node(plan, name))
    return [_ship_one(plan, store, graph, name, Path(folder)) for name in plan.shipped.models]


def _ship_one(plan: StudyPlan, store: Store, graph: Graph, name: str, folder: Path) -> Shipped:
    node = shipped_node(plan, name)
    source = store.results / node / "model"
    config = load_config(source)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{name}.new"
    shutil.rmtree(aside, ignore_errors=True)
    with atomic_folder(aside) as part:
        join_lora([source / adapter for adapter in config.adapters], part / ADAPTER)
        num_bytes = (part / ADAPTER / WEIGHTS).stat().st_size
        if num_bytes > LARGEST_BYTES:
            raise CheckpointError(f"the adapter of {name} has {num_bytes:,} bytes; the limit is {LARGEST_BYTES:,}")
        # Training reads the beginnings of long texts, its model all of them.
        reach = int(native_config(config.base).max_position_embeddings)
        shipped = replace(config, name=name, adapters=(ADAPTER,), max_tokens=reach)
        write_json(part / CONFIG_FILE, shipped.as_dict())
        write_json(part / "provenance.json", _provenance(plan, store, graph, node, part))
        rank = int(read_config(part / ADAPTER)["r"])
        facts = Facts(name=name, node=node, config=shipped, rank=rank)
        card, num_scores = make_card(plan, store, graph, facts)
        (part / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder / name, ignore_errors=True)
    aside.rename(folder / name)
    return Shipped(
        name=name, folder=folder / name, node=node, rank=rank, num_bytes=num_bytes, num_scores=num_scores
    )  # fmt: skip


def _require_done(store: Store, graph: Graph, name: str, node: str) -> None:
    if not store.is_current(graph, node):
        raise CheckpointError(
            f"{name} comes from {node}, which has no result that fits the plan; compute it with: "
            f"diffembed study run PLAN --only {node}"
        )
    base = load_config(store.results / node / "model").base
    if base.startswith(".") or Path(base).is_dir():
        raise ConfigError(f"{name} is built on the folder {base}, which users do not have; name a published model")


def _require_licences(plan: StudyPlan) -> None:
    assert plan.shipped is not None
    read = list(read_sets(plan))
    missing = sorted(set(read) - plan.shipped.licences.keys())
    if missing:
        raise ConfigError(f"shipped.licences says nothing of {', '.join(missing)}, which training reads")
    unread = sorted(plan.shipped.licences.keys() - set(read))
    if unread:
        raise ConfigError(f"shipped.licences names {', '.join(unread)}, which no training reads")


def _provenance(plan: StudyPlan, store: Store, graph: Graph, node: str, part: Path) -> dict[str, Any]:
    """The nodes the weights come from, with the keys and inputs of each, and the proof of the attention."""
    made = [name for name in (*ancestors(graph, node), node) if graph[name].kind in ("adapt", "train")]
    stored = json.loads((store.results / node / "model" / "provenance.json").read_text(encoding="utf-8"))
    kept = ("key", "config_key", "code_key", "inputs", "read", "seconds", "environment")
    nodes = {name: {key: value for key, value in (store.record(name) or {}).items() if key in kept} for name in made}
    return {
        "study": plan.name,
        "nodes": nodes,
        "adapter": hash_file(part / ADAPTER / WEIGHTS),
        "contract": stored.get("contract"),
    }
