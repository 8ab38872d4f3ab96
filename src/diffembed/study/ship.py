"""From a finished study to models for users: one joined adapter each, with settings, provenance and a card.

Read `ship`. Nothing is trained or scored here; the card (`ship_card.py`) says what the plan and the results say.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffembed.backbones.registry import MODELS, find_model
from diffembed.backbones.shapes import native_config
from diffembed.embedding.checkpoint import CONFIG_FILE, SHIPPED, load_config
from diffembed.embedding.lora import ADAPTER, WEIGHTS, join_lora, read_config
from diffembed.errors import CheckpointError, ConfigError
from diffembed.provenance import atomic_folder, hash_file, write_json
from diffembed.study.contamination import stored_contamination
from diffembed.study.graph import Graph, make_graph, shipped_node
from diffembed.study.plan import StudyPlan
from diffembed.study.run import chosen_rates
from diffembed.study.sections import ShippedPlan
from diffembed.study.ship_card import Facts, make_card
from diffembed.study.store import Store

LARGEST_BYTES = 16_000_000
"""Of one adapter, chosen so that a wheel with two of them stays below a third of what PyPI takes."""


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


def ship(plan: StudyPlan, store: Store, folder: Path | str = SHIPPED) -> list[Shipped]:
    """Writes every model of `plan.shipped` as a checkpoint folder below `folder`, over an older one of its name.

    All are written aside before the first takes its place. Raises ConfigError for a plan that ships nothing, names no
    licence for what training read, or builds on a folder that users do not have; CheckpointError for a node without
    a result or weights that fit the plan, for an adapter that is too large, and where training was not compared with
    the tests of this plan; InputError where it has seen them.
    """
    if plan.shipped is None:
        raise ConfigError(f"study {plan.name} ships nothing; give its plan a section `shipped`")
    graph = make_graph(plan, chosen_rates(plan, store))
    _require_licences(plan, plan.shipped)
    for name in plan.shipped.models:
        _require_done(store, graph, name, shipped_node(plan, name))
    stored_contamination(plan, store)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as aside:
        made = [_write(plan, store, graph, name, Path(aside)) for name in plan.shipped.models]
        for one in made:
            shutil.rmtree(folder / one.name, ignore_errors=True)
            one.folder.rename(folder / one.name)
    return [replace(one, folder=folder / one.name) for one in made]


def _write(plan: StudyPlan, store: Store, graph: Graph, name: str, folder: Path) -> Shipped:
    assert plan.shipped is not None
    node = shipped_node(plan, name)
    source = store.weights(node)
    config = load_config(source)
    with atomic_folder(folder / name) as part:
        join_lora([source / adapter for adapter in config.adapters], part / ADAPTER)
        num_bytes = (part / ADAPTER / WEIGHTS).stat().st_size
        if num_bytes > LARGEST_BYTES:
            raise CheckpointError(
                f"the adapter of {name} has {num_bytes:,} bytes, more than {LARGEST_BYTES:,}; lower lora.rank in "
                "adaptation or fine_tuning"
            )
        rank = int(read_config(part / ADAPTER)["r"])
        shipped = replace(config, name=name, adapters=(ADAPTER,), max_tokens=_reach(config.base))
        write_json(part / CONFIG_FILE, shipped.as_dict())
        write_json(part / "provenance.json", _provenance(plan, store, graph, node, part))
        (part / "NOTICE").write_text(plan.shipped.notice.rstrip() + "\n", encoding="utf-8")
        card, num_scores = make_card(plan, store, graph, Facts(name=name, node=node, config=shipped, rank=rank))
        (part / "README.md").write_text(card, encoding="utf-8")
    return Shipped(
        name=name, folder=folder / name, node=node, rank=rank, num_bytes=num_bytes, num_scores=num_scores
    )  # fmt: skip


def _reach(base: str) -> int:
    """Tokens that a network reads. Training reads the beginnings of long texts, its model all of them."""
    spec, limit = find_model(base), int(native_config(base).max_position_embeddings)
    return min(limit, spec.max_tokens) if spec is not None and spec.max_tokens else limit


def _require_done(store: Store, graph: Graph, name: str, node: str) -> None:
    if not store.is_current(graph, node):
        raise CheckpointError(
            f"{name} comes from {node}, which has no result that fits the plan; compute it with: "
            f"diffembed study run PLAN --only {node}"
        )
    config = load_config(store.weights(node))
    if config.base.startswith(".") or (config.base not in MODELS and Path(config.base).is_dir()):
        raise ConfigError(
            f"{name} is built on the folder {config.base}, which users do not have; name a published model"
        )


def _require_licences(plan: StudyPlan, shipped: ShippedPlan) -> None:
    read = {*plan.shipped_row_sets, *plan.texts}
    if missing := sorted(read - shipped.licences.keys()):
        raise ConfigError(f"shipped.licences says nothing of {', '.join(missing)}, which training reads")
    if unread := sorted(shipped.licences.keys() - read):
        raise ConfigError(f"shipped.licences names {', '.join(unread)}, which no training reads")


def _provenance(plan: StudyPlan, store: Store, graph: Graph, node: str, part: Path) -> dict[str, Any]:
    """The nodes the weights come from, with the keys and inputs of each, and the proof of the attention."""
    made = [node]
    while (parent := graph[made[0]].parent) is not None:
        made.insert(0, parent)
    stored = json.loads((store.results / node / "model" / "provenance.json").read_text(encoding="utf-8"))
    kept = ("key", "config_key", "code_key", "inputs", "made", "read", "seconds", "environment")
    nodes = {name: {key: value for key, value in (store.record(name) or {}).items() if key in kept} for name in made}
    return {
        "study": plan.name,
        "nodes": nodes,
        "adapter": hash_file(part / ADAPTER / WEIGHTS),
        "contract": stored.get("contract"),
    }
