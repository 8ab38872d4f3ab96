"""The shares of the tokens against the similarity itself, and against states recomputed one text at a time."""

import numpy as np
import pytest
import torch

from diffembed import Embedder
from diffembed.backbones.loading import load_backbone
from diffembed.embedding.contributions import explain, is_spread
from diffembed.embedding.pooling import POOLINGS
from diffembed.embedding.text import TextTemplate
from diffembed.errors import EmptyInputError

TEXTS = [
    "A token sees the whole text.",
    "When attention is causal, a token sees only what stands before it. " * 9,
    "  two  spaces,\n\ta tab and a w\u00f6rd \U0001f600 \u65e5\u672c\u8a9e ",
    "x",
    "",
]
QUESTION = "which tokens can be seen?"


@pytest.fixture(scope="module", params=["tiny-gemma3", "tiny-qwen2", "all-minilm-l6-v2"])
def embedder(request):
    return Embedder.load(request.param, attention="bidirectional", dtype="float32", token_budget=256)


def similarities(embedder, texts, *, overflow="truncate", instruction=None, dims=None):
    query, _ = embedder.encode([QUESTION], kind="query", instruction=instruction, dims=dims)
    documents, _ = embedder.encode(texts, overflow=overflow, dims=dims)
    return embedder.similarity(query, documents)[0]


@pytest.mark.parametrize("instruction", [None, "find the sentence"])
def test_shares_add_up_to_the_similarity(embedder, instruction):
    found = explain(embedder, QUESTION, TEXTS, instruction=instruction)
    want = similarities(embedder, TEXTS, instruction=instruction)
    assert np.ptp(want) > 0.05, "the similarities must differ for this test to mean anything"
    np.testing.assert_allclose([text.shares_T.sum() for text in found], want, atol=1e-5)
    np.testing.assert_allclose([text.similarity for text in found], want, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean"])
def test_equals_shares_from_states_of_transformers(pooling):
    embedder = Embedder.load("tiny-gemma3", attention="bidirectional", dtype="float32", pooling=pooling)
    eager = load_backbone("tiny-gemma3", attention="bidirectional", dtype="float32", kernel="eager")
    question = embedder.encode_queries([QUESTION])[0]
    for text, found in zip(TEXTS[:3], explain(embedder, QUESTION, TEXTS[:3]), strict=True):
        encoding = eager.tokenizer(text, return_offsets_mapping=True)
        with torch.no_grad():
            states = eager.model(input_ids=torch.tensor([encoding.input_ids])).last_hidden_state[0, 1:].numpy()
        weights = np.arange(1, len(states) + 1) if pooling == "weighted_mean" else np.ones(len(states))
        pooled = np.average(states, axis=0, weights=weights)
        want = [
            w * (question @ h) / weights.sum() / np.linalg.norm(pooled) for w, h in zip(weights, states, strict=True)
        ]
        np.testing.assert_allclose(found.shares_T, want, atol=1e-5)
        assert found.spans_T2.tolist() == [list(pair) for pair in encoding.offset_mapping[1:]]
        assert np.std(want) > 1e-3, "the tokens must differ"


def test_windows_of_a_long_text_are_taken_together(embedder):
    short = Embedder(embedder.backbone, max_tokens=40, token_budget=256)
    (found,) = explain(short, QUESTION, TEXTS[1:2], overflow="chunk")
    np.testing.assert_allclose(found.shares_T.sum(), similarities(short, TEXTS[1:2], overflow="chunk")[0], atol=1e-5)
    assert not found.is_truncated and found.num_chars_read == len(TEXTS[1])
    starts = found.spans_T2[found.spans_T2[:, 1] > 0][:, 0]
    assert starts[-1] > len(TEXTS[1]) - 10 and (np.diff(starts) >= 0).all(), "every window has its own place"


def test_truncation_says_where_reading_stopped(embedder):
    short = Embedder(embedder.backbone, max_tokens=40)
    (found,) = explain(short, QUESTION, TEXTS[1:2])
    assert found.is_truncated and found.num_tokens == 40
    stop = found.num_chars_read
    assert 20 < stop < len(TEXTS[1])
    assert np.abs(found.by_character()[:stop]).sum() > 0 and not found.by_character()[stop:].any()
    # Reading only what was read gives the same similarity.
    np.testing.assert_allclose(similarities(short, [TEXTS[1][:stop]])[0], found.similarity, atol=1e-5)


def test_matryoshka_cut_is_explained_as_it_is_scored(embedder):
    cut = Embedder(embedder.backbone, dims=8)
    found = explain(cut, QUESTION, TEXTS)
    np.testing.assert_allclose([text.shares_T.sum() for text in found], similarities(cut, TEXTS), atol=1e-5)


def test_nothing_is_lost_between_tokens_words_and_bins(embedder):
    for text, found in zip(TEXTS, explain(embedder, QUESTION, TEXTS), strict=True):
        pieces = found.pieces()
        assert "".join(piece.text for piece in pieces) == text
        inside = found.similarity - found.outside
        np.testing.assert_allclose(sum(piece.share for piece in pieces), inside, atol=1e-5)
        num_inside = np.count_nonzero(found.spans_T2[:, 1] > found.spans_T2[:, 0])
        np.testing.assert_allclose(sum(piece.num_tokens for piece in pieces), num_inside)
        for num_bins in (1, 7, 1000):
            np.testing.assert_allclose(found.along(num_bins).sum(), inside, atol=1e-5)


def test_words_are_whole_and_signs_are_single(embedder):
    pieces = [piece.text for piece in explain(embedder, QUESTION, TEXTS[2:3])[0].pieces()]
    assert {"w\u00f6rd", "\u65e5", "\u672c", "\u8a9e", ",", "\n\t"} <= set(pieces)


def test_special_tokens_and_prefix_count_as_outside():
    # MiniLM pools [CLS] and [SEP]; a document prefix is pooled by it too and stands for no character of the text.
    embedder = Embedder.load("all-minilm-l6-v2", dtype="float32", template=TextTemplate(document_prefix="passage: "))
    (found,) = explain(embedder, QUESTION, ["A token sees."])
    is_outside = found.spans_T2[:, 1] == 0
    assert is_outside.tolist() == [True] * 3 + [False] * 4 + [True]
    np.testing.assert_allclose(found.outside, found.shares_T[is_outside].sum(), atol=1e-6)
    assert abs(found.outside) > 1e-3


@pytest.mark.parametrize(("pooling", "place"), [("last", -1), ("first", 0)])
def test_one_token_carries_the_score_where_one_is_pooled(pooling, place):
    embedder = Embedder.load("tiny-qwen2", pooling=pooling, dtype="float32")
    assert not is_spread(embedder) and is_spread(Embedder.load("tiny-qwen2", pooling="mean"))
    for found, want in zip(explain(embedder, QUESTION, TEXTS[:4]), similarities(embedder, TEXTS[:4]), strict=True):
        assert found.shares_T[place] == pytest.approx(want, abs=1e-5)
        assert np.count_nonzero(found.shares_T) == 1 and abs(want) > 1e-3


def test_a_pooling_without_weights_here_is_noticed():
    """A pooling that is added later must not be explained as if it were a weighted mean."""
    assert set(POOLINGS) == {"mean", "weighted_mean", "last", "first"}


def test_refuses_a_blank_question():
    with pytest.raises(EmptyInputError, match="ask with words"):
        explain(Embedder.load("tiny-qwen2"), " ", TEXTS)


def test_a_text_without_tokens_has_no_shares():
    (found,) = explain(Embedder.load("tiny-qwen2"), QUESTION, [""])
    assert found.similarity == 0 and found.pieces() == [] and found.along(3).tolist() == [0, 0, 0]
