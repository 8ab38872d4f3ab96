import numpy as np
import pytest
import torch
from sentence_transformers.base.losses.gradcache import _create_minibatch

from diffembed.data.formats import Triplet
from diffembed.embedding.embedder import Embedder
from diffembed.embedding.text import TextTemplate, Tokens
from diffembed.training.batches import TripletCollator, key_of
from diffembed.training.config import BatchConfig
from diffembed.training.packed import PackedEncoder, pack_features, unpack_features

TEXTS = [
    "a",
    "When attention is causal, a token sees only what stands before it; " * 3,
    "To embed a text, the states of its tokens are averaged.",
    "search " * 40,
    "two words",
]
TEMPLATE = TextTemplate(instruction_format="Instruct: {instruction}\nQuery: ", pools_instruction=False)


@pytest.fixture(scope="module", params=["bidirectional", "causal"])
def embedder(request):
    return Embedder.load("tiny-gemma3", attention=request.param, dtype="float32", template=TEMPLATE, max_tokens=128)


def same(left: Tokens, right: Tokens) -> bool:
    return np.array_equal(left.ids, right.ids) and (left.pool_start, left.pool_stop) == (
        right.pool_start,
        right.pool_stop,
    )


def windows(embedder, **settings):
    return [text.windows[0] for text in embedder.tokenize(TEXTS, **settings)]


def test_features_carry_the_texts_through_and_through_a_cut_by_gradcache(embedder):
    tokens = windows(embedder, kind="query", instruction="find")
    features = pack_features(tokens)
    assert all(same(*pair) for pair in zip(unpack_features(features), tokens, strict=True))
    cut = unpack_features(_create_minibatch(features, 1, 4))
    assert len(cut) == 3 and all(same(*pair) for pair in zip(cut, tokens[1:4], strict=True))


def test_text_that_pools_nothing_survives():
    tokens = [Tokens(np.array([2, 7], dtype=np.int32), 2, 2), Tokens(np.array([2, 8], dtype=np.int32), 1, 2)]
    unpacked = unpack_features(pack_features(tokens))
    assert unpacked[0].pool_stop == unpacked[0].pool_start
    assert same(unpacked[1], tokens[1])


@pytest.mark.parametrize("budget", [16, 10_000])
def test_training_vectors_equal_inference_vectors(embedder, budget):
    """The same attention: causal stays causal, windows stay windows, neighbours in a pack stay unseen."""
    encoder = PackedEncoder(embedder.backbone, embedder.pooling, budget)
    tokens = windows(embedder, kind="document")
    assert max(map(len, tokens)) > 8 + 1  # longer than the tiny sliding window
    vectors = encoder(pack_features(tokens))["sentence_embedding"]
    assert vectors.requires_grad
    expected, _ = embedder.encode(TEXTS, kind="document")
    ours = torch.nn.functional.normalize(vectors, dim=-1).detach().numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2


def test_future_token_reaches_training_vectors_only_when_bidirectional(embedder):
    ids = windows(embedder, kind="document")[1].ids
    changed = ids.copy()
    changed[-1] = changed[-1] + 1
    encoder = PackedEncoder(embedder.backbone, embedder.pooling, 64)
    first_three = [Tokens(which, 1, 4) for which in (ids, changed)]
    left, right = encoder(pack_features(first_three))["sentence_embedding"]
    # The window of the sliding layer and the full layer together reach from the end to the start.
    assert bool((left != right).any()) == (embedder.attention == "bidirectional")


def test_gradients_flow_after_the_same_shapes_were_encoded_for_inference(embedder):
    """Attention caches its masks; one made in inference mode must not break the backward pass."""
    embedder.encode(TEXTS, kind="document")
    encoder = PackedEncoder(embedder.backbone, embedder.pooling, 10_000)
    encoder(pack_features(windows(embedder, kind="document")))["sentence_embedding"].sum().backward()
    gradient = next(encoder.parameters()).grad
    assert gradient is not None and gradient.abs().sum() > 0
    encoder.zero_grad()


def test_training_template_is_the_inference_template(embedder, tmp_path):
    """Ids of a training batch against those of the saved and reloaded embedder, queries and documents."""
    triplets = [
        Triplet(id="1", query="how?", positive=TEXTS[1], negatives=(TEXTS[2],), instruction="find the answer"),
        Triplet(id="2", query="why?", positive=TEXTS[2], negatives=(TEXTS[4],), instruction=None),
    ]
    collator = TripletCollator(embedder, triplets, BatchConfig(query_max_tokens=128, document_max_tokens=128))
    batch = collator([{"row": 0}, {"row": 1}])
    embedder.save(tmp_path / "saved")
    reloaded = Embedder.load(str(tmp_path / "saved"), dtype="float32")

    def trained(column):
        prefix = f"{column}_"
        return unpack_features({key.removeprefix(prefix): batch[key] for key in batch if key.startswith(prefix)})

    def served(texts, **settings):
        return [text.windows[0] for text in reloaded.tokenize(texts, **settings)]

    queries = served(["how?"], kind="query", instruction="find the answer") + served(["why?"], kind="query")
    assert all(same(*pair) for pair in zip(trained("query"), queries, strict=True))
    assert len(queries[0]) > len(queries[1]) + 5
    documents = served([TEXTS[1], TEXTS[2]], kind="document")
    assert all(same(*pair) for pair in zip(trained("positive"), documents, strict=True))
    assert torch.equal(batch["row_index"], torch.tensor([0, 1]))


def test_limits_are_per_column_and_cuts_are_counted(embedder):
    triplets = [Triplet(id="1", query=TEXTS[3], positive=TEXTS[3] + "x")]
    collator = TripletCollator(embedder, triplets, BatchConfig(query_max_tokens=20, document_max_tokens=30))
    batch = collator([{"row": 0}])
    assert batch["query_input_ids"].shape == (1, 20) and batch["positive_input_ids"].shape == (1, 30)
    assert (collator.cuts.num_texts, collator.cuts.num_cut) == (2, 2)


def test_keys_tell_texts_and_instructions_apart():
    assert key_of("A  text") == key_of("a text")
    assert key_of("text", "one") != key_of("text", "two")
    assert key_of("ab", "c") != key_of("a", "bc")
