import pytest

from diffembed.errors import ConfigError, UnknownNameError
from diffembed.training.adapt_config import AdaptConfig
from diffembed.training.config import LoraConfig, TrainConfig
from diffembed.training.settings import describe, make_config, read_config, write_yaml

TRAIN = {
    "model": {"name": "tiny"},
    "data": {"sources": [{"kind": "rows", "path": "rows.jsonl"}]},
    "run": {"output": "out"},
}
ADAPT = {
    "model": {"name": "tiny"},
    "text": {"files": ["a.txt"], "held_out": ["b.txt"]},
    "run": {"output": "out"},
}


def build(cls, base, changes):
    values = {section: dict(value) for section, value in base.items()}
    for section, change in changes.items():
        values[section] = {**values.get(section, {}), **change} if isinstance(change, dict) else change
    return make_config(cls, values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"temperature": 0}}, "temperature is 0.0; it must be positive"),
        ({"loss": {"kind": "explicit", "num_negatives": 0}}, "set num_negatives"),
        ({"loss": {"kind": "explicit", "uses_query_negatives": True}}, "uses_query_negatives has no effect"),
        ({"loss": {"kind": "explicit", "false_negative_margin": 0.1}}, "false_negative_margin has no effect"),
        ({"loss": {"kind": "explicit", "gathers_across_devices": False}}, "gathers_across_devices has no effect"),
        ({"loss": {"kind": "explicit", "drops_same_texts": False}}, "drops_same_texts has no effect"),
        (
            {"loss": {"kind": "simcse", "num_negatives": 0, "false_negative_margin": 0.1}},
            "false_negative_margin has no effect with kind: simcse",
        ),
        ({"loss": {"false_negative_margin": -0.1}}, "must not be negative"),
        ({"loss": {"num_negatives": 0, "borrows_negatives": True}}, "borrows_negatives has no effect"),
        ({"loss": {"kind": "simcse"}}, "set num_negatives: 0"),
        ({"loss": {"kind": "simcse", "num_negatives": 0}, "lora": {"dropout": 0.0}}, "set lora.dropout above 0"),
        ({"loss": {"kind": "simcse", "num_negatives": 0}, "lora": None}, "told apart by dropout|two views"),
        ({"loss": {"matryoshka_dims": [64, 0]}}, "must be positive"),
        ({"batch": {"rows": 1}}, "needs at least 2"),
        ({"batch": {"mini_batch_tokens": 0}}, "must be positive"),
        ({"batch": {"mini_batch_tokens": 64}, "model": {"gradient_checkpointing": True}}, "set one of them"),
        ({"run": {"schedule_steps": 5, "num_epochs": 2}}, "both set the length of the schedule"),
        ({"run": {"schedule_steps": 5, "stop_after_steps": 6}}, "lies behind the schedule's end, 5"),
        ({"run": {"keep_checkpoints": 0}}, "keep_checkpoints is 0"),
        ({"run": {"output": ""}}, "output is empty"),
        ({"optimiser": {"decay_steps": 3}}, "decay_steps belongs to schedule: warmup_stable_decay"),
        ({"optimiser": {"schedule": "warmup_stable_decay"}}, "decay_steps belongs to"),
        ({"optimiser": {"schedule": "warmup_stable_decay", "decay_steps": -5}}, "decay_steps is -5"),
        ({"optimiser": {"learning_rate": 0}}, "learning_rate is 0.0"),
        ({"lora": {"rank": 0}}, "rank is 0"),
        ({"lora": {"dropout": 1.0}}, r"must lie in \[0, 1\)"),
        ({"lora": {"targets": []}}, "targets is empty"),
        ({"data": {"sources": []}}, "sources is empty"),
        ({"data": {"set_aside_values": -1}}, "set_aside_values is -1"),
        ({"data": {"sources": [{"kind": "folder", "path": "x", "columns": {"query": "q"}}]}}, "columns has no effect"),
        ({"template": {"wrapper": "no mark"}}, "wrapper is 'no mark'"),
        ({"development": {"suite": "x", "every_steps": 0}}, "every_steps is 0"),
    ],
)
def test_contradictions_of_training_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(TrainConfig, TRAIN, changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"attention": "causal"}}, "kind: diffusion trains bidirectional attention"),
        ({"objective": {"kind": "causal"}, "model": {"attention": "bidirectional"}}, "kind: causal trains causal"),
        ({"objective": {"kind": "mntp", "schedule": "cosine"}}, "schedule has no effect with kind: mntp"),
        ({"objective": {"rate": 0.5}}, "rate has no effect with kind: diffusion"),
        ({"objective": {"kind": "causal", "mask_token": "<x>"}}, "mask_token has no effect with kind: causal"),
        ({"objective": {"t_min": 0}}, "t_min is 0.0"),
        ({"objective": {"kind": "mntp", "rate": 0}}, "rate is 0.0"),
        ({"objective": {"kind": "mntp", "mask_fraction": 0.95}}, "must be shares of one"),
        ({"batch": {"rows": 6, "micro_rows": 4}}, "must be a positive multiple of micro_rows 4"),
        ({"text": {"held_out": ["a.txt"]}}, "a.txt is both trained on and held out"),
        ({"text": {"files": []}}, "files is empty"),
        ({"text": {"row_tokens": 1}}, "row_tokens is 1"),
        ({"measure_every_steps": 0}, "measure_every_steps is 0"),
    ],
)
def test_contradictions_of_adaptation_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(AdaptConfig, ADAPT, changes)


@pytest.mark.parametrize(
    ("path", "nearest"), [("batch.row", "rows"), ("lora.ranks", "rank"), ("optimizer", "optimiser")]
)
def test_unknown_keys_suggest_the_nearest(path, nearest):
    section, _, name = path.partition(".")
    with pytest.raises(UnknownNameError, match=f"did you mean '{nearest}'"):
        build(TrainConfig, TRAIN, {section: {name: 1} if name else {}})


def test_alpha_is_twice_the_rank_unless_it_is_said():
    assert LoraConfig(rank=32).scale_alpha == 64
    assert LoraConfig(rank=32, alpha=16).scale_alpha == 16


@pytest.mark.parametrize(("cls", "base"), [(TrainConfig, TRAIN), (AdaptConfig, ADAPT)])
def test_written_yaml_reads_back_with_every_docstring(cls, base, tmp_path):
    config = build(cls, base, {})
    path = tmp_path / "config.yaml"
    path.write_text(write_yaml(config), encoding="utf-8")
    assert read_config(cls, path) == config
    text = path.read_text()
    assert "# Divides scores before the softmax" in text or "# mntp: share of the tokens" in text


@pytest.mark.parametrize("cls", [TrainConfig, AdaptConfig])
def test_every_field_has_a_sentence_of_help(cls):
    rows = list(describe(cls))
    assert len(rows) > 40
    assert cls is AdaptConfig or "data.sources[].without_rows" in {name for name, *_ in rows}
    assert all(doc.endswith(".") and len(doc) > 15 for _, _, _, doc in rows), rows


def test_importing_the_config_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, diffembed.training.config, diffembed.training.settings; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
