import math

import pytest
import torch

from diffembed.errors import ConfigError, UnknownNameError
from diffembed.objectives.contrastive import TextKeys, explicit_negatives_loss, false_negatives, info_nce, scores_of


def test_info_nce_of_two_candidates_by_hand():
    # Query 0: scores 1 (positive) and 0, temperature 0.5 -> logits 2, 0 -> -log(e^2 / (e^2 + 1)) = log(1 + e^-2).
    # Query 1: scores 0.5 and 0.5 (positive) -> log 2.
    score = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    loss = info_nce(score, torch.tensor([0, 1]), temperature=0.5)
    assert float(loss) == pytest.approx((math.log(1 + math.exp(-2)) + math.log(2)) / 2)


def test_dropped_candidate_leaves_the_denominator():
    score = torch.tensor([[1.0, 0.9, 0.0]])
    dropped = torch.tensor([[False, True, False]])
    loss = info_nce(score, torch.tensor([0]), temperature=1.0, dropped_BN=dropped)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1)))


def test_cosine_ignores_length_and_dot_over_dim_does_not():
    query, document = torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0], [-4.0, 3.0]])
    torch.testing.assert_close(scores_of(query, document, "cosine"), torch.tensor([[1.0, 0.0]]))
    # (18 + 32) / 2 = 25 and 0
    torch.testing.assert_close(scores_of(query, document, "dot_over_dim"), torch.tensor([[25.0, 0.0]]))


@pytest.mark.parametrize("similarity", ["cosine", "dot_over_dim"])
def test_explicit_negatives_by_numpy_reference(similarity):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 8, generator=generator)
    document = torch.randn(3, 16, 8, generator=generator)
    expected = 0.0
    for row in range(3):
        logits = []
        for k in range(16):
            dot = sum(float(a) * float(b) for a, b in zip(query[row], document[row, k], strict=True))
            if similarity == "cosine":
                dot /= math.sqrt(sum(float(a) ** 2 for a in query[row]))
                dot /= math.sqrt(sum(float(b) ** 2 for b in document[row, k]))
            else:
                dot /= 8
            logits.append(dot / 0.1)
        expected += math.log(sum(math.exp(x) for x in logits)) - logits[0]
    loss = explicit_negatives_loss(query, document, similarity=similarity, temperature=0.1)
    assert float(loss) == pytest.approx(expected / 3, rel=1e-4)


def test_explicit_negatives_of_other_rows_are_no_candidates():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, generator=generator, requires_grad=True)
    document = torch.randn(2, 3, 4, generator=generator, requires_grad=True)
    both = explicit_negatives_loss(query, document, similarity="cosine", temperature=0.1)
    apart = [
        explicit_negatives_loss(query[i : i + 1], document[i : i + 1], similarity="cosine", temperature=0.1)
        for i in range(2)
    ]
    torch.testing.assert_close(both, (apart[0] + apart[1]) / 2)
    (gradient,) = torch.autograd.grad(apart[0], document)
    assert gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0


KEYS = TextKeys(
    query_B=torch.tensor([1, 2, 1]),
    query_text_B=torch.tensor([101, 102, 101]),
    positive_B=torch.tensor([11, 12, 13]),
    # Columns: three positives, then three negatives: a copy of positive 0, a copy of query 1, something else.
    candidate_N=torch.tensor([11, 12, 13, 11, 102, 30]),
    candidate_query_N=torch.tensor([1, 2, 1, 0, 0, 0]),
)


def test_text_keys_drop_copies_of_the_positive_of_the_query_and_of_a_repeated_querys_positive():
    dropped = false_negatives(torch.zeros(3, 6), torch.tensor([0, 1, 2]), keys=KEYS)
    expected = torch.tensor(
        [
            [0, 0, 1, 1, 0, 0],  # query key 1 occurs twice, so its other positive goes; so does the copy of 11
            [0, 0, 0, 0, 1, 0],  # a negative that is the query's own text
            [1, 0, 0, 0, 0, 0],
        ],
        dtype=torch.bool,
    )
    assert torch.equal(dropped, expected)


def test_margin_drops_what_scores_clearly_above_the_positive():
    score = torch.tensor([[0.5, 0.61, 0.59, 0.2]])
    assert false_negatives(score, torch.tensor([0]), margin=0.1).tolist() == [[False, True, False, False]]
    assert false_negatives(score, torch.tensor([1]), margin=0.0).tolist() == [[False] * 4]


def test_own_positive_is_never_dropped():
    score = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    dropped = false_negatives(score, torch.tensor([0, 1, 2]), keys=KEYS, margin=0.0)
    assert dropped.any()
    assert not dropped[torch.arange(3), torch.arange(3)].any()


def test_margin_is_read_and_not_differentiated():
    score = torch.tensor([[0.5, 0.9]], requires_grad=True)
    dropped = false_negatives(score, torch.tensor([0]), margin=0.1)
    assert dropped.tolist() == [[False, True]]
    info_nce(score, torch.tensor([0]), temperature=1.0, dropped_BN=dropped).backward()
    assert score.grad.tolist() == [[0.0, 0.0]]


def test_negative_margin_and_unknown_similarity_are_refused():
    with pytest.raises(ConfigError, match="must not be negative"):
        false_negatives(torch.zeros(1, 2), torch.tensor([0]), margin=-0.1)
    with pytest.raises(UnknownNameError, match="choose one of cosine, dot_over_dim"):
        scores_of(torch.zeros(1, 2), torch.zeros(1, 2), "dot")
