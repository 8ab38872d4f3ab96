"""A whole tiny study, and what of it runs again after an interruption or a change."""

import itertools
import json
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffembed.backbones.registry import MODELS
from diffembed.embedding.embedder import Embedder
from diffembed.errors import CheckpointError, ConfigError, InputError, UnknownNameError
from diffembed.evaluation.results import load_result
from diffembed.provenance import hash_file
from diffembed.study import execute as execute_module
from diffembed.study import run as run_module
from diffembed.study import store as store_module
from diffembed.study.graph import make_graph
from diffembed.study.inputs import hash_inputs, say_missing
from diffembed.study.run import chosen_rates, node_rows, run_study
from diffembed.study.store import Store


def names(plan, store, state):
    return {name for name, found in store.states(make_graph(plan)).items() if found.name == state}


def test_the_whole_graph_is_computed_and_kept(whole, data, monkeypatch):
    plan, store = whole
    graph = make_graph(plan)
    assert names(plan, store, "done") == set(graph) and len(graph) == 9
    record = store.record("train-diffusion-s0")
    assert record["parent_key"] == store.record("adapt-diffusion")["key"]
    # The model loads from the results alone: its first adapter is a link to the adaptation's.
    folder = store.results / "train-diffusion-s0" / "model"
    assert (folder / "adapter-0").is_symlink() and not (folder / "adapter-1").is_symlink()
    embedder = Embedder.load(str(folder))
    assert (embedder.attention, embedder.pooling, len(embedder.adapter_folders)) == ("bidirectional", "mean", 2)
    assert Embedder.load(str(store.results / "train-ar-cpt-s0" / "model")).attention == "causal"
    adapters = [path for path in store.results.rglob("adapter_model.safetensors") if not path.parent.is_symlink()]
    assert len(adapters) == 5
    assert {tensor.dtype for path in adapters for tensor in load_file(path).values()} == {torch.bfloat16}
    # Rows of training end after 64 tokens, texts of a test at the plan's or the network's limit.
    node = graph["evaluate-diffusion-s0"]
    assert embedder.max_tokens == 64
    scored = execute_module._embedder(store, node, node.config)
    assert scored.max_tokens == scored.backbone.max_tokens > 64
    result = load_result(store.results / "evaluate-diffusion-s0" / "finding" / "finding")
    assert result.label == "diffusion-s0" and len(result.per_query["nDCG@10"]) == 20
    assert max(len(found) for found in result.hits["test"].values()) == 10
    kept = {path.name for path in store.results.rglob("*") if path.is_file()}
    assert not {name for name in kept if "optimizer" in name or "trainer_state" in name or name.endswith(".jsonl")} - {
        "metrics.jsonl"
    }
    # Nothing is left to compute: a second run touches no node.
    monkeypatch.setattr("diffembed.study.run.execute", lambda *_: pytest.fail("a node ran again"))
    run_study(plan, store)


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(whole, make_plan, tmp_path, monkeypatch):
    from diffembed.training import adapt

    _, finished = whole
    store, plan = Store("tiny", tmp_path / "again"), make_plan()
    before = adapt.HeldOutLoss.on_step_end

    def die(self, args, state, control, **rest):
        if state.global_step == 3:
            raise KeyboardInterrupt
        before(self, args, state, control, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(adapt.HeldOutLoss, "on_step_end", die)
        with pytest.raises(KeyboardInterrupt):
            run_study(plan, store, only=["adapt-diffusion"])
    assert store.record("adapt-diffusion") is None
    (run,) = (path for path in (store.runs / "adapt-diffusion").iterdir() if path.is_dir())
    assert (run / "checkpoints" / "checkpoint-2").is_dir() and not (run / "report.json").exists()
    assert store.seconds_so_far("adapt-diffusion") > 0
    run_study(plan, store, only=["adapt-diffusion"])
    weights = "adapt-diffusion/model/adapter-0/adapter_model.safetensors"
    assert hash_file(store.results / weights) == hash_file(finished.results / weights)


def test_a_changed_arm_or_file_makes_only_its_descendants_stale(whole, make_plan, data, monkeypatch):
    _, store = whole
    changed = make_plan(arms={"bi": {"attention": "bidirectional", "pooling": "last"}})
    assert names(changed, store, "stale") == {"train-bi-s0", "evaluate-bi-s0"}
    changed = make_plan(adaptation={"lora": {"rank": 3, "dropout": 0.0}})
    ran = {"adapt-causal", "adapt-diffusion"}
    stale = names(changed, store, "stale")
    assert stale == ran | {f"{kind}-{arm}-s0" for kind in ("train", "evaluate") for arm in ("ar-cpt", "diffusion")}
    # The code of evaluation is newer, that of training is not.
    real = store_module.hash_code
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "hash_code", lambda *m: "new" if m[0].endswith("evaluation.run") else real(*m))
        assert {name.split("-")[0] for name in names(make_plan(), store, "stale")} == {"evaluate"}
        accepting = Store("tiny", store.results.parents[1], accepts_code=True)
        assert not names(make_plan(), accepting, "stale")
    rows = data / "rows.jsonl"
    before = rows.read_text(encoding="utf-8")
    rows.write_text(before + '{"query": "one more row", "positive": "and its text"}\n', encoding="utf-8")
    about = {row["node"]: row["about"] for row in node_rows(make_plan(), store) if row["state"] == "stale"}
    assert about["train-bi-s0"] == f"{rows} changed"
    assert about["evaluate-bi-s0"] == "train-bi-s0 will change" and "adapt-diffusion" not in about


def test_when_a_run_saves_and_what_a_curve_keeps_change_no_result(whole, make_plan):
    _, store = whole
    curve = make_plan(curve={"arm": "diffusion", "at_steps": [2]})
    assert set(make_graph(curve)) - names(curve, store, "done") == {"train-diffusion@2", "evaluate-diffusion@2"}
    plan = make_plan(adaptation={"save_every_steps": 2, "measure_every_steps": 9}, fine_tuning={"save_every_steps": 2})
    assert names(plan, store, "done") == set(make_graph(plan))


def test_a_changed_arm_runs_again_with_what_depends_on_it(whole, make_plan, tmp_path):
    _, done = whole
    shutil.copytree(done.results.parents[1], tmp_path / "copy", symlinks=True)
    store = Store("tiny", tmp_path / "copy")
    plan = make_plan(arms={"bi": {"attention": "bidirectional", "pooling": "last"}})
    before = {name: store.record(name)["key"] for name in make_graph(plan)}
    run_study(plan, store)
    assert {name for name in before if store.record(name)["key"] != before[name]} == {"train-bi-s0", "evaluate-bi-s0"}


def test_only_one_process_works_on_a_node(make_plan, store):
    plan = make_plan()
    with store.lock("adapt-diffusion") as is_ours:
        assert is_ours
        with Store("tiny", store.results.parents[1]).lock("adapt-diffusion") as other:
            assert not other
        assert names(plan, store, "running") == {"adapt-diffusion"}
    assert names(plan, store, "running") == set()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "data/nope.jsonl",
            r"train-\S+ reads data/nope.jsonl, which is not here .*set DIFFEMBED_DATA, or mend",
        ),
        ("${NOT_SET_ANYWHERE}/rows.jsonl", r"train-\S+ cannot be computed: .*NOT_SET_ANYWHERE, which is not set"),
    ],
)
def test_data_that_is_missing_is_named(make_plan, store, path, said):
    sources = [{"kind": "rows", "path": path, "name": "rows"}]
    with pytest.raises(InputError, match=said):
        run_study(make_plan(fine_tuning={"data": {"sources": sources}}), store)


def test_rows_may_be_named_by_a_variable(make_plan, data, monkeypatch):
    monkeypatch.setenv("SOME_FOLDER", str(data))
    sources = [{"kind": "rows", "path": "${SOME_FOLDER}/rows.jsonl", "name": "rows"}]
    named, plain = make_plan(fine_tuning={"data": {"sources": sources}}), make_plan()
    found = hash_inputs(make_graph(named)["train-bi-s0"])
    assert found["${SOME_FOLDER}/rows.jsonl"] == hash_inputs(make_graph(plain)["train-bi-s0"])[str(data / "rows.jsonl")]


def test_a_corpus_that_a_task_points_to_is_read_too(make_plan):
    task = Path("data/finding")
    before = hash_inputs(make_graph(make_plan())["evaluate-bm25"])
    Path("elsewhere").mkdir()
    (task / "corpus.jsonl").rename("elsewhere/corpus.jsonl")
    (task / "CORPUS").write_text("corpus = ../../elsewhere/corpus.jsonl\n", encoding="utf-8")
    pointed = hash_inputs(make_graph(make_plan())["evaluate-bm25"])
    assert pointed.keys() - before.keys() == {"data/finding/corpus"}
    with Path("elsewhere/corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"_id": "more", "text": "Another document."}) + "\n")
    changed = hash_inputs(make_graph(make_plan())["evaluate-bm25"])
    assert {name for name in changed if changed[name] != pointed[name]} == {"data/finding/corpus"}


def test_what_a_node_needs_comes_first(make_plan, store):
    plan = make_plan()
    with pytest.raises(ConfigError, match=r"train-diffusion-s0 needs adapt-diffusion \(ready\)"):
        run_study(plan, store, only=["train-diffusion-s0"])
    with pytest.raises(UnknownNameError, match="did you mean 'adapt-diffusion'"):
        run_study(plan, store, only=["adapt-difusion"])
    run_study(plan, store, max_minutes=0)
    assert names(plan, store, "done") == set()


def test_minutes_end_a_node_and_the_next_run_takes_it_up(make_plan, store, monkeypatch):
    plan, begun, said = make_plan(), [], []

    def long(store, graph, node, notify):
        begun.append(node.name)
        signal.raise_signal(signal.SIGALRM)
        pytest.fail("the alarm did not end the node")

    monkeypatch.setattr("diffembed.study.run.execute", long)
    monkeypatch.setattr("diffembed.study.run.require_clean", lambda *_: None)
    monkeypatch.setattr("diffembed.study.run.keep_costs", lambda *_: None)
    for _ in range(2):
        states = run_study(plan, store, max_minutes=1e3, notify=said.append)
        assert states["adapt-causal"].name == "ready"
    assert begun == ["adapt-causal"] * 2
    assert said == ["adapt-causal begins", "1000 minutes are over; the same command goes on from here"] * 2


def test_the_alarm_is_set_to_the_minutes_left_and_taken_back():
    with run_module._limited(time.monotonic() + 1e3):
        assert 990 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1e3
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_session_that_dies_has_counted_its_time(store, monkeypatch):
    monkeypatch.setattr(execute_module, "CLOCK_S", 0.001)
    written, write = threading.Event(), execute_module._Clock._write
    monkeypatch.setattr(execute_module._Clock, "_write", lambda clock: (write(clock), written.set()))
    monkeypatch.setattr(execute_module._Clock, "seconds", 90.0)
    with execute_module._Clock(store.runs / "adapt-causal" / "key"):
        assert written.wait(60) and store.seconds_so_far("adapt-causal") == 90.0


def test_the_time_of_sessions_adds_up(store, monkeypatch):
    (store.runs / "adapt-causal").mkdir(parents=True)
    (store.runs / "adapt-causal" / "key.seconds").write_text("90.0")
    with execute_module._Clock(store.runs / "adapt-causal" / "key") as clock:
        assert 90 <= clock.seconds < 1000
    assert 90 <= store.seconds_so_far("adapt-causal") < 1000


def test_weights_that_are_not_those_of_the_record_are_not_used(whole, data, tmp_path):
    plan, done = whole
    shutil.copytree(done.results.parents[1], tmp_path / "copy", symlinks=True)
    store = Store("tiny", tmp_path / "copy")
    (path,) = (store.results / "train-bi-s0").rglob("*.safetensors")
    save_file({name: 3 * tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    shutil.rmtree(store.results / "evaluate-bi-s0")
    with pytest.raises(CheckpointError, match=r"weights in .*train-bi-s0.model are not those that node.json"):
        run_study(plan, store, only=["evaluate-bi-s0"])


def test_another_network_below_makes_everything_stale(whole, make_plan, data, monkeypatch):
    _, store = whole
    plan = make_plan()
    monkeypatch.setitem(MODELS, "tiny-gemma3", replace(MODELS["tiny-gemma3"], sha256="f" * 64))
    about = {row["node"]: row["about"] for row in node_rows(plan, store) if row["state"] == "stale"}
    assert about["adapt-diffusion"] == about["train-bi-s0"] == "tiny-gemma3 changed"
    assert set(make_graph(plan)) - set(about) == {"evaluate-bm25"}


def test_a_folder_below_is_named_by_what_it_holds(make_plan, tmp_path):
    folder = tmp_path / "network"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    node = make_graph(make_plan(backbone=str(folder)))["train-bi-s0"]
    first = hash_inputs(node)[str(folder)]
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}" + b"weights")
    assert hash_inputs(node)[str(folder)] != first
    shutil.rmtree(folder)
    assert hash_inputs(node) is None
    assert say_missing([node]).startswith(f"train-bi-s0 reads {folder}, which is not here")
    folder.mkdir()
    (folder / "embedder.json").write_text("{}", encoding="utf-8")
    assert hash_inputs(node)[str(folder)] != first


def test_both_parts_of_a_published_pair_are_inputs(make_plan, tmp_path):
    for name in ("base", "adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(name), encoding="utf-8")
    system = f"llm2vec@{tmp_path}/base+{tmp_path}/adapter"
    graph = make_graph(make_plan(evaluation={"baselines": ["bm25", system]}))
    found = hash_inputs(next(node for node in graph.values() if node.arm == system))
    assert {f"{tmp_path}/base", f"{tmp_path}/adapter"} <= set(found)


def test_contamination_is_asked_before_what_was_trained_is_scored(whole, data, tmp_path, monkeypatch):
    plan, done = whole
    shutil.copytree(done.results.parents[1], tmp_path / "copy", symlinks=True)
    store = Store("tiny", tmp_path / "copy")
    asked = []
    monkeypatch.setattr("diffembed.study.run.require_clean", lambda *_: asked.append(1))
    for name in ("evaluate-bm25", "evaluate-bi-s0"):
        shutil.rmtree(store.results / name)
        run_study(plan, store, only=[name])
        assert bool(asked) == (name == "evaluate-bi-s0")


def test_where_nothing_is_left_to_compute_another_comparison_is_still_made(whole, data, tmp_path, monkeypatch):
    plan, done = whole
    shutil.copytree(done.results.parents[1], tmp_path / "copy", symlinks=True)
    store, asked = Store("tiny", tmp_path / "copy"), []
    monkeypatch.setattr("diffembed.study.run.require_clean", lambda *_: asked.append(1))
    run_study(plan, store)
    assert not asked
    path = store.results / "contamination.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    query = {"kind": "query", "task": "t", "test_id": "q", "place": "rows/1", "cover": 1.0, "is_allowed": False}
    path.write_text(json.dumps({**found, "findings": [query]}), encoding="utf-8")
    for _ in range(2):
        with pytest.raises(InputError, match="training has seen what is tested: query q of t in rows/1"):
            run_study(plan, store)
    path.unlink()
    run_study(plan, store)
    assert asked == [1]


def test_a_node_whose_weights_are_not_here_waits_and_the_others_run(whole, data, tmp_path):
    """A clone has the results of an arm and not its weights; a curve asks for states that were not kept."""
    plan, done = whole
    shutil.copytree(done.results.parents[1], tmp_path / "copy", symlinks=True)
    store = Store("tiny", tmp_path / "copy")
    for name in ("evaluate-bi-s0", "evaluate-ar-cpt-s0"):
        shutil.rmtree(store.results / name)
    (weights,) = (store.results / "train-bi-s0").rglob("*.safetensors")
    weights.unlink()
    states = run_study(plan, store)
    assert states["evaluate-ar-cpt-s0"].name == "done" and states["train-bi-s0"].name == "done"
    assert states["evaluate-bi-s0"].about == "the weights of train-bi-s0 are not here"
    with pytest.raises(CheckpointError, match=r"remove .*train-bi-s0 to have it run again"):
        run_study(plan, store, only=["evaluate-bi-s0"])


def test_curve_direction_and_adapted_models_are_computed_and_reported(whole, make_plan, data, tmp_path):
    from diffembed.study.report import write_study

    _, done = whole
    shutil.copytree(done.results, tmp_path / "copy" / "results" / "tiny", symlinks=True)
    store, finding = Store("tiny", tmp_path / "copy"), str(data / "finding")
    plan = make_plan(
        evaluation={"adapted_only": True},
        curve={"arm": "diffusion", "at_steps": [2]},
        direction={"arms": ["diffusion", "ar-cpt"], "suites": {finding: []}},
    )
    # The state at step 2 was not kept, so the adaptation goes through once more.
    shutil.rmtree(store.results / "adapt-diffusion")
    states = run_study(plan, store)
    assert {state.name for state in states.values()} == {"done"} and len(states) == 15
    rows = {name: store.directions_of(f"direction-{name}") for name in ("diffusion", "ar-cpt")}
    assert [row["variant"] for row in rows["diffusion"]] == ["as trained", "causal", "anticausal"]
    scores = {
        name: store.results_of(f"evaluate-{name}")["finding"].per_query["nDCG@10"]
        for name in ("adapted-diffusion", "diffusion@2", "diffusion-s0")
    }
    assert len({json.dumps(found) for found in scores.values()}) == 3
    page = tmp_path / "study.md"
    write_study(plan, store, page=page, html=tmp_path / "study.html", command="report")
    text = page.read_text(encoding="utf-8")
    for heading in ("Attention changed at test time", "Score against tokens of adaptation"):
        assert f"\n## {heading}\n" in text
    assert "| adapted-diffusion | 1 |" in text and "| 512 |" in text and "**Not finished" not in text


def test_the_learning_rate_with_the_best_development_score_is_taken(make_plan, monkeypatch):
    rates = {"values": [1e-3, 1e-2, 1e-1], "probes": {"causal": "ar-cpt", "bidirectional": "bi"}, "suites": {"dev": []}}
    plan = make_plan(learning_rates=rates, fine_tuning={"optimiser": {"warmup_steps": 1}})
    scores = {"causal-0.001": 0.2, "causal-0.01": 0.4, "causal-0.1": 0.4,
              "bidirectional-0.001": 0.9, "bidirectional-0.01": 0.1, "bidirectional-0.1": 0.3}  # fmt: skip

    class Stored(Store):
        def is_current(self, graph, name):
            return name.removeprefix("evaluate-rate-") in scores

        def results_of(self, name):
            return {"task": SimpleNamespace(value=scores[name.removeprefix("evaluate-rate-")])}

    assert chosen_rates(plan, Stored("tiny")) == {"causal": 1e-2, "bidirectional": 1e-3}
    graph = make_graph(plan, chosen_rates(plan, Stored("tiny")))
    assert graph["train-ar-cpt-s0"].config.optimiser.learning_rate == 1e-2
    assert graph["train-diffusion-s0"].config.optimiser.learning_rate == 1e-3
    del scores["causal-0.1"]
    assert set(chosen_rates(plan, Stored("tiny"))) == {"bidirectional"}


def test_learning_rates_are_tried_and_the_arms_wait_for_them(make_plan, store, data):
    """Two values in one attention, for real: a probe is trained and scored like an arm."""
    shutil.copytree(data / "finding", data / "dev" / "finding")
    rates = {"values": [1e-3, 5e-3], "probes": {"bidirectional": "bi"}, "suites": {str(data / "dev" / "finding"): []}}
    plan = make_plan(
        learning_rates=rates,
        adaptation=None,
        fine_tuning={"optimiser": {"warmup_steps": 1}, "num_steps": 1},
        arms={"diffusion": None, "ar-cpt": None, "bi": {"attention": "bidirectional"}, "last": {
            "attention": "bidirectional", "pooling": "last", "control": "bi", "differs_in": ["pooling"]}},
        primary={"subject": "last", "controls": ["bi"]},
    )  # fmt: skip
    assert names(plan, store, "waiting") == {
        f"{kind}{name}" for kind, name in itertools.product(("train-", "evaluate-"), ("bi-s0", "last-s0"))
    } | {f"evaluate-rate-bidirectional-{value}" for value in ("0.001", "0.005")}
    run_study(plan, store, only=[name for name in make_graph(plan) if "-rate-" in name])
    found = store.results_of("evaluate-rate-bidirectional-0.005")["finding"]
    assert found.label == "evaluate-rate-bidirectional-0.005"
    assert chosen_rates(plan, store)["bidirectional"] in (1e-3, 5e-3)
    assert {"train-bi-s0", "train-last-s0"} <= names(plan, store, "ready")


def test_contamination_stops_a_study_before_any_compute(make_plan, store, data, monkeypatch):
    monkeypatch.setattr("diffembed.study.run.execute", lambda *_: pytest.fail("computed all the same"))
    query = json.loads((data / "finding" / "queries.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
    with (data / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"query": query.upper() + "!", "positive": "something", "negatives": ["else"]}) + "\n")
    with pytest.raises(InputError, match="training has seen what is tested: query q0 of finding in rows/"):
        run_study(make_plan(), store)
