"""Shapes of 7B networks without their weights: published counts, adapters, and a plan held to a real run."""

import ctypes
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, Qwen2Config

from diffembed.backbones.loading import load_backbone
from diffembed.backbones.memory import Activations, count_parameters, parse_bytes, plan_memory
from diffembed.backbones.shapes import native_config
from diffembed.errors import CheckpointError, ConfigError, UnknownNameError

# Totals on the model cards, head included.
PUBLISHED_TOTALS = {
    "dream-7b": 7_615_616_512,
    "qwen2.5-7b": 7_615_616_512,
    "llada-8b": 8_015_581_184,
    "llada-1.5": 8_015_581_184,
    "llama-3-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "gemma-3-270m": 268_098_176,
}


@pytest.mark.parametrize("name", PUBLISHED_TOTALS)
def test_parameter_counts_are_the_published_ones(name):
    config = native_config(name)
    body, _ = count_parameters(config)
    head = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    assert body + head == PUBLISHED_TOTALS[name]


def test_lora_on_the_dream_shape():
    # Per layer, r (in + out): q and o 2 x 16 x 7168, k and v 2 x 16 x 4096, the three of the MLP 3 x 16 x 22528.
    per_layer = 16 * (2 * 7168 + 2 * 4096 + 3 * 22528)
    assert count_parameters(native_config("dream-7b"))[1] == 28 * per_layer == 40_370_176
    assert count_parameters(native_config("llada-8b"))[1] == 41_943_040
    assert count_parameters(native_config("dream-7b"), lora_rank=8)[1] == 20_185_088


def test_lora_count_is_that_of_peft():
    peft = pytest.importorskip("peft")
    config = native_config("dream-7b")
    config.num_hidden_layers = 2
    with torch.device("meta"):
        body = AutoModel.from_config(config)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = peft.get_peft_model(body, peft.LoraConfig(r=16, target_modules=targets), low_cpu_mem_usage=True)
    assert adapted.get_nb_trainable_parameters()[0] == count_parameters(config)[1]


def test_a_7b_model_on_a_24_gb_card():
    plan = plan_memory("dream-7b", max_tokens=4096, memory_bytes=24 * 10**9)
    assert plan.weights_bytes == 2 * 7_070_619_136
    assert plan.num_head_parameters == 152064 * 3584
    assert plan.num_trainable == 40_370_176 and plan.adapters_bytes == 16 * 40_370_176
    assert plan.inference and plan.training and plan.checkpointed_training
    assert plan.inference.token_budget > 4096
    assert plan.training.token_budget < 4096 < plan.checkpointed_training.token_budget
    for part, used in (
        (plan.inference, plan.weights_bytes),
        (plan.training, plan.weights_bytes + plan.adapters_bytes),
        (plan.checkpointed_training, plan.weights_bytes + plan.adapters_bytes),
    ):
        assert used + part.bytes_per_token * part.token_budget <= 0.9 * plan.memory_bytes
        assert used + part.bytes_per_token * (part.token_budget + 1) > 0.9 * plan.memory_bytes
        assert part.longest_text_bytes == round(4096 * part.bytes_per_token)


def test_what_does_not_fit_has_no_budget():
    plan = plan_memory("llada-8b", max_tokens=512, memory_bytes=8 * 10**9)
    assert plan.inference == Activations(
        bytes_per_token=plan.inference.bytes_per_token,
        longest_text_bytes=round(512 * plan.inference.bytes_per_token),
        token_budget=0,
    )


def test_float32_holds_twice_as_much():
    half = plan_memory("tiny-llama", max_tokens=128, memory_bytes=10**9)
    full = plan_memory("tiny-llama", max_tokens=128, memory_bytes=10**9, dtype="float32")
    assert full.weights_bytes == 2 * half.weights_bytes
    assert 1.2 < full.inference.bytes_per_token / half.inference.bytes_per_token <= 2


@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-gemma3"])
def test_the_count_of_a_tiny_model_is_that_of_its_weights(name):
    plan = plan_memory(name, max_tokens=64, memory_bytes=10**9, dtype="float32")
    body = load_backbone(name, dtype="float32").model
    assert plan.weights_bytes == sum(weight.nbytes for weight in body.parameters())


def peak_bytes() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("is_training", [False, True])
def test_the_plan_is_what_a_real_run_takes(tmp_path, is_training):
    """A small network with wide activations, run in a fork: resident memory grows by what was planned."""
    config = Qwen2Config(
        hidden_size=256,
        intermediate_size=2048,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        max_position_embeddings=8192,
    )
    config.save_pretrained(tmp_path)
    num_tokens = 4096
    plan = plan_memory(str(tmp_path), max_tokens=num_tokens, memory_bytes=10**10, dtype="float32", lora_rank=4)
    planned = (plan.training if is_training else plan.inference).longest_text_bytes
    config.is_causal, config.use_cache = False, False
    body = AutoModel.from_config(config, dtype=torch.float32).requires_grad_(False)
    if is_training:
        peft = pytest.importorskip("peft")
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        body = peft.get_peft_model(body, peft.LoraConfig(r=4, lora_dropout=0.05, target_modules=targets)).train()

    def run(length: int) -> None:
        with torch.set_grad_enabled(is_training):
            states = body(input_ids=torch.zeros(1, length, dtype=torch.long)).last_hidden_state
            if is_training:
                states.sum().backward()

    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            run(64)
            # What earlier tests of this process gave back would be taken again, and not be seen.
            if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
                trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            before = peak_bytes()
            run(num_tokens)
            (tmp_path / "grown").write_text(str(peak_bytes() - before))
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    grown = int((tmp_path / "grown").read_text())
    assert planned > 60e6
    # Kernels' own buffers and the allocator's fragments come on top; they are what USABLE_FRACTION leaves room for.
    assert 0.9 * planned < grown < 1.35 * planned + 40e6


def test_published_folders_are_planned_without_conversion(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"architectures": ["DreamModel"], "model_type": "Dream", "hidden_size": 32, "intermediate_size": 48, '
        '"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512, '
        '"max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}'
    )
    plan = plan_memory(str(tmp_path), max_tokens=256, memory_bytes=10**9)
    assert plan.native == "qwen2" and plan.inference is not None
    with pytest.raises(ConfigError, match=r"max_tokens is 257; .* reads at most 256"):
        plan_memory(str(tmp_path), max_tokens=257, memory_bytes=10**9)


def test_mixtures_and_networks_without_projections_are_planned_as_far_as_known(golden_mixture, tmp_path):
    plan = plan_memory(str(golden_mixture), max_tokens=64, memory_bytes=10**9)
    assert plan.inference is None and plan.training is None and plan.weights_bytes > 0
    Qwen2Config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100}')
    plan = plan_memory(str(tmp_path), max_tokens=64, memory_bytes=10**9)
    assert plan.num_trainable == 0 and plan.training is None and plan.inference is not None


@pytest.fixture
def golden_mixture(tmp_path: Path) -> Path:
    from transformers import Qwen3MoeConfig

    folder = tmp_path / "moe"
    Qwen3MoeConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_experts=4, head_dim=8, vocab_size=100
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("text", "value"), [("24GB", 24 * 10**9), ("1.5 gib", 3 * 2**29), ("512MiB", 512 * 2**20), ("100", 100)]
)
def test_amounts_of_memory(text, value):
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "GB", ".GB", "24 bananas", "1.2.3GB", "-4GB"])
def test_what_is_no_amount_of_memory(text):
    with pytest.raises(ConfigError, match="is no amount of memory; write it like 24GB"):
        parse_bytes(text)


def test_impossible_plans(tmp_path):
    with pytest.raises(ConfigError, match="lora_rank is 0"):
        plan_memory("tiny", max_tokens=8, memory_bytes=100, lora_rank=0)
    with pytest.raises(UnknownNameError, match="no dtype 'int4'"):
        plan_memory("tiny", max_tokens=8, memory_bytes=100, dtype="int4")
    with pytest.raises(UnknownNameError, match="no model 'llada-80b'"):
        plan_memory("llada-80b", max_tokens=8, memory_bytes=100)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        plan_memory(str(tmp_path), max_tokens=8, memory_bytes=100)
    (tmp_path / "config.json").write_text('{"model_type": "unheard"}')
    with pytest.raises(CheckpointError, match="of no native architecture"):
        plan_memory(str(tmp_path), max_tokens=8, memory_bytes=100)
