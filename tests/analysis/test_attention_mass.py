import numpy as np
import pytest
import torch

from diffembed.analysis.attention_mass import BANDS, attention_statistics, measure_attention
from diffembed.embedding.embedder import Embedder
from diffembed.errors import ConfigError, EmptyInputError

TEXT = "Meetings were long, and nobody could say afterwards what had been decided about the budget of the house. " * 3


def eager_weights(name, attention, text):
    """[L, H, T, T] attention of transformers' own eager path."""
    embedder = Embedder.load(name, attention=attention, dtype="float32", kernel="eager")
    ids = torch.from_numpy(embedder.tokenize([text])[0].windows[0].ids.astype(np.int64))[None]
    with torch.inference_mode():
        out = embedder.backbone.model(input_ids=ids, output_attentions=True)
    return torch.stack([layer[0] for layer in out.attentions]).double().numpy()


def statistics_by_hand(weights):
    length = weights.shape[-1]
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    bands = [
        distance < -1000,
        (distance >= -1000) & (distance < -50),
        (distance >= -50) & (distance < 0),
        distance == 0,
        (distance > 0) & (distance <= 50),
        (distance > 50) & (distance <= 1000),
        distance > 1000,
    ]
    mass = np.stack([(weights * band).sum(-1).mean(-1) for band in bands], axis=-1)
    entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1).mean(-1)
    return mass, entropy


@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-llama", "tiny-gemma3"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_masses_equal_transformers_eager_attention(name, attention):
    weights = eager_weights(name, attention, TEXT)
    assert weights.shape[-1] > 60
    mass, entropy = statistics_by_hand(weights)
    found = measure_attention(Embedder.load(name, attention=attention, dtype="float32"), [TEXT])
    np.testing.assert_allclose(found.mass_LHB, mass, atol=1e-5)
    np.testing.assert_allclose(found.entropy_LH, entropy, atol=1e-4)
    assert found.num_tokens == weights.shape[-1]
    if name == "tiny-gemma3":
        assert found.is_sliding_L.any()


def test_direction_decides_where_attention_can_go():
    embedder = Embedder.load("tiny", attention="bidirectional", dtype="float32")
    both, causal, anticausal = (
        measure_attention(embedder, [TEXT, "Short."], direction=direction)
        for direction in (None, "causal", "anticausal")
    )
    for found in (both, causal, anticausal):
        np.testing.assert_allclose(found.mass_LHB.sum(2), 1, atol=1e-6)
    assert both.past.min() > 0.1 and both.future.min() > 0.1
    assert causal.future.max() == 0 and anticausal.past.max() == 0
    mixed = measure_attention(embedder, [TEXT], direction=("causal", "bidirectional"))
    assert mixed.future[0].max() == 0 and mixed.future[1].min() > 0.1
    assert causal.num_texts == 2


def test_means_weigh_every_token_alike():
    embedder = Embedder.load("tiny", attention="bidirectional", dtype="float32")
    parts = [measure_attention(embedder, [text]) for text in (TEXT, "Short.")]
    together = measure_attention(embedder, [TEXT, "Short."])
    weights = [part.num_tokens for part in parts]
    expected = np.average([part.mass_LHB for part in parts], axis=0, weights=weights)
    np.testing.assert_allclose(together.mass_LHB, expected, atol=1e-6)
    np.testing.assert_allclose(
        together.entropy_LH, np.average([part.entropy_LH for part in parts], axis=0, weights=weights), atol=1e-5
    )


def test_blocks_change_nothing_and_far_bands_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1500, 8, generator=generator), torch.randn(1, 1500, 8, generator=generator)
    settings = {"scaling": 0.3, "reach": (None, None)}
    small = attention_statistics(query, key, **settings, query_block=64)
    whole = attention_statistics(query, key, **settings, query_block=4096)
    torch.testing.assert_close(small, whole, atol=1e-3, rtol=1e-5)
    weights = (query @ key.transpose(1, 2) * 0.3).softmax(-1).double().numpy()
    mass, entropy = statistics_by_hand(weights)
    np.testing.assert_allclose(small[0].numpy() / 1500, mass, atol=1e-5)
    np.testing.assert_allclose(small[1].numpy() / 1500, entropy, atol=1e-4)
    assert mass[:, 0].min() > 0.01 and mass[:, -1].min() > 0.01 and len(BANDS) == mass.shape[1]


def test_window_and_softcap_are_part_of_the_weights():
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(1, 40, 4, generator=generator), torch.randn(1, 40, 4, generator=generator)
    mass, entropy = attention_statistics(query, key, scaling=1.0, reach=(3, 0), softcap=0.5)
    scores = torch.tanh(query @ key.transpose(1, 2) / 0.5) * 0.5
    distance = torch.arange(40)[None] - torch.arange(40)[:, None]
    weights = scores.masked_fill((distance < -3) | (distance > 0), float("-inf")).softmax(-1).double().numpy()
    by_hand, entropy_by_hand = statistics_by_hand(weights)
    np.testing.assert_allclose(mass.numpy() / 40, by_hand, atol=1e-5)
    np.testing.assert_allclose(entropy.numpy() / 40, entropy_by_hand, atol=1e-5)
    assert by_hand[0, 4:].sum() == 0


def test_the_network_is_left_as_it_was():
    embedder = Embedder.load("tiny", attention="bidirectional", dtype="float32")
    before = embedder.encode_documents([TEXT])
    measure_attention(embedder, [TEXT])
    np.testing.assert_array_equal(embedder.encode_documents([TEXT]), before)
    with pytest.raises(EmptyInputError):
        measure_attention(embedder, [])
    with pytest.raises(ConfigError, match="kernel='packed'"):
        measure_attention(Embedder.load("tiny", kernel="sdpa"), [TEXT])
