"""Published layouts that keep Hugging Face names and differ from the native class in little else.

Dream, DiffuLLaMA, iLLaDA, dllm's a2d, pplx-embed and SDAR: read `hf_dense`, then the table at the end.
"""

from collections.abc import Callable
from functools import partial

from diffembed.backbones.conversion.layout import (
    Layout,
    NativeConfig,
    PublishedConfig,
    Shapes,
    fixed_mask_id,
    rope_parameters,
)
from diffembed.errors import ConversionError

COUNTS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)


def hf_dense(config: PublishedConfig, shapes: Shapes, *, native: str, rope_kinds: tuple[str, ...] = ()) -> NativeConfig:
    """The same keys under the same names; settings the original ignores or the native class lacks are refused.

    native: "llama", "qwen2" or "qwen3".
    """
    heads = config.count("num_attention_heads")
    result: NativeConfig = {
        "model_type": native,
        **{key: config.count(key) for key in COUNTS},
        "num_key_value_heads": config.count("num_key_value_heads", heads),
        "hidden_act": config.get("hidden_act", "silu"),
        "rms_norm_eps": config.number("rms_norm_eps"),
        "tie_word_embeddings": config.flag("tie_word_embeddings"),
        "rope_parameters": rope_parameters(config, *rope_kinds),
    }
    if native == "qwen3":
        # The native default is 128, and hidden_size / heads is wrong for most Qwen3 sizes: no value may be guessed.
        result["head_dim"] = config.count("head_dim")
    elif native == "llama":
        result["head_dim"] = config.count("head_dim", result["hidden_size"] // heads)
    if native in ("llama", "qwen3"):
        result["attention_bias"] = config.flag("attention_bias")
    if native == "llama":
        result["mlp_bias"] = config.flag("mlp_bias")
        config.ignore("pretraining_tp")
    else:
        _refuse_windows(config)
    return result


def _refuse_windows(config: PublishedConfig) -> None:
    """The originals ignore a sliding window with a printed warning, the native classes would honour it."""
    if config.flag("use_sliding_window"):
        raise ConversionError(
            f"{config.origin}: config.json has use_sliding_window = true (sliding_window = "
            f"{config.get('sliding_window')!r}); the original runs full attention regardless, so set it to false"
        )
    for kind in config.get("layer_types", []):
        if kind != "full_attention":
            raise ConversionError(
                f"{config.origin}: config.json has {kind!r} in layer_types, expected full_attention everywhere"
            )
    config.ignore("sliding_window", "max_window_layers")
    config.require("use_mrope", False, None)


def _dream(config: PublishedConfig, shapes: Shapes) -> NativeConfig:
    return hf_dense(config, shapes, native="qwen2")


def _illada(config: PublishedConfig, shapes: Shapes) -> NativeConfig:
    config.require("layer_norm_eps", None)
    return hf_dense(config, shapes, native="llama")


def _pplx(config: PublishedConfig, shapes: Shapes) -> NativeConfig:
    config.require("use_bidirectional_attention", True)
    return hf_dense(config, shapes, native="qwen3")


def _sdar(config: PublishedConfig, shapes: Shapes) -> NativeConfig:
    config.ignore("fuse_cross_entropy", "block_size")
    return hf_dense(config, shapes, native="qwen3")


def _a2d(native: str) -> Callable[[PublishedConfig, Shapes], NativeConfig]:
    return partial(hf_dense, native=native, rope_kinds=("llama3",) if native == "llama" else ())


A2D = tuple(
    Layout(
        name=f"a2d-{native}",
        examples=examples,
        architectures=(f"A2D{title}LMHeadModel", f"A2D{title}Model"),
        to_native=_a2d(native),
        mask_tokens=("<|mask|>", "<|mdm_mask|>"),
    )
    for native, title, examples in (
        ("qwen2", "Qwen2", "dllm-hub Qwen2.5 diffusion checkpoints"),
        ("qwen3", "Qwen3", "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1"),
        ("llama", "Llama", "dllm a2d runs on Llama"),
    )
)

DENSE = (
    Layout(
        name="dream",
        examples="Dream-v0-7B, Dream-Coder, DiffuCoder",
        architectures=("DreamModel",),
        to_native=_dream,
        shifts_logits=True,
        mask_tokens=("<|mask|>",),
        tokenizer_class="Qwen2Tokenizer",
    ),
    Layout(
        name="illada",
        examples="iLLaDA-8B",
        architectures=("ILLaDAForCausalLM",),
        to_native=_illada,
        mask_token_id=fixed_mask_id(5),
    ),
    Layout(
        name="diffullama",
        examples="diffusionfamily/diffullama",
        architectures=("LlamaForCausalLM",),
        to_native=partial(hf_dense, native="llama"),
        is_marked=False,
        shifts_logits=True,
        mask_token_id=fixed_mask_id(811),
    ),
    *A2D,
    Layout(
        name="pplx-embed",
        examples="pplx-embed-v1-0.6b, pplx-embed-v1-4b",
        architectures=("PPLXQwen3Model",),
        to_native=_pplx,
        has_head=False,
        modules=frozenset({"st_quantize.FlexibleQuantizer"}),
    ),
    Layout(
        name="sdar",
        examples="SDAR-1.7B/4B/8B-Chat, TraDo",
        architectures=("SDARForCausalLM",),
        to_native=_sdar,
        trained_attention="block-causal",
        mask_tokens=("<|MASK|>", "<|mask|>"),
        mask_token_id=fixed_mask_id(151669),
    ),
)
