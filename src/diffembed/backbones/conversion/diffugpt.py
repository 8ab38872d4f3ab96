"""DiffuGPT: GPT-2 inside the wrapper of its training code, which renames every tensor."""

import re

from diffembed.backbones.conversion.layout import Layout, NativeConfig, PublishedConfig, Shapes, rule
from diffembed.errors import ConversionError

EMBEDDING = "embed_tokens.weight"
PLAIN_VOCAB_SIZE = 50257
IGNORED = (
    "n_ctx",
    "vocab_size",
    "task_specific_params",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
)


def _diffugpt(config: PublishedConfig, shapes: Shapes) -> NativeConfig:
    if EMBEDDING not in shapes:
        raise ConversionError(f"{config.origin}: tensor {EMBEDDING} is missing; the vocabulary size is read from it")
    config.require("scale_attn_weights", True, None)
    config.require("scale_attn_by_inverse_layer_idx", False, None)
    config.require("reorder_and_upcast_attn", False, None)
    config.require("add_cross_attention", False, None)
    config.ignore(*IGNORED)
    return {
        "model_type": "gpt2",
        **{key: config.count(key) for key in ("n_embd", "n_layer", "n_head", "n_positions")},
        "n_inner": config.get("n_inner"),
        "activation_function": config.get("activation_function", "gelu_new"),
        "layer_norm_epsilon": config.number("layer_norm_epsilon"),
        # The medium checkpoint added a mask row that its config.json does not count.
        "vocab_size": shapes[EMBEDDING][0],
        "tie_word_embeddings": True,
    }


def _mask_token_id(vocab_size: int) -> int | None:
    """An ordinary word in the small checkpoint, an added row in the medium one; both set in the authors' code."""
    if vocab_size > PLAIN_VOCAB_SIZE:
        return PLAIN_VOCAB_SIZE
    return 10541 if vocab_size == PLAIN_VOCAB_SIZE else None


DIFFUGPT = Layout(
    name="diffugpt",
    examples="diffusionfamily/diffugpt-s, diffugpt-m",
    architectures=("DiscreteDiffusionModel",),
    to_native=_diffugpt,
    rules=(
        rule("transformer.wte.weight", EMBEDDING),
        rule("transformer.wpe.weight", "denoise_model.wpe.weight"),
        rule("transformer.ln_f.{kind}", "denoise_model.ln_f.{kind}"),
        *(
            rule(f"transformer.h.{{n}}.{part}.{{kind}}", f"denoise_model.h.{{n}}.{part}.{{kind}}")
            for part in ("ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        ),
    ),
    buffers=re.compile(r"denoise_model\.h\.\d+\.attn\.(masked_)?bias"),
    shifts_logits=True,
    mask_token_id=_mask_token_id,
)
