import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

from diffembed.data.formats import Triplet
from diffembed.embedding.embedder import Embedder
from diffembed.objectives.contrastive import explicit_negatives_loss
from diffembed.training.adapters import attach_lora
from diffembed.training.batches import TripletCollator
from diffembed.training.config import BatchConfig, LoraConfig, LossConfig
from diffembed.training.losses import ExplicitNegativesLoss, MaskedRankingLoss, make_loss
from diffembed.training.packed import PackedEncoder

LOSSES = {
    "sentence-transformers": LossConfig(num_negatives=2, drops_same_texts=False),
    "sentence-transformers with queries": LossConfig(
        num_negatives=2, drops_same_texts=False, uses_query_negatives=True
    ),
    "same texts dropped": LossConfig(num_negatives=2),
    "margin": LossConfig(num_negatives=2, false_negative_margin=0.0, temperature=0.5),
    "queries, masks": LossConfig(num_negatives=2, uses_query_negatives=True, false_negative_margin=0.1),
    "explicit": LossConfig(kind="explicit", num_negatives=2),
    "explicit dot": LossConfig(kind="explicit", num_negatives=2, similarity="dot_over_dim", temperature=1.0),
    "matryoshka": LossConfig(num_negatives=2, matryoshka_dims=(32, 16)),
    "simcse": LossConfig(kind="simcse", num_negatives=0, temperature=0.05),
}


@pytest.fixture(scope="module")
def model():
    embedder = Embedder.load("tiny-gemma3", attention="bidirectional", dtype="float32", max_tokens=64)
    torch.manual_seed(0)
    attach_lora(embedder.backbone.model, LoraConfig(rank=4, dropout=0.0))
    for name, weight in embedder.backbone.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    encoder = PackedEncoder(embedder.backbone, embedder.pooling, 64)
    return SentenceTransformer(modules=[encoder], device="cpu"), embedder


def make_features(embedder, num_rows=7, *, has_repeats=True, is_simcse=False):
    rows = []
    for number in range(num_rows):
        query = f"question {number % 3 if has_repeats else number}"
        positive = query if is_simcse else f"answer {number} " + "word " * (number * 2)
        negatives = () if is_simcse else (f"other {number}", f"answer {0 if has_repeats else number + 50}")
        rows.append(Triplet(id=str(number), query=query, positive=positive, negatives=negatives))
    collator = TripletCollator(embedder, rows, BatchConfig(query_max_tokens=64, document_max_tokens=64))
    batch = collator([{"row": number} for number in range(num_rows)])
    columns = ["query", "positive"] + [f"negative_{k}" for k in range(1, 1 + len(rows[0].negatives))]
    return [
        {key.removeprefix(f"{column}_"): value for key, value in batch.items() if key.startswith(f"{column}_")}
        for column in columns
    ]


def loss_and_gradient(model, config, features, mini_batch_tokens):
    model.zero_grad()
    loss = make_loss(model, config, mini_batch_tokens)(features, None)
    loss.backward()
    gradient = torch.cat([w.grad.flatten() for w in model.parameters() if w.requires_grad and w.grad is not None])
    return loss.detach(), gradient


@pytest.mark.parametrize("mini_batch_tokens", [1, 40, 10_000], ids=lambda budget: f"{budget} tokens")
@pytest.mark.parametrize("name", list(LOSSES))
def test_gradcache_equals_the_full_batch_in_loss_and_gradient(model, name, mini_batch_tokens):
    network, embedder = model
    features = make_features(embedder, is_simcse=name == "simcse")
    full_loss, full_gradient = loss_and_gradient(network, LOSSES[name], features, None)
    loss, gradient = loss_and_gradient(network, LOSSES[name], features, mini_batch_tokens)
    if name == "simcse":
        # Without dropout both views are one vector, and the gradient of a perfect match is that of its rivals.
        assert full_loss > 0
    assert full_gradient.abs().max() > 1e-4
    torch.testing.assert_close(loss, full_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, full_gradient, rtol=1e-3, atol=1e-5)


def test_masked_loss_without_a_mask_equals_sentence_transformers(model):
    network, embedder = model
    features = make_features(embedder, has_repeats=False)
    ours = LossConfig(num_negatives=2, false_negative_margin=9.0, drops_same_texts=False, uses_query_negatives=True)
    assert isinstance(make_loss(network, ours, None), MaskedRankingLoss)
    loss, gradient = loss_and_gradient(network, ours, features, None)
    theirs, their_gradient = loss_and_gradient(network, LOSSES["sentence-transformers with queries"], features, None)
    torch.testing.assert_close(loss, theirs)
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-4, atol=1e-6)


def test_masks_change_the_loss_of_a_batch_with_repeats(model):
    network, embedder = model
    features = make_features(embedder)
    plain, _ = loss_and_gradient(network, LOSSES["sentence-transformers"], features, None)
    masked, _ = loss_and_gradient(network, LOSSES["same texts dropped"], features, None)
    assert masked < plain - 0.01


def test_masked_loss_in_closed_form(model):
    """Three rows; query 0 is asked twice, so the positive of row 2 is no negative of row 0, and the other way round."""
    network, embedder = model
    rows = [Triplet(id="0", query="q", positive="first"), Triplet(id="1", query="r", positive="second")]
    rows.append(Triplet(id="2", query="q", positive="third"))
    collator = TripletCollator(embedder, rows, BatchConfig())
    batch = collator([{"row": number} for number in range(3)])
    features = [
        {key.removeprefix(f"{column}_"): value for key, value in batch.items() if key.startswith(f"{column}_")}
        for column in ("query", "positive")
    ]
    vectors = [network(column)["sentence_embedding"] for column in features]
    cosine = torch.nn.functional.cosine_similarity(vectors[0][:, None], vectors[1][None], dim=-1) / 0.02
    expected = torch.stack(
        [
            torch.logsumexp(cosine[0, [0, 1]], 0) - cosine[0, 0],
            torch.logsumexp(cosine[1], 0) - cosine[1, 1],
            torch.logsumexp(cosine[2, [1, 2]], 0) - cosine[2, 2],
        ]
    ).mean()
    torch.testing.assert_close(make_loss(network, LossConfig(num_negatives=0), None)(features, None), expected)


def test_explicit_loss_reads_only_its_own_row(model):
    network, embedder = model
    features = make_features(embedder)
    vectors = [network(column)["sentence_embedding"] for column in features]
    expected = explicit_negatives_loss(
        vectors[0], torch.stack(vectors[1:], dim=1), similarity="cosine", temperature=0.02
    )
    loss = make_loss(network, LOSSES["explicit"], 40)
    assert isinstance(loss, ExplicitNegativesLoss)
    torch.testing.assert_close(loss(features, None).detach(), expected.detach())


def test_matryoshka_averages_the_loss_over_the_widths(model):
    network, embedder = model
    features = make_features(embedder)
    vectors = [network(column)["sentence_embedding"] for column in features]
    loss = make_loss(network, LossConfig(num_negatives=2, drops_same_texts=False, matryoshka_dims=(32, 16)), None)
    assert isinstance(loss, MatryoshkaLoss)
    plain = MultipleNegativesRankingLoss(network, scale=50)
    parts = [plain.compute_loss_from_embeddings([v[:, :dim] for v in vectors], None) for dim in (32, 16)]
    assert (parts[0] - parts[1]).abs() > 1e-3
    torch.testing.assert_close(loss(features, None), (parts[0] + parts[1]) / 2)


def test_hard_and_in_batch_negatives_of_the_paper_are_31_at_16_rows(model):
    """4 rows on each of 4 devices, one hard negative: 16 positives and 16 negatives, 31 of them rivals."""
    network, embedder = model
    seen = []

    def similarity(left, right):
        seen.append((len(left), len(right)))
        return left @ right.T

    loss = make_loss(network, LossConfig(drops_same_texts=False), None)
    loss.similarity_fct = similarity
    features = make_features(embedder, num_rows=16, has_repeats=False)[:3]
    loss(features, None)
    assert seen == [(16, 32)]
