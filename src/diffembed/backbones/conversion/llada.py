"""LLaDA's dense layout (LLaDA-8B, LLaDA-1.5): OLMo names around a Llama block."""

import math

from diffembed.backbones.conversion.layout import Layout, NativeConfig, PublishedConfig, Shapes, rule
from diffembed.errors import ConversionError

REQUIRED = {
    "block_type": ("llama",),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "bias_for_layer_norm": (False, None),
    "attention_layer_norm": (False,),
    "input_emb_norm": (False, None),
    "include_bias": (False,),
    "activation_type": ("silu",),
    "rope": (True,),
    "alibi": (False, None),
    "block_group_size": (1, None),
}
"""The reference reads all of these; another value is another network."""

INFERENCE_NEUTRAL = (
    "alibi_bias_max",
    "attention_layer_norm_with_affine",
    "flash_attention",
    "precision",
    "rope_full_precision",
)


def _kv_heads(config: PublishedConfig, heads: int) -> int:
    """The reference's rule for the two keys that can both speak of key/value heads."""
    is_single = config.get("multi_query_attention")
    given = config.get("n_kv_heads")
    if given is None:
        return 1 if is_single else heads
    count = config.count("n_kv_heads")
    if is_single is not None and count != (1 if is_single else heads):
        raise ConversionError(
            f"{config.origin}: config.json has n_kv_heads = {count} and multi_query_attention = {is_single}, "
            "which contradict each other"
        )
    return count


def _mlp_width(config: PublishedConfig, hidden: int) -> int:
    if config.get("mlp_hidden_size") is not None:
        config.ignore("mlp_ratio")
        return config.count("mlp_hidden_size")
    return config.count("mlp_ratio") * hidden


def _llada(config: PublishedConfig, shapes: Shapes) -> NativeConfig:
    for key, allowed in REQUIRED.items():
        config.require(key, *allowed)
    config.ignore(*INFERENCE_NEUTRAL)
    hidden, heads = config.count("d_model"), config.count("n_heads")
    # q/k/v biases without an output bias are Qwen2's block; LlamaConfig.attention_bias would ask for all four.
    has_qkv_bias = config.flag("include_qkv_bias")
    return {
        "model_type": "qwen2" if has_qkv_bias else "llama",
        "hidden_size": hidden,
        "num_hidden_layers": config.count("n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": _kv_heads(config, heads),
        "intermediate_size": _mlp_width(config, hidden),
        "vocab_size": config.count("embedding_size", config.count("vocab_size")),
        "max_position_embeddings": config.count("max_sequence_length"),
        "hidden_act": config.get("activation_type"),
        "rms_norm_eps": config.number("rms_norm_eps"),
        "rope_parameters": {"rope_type": "default", "rope_theta": config.number("rope_theta")},
        "tie_word_embeddings": config.flag("weight_tying"),
    }


def _logit_scale(config: PublishedConfig) -> float:
    return 1 / math.sqrt(config.count("d_model")) if config.flag("scale_logits") else 1.0


BLOCK = "model.transformer.blocks.{n}"
LAYER = "model.layers.{n}"

LLADA = Layout(
    name="llada",
    examples="LLaDA-8B-Base/Instruct, LLaDA-1.5",
    architectures=("LLaDAModelLM",),
    to_native=_llada,
    rules=(
        rule("model.embed_tokens.weight", "model.transformer.wte.weight"),
        rule("model.norm.weight", "model.transformer.ln_f.weight"),
        # The same published word means the output head at the top and the down projection inside a block.
        rule("lm_head.weight", "model.transformer.ff_out.weight"),
        rule(f"{LAYER}.input_layernorm.weight", f"{BLOCK}.attn_norm.weight"),
        rule(f"{LAYER}.post_attention_layernorm.weight", f"{BLOCK}.ff_norm.weight"),
        *(rule(f"{LAYER}.self_attn.{part}_proj.{{kind}}", f"{BLOCK}.{part}_proj.{{kind}}") for part in ("q", "k", "v")),
        rule(f"{LAYER}.self_attn.o_proj.weight", f"{BLOCK}.attn_out.weight"),
        rule(f"{LAYER}.mlp.gate_proj.weight", f"{BLOCK}.ff_proj.weight"),
        rule(f"{LAYER}.mlp.up_proj.weight", f"{BLOCK}.up_proj.weight"),
        rule(f"{LAYER}.mlp.down_proj.weight", f"{BLOCK}.ff_out.weight"),
    ),
    mask_tokens=("<|mdm_mask|>",),
    logit_scale=_logit_scale,
)
