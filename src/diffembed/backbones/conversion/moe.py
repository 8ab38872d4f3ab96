"""The two mixture-of-experts layouts: LLaDA-MoE (native Qwen3-MoE) and LLaDA 2 (native GLM-4-MoE)."""

from diffembed.backbones.conversion.layout import (
    Layout,
    NativeConfig,
    PublishedConfig,
    Shapes,
    fixed_mask_id,
    rope_parameters,
    rule,
)
from diffembed.errors import ConversionError

MASK_TOKEN_ID = 156895


def _llada_moe(config: PublishedConfig, shapes: Shapes) -> NativeConfig:
    config.require("qk_layernorm", True)
    config.require("moe_router_score_function", "softmax", None)
    config.require("moe_router_enable_expert_bias", False, None)
    config.require("shared_expert_intermediate_size", None)
    config.require("clip_qkv", None)
    config.require("partial_rotary_factor", 1, 1.0, None)
    config.require("routed_scaling_factor", 1, 1.0, None)
    config.require("router_num_group", None)
    config.require("router_topk_group", None)
    config.require("attention_bias", False, None)
    # The reference never renormalises the chosen routing weights, whatever this key says.
    config.ignore("norm_topk_prob", "output_router_logits", "router_aux_loss_coef")
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    layers = config.count("num_hidden_layers")
    is_moe = config.get("moe_layer_freq", [1] * layers)
    if not isinstance(is_moe, list) or len(is_moe) != layers or any(flag not in (0, 1) for flag in is_moe):
        raise ConversionError(
            f"{config.origin}: config.json needs moe_layer_freq as {layers} values of 0 or 1, found {is_moe!r}"
        )
    dense = [layer for layer, flag in enumerate(is_moe) if not flag]
    return {
        "model_type": "qwen3_moe",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": config.count("num_key_value_heads", heads),
        # The native default is 128.
        "head_dim": config.count("head_dim", hidden // heads),
        "hidden_act": config.get("hidden_act", "silu"),
        "rms_norm_eps": config.number("rms_norm_eps"),
        "vocab_size": config.count("vocab_size"),
        "max_position_embeddings": config.count("max_position_embeddings"),
        "num_experts": config.count("num_experts"),
        "num_experts_per_tok": config.count("num_experts_per_tok"),
        "moe_intermediate_size": config.count("expert_intermediate_size"),
        "intermediate_size": config.count("dense_intermediate_size"),
        "mlp_only_layers": dense,
        "decoder_sparse_step": 1,
        "norm_topk_prob": False,
        "attention_bias": False,
        "tie_word_embeddings": config.flag("tie_word_embeddings"),
        "rope_parameters": rope_parameters(config),
    }


def _llada2_moe(config: PublishedConfig, shapes: Shapes) -> NativeConfig:
    config.require("use_qk_norm", True)
    config.require("use_rmsnorm", True, None)
    config.require("use_bias", False, None)
    config.require("use_qkv_bias", False, None)
    config.require("norm_head", False, None)
    config.require("norm_topk_prob", True)
    config.require("score_function", "sigmoid")
    config.require("moe_router_enable_expert_bias", True)
    config.require("use_sliding_window", False, None)
    config.ignore("sliding_window", "max_window_layers", "output_router_logits", "router_dtype")
    head_dim = config.count("head_dim")
    fraction = config.number("partial_rotary_factor")
    if config.get("rotary_dim", int(head_dim * fraction)) != int(head_dim * fraction):
        raise ConversionError(
            f"{config.origin}: config.json has rotary_dim = {config.get('rotary_dim')}, but head_dim {head_dim} times "
            f"partial_rotary_factor {fraction} is {int(head_dim * fraction)}"
        )
    return {
        "model_type": "glm4_moe",
        **{
            key: config.count(key)
            for key in (
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "vocab_size",
                "max_position_embeddings",
                "moe_intermediate_size",
                "num_experts_per_tok",
                "n_group",
                "topk_group",
            )
        },
        "head_dim": head_dim,
        "n_routed_experts": config.count("num_experts"),
        "n_shared_experts": config.count("num_shared_experts"),
        "first_k_dense_replace": int(config.number("first_k_dense_replace")),
        "routed_scaling_factor": config.number("routed_scaling_factor"),
        "hidden_act": config.get("hidden_act", "silu"),
        "rms_norm_eps": config.number("rms_norm_eps"),
        "norm_topk_prob": True,
        "use_qk_norm": True,
        "attention_bias": False,
        "num_mtp_layers": 0,
        "tie_word_embeddings": config.flag("tie_word_embeddings"),
        "rope_parameters": {**rope_parameters(config), "partial_rotary_factor": fraction},
    }


def _query_rows(config: NativeConfig) -> tuple[int, int]:
    return 0, config["num_attention_heads"] * config["head_dim"]


def _key_rows(config: NativeConfig) -> tuple[int, int]:
    start = _query_rows(config)[1]
    return start, start + config["num_key_value_heads"] * config["head_dim"]


def _value_rows(config: NativeConfig) -> tuple[int, int]:
    start, stop = _key_rows(config)
    return stop, stop + (stop - start)


NATIVE = "model.layers.{n}.self_attn"
PUBLISHED = "model.layers.{n}.attention"

MOE = (
    Layout(
        name="llada-moe",
        examples="LLaDA-MoE-7B-A1B-Base/Instruct",
        architectures=("LLaDAMoEModelLM",),
        to_native=_llada_moe,
        mask_tokens=("<|mask|>",),
        mask_token_id=fixed_mask_id(MASK_TOKEN_ID),
    ),
    Layout(
        name="llada2-moe",
        examples="LLaDA2.0-mini, LLaDA2.1-mini",
        architectures=("LLaDA2MoeModelLM",),
        to_native=_llada2_moe,
        rules=(
            rule("model.embed_tokens.weight", "model.word_embeddings.weight"),
            # Rows are grouped: every query head, then every key head, then every value head.
            rule(f"{NATIVE}.q_proj.weight", f"{PUBLISHED}.query_key_value.weight", _query_rows),
            rule(f"{NATIVE}.k_proj.weight", f"{PUBLISHED}.query_key_value.weight", _key_rows),
            rule(f"{NATIVE}.v_proj.weight", f"{PUBLISHED}.query_key_value.weight", _value_rows),
            rule(f"{NATIVE}.o_proj.weight", f"{PUBLISHED}.dense.weight"),
            rule(f"{NATIVE}.q_norm.weight", f"{PUBLISHED}.query_layernorm.weight"),
            rule(f"{NATIVE}.k_norm.weight", f"{PUBLISHED}.key_layernorm.weight"),
            rule("model.layers.{n}.mlp.gate.e_score_correction_bias", "model.layers.{n}.mlp.gate.expert_bias"),
        ),
        trained_attention="block-causal",
        mask_tokens=("<|mask|>",),
        mask_token_id=fixed_mask_id(MASK_TOKEN_ID),
    ),
)
