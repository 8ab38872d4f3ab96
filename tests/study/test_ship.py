"""Models for users: one adapter that does what the study's model does, under a name, with a card."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffembed.backbones.loading import load_backbone
from diffembed.backbones.registry import MODELS, ModelSpec
from diffembed.backbones.shapes import native_config
from diffembed.cli import main
from diffembed.embedding import checkpoint
from diffembed.embedding.embedder import Embedder
from diffembed.embedding.lora import WEIGHTS, read_config
from diffembed.errors import CheckpointError, ConfigError, DiffEmbedError, InputError
from diffembed.study import ship as ship_module
from diffembed.study.contamination import require_clean
from diffembed.study.findings import find
from diffembed.study.graph import ancestors, config_key, make_graph
from diffembed.study.plan import load_plan
from diffembed.study.run import run_study
from diffembed.study.sections import LearningRatePlan, ShippedPlan
from diffembed.study.ship import ship
from diffembed.study.store import Store
from diffembed.training.shapes import shape_of

LICENCES = {"rows": "CC0-1.0", "text": "public domain"}
TEXTS = ["model text r3 question", "vector " * 5]


@pytest.fixture
def copied(whole, data, tmp_path):
    """(plan, store) of the finished study, which ships two models."""
    plan, store = whole
    shutil.copytree(store.results, tmp_path / "results" / "tiny", symlinks=True)
    models = {"tiny-diffusion": "diffusion", "tiny-ar": "ar-cpt"}
    shipped = ShippedPlan(models=models, licences=LICENCES, notice="Pass this on.", limits=("Knows twelve words.",))
    return replace(plan, shipped=shipped), Store("tiny", tmp_path)


def vectors(embedder):
    return embedder.encode(TEXTS, kind="query", instruction="find the text")[0]


def test_a_shipped_model_is_the_arm_it_comes_from(copied, tmp_path):
    plan, store = copied
    shipped = ship(plan, store, tmp_path / "shipped")
    assert [(one.name, one.node, one.rank, one.num_scores) for one in shipped] == [
        ("tiny-diffusion", "train-diffusion-s0", 4, 2),
        ("tiny-ar", "train-ar-cpt-s0", 4, 2),
    ]
    for one in shipped:
        arm = Embedder.load(str(store.results / one.node / "model"), dtype="float32")
        user = Embedder.load(str(one.folder), dtype="float32")
        assert len(user.adapter_folders) == 1 and len(arm.adapter_folders) == 2
        assert (user.name, user.attention, user.pooling) == (one.name, arm.attention, arm.pooling)
        assert user.max_tokens == user.backbone.max_tokens > arm.max_tokens
        np.testing.assert_allclose(vectors(user), vectors(arm), atol=1e-6)
        # Whoever may read the settings may read the weights, which are written for their owner alone.
        files = [path for path in one.folder.rglob("*") if path.is_file()]
        assert len({path.stat().st_mode for path in files}) == 1 and len(files) == 6
    assert Embedder.load(str(shipped[1].folder)).attention == "causal"
    # A second time replaces what is there, and leaves nothing else behind.
    ship(plan, store, tmp_path / "shipped")
    assert sorted(path.name for path in (tmp_path / "shipped").iterdir()) == ["tiny-ar", "tiny-diffusion"]


def test_the_card_says_what_the_results_say(copied, tmp_path):
    plan, store = copied
    ship(plan, store, tmp_path / "shipped")
    folder = tmp_path / "shipped" / "tiny-diffusion"
    card = (folder / "README.md").read_text(encoding="utf-8")
    result = store.results_of("evaluate-diffusion-s0")["finding"]
    bm25 = store.results_of("evaluate-bm25")["finding"]
    interval = result.scores["nDCG@10"]
    assert "| task | measure | cut | tiny-diffusion | tiny-ar | bm25 |" in card
    row = next(line for line in card.splitlines() if line.startswith("| finding"))
    assert f"{100 * interval.value:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})" in row
    assert f"{100 * bm25.value:.1f}" in row
    assert ("Scores below bm25 on finding." in card) == (bm25.value > result.value)
    limit = f"{result.documents.max_tokens:,}"
    assert f"Tokens at which texts are cut: tiny-diffusion {limit}; tiny-ar {limit}; bm25 none.\n" in card
    assert "gold documents" not in card
    assert "- Knows twelve words.\n- Fine-tuned on texts of at most 64 tokens" in card
    assert (folder / "NOTICE").read_text(encoding="utf-8") == "Pass this on.\n"
    assert "masked diffusion" in card and "| rows | - | CC0-1.0 |" in card and "| text | public domain |" in card
    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    assert list(provenance["nodes"]) == ["adapt-diffusion", "train-diffusion-s0"]
    assert provenance["nodes"]["train-diffusion-s0"]["key"] == store.record("train-diffusion-s0")["key"]
    assert provenance["contract"]["attention"] == "bidirectional"
    assert not [path for path in folder.rglob("*.*") if str(tmp_path).encode() in path.read_bytes()]


def test_a_plan_that_cannot_ship_is_refused_and_older_models_stay(copied, tmp_path, monkeypatch):
    plan, store = copied
    ship(plan, store, tmp_path / "shipped")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shipped").rglob("*")}
    with pytest.raises(ConfigError, match="ships nothing"):
        ship(replace(plan, shipped=None), store, tmp_path / "shipped")
    for licences, sentence in (
        ({"rows": "CC0-1.0"}, "says nothing of text"),
        ({**LICENCES, "other": "MIT"}, "names other, which no training reads"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            ship(replace(plan, shipped=replace(plan.shipped, licences=licences)), store, tmp_path / "shipped")
    with monkeypatch.context() as patch:
        patch.setattr(ship_module, "LARGEST_BYTES", 1000)
        with pytest.raises(CheckpointError, match=r"bytes, more than 1,000; lower lora\.rank"):
            ship(plan, store, tmp_path / "shipped")
    adapter = store.results / "train-ar-cpt-s0" / "model" / "adapter-1" / WEIGHTS
    adapter.write_bytes((store.results / "train-bi-s0" / "model" / "adapter-0" / WEIGHTS).read_bytes())
    with pytest.raises(CheckpointError, match=r"train-ar-cpt-s0.model are not those that node\.json"):
        ship(plan, store, tmp_path / "shipped")
    adapter.unlink()
    with pytest.raises(CheckpointError, match=r"the weights of train-ar-cpt-s0 are not in"):
        ship(plan, store, tmp_path / "shipped")
    shutil.rmtree(store.results / "train-ar-cpt-s0")
    with pytest.raises(CheckpointError, match="tiny-ar comes from train-ar-cpt-s0, which has no result"):
        ship(plan, store, tmp_path / "shipped")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shipped").rglob("*")} == before


def test_what_was_not_compared_or_has_seen_its_tests_is_not_shipped(copied, data, tmp_path):
    plan, store = copied
    path = store.results / "contamination.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**stored, "plan_key": "of another plan"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"contamination\.json is of another plan.*diffembed study run PLAN"):
        ship(plan, store, tmp_path / "shipped")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"contamination\.json is damaged"):
        ship(plan, store, tmp_path / "shipped")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"contamination\.json is missing.*diffembed study run PLAN"):
        ship(plan, store, tmp_path / "shipped")
    require_clean(plan, store, print)
    assert len(ship(plan, store, tmp_path / "shipped")) == 2
    query = json.loads((data / "finding" / "queries.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
    with (data / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"query": query, "positive": "something", "negatives": ["else"]}) + "\n")
    with pytest.raises(InputError, match="query q0 of finding in rows/"):
        require_clean(plan, store, print)
    with pytest.raises(InputError, match="training has seen what is tested: query q0 of finding in rows/"):
        ship(plan, store, tmp_path / "shipped")


def test_the_card_counts_shared_documents_and_nothing_else(copied, tmp_path):
    plan, store = copied
    path = store.results / "contamination.json"
    finding = {"kind": "gold document", "task": "finding", "place": "rows/r1", "cover": 1.0, "is_allowed": True}
    findings = [
        {**finding, "test_id": "d1"},
        {**finding, "test_id": "d2"},
        {**finding, "test_id": "q", "kind": "query"},
    ]
    stored = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**stored, "findings": findings}), encoding="utf-8")
    (shipped, _) = ship(plan, store, tmp_path / "shipped")
    card = (shipped.folder / "README.md").read_text(encoding="utf-8")
    assert "- 2 gold documents of finding stand in the study's training data too, without their queries.\n" in card


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ({"..": "bi"}, "must be a word of small letters"),
        ({"bi": "bi"}, "bi is an arm, a run or a baseline"),
        ({"bi-s0": "bi"}, "bi-s0 is an arm, a run or a baseline"),
        ({"bm25": "bi"}, "bm25 is an arm, a run or a baseline"),
        ({"adapted-bi": "bi"}, "would be taken for another node"),
        ({"all-minilm-l6-v2": "bi"}, "is the name of other weights"),
        ({"small": "bee"}, r"shipped\.models: no arm 'bee'"),
    ],
)
def test_a_name_that_is_taken_is_refused(make_plan, models, sentence):
    with pytest.raises(DiffEmbedError, match=sentence):
        make_plan(shipped={"models": models, "licences": LICENCES, "notice": ""})


def test_baselines_of_shipped_models_are_baselines_of_the_study(make_plan):
    further = [{"num_steps": 1}]
    shipped = {"models": {"small": "bi"}, "licences": LICENCES, "notice": "", "further": further}
    with pytest.raises(ConfigError, match="baselines have no effect without suites"):
        make_plan(shipped={**shipped, "baselines": ["bm25"]})
    with pytest.raises(DiffEmbedError, match=r"shipped\.baselines: no baseline of evaluation 'bm2'"):
        make_plan(shipped={**shipped, "suites": {"data/pairs": []}, "baselines": ["bm2"]})
    with pytest.raises(ConfigError, match="baselines names one twice"):
        make_plan(shipped={**shipped, "suites": {"data/pairs": []}, "baselines": ["bm25", "bm25"]})
    plan = make_plan(shipped={**shipped, "suites": {"data/pairs": []}, "baselines": ["bm25"]})
    with pytest.raises(ConfigError, match="evaluation scores every task of shipped"):
        make_graph(plan)


def test_baselines_are_scored_on_what_the_study_does_not_score():
    plan = load_plan(Path(__file__).parents[2] / "recipes" / "study" / "gemma-3-270m-small.yaml")
    config = make_graph(plan)["evaluate-bm25-beyond"].config
    assert set(config.suites) == {"reasoning", "passkey", "needle", "general", "long"}
    assert (config.max_tokens, config.dtype, config.system) == (8192, "float32", "bm25")
    suites = {"reasoning": ("reasonaug_eval_p2i", "theoremqa_q2q"), "general": ("stsb_test", "scifact"), "screen": ()}
    wider = replace(plan.evaluation, suites={"general": (), "screen": ("theoremqa_q2q", "passkey-256")})
    plan = replace(plan, evaluation=wider, shipped=replace(plan.shipped, suites=suites))
    beyond = make_graph(plan)["evaluate-bm25-beyond"].config.suites
    assert beyond["reasoning"] == ("reasonaug_eval_p2i",) and "general" not in beyond
    assert {"passkey-512", "needle-256"} < set(beyond["screen"]) and "passkey-256" not in beyond["screen"]


@pytest.mark.parametrize("setting", [{"dtype": "bfloat16"}, {"max_tokens": 9}, {"suites": {"data/finding": []}}])
def test_scores_of_its_own_need_training_of_its_own(make_plan, setting):
    with pytest.raises(ConfigError, match="no effect without a stage in further"):
        make_plan(shipped={"models": {"small": "bi"}, "licences": LICENCES, "notice": "", **setting})


def test_the_plan_of_this_package_names_every_licence():
    plan = load_plan(Path(__file__).parents[2] / "recipes" / "study" / "gemma-3-270m-small.yaml")
    ship_module._require_licences(plan, plan.shipped)
    assert "Gemma Terms of Use" in plan.shipped.notice


def test_a_model_is_trained_on_before_it_is_shipped(copied, values, tmp_path, capsys):
    plan, store = copied
    values = values | {
        "shipped": {
            "models": {"tiny-diffusion": "diffusion"},
            "licences": {**LICENCES, "more": "MIT"},
            "notice": "Pass this on.",
            "further": [
                {"num_steps": 1},
                {
                    "num_steps": 2,
                    "data": {
                        "sources": [{"kind": "rows", "path": "data/more.jsonl", "name": "more"}],
                        "mix": {"weights": {"more": 1}},
                    },
                    "batch": {"rows": 8, "query_max_tokens": 40, "document_max_tokens": 96},
                    "dtype": "bfloat16",
                },
            ],
            "suites": {"data/finding": [], "data/pairs": [], "data/other": []},
            "baselines": ["bm25"],
            "max_tokens": 50,
            "dtype": "bfloat16",
        }
    }
    shutil.copy("data/rows.jsonl", "data/more.jsonl")
    shutil.copytree("data/finding", "data/other")
    Path("plan.yaml").write_text(json.dumps(values), encoding="utf-8")
    plan = load_plan("plan.yaml")
    scored = {f"evaluate-tiny-diffusion-{suite}" for suite in ("finding", "pairs", "other")} | {"evaluate-bm25-beyond"}
    new = set(make_graph(plan)) - set(make_graph(replace(plan, shipped=None)))
    assert new == {"train-tiny-diffusion", "train-tiny-diffusion-2"} | scored
    before = {path: path.stat().st_mtime_ns for path in store.results.glob("*/node.json")}
    run_study(plan, store)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert set(store.results_of("evaluate-tiny-diffusion-finding")) == {"finding"}
    assert make_graph(plan)["evaluate-tiny-diffusion-pairs"].config.max_tokens == 50
    # The comparison knows nothing of it: its steps and rows are not those of the arms.
    found = find(plan, store)
    assert set(found.systems) == {"ar-cpt", "diffusion", "bi", "bm25"}
    assert [set(seed) for seed in found.systems["bm25"]] == [{"finding"}] and set(found.scores["bm25"]) == {"reasoning"}
    assert set(store.results_of("evaluate-bm25-beyond")) == {"other"}
    assert main(["study", "ship", "plan.yaml", "--out", "shipped"]) == 0
    assert capsys.readouterr().out.startswith("shipped/tiny-diffusion: from train-tiny-diffusion-2, rank 8, ")
    card = (tmp_path / "shipped" / "tiny-diffusion" / "README.md").read_text(encoding="utf-8")
    assert "scored in bfloat16. Tokens at which texts are cut: tiny-diffusion 50; bm25 none." in card
    bm25 = f"{100 * store.results_of('evaluate-bm25-beyond')['other'].value:.1f}"
    shown = [line for line in card.splitlines() if line.startswith(("| finding", "| other"))]
    assert len(shown) == 2 and all(line.endswith(f"| {bm25} |") for line in shown)
    assert "then 1 of 8, then 2 of 8, read to 96 tokens" in card and "texts of at most 96 tokens" in card
    assert "| rows | share of stages 1 and 2 | share of stage 3 | licence |" in card
    assert "| rows | - | - | CC0-1.0 |\n| more | - | 100 % | MIT |" in card
    (shipped,) = ship(plan, store, tmp_path / "shipped")
    assert (shipped.node, shipped.rank, shipped.num_scores) == ("train-tiny-diffusion-2", 8, 3)
    user = Embedder.load(str(shipped.folder), dtype="float32")
    longer = Embedder.load(str(store.results / "train-tiny-diffusion-2" / "model"), dtype="float32")
    arm = Embedder.load(str(store.results / "train-diffusion-s0" / "model"), dtype="float32")
    np.testing.assert_allclose(vectors(user), vectors(longer), atol=1e-6)
    assert np.abs(vectors(longer) - vectors(arm)).max() > 1e-4


def test_adapters_are_joined_before_a_stage_so_that_ranks_do_not_grow(copied, values, tmp_path):
    plan, store = copied
    values = values | {
        "shipped": {
            "models": {"tiny-diffusion": "diffusion"},
            "licences": LICENCES,
            "notice": "Pass this on.",
            "further": [{"num_steps": 1, "joined_rank": 3}],
        }
    }
    Path("plan.yaml").write_text(json.dumps(values), encoding="utf-8")
    plan = load_plan("plan.yaml")
    loose = replace(plan.shipped, further=(replace(plan.shipped.further[0], joined_rank=None),))
    keys = {config_key(make_graph(replace(plan, shipped=s)), "train-tiny-diffusion") for s in (plan.shipped, loose)}
    assert len(keys) == 2
    run_study(plan, store)
    model = store.results / "train-tiny-diffusion" / "model"
    assert [read_config(model / f"adapter-{n}")["r"] for n in (0, 1)] == [3, 2]
    assert not [path for path in model.iterdir() if path.is_symlink()]
    (shipped,) = ship(plan, store, tmp_path / "shipped")
    assert shipped.rank == 5
    user, longer = (Embedder.load(str(path), dtype="float32") for path in (shipped.folder, model))
    np.testing.assert_allclose(vectors(user), vectors(longer), atol=1e-6)


def test_a_shipped_model_has_a_name(copied, tmp_path, monkeypatch):
    plan, store = copied
    ship(plan, store, tmp_path / "shipped")
    spec = ModelSpec(
        name="tiny-ar", source="shipped", family="gemma3_text", base="tiny-gemma3", summary="", licence="none"
    )
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setitem(MODELS, "tiny-ar", spec)
    embedder = Embedder.load("tiny-ar", dtype="float32")
    assert (embedder.name, embedder.attention) == ("tiny-ar", "causal")
    embedder.save(tmp_path / "saved")
    np.testing.assert_array_equal(vectors(Embedder.load(str(tmp_path / "saved"), dtype="float32")), vectors(embedder))
    # Its weights without its adapter would be another model under its name.
    with pytest.raises(CheckpointError, match=r"Embedder\.load, or name the language model below it, tiny-gemma3"):
        load_backbone("tiny-ar")
    assert native_config("tiny-ar").to_dict() == native_config("tiny-gemma3").to_dict()
    assert shape_of("tiny-ar") == shape_of("tiny-gemma3")


def test_provenance_holds_what_the_weights_come_from_and_no_probe(copied, tmp_path):
    plan, store = copied
    rates = LearningRatePlan(
        values=(1e-3, 5e-3), probes={"causal": "ar-cpt", "bidirectional": "bi"}, suites={"dev-general": ("stsb_dev",)}
    )
    tuning = replace(plan.fine_tuning, optimiser=replace(plan.fine_tuning.optimiser, learning_rate=1e-4))
    graph = make_graph(replace(plan, learning_rates=rates, fine_tuning=tuning, shipped=None))
    assert [name for name in ancestors(graph, "train-diffusion-s0") if "rate" in name]
    (shipped, _) = ship(plan, store, tmp_path / "shipped")
    found = ship_module._provenance(plan, store, graph, shipped.node, shipped.folder)
    assert list(found["nodes"]) == ["adapt-diffusion", "train-diffusion-s0"]
