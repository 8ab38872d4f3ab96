"""Dry runs, and the recipes: each is a config that resolves and says what the paper's run was."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from diffembed.errors import CheckpointError, InputError
from diffembed.training import plan as plan_module
from diffembed.training.adapt_config import AdaptConfig
from diffembed.training.config import LoraConfig, TrainConfig
from diffembed.training.plan import ACTIVATION_BYTES, plan_adaptation, plan_training
from diffembed.training.settings import read_config
from diffembed.training.shapes import shape_of

RECIPES = Path(__file__).parents[2] / "recipes"
PAPER = sorted((RECIPES / "paper").glob("*.yaml"))
STEPS = {"long": (1000, 3000), "reasoning": (680, 681), "instruction": (125, 125)}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr(plan_module, "hub_answers", lambda: False)


def read(path, overrides=()):
    is_adaptation = "text" in yaml.safe_load(path.read_text(encoding="utf-8"))
    return read_config(AdaptConfig if is_adaptation else TrainConfig, path, overrides)


def test_there_is_a_recipe_for_every_run_of_the_paper():
    runs = {f"{model}-{task}" for model in ("dream", "llada", "qwen2.5", "llama3", "mistral") for task in STEPS}
    assert runs <= {path.stem for path in PAPER} and len(runs) == 15


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_recipe_of_the_paper_resolves_without_weights_or_data(path, monkeypatch):
    monkeypatch.delenv("DIFFEMBED_DATA", raising=False)
    config = read(path)
    if isinstance(config, AdaptConfig):
        plan = plan_adaptation(config, num_processes=4)
        assert (plan.stop_step, plan.num_trained) == (4000, 40_370_176)
        return
    plan = plan_training(config, num_processes=4)
    model, _, task = path.stem.rpartition("-")
    assert (plan.stop_step, plan.num_steps) == STEPS[task]
    rank = 32 if task == "instruction" else 16
    if model in ("dream", "qwen2.5", "llama3"):
        # Counts in the paper's logs, at rank 16.
        logged = {"dream": 40_370_176, "qwen2.5": 40_370_176, "llama3": 41_943_040}[model]
        assert plan.num_trained == logged * rank // 16
    assert config.lora.scale_alpha == 2 * rank and config.lora.dropout == 0.05 and len(config.lora.targets) == 7
    assert config.optimiser.learning_rate == (5e-5 if path.stem == "dream-long" else 1e-4)
    assert config.optimiser.warmup_steps == (20 if task == "instruction" else 100)
    assert plan.num_tokens > 1e6 and plan.peak_bytes > 12e9 and any("out of reach" in note for note in plan.notes)
    if task == "instruction":
        assert (config.loss.kind, config.loss.num_negatives, config.batch.rows) == ("explicit", 15, 128)
    else:
        assert (config.loss.kind, config.batch.rows, config.batch.document_max_tokens) == ("in_batch", 16, 4096)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_for_gemma_is_a_valid_config(path):
    config = read(path)
    assert config.run.output.startswith("runs/")
    if isinstance(config, TrainConfig):
        assert config.development.suite == "dev-reasoning" and config.data.set_aside_values == 30


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_launch_config_is_one_that_accelerate_reads(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(RECIPES / f"accelerate/{name}.yaml"))
    assert config.num_processes == 4
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2


def test_plan_counts_rows_tokens_and_steps_of_real_files(train_config):
    config = train_config(run={"schedule_steps": None, "num_epochs": 2.0})
    plan = plan_training(config)
    assert (plan.num_rows, plan.num_steps, plan.stop_step) == (48, 12, 12)
    assert 8 * 3 * 5 < plan.tokens_per_step < 8 * (40 + 2 * 64)
    assert plan.num_tokens == 12 * plan.tokens_per_step
    assert any(note.startswith("tokens from 12 of 12 batches") for note in plan.notes)


def test_plan_equals_what_the_run_then_reads(train_config, monkeypatch):
    """All 48 rows are in the sample, so the mean is exact over an epoch."""
    from diffembed.training import callbacks
    from diffembed.training.contrast import train

    counted = []
    add = callbacks.Throughput.add
    monkeypatch.setattr(callbacks.Throughput, "add", lambda self, n: (counted.append(n), add(self, n)))
    config = train_config(run={"schedule_steps": 6, "save_every_steps": 6})
    train(config)
    assert sum(counted) == pytest.approx(plan_training(config).num_tokens, rel=0.01)


def test_memory_is_planned_for_the_largest_batch_not_the_mean(train_config, rows_of, tmp_path):
    """Batches are of one source: a source of long texts decides whether the run fits."""
    short, long = rows_of(40), [{**row, "positive": "tide " * 60} for row in rows_of(8)]
    sources = []
    for name, rows in (("short", short), ("long", long)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        sources.append({"kind": "rows", "path": str(path)})
    run = {"schedule_steps": None, "num_epochs": 1.0}
    mixed, alone = (
        plan_training(
            train_config(
                data={"sources": chosen}, run=run, batch={"mini_batch_tokens": None}, optimiser={"warmup_steps": 0}
            )
        )
        for chosen in (sources, sources[1:])
    )
    assert mixed.tokens_per_step < 0.9 * alone.tokens_per_step
    assert mixed.memory_bytes["activations"] == alone.memory_bytes["activations"]


def test_plan_of_adaptation_counts_rows_and_the_vocabulary(adapt_config):
    plan = plan_adaptation(adapt_config(run={"schedule_steps": None}))
    assert plan.num_rows > 50 and plan.num_steps == plan.num_rows // 8
    assert plan.tokens_per_step == 8 * 32 and plan.memory_bytes["vocabulary chunks"] > 0


def test_gradcache_and_checkpointing_shrink_the_plan(train_config):
    plain = plan_training(train_config(batch={"mini_batch_tokens": None}))
    cached = plan_training(train_config(batch={"mini_batch_tokens": 64}))
    recomputed = plan_training(train_config(batch={"mini_batch_tokens": None}, model={"gradient_checkpointing": True}))
    assert cached.memory_bytes["activations"] < plain.memory_bytes["activations"] / 2
    assert recomputed.memory_bytes["activations"] < plain.memory_bytes["activations"]
    assert plain.memory_bytes["weights"] == cached.memory_bytes["weights"]


def test_bad_rows_fail_the_dry_run(train_config, rows_of):
    with pytest.raises(InputError, match="more than max_bad_rows=0"):
        plan_training(train_config(rows=[*rows_of(30), {"query": "q"}], data={"max_bad_rows": 0}))


def test_a_path_with_a_variable_is_found(train_config, monkeypatch):
    config = train_config()
    (source,) = config.data.sources
    monkeypatch.setenv("ROWS", str(Path(source.path).parent))
    moved = replace(config.data, sources=(replace(source, path=f"${{ROWS}}/{Path(source.path).name}"),))
    assert plan_training(replace(config, data=moved)).num_rows == 48


def test_missing_file_is_a_note(train_config):
    config = train_config()
    Path(config.data.sources[0].path).unlink()
    plan = plan_training(config)
    assert plan.num_rows is None and any("out of reach: no file" in note for note in plan.notes)


def test_config_without_a_dimension_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "opt", "hidden_size": 8, "num_attention_heads": 2}')
    with pytest.raises(CheckpointError, match="has no 'intermediate_size'"):
        shape_of(str(tmp_path))


@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-llama", "tiny-gemma3"])
def test_weights_counted_on_paper_are_those_of_the_network(name):
    from diffembed.backbones.loading import load_backbone
    from diffembed.training.adapters import attach_lora

    network = load_backbone(name, dtype="float32").model
    shape = shape_of(name)
    matrices = sum(w.numel() for w in network.parameters() if w.ndim == 2)
    assert shape.num_body_weights == matrices
    trained = attach_lora(network, LoraConfig(rank=4))
    assert trained == shape.num_lora_weights(4, LoraConfig().targets)


def test_published_shapes_have_the_published_sizes():
    # The paper's log counts 7,546,867,712 with the adapters, norms included.
    llama = shape_of("llama-3-8b")
    assert llama.num_body_weights == pytest.approx(7.5e9, rel=0.01)
    assert llama.num_body_weights + llama.num_lora_weights(16, LoraConfig().targets) == pytest.approx(
        7_546_867_712, rel=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_planned_activations_are_what_autograd_keeps(family, dtype):
    """Another shape than the factors were fitted on; saved tensors that are no weights, by storage."""
    width, heads, kv_heads, head_width, ffn = 96, 6, 3, 16, 320
    per_layer = [_saved_bytes(family, layers, width, heads, kv_heads, head_width, ffn, dtype) for layers in (1, 3)]
    measured = (per_layer[1] - per_layer[0]) / 2 / 64
    sizes = (width, heads * head_width, kv_heads * head_width, ffn)
    planned = sum(f * s for f, s in zip(ACTIVATION_BYTES[dtype.itemsize], sizes, strict=True))
    assert 0.75 < measured / planned < 1.15


def _saved_bytes(family, layers, width, heads, kv_heads, head_width, ffn, dtype):
    from transformers import AutoModel, Gemma3TextConfig, Qwen2Config

    from diffembed.backbones.attention import KERNEL_NAME, PackedLayout, register_kernel
    from diffembed.training.adapters import attach_lora

    register_kernel()
    config = {"qwen2": Qwen2Config, "gemma3": Gemma3TextConfig}[family](
        vocab_size=64,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_width,
    )
    config.is_causal = config.use_cache = False
    network = AutoModel.from_config(config).to(dtype)
    network.set_attn_implementation(KERNEL_NAME)
    attach_lora(network, LoraConfig(rank=8))
    network.train()
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept, sizes = [], {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept.append(tensor)
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    layout = PackedLayout((32, 32), "bidirectional")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(input_ids=torch.arange(64)[None], position_ids=layout.position_ids(), packed=layout)
    return sum(sizes.values())
