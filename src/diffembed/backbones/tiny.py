"""Seeded random networks of real shapes with a small real tokenizer, built in memory in under a second.

Read `build_tiny`. They make every test exercise the code that the large models run.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from diffembed.errors import UnknownNameError

VOCAB_SIZE = 512
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
TINY_WINDOW = 8
MAX_TOKENS = 4096

# Enough English for a byte-level BPE to learn common words; any text gets ids, since bytes are the alphabet.
TRAINING_TEXT = """
A language model reads a text and turns every token into a state. When attention is causal, a token sees only what
stands before it; when attention is bidirectional, it sees the whole text. A diffusion language model hides some of the
tokens behind a mask and learns to restore them, so that it must read in both directions. To embed a text, the states of
its tokens are averaged and the average is normalised. A question and the document that answers it should then lie close
together, and everything else should lie far away. Search is the first use of such vectors; clustering, classification
and the removal of duplicates are others. This paragraph exists to train a small tokenizer for tests.
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 512 entries that writes `<bos>` in front, as Gemma and Llama do."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TRAINING_TEXT], trainer)
    bos = SPECIAL_TOKENS.index("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=MAX_TOKENS,
    )


def build_tiny(family: str, *, seed: int = 0) -> tuple[Any, PreTrainedTokenizerFast]:
    """(causal language model in float32, tokenizer) of a family; the body is `.model`.

    Raises UnknownNameError for a family without a tiny shape.
    """
    tokenizer = build_tokenizer()
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        # Large enough that attention differs visibly from an average; the default 0.02 hides mistakes.
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
    }
    configs = {
        "qwen2": lambda: Qwen2Config(**common),
        "llama": lambda: LlamaConfig(**common),
        "gemma3_text": lambda: Gemma3TextConfig(
            **common,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=TINY_WINDOW,
            layer_types=["sliding_attention", "full_attention"],
        ),
    }
    if family not in configs:
        raise UnknownNameError.of("tiny shape", family, list(configs))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(configs[family]())
    return model.eval(), tokenizer
