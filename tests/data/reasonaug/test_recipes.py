"""The recipes are what the documentation says they are: lists and configs that load and run."""

from pathlib import Path
from typing import Any

import pytest

from diffembed.data.reasonaug.concepts import load_concepts
from diffembed.data.reasonaug.config import load_config
from diffembed.data.reasonaug.pipeline import run
from diffembed.data.reasonaug.prompts import Prompts

RECIPES = Path(__file__).parents[3] / "recipes" / "reasonaug"


@pytest.mark.parametrize("name", ["run.yaml", "published.yaml"])
def test_the_configs_load(name: str) -> None:
    assert load_config(RECIPES / name).seed == 0


def test_the_list_for_a_new_field_is_complete() -> None:
    listed = load_concepts(RECIPES / "law.yaml")
    assert listed.dropped == ()
    assert len(listed.concepts) == 16
    assert sum(bool(concept.definition) for concept in listed.concepts) == 1
    for domain in listed.domains.values():
        assert Prompts.load().profile(domain.profile)
        # Enough for two skipped concepts, and negatives of several others.
        assert sum(concept.domain == domain.name for concept in listed.concepts) >= 5


def test_the_worked_example_runs(server: Any, tmp_path: Path) -> None:
    text = (RECIPES / "run.yaml").read_text(encoding="utf-8").replace("http://127.0.0.1:8000/v1", server.base_url)
    text = text.replace("rounds: 4", "rounds: 2")
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "law.yaml").write_bytes((RECIPES / "law.yaml").read_bytes())
    outcome = run(load_config(tmp_path / "run.yaml"), tmp_path / "out")
    total = outcome.report["yield"][-1]
    assert total["concepts"] == total["concepts_with_pairs"] == 16
    # Fifteen definitions to ask for, one given; two problems, each checked twice.
    assert len(server.requests) == 15 + 3 * 32
    assert "rows with fewer top concepts skipped, for want of others" not in outcome.report["notes"]
