"""What is published of the study follows from the stored results: its page, and the cards of the shipped models."""

import json
from pathlib import Path

import pytest

from diffembed.embedding.checkpoint import SHIPPED, load_config
from diffembed.embedding.lora import ADAPTER, WEIGHTS, read_config
from diffembed.provenance import hash_file
from diffembed.study.graph import make_graph, shipped_node
from diffembed.study.plan import load_plan
from diffembed.study.report import write_study
from diffembed.study.run import chosen_rates
from diffembed.study.ship_card import Facts, make_card
from diffembed.study.store import Store

ROOT = Path(__file__).parents[2]
PLAN = "recipes/study/gemma-3-270m-small.yaml"

pytestmark = pytest.mark.slow


@pytest.fixture
def study(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = load_plan(PLAN)
    return plan, Store(plan.name, ROOT)


def test_the_page_is_made_of_the_stored_results(study, tmp_path):
    plan, store = study
    page = tmp_path / "study.md"
    write_study(plan, store, page=page, html=tmp_path / "study.html", command=f"diffembed study report {PLAN}")
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "study.md").read_text(encoding="utf-8")


def test_cards_and_adapters_are_those_of_the_stored_results(study):
    plan, store = study
    graph = make_graph(plan, chosen_rates(plan, store))
    for name in plan.shipped.models:
        folder, node = SHIPPED / name, shipped_node(plan, name)
        rank = int(read_config(folder / ADAPTER)["r"])
        card, _ = make_card(plan, store, graph, Facts(name=name, node=node, config=load_config(folder), rank=rank))
        assert (folder / "README.md").read_text(encoding="utf-8") == card
        provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        assert provenance["adapter"] == hash_file(folder / ADAPTER / WEIGHTS)
        assert provenance["nodes"][node]["key"] == store.record(node)["key"]
