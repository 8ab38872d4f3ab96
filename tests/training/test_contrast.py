import errno
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffembed.data.source_config import SourceConfig
from diffembed.embedding.embedder import Embedder
from diffembed.errors import CheckpointError, ConfigError, DiffEmbedError, InputError, ResourceError
from diffembed.training import callbacks, safety
from diffembed.training.contrast import load_rows, plan_batches, train
from diffembed.training.settings import read_config

WEIGHTS = "checkpoints/checkpoint-6/trainable.safetensors"
TEXTS = ["a question", "the state of a token " * 9]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / WEIGHTS)


def stop_at(monkeypatch, step):
    """Training breaks off in the middle of a step, as a kill would; nothing is saved on the way out."""
    started = []

    def start(self):
        started.append(0)
        if len(started) == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.Throughput, "start", start)


def test_training_lowers_the_loss_and_saves_a_model_that_loads(train_config, tmp_path):
    config = train_config(run={"schedule_steps": 24, "save_every_steps": 24}, batch={"mini_batch_tokens": None})
    report = train(config)
    losses = [entry["loss"] for entry in metrics(tmp_path / "run") if "loss" in entry]
    assert len(losses) == 24 and np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert report.step == report.num_steps == 24 and report.tokens_per_s > 0
    trained = Embedder.load(str(report.model), dtype="float32")
    base = Embedder.load("tiny-gemma3", attention="bidirectional", dtype="float32")
    assert trained.attention == "bidirectional" and trained.max_tokens == 64 and trained.name == "run"
    assert np.abs(trained.encode_documents(TEXTS) - base.encode_documents(TEXTS)).max() > 1e-2
    provenance = json.loads((report.model / "provenance.json").read_text())
    assert provenance["seed"] == 42 and provenance["config"]["lora"]["rank"] == 4
    assert "training rows" in provenance["inputs"] and "torch" in provenance["environment"]["versions"]
    assert read_config(type(config), tmp_path / "run" / "config.yaml") == config


def test_saved_adapter_equals_the_trained_network_and_loads_with_peft(straight_run):
    from peft import PeftModel

    _, folder = straight_run
    merged = Embedder.load(str(folder / "model"), dtype="float32")
    expected = merged.encode_documents(TEXTS)
    unmerged = Embedder.load("tiny-gemma3", attention="bidirectional", dtype="float32")
    wrapped = PeftModel.from_pretrained(unmerged.backbone.model, str(folder / "model/adapter-0"))
    assert any("lora_B" in name and w.abs().sum() > 0 for name, w in wrapped.named_parameters())
    np.testing.assert_allclose(unmerged.encode_documents(TEXTS), expected, atol=1e-5)


def test_resume_equals_the_uninterrupted_run_bit_for_bit(train_config, straight_run, tmp_path, monkeypatch):
    """LoRA, dropout and GradCache; broken off in step 4, behind the checkpoint of step 2."""
    config = train_config("broken")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 4)
        train(config)
    assert [p.name for p in (tmp_path / "broken/checkpoints").iterdir()] == ["checkpoint-2"]
    train(config)
    resumed, expected = weights(tmp_path / "broken"), weights(straight_run[1])
    assert resumed.keys() == expected.keys() and len(expected) == 28
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    by_step = {entry["step"]: entry["loss"] for entry in metrics(straight_run[1]) if "loss" in entry}
    last = [entry for entry in metrics(tmp_path / "broken") if "loss" in entry][-1]
    assert last["loss"] == by_step[6]


def test_finished_run_is_not_repeated(straight_run):
    config, folder = straight_run
    before = (folder / "metrics.jsonl").read_text()
    report = train(config)
    assert report.step == 6 and report.model == folder / "model"
    assert (folder / "metrics.jsonl").read_text() == before


def test_folder_of_another_run_is_refused(straight_run):
    config, _ = straight_run
    with pytest.raises(CheckpointError, match="holds a run with another lora"):
        train(replace(config, lora=replace(config.lora, rank=2)))


def test_changed_rows_are_refused(train_config, rows_of, tmp_path):
    config = train_config(run={"stop_after_steps": 1})
    train(config)
    train_config(rows=rows_of(48, seed=5))
    with pytest.raises(CheckpointError, match="training rows changed since the run"):
        train(config)


def test_stop_after_keeps_the_learning_rates_of_the_longer_run(train_config, straight_run, tmp_path):
    report = train(train_config("short", run={"stop_after_steps": 3}))

    def rates(folder):
        return {e["step"]: e["learning_rate"] for e in metrics(folder) if "learning_rate" in e}

    assert report.num_steps == 3 and (tmp_path / "short/checkpoints/checkpoint-3").is_dir()
    long = rates(straight_run[1])
    assert rates(tmp_path / "short") == {step: long[step] for step in (1, 2, 3)}
    assert long[3] > long[6] > 0


def test_nan_loss_stops_with_the_rows_saved_and_the_weights_untouched(train_config, tmp_path, monkeypatch):
    from diffembed.training.packed import PackedEncoder

    config = train_config(batch={"mini_batch_tokens": None})
    calls = []
    forward = PackedEncoder.forward

    def poisoned(self, features):
        out = forward(self, features)
        calls.append(0)
        # Three columns a step: the positive of step 4.
        if len(calls) == 11:
            out["sentence_embedding"] = out["sentence_embedding"] * float("nan")
        return out

    monkeypatch.setattr(PackedEncoder, "forward", poisoned)
    with pytest.raises(DiffEmbedError, match=r"step 4: the loss is nan.*last good checkpoint is checkpoint-2"):
        train(config)
    saved = [
        json.loads(line) for line in (tmp_path / "run/checkpoints/offending_rows-4.jsonl").read_text().splitlines()
    ]
    rows = load_rows(config)
    expected = [rows.train[place].query for place in plan_batches(config, rows.train)[0].batch(3)]
    assert [row["query"] for row in saved] == expected and len(expected) == 8


def test_nan_gradient_stops_before_the_optimiser_moves(train_config, tmp_path, monkeypatch):
    """A loss may be finite and its gradient not, where a vector of length zero is normalised."""
    from diffembed.training.packed import PackedEncoder

    forward = PackedEncoder.forward

    def poisoned(self, features):
        out = forward(self, features)
        out["sentence_embedding"].register_hook(lambda gradient: gradient * float("inf"))
        return out

    monkeypatch.setattr(PackedEncoder, "forward", poisoned)
    with pytest.raises(DiffEmbedError, match=r"step 1: the gradient norm is .*last good checkpoint is the start"):
        train(train_config(batch={"mini_batch_tokens": None}))
    assert (tmp_path / "run/checkpoints/offending_rows-1.jsonl").exists()


def test_full_disk_leaves_the_last_good_checkpoint(train_config, straight_run, tmp_path, monkeypatch):
    config = train_config()
    save = torch.save

    def full(value, path, *rest, **settings):
        if "checkpoint-4" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(value, path, *rest, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(ResourceError, match="disk is full while saving checkpoint-4; checkpoint-2 is kept"):
            train(config)
    folder = tmp_path / "run/checkpoints"
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]
    train(config)
    resumed, expected = weights(tmp_path / "run"), weights(straight_run[1])
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_half_written_checkpoint_is_never_resumed_from(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / ".saving/checkpoint-6").mkdir(parents=True)
    (tmp_path / "checkpoint-old").mkdir()
    assert safety.last_checkpoint(tmp_path).name == "checkpoint-3"


def test_bad_rows_stop_the_run_before_training(train_config, rows_of, tmp_path):
    rows = rows_of(30)
    bad = [{"query": "q"}, {"query": "q", "positive": " "}, {"query": "same", "positive": "same"}]
    config = train_config(rows=rows + bad, data={"max_bad_rows": 2})
    with pytest.raises(InputError, match=r"3 of 33 rows are bad.*missing field.*max_bad_rows=2"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_tolerated_bad_rows_are_counted_in_the_run(train_config, rows_of, tmp_path):
    train(train_config(rows=[*rows_of(30), {"query": "q"}], data={"max_bad_rows": 1}, run={"stop_after_steps": 1}))
    assert metrics(tmp_path / "run")[0]["data"][0]["defects"] == {"missing field": 1}


def test_all_weights_can_be_trained_and_saved(train_config, tmp_path):
    report = train(train_config(lora=None, optimiser={"learning_rate": 1e-3}, run={"stop_after_steps": 3}))
    trained = Embedder.load(str(report.model), dtype="float32")
    assert trained.attention == "bidirectional" and (report.model / "base/model.safetensors").exists()
    base = Embedder.load("tiny-gemma3", attention="bidirectional", dtype="float32")
    assert np.abs(trained.encode_documents(TEXTS) - base.encode_documents(TEXTS)).max() > 1e-3
    moved = report.model.parent.rename(tmp_path / "moved")
    np.testing.assert_array_equal(
        Embedder.load(str(moved / "model"), dtype="float32").encode_documents(TEXTS), trained.encode_documents(TEXTS)
    )


@pytest.mark.slow
def test_adapters_stack_on_a_trained_model(train_config, straight_run):
    first = straight_run[1] / "model"
    second = train(train_config("second", model={"name": str(first)}, run={"stop_after_steps": 3}))
    stacked = Embedder.load(str(second.model), dtype="float32")
    assert [folder.name for folder in stacked.adapter_folders] == ["adapter-0", "adapter-1"]
    one, base = Embedder.load(str(first), dtype="float32"), Embedder.load("tiny-gemma3", dtype="float32")
    vectors = [embedder.encode_documents(TEXTS) for embedder in (stacked, one, base)]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3 and np.abs(vectors[1] - vectors[2]).max() > 1e-3


def test_a_run_that_died_before_its_report_makes_no_further_step(train_config, tmp_path):
    config = train_config(run={"stop_after_steps": 3})
    first = train(config)
    made = load_file(first.model / "adapter-0/adapter_model.safetensors")
    (tmp_path / "run/report.json").unlink()
    shutil.rmtree(first.model)
    again = train(config)
    assert (again.step, again.num_steps, again.loss) == (first.step, 3, first.loss)
    assert all(
        torch.equal(load_file(again.model / "adapter-0/adapter_model.safetensors")[name], made[name]) for name in made
    )


def test_texts_that_are_cut_in_training_are_counted_aloud(train_config, tmp_path):
    with pytest.warns(UserWarning, match=r"\d+ of the 144 texts that process 0 read were longer"):
        train(train_config(batch={"document_max_tokens": 12}))
    (counted,) = [entry for entry in metrics(tmp_path / "run") if "num_cut" in entry]
    assert counted["num_texts"] == 144 and counted["num_cut"] > 8


@pytest.mark.parametrize(
    "optimiser",
    [{"warmup_steps": 7}, {"schedule": "warmup_stable_decay", "warmup_steps": 2, "decay_steps": 5}],
)
def test_a_schedule_that_never_reaches_its_learning_rate_is_refused(train_config, optimiser):
    with pytest.raises(ConfigError, match="take 7 of 6 steps, so learning_rate would never be reached"):
        train(train_config(optimiser=optimiser))


def test_best_weights_by_development_score_are_kept(train_config, tmp_path):
    """A score that peaks at step 4 and again at 6: the run gives the weights of step 4, the earlier of equals."""
    config = train_config(development={"suite": "x", "every_steps": 2, "measure": "peak"})
    seen = []

    def score(encoder):
        seen.append(encoder.encode_documents(TEXTS))
        return {"other": 0.0, "peak": [0.1, 0.2, 0.9, 0.9][len(seen) - 1]}

    report = train(config, score=score)
    assert report.step == 4 and report.scores == {"other": 0.0, "peak": 0.9, "mean": 0.45} and len(seen) == 4
    best = Embedder.load(str(report.model), dtype="float32").encode_documents(TEXTS)
    np.testing.assert_allclose(best, seen[2], atol=1e-5)
    assert np.abs(seen[2] - seen[3]).max() > 1e-4
    assert sorted(p.name for p in (tmp_path / "run").glob("best-*")) == ["best-4"]
    scores = [entry["development"]["peak"] for entry in metrics(tmp_path / "run") if "development" in entry]
    assert scores == [0.1, 0.2, 0.9, 0.9]


def test_unknown_development_measure_is_refused(train_config):
    config = train_config(development={"suite": "x", "measure": "nDCG"})
    with pytest.raises(ConfigError, match="no 'nDCG'; they are one, two"):
        train(config, score=lambda encoder: {"one": 1.0, "two": 2.0})


def test_values_set_aside_never_reach_training_whatever_the_runs_seed(train_config):
    configs = [
        train_config(data={"set_aside_values": 2}, loss={"num_negatives": 2}, run={"seed": seed}) for seed in (1, 2)
    ]
    first, second = map(load_rows, configs)
    assert len(first.set_aside) == 2 and first.set_aside == second.set_aside
    assert {row.labels["concept"] for row in first.train}.isdisjoint(first.set_aside)
    assert 0 < len(first.train) < 48


def test_only_rows_without_the_label_are_buried_where_values_are_set_aside(train_config, tmp_path):
    config = train_config(data={"set_aside_values": 2})
    (tmp_path / "hay.txt").write_text("Sheep graze on the hill.\n" * 200, encoding="utf-8")
    rows = [{"query": f"q{n}", "positive": f"Statement {n}.", "negatives": [f"Denial {n}."]} for n in range(8)]
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    hay = str(tmp_path / "hay.txt")
    plain = SourceConfig(kind="rows", path=str(tmp_path / "plain.jsonl"), buried_in=hay)

    def load(*sources):
        return load_rows(replace(config, data=replace(config.data, sources=sources)))

    names = {row.source for row in load(*config.data.sources, plain).train}
    assert {"plain", "plain_buried"} < names
    labelled = [replace(source, buried_in=hay) for source in config.data.sources]
    with pytest.raises(ConfigError, match="_buried carry 'concept', whose values are set aside"):
        load(*labelled)


def test_score_and_development_section_belong_together(train_config):
    with pytest.raises(ConfigError, match="a score needs a development section"):
        train(train_config(), score=lambda encoder: {})


def test_schedule_length_follows_from_epochs(train_config):
    config = train_config(run={"schedule_steps": None, "num_epochs": 2.5})
    rows = load_rows(config)
    plan, steps = plan_batches(config, rows.train)
    assert plan.steps_per_epoch == 6 and steps == 15
    too_long = train_config(run={"schedule_steps": None, "stop_after_steps": 7})
    with pytest.raises(ConfigError, match="the schedule has 6 steps"):
        plan_batches(too_long, rows.train)


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_weights(train_config, tmp_path):
    settings = {
        "lora": {"rank": 4, "dropout": 0.0},
        "batch": {"mini_batch_tokens": None},
        "run": {"schedule_steps": 3, "save_every_steps": 3},
    }
    train(train_config("plain", **settings))
    train(train_config("recomputed", **settings, model={"gradient_checkpointing": True}))
    plain, recomputed = (
        load_file(tmp_path / name / "checkpoints/checkpoint-3/trainable.safetensors")
        for name in ("plain", "recomputed")
    )
    for name in plain:
        torch.testing.assert_close(recomputed[name], plain[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_simcse_trains_on_two_views_of_the_query(train_config, tmp_path):
    config = train_config(
        loss={"kind": "simcse", "num_negatives": 0, "temperature": 0.05}, lora={"rank": 4, "dropout": 0.3}
    )
    assert all(row.positive == row.query and not row.negatives for row in load_rows(config).train)
    train(config)
    losses = [entry["loss"] for entry in metrics(tmp_path / "run") if "loss" in entry]
    assert all(loss > 0 for loss in losses) and len(losses) == 6


def test_unknown_target_lists_the_linear_layers(train_config):
    with pytest.raises(
        ConfigError, match=re.escape("no linear layer 'c_attn' to adapt; lora.targets may name down_proj")
    ):
        train(train_config(lora={"targets": ["q_proj", "c_attn"]}))


def test_scoring_does_not_change_training(train_config, straight_run, tmp_path):
    def score(encoder):
        torch.rand(100)
        encoder.encode_documents(TEXTS)
        return {"x": 1.0}

    train(train_config("scored", development={"suite": "x", "every_steps": 1}), score=score)
    scored, plain = weights(tmp_path / "scored"), weights(straight_run[1])
    assert all(torch.equal(scored[name], plain[name]) for name in plain)


def test_logger_that_is_not_installed_is_refused(train_config, tmp_path, monkeypatch):
    from diffembed.training import runs

    monkeypatch.setattr(runs, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"run.logger is trackio, which is not installed"):
        train(train_config(run={"logger": "trackio"}))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_tensorboard_gets_the_metrics(train_config, tmp_path):
    train(train_config(run={"logger": "tensorboard", "stop_after_steps": 1}))
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
