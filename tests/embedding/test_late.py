"""Late chunking against what it claims: context around a chunk counts, and nothing else changes."""

import numpy as np
import pytest
import torch

from diffembed import Embedder
from diffembed.embedding.late import encode_late
from diffembed.embedding.packing import forward_packed
from diffembed.embedding.text import TextTemplate, Tokens
from diffembed.errors import ConfigError, InputError

TEXT = "the model reads a text. it has both directions of the attention, and pools every token of it into one vector."
CUT = TEXT.index(" it has")
TINY = ("tiny-qwen2", "tiny-llama", "tiny-gemma3")


def load(name="tiny-qwen2", attention="bidirectional", **more):
    return Embedder.load(name, attention=attention, dtype="float32", **more)


def plain(embedder, text):
    return embedder.encode([text])[0][0]


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean", "last"])
@pytest.mark.parametrize("name", [*TINY, "all-minilm-l6-v2"])
def test_one_span_over_the_whole_text_is_encode(name, pooling):
    texts = [TEXT, "a", "  spaces around  ", "日本語 \ud800"]
    embedder = Embedder.load(name, dtype="float32", pooling=pooling)
    late, report = encode_late(embedder, texts, [[(0, len(text))] for text in texts])
    want, want_report = embedder.encode(texts)
    np.testing.assert_allclose(np.concatenate(late), want, atol=2e-6)
    assert report.num_tokens.tolist() == want_report.num_tokens.tolist()


@pytest.mark.parametrize("name", TINY)
def test_causal_prefix_is_the_plain_vector_of_the_prefix(name):
    late = encode_late(load(name, "causal"), [TEXT], [[(0, CUT), (CUT, len(TEXT))]])[0][0]
    np.testing.assert_allclose(late[0], plain(load(name, "causal"), TEXT[:CUT]), atol=1e-5)
    assert np.abs(late[1] - plain(load(name, "causal"), TEXT[CUT:])).max() > 1e-3, "the second chunk saw the first"


@pytest.mark.parametrize("name", TINY)
def test_bidirectional_prefix_has_seen_what_follows(name):
    embedder = load(name)
    other = TEXT[:CUT] + " something else stands here."
    late, elsewhere = encode_late(embedder, [TEXT, other], [[(0, CUT)], [(0, CUT)]])[0]
    assert np.abs(late[0] - plain(embedder, TEXT[:CUT])).max() > 1e-3
    assert np.abs(late[0] - elsewhere[0]).max() > 1e-3


def test_spans_that_part_the_text_part_its_tokens():
    """Token-weighted, the parts of a mean give the mean of the whole; words straddle no border of a chunk."""
    embedder = Embedder(load().backbone, is_normalised=False)
    window = embedder.tokenize_windows([TEXT], overlap_tokens=0)[0]
    # The cut stands before a space: the token " it" is the second part's.
    counts = [(window.anchors < CUT).sum(), (window.anchors >= CUT).sum()]
    assert min(counts) > 3
    (parts,), _ = encode_late(embedder, [TEXT], [[(0, CUT), (CUT, len(TEXT))]])
    want = plain(embedder, TEXT)
    np.testing.assert_allclose(np.average(parts, axis=0, weights=counts), want, atol=1e-5)
    (stripped,), _ = encode_late(embedder, [TEXT], [[(0, CUT), (CUT + 1, len(TEXT))]])
    np.testing.assert_allclose(stripped, parts, atol=1e-6, err_msg="a space belongs to the word after it")


def test_overlapping_empty_and_unordered_spans():
    spans = [(10, 60), (0, 40), (5, 5), (0, len(TEXT))]
    embedder = load()
    (late,), _ = encode_late(embedder, [TEXT], [spans])
    for row, span in enumerate(spans):
        np.testing.assert_allclose(late[row], encode_late(embedder, [TEXT], [[span]])[0][0][0], atol=1e-6)
    assert not late[2].any() and late[0].any()


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean", "last"])
@pytest.mark.parametrize("overlap", [0, 5, 12])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_windows_beyond_the_limit(attention, overlap, pooling):
    """Naive: every window alone, every state kept, each token's state picked by its distance to the borders."""
    text, limit = TEXT * 3, 32
    embedder = load("tiny-gemma3", attention, max_tokens=limit, pooling=pooling)
    spans = [(start, min(start + 50, len(text))) for start in range(0, len(text), 50)] + [(0, len(text))]
    (late,), report = encode_late(embedder, [text], [spans], overlap_tokens=overlap)

    backend = embedder.backbone.tokenizer.backend_tokenizer
    encoding = backend.encode(text, add_special_tokens=False)
    bos = backend.encode("a", add_special_tokens=True).ids[:1]
    room = limit - 1
    states, best_overhang, read = {}, {}, 0
    for start in range(0, len(encoding.ids), room - overlap):
        ids = encoding.ids[start : start + room]
        if start and len(ids) <= overlap:
            break
        with torch.inference_mode():
            hidden = forward_packed(embedder.backbone, [Tokens(np.array(bos + ids, np.int32), 0, len(ids) + 1)])
        read += len(ids) + 1
        for place in range(len(ids)):
            behind, ahead = place, room - 1 - place
            context = behind + 0.5 if attention == "causal" else min(behind + 0.5, ahead)
            # No token lies nearer to a border than the text's own ends force it to.
            if start == 0 and attention != "causal":
                context = ahead
            if start + place not in states or context > best_overhang[start + place]:
                states[start + place], best_overhang[start + place] = hidden[1 + place].numpy(), context
    assert len(states) == len(encoding.ids) > 3 * limit and report.num_tokens.tolist() == [read]
    for row, (begin, end) in enumerate(spans):
        inside = []
        for place, (first, stop) in enumerate(encoding.offsets):
            anchor = next((i for i in range(first, stop) if text[i] != " "), first)
            if begin <= anchor < end:
                inside.append(states[place])
        weights = {"mean": np.ones(len(inside)), "weighted_mean": np.arange(1, len(inside) + 1)}.get(pooling)
        want = inside[-1] if weights is None else np.average(inside, axis=0, weights=weights)
        np.testing.assert_allclose(late[row], want / np.linalg.norm(want), atol=1e-5)


def test_many_documents_in_packs_equal_one_by_one():
    embedder = load(max_tokens=24, token_budget=64)
    texts = [TEXT[: 7 * size] for size in range(1, 15)]
    spans = [[(0, len(text) // 2), (len(text) // 2, len(text))] for text in texts]
    together, _ = encode_late(embedder, texts, spans)
    for text, parts, got in zip(texts, spans, together, strict=True):
        np.testing.assert_allclose(got, encode_late(embedder, [text], [parts])[0][0], atol=1e-5)


def test_slabs_do_not_show(monkeypatch):
    embedder, texts = load(), [TEXT, "a", TEXT[::-1], ""]
    spans = [[(0, len(text))] for text in texts]
    want = np.concatenate(encode_late(embedder, texts, spans)[0])
    monkeypatch.setattr("diffembed.embedding.late.SLAB_CHARACTERS", 20)
    np.testing.assert_allclose(np.concatenate(encode_late(embedder, texts, spans)[0]), want, atol=1e-6)


def test_template_is_pooled_as_encode_pools_it():
    template = TextTemplate(document_prefix="passage: ", pools_instruction=True, appends_eos=True)
    embedder = Embedder(load().backbone, template=template)
    (late,), _ = encode_late(embedder, [TEXT], [[(0, len(TEXT))]])
    np.testing.assert_allclose(late[0], plain(embedder, TEXT), atol=2e-6)
    assert np.abs(late[0] - plain(load(), TEXT)).max() > 1e-3


def test_dims_are_cut_and_normalised():
    (late,), _ = encode_late(load(), [TEXT], [[(0, len(TEXT))]], dims=8)
    np.testing.assert_allclose(late, load().encode([TEXT], dims=8)[0], atol=2e-6)


def test_refusals():
    embedder = load(max_tokens=16)
    with pytest.raises(InputError, match=r"span \(0, 9\) is outside text 0, which has 1 characters"):
        encode_late(embedder, ["a"], [[(0, 9)]])
    with pytest.raises(InputError, match="list of texts"):
        encode_late(embedder, "a", [[(0, 1)]])
    with pytest.raises(InputError, match="2 texts come with spans for 1"):
        encode_late(embedder, ["a", "b"], [[(0, 1)]])
    with pytest.raises(ConfigError, match="overlap_tokens is 15; a window holds"):
        encode_late(embedder, ["a"], [[(0, 1)]], overlap_tokens=15)
    with pytest.raises(ConfigError, match="late chunking pools by mean, weighted_mean, last"):
        encode_late(Embedder.load("all-minilm-l6-v2", pooling="first"), ["a"], [[(0, 1)]])
    assert encode_late(embedder, [], [])[0] == []
