"""The packed kernel against transformers' own eager attention, document by document."""

import pytest
import torch

from diffembed.backbones.attention import QUERY_BLOCK, PackedLayout, packed_attention, window_reach
from diffembed.backbones.loading import load_backbone
from diffembed.errors import AttentionContractError

TINY = ("tiny-qwen2", "tiny-llama", "tiny-gemma3")


def states(backbone, ids, lengths, **kwargs):
    layout = PackedLayout(tuple(lengths), kwargs.pop("direction", backbone.attention))
    out = backbone.model(input_ids=ids, position_ids=layout.position_ids(), packed=layout)
    return out.last_hidden_state[0]


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_pack_equals_eager_one_by_one(name, attention):
    # 700 tokens: nearly three query blocks and far beyond the window of 8; two equal lengths share a kernel call.
    lengths = (700, 40, 9, 9, 1)
    packed = load_backbone(name, attention=attention, dtype="float32", kernel="packed")
    eager = load_backbone(name, attention=attention, dtype="float32", kernel="eager")
    assert lengths[0] > 2 * QUERY_BLOCK
    ids = torch.randint(5, 500, (1, sum(lengths)), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = states(packed, ids, lengths).split(lengths)
        want = [eager.model(input_ids=part).last_hidden_state[0] for part in ids.split(lengths, dim=1)]
    for got_LD, want_LD in zip(got, want, strict=True):
        assert want_LD.abs().max() > 0.5
        torch.testing.assert_close(got_LD, want_LD, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_gradients_equal_eager(name):
    packed = load_backbone(name, attention="bidirectional", dtype="float32", kernel="packed")
    eager = load_backbone(name, attention="bidirectional", dtype="float32", kernel="eager")
    ids = torch.randint(5, 500, (1, 30), generator=torch.Generator().manual_seed(0))
    states(packed, ids, (30,)).square().sum().backward()
    eager.model(input_ids=ids).last_hidden_state.square().sum().backward()
    for (key, got), want in zip(packed.model.named_parameters(), eager.model.parameters(), strict=True):
        assert want.grad.abs().max() > 0, key
        torch.testing.assert_close(got.grad, want.grad, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("direction", ["causal", "anticausal", "bidirectional"])
@pytest.mark.parametrize("window", [None, 3])
def test_direction_and_window_by_an_explicit_mask(direction, window):
    # Reference: softmax over an L x L mask written out.
    length, generator = 2 * QUERY_BLOCK + 5, torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(1, heads, length, 4, generator=generator) for heads in (4, 2, 2))
    back, ahead = window_reach(direction, window)
    distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    mask = (distance >= -(length if back is None else back)) & (distance <= (length if ahead is None else ahead))
    assert 0 < mask.sum() <= length**2
    wide_key, wide_value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    scores = (query @ wide_key.transpose(-1, -2) * 0.5).masked_fill(~mask, float("-inf"))
    want = (scores.softmax(-1) @ wide_value).transpose(1, 2)
    for softcap in (None, 1e6):  # a cap so high that it changes nothing takes the other code path
        got, _ = packed_attention(
            torch.nn.Module(), query, key, value, None, scaling=0.5, sliding_window=window, softcap=softcap,
            packed=PackedLayout((length,), direction),
        )  # fmt: skip
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_softcap_by_hand():
    query, key, value = torch.ones(1, 1, 2, 1), torch.tensor([[[[1.0], [9.0]]]]), torch.tensor([[[[0.0], [1.0]]]])
    got, _ = packed_attention(
        torch.nn.Module(), query, key, value, None, scaling=1.0, softcap=2.0, packed=PackedLayout((2,), "bidirectional")
    )
    # scores 2 tanh(1/2) = 0.924 and 2 tanh(9/2) = 1.9995; weight of the second = sigmoid(1.0753) = 0.7456
    assert got[0, 0, 0, 0].item() == pytest.approx(0.7456, abs=1e-3)


def test_window_is_the_one_of_transformers():
    assert window_reach("causal", 512) == (511, 0)
    assert window_reach("bidirectional", 512) == (512, 512)
    assert window_reach("bidirectional", None) == (None, None)


def test_equal_neighbours_share_a_run():
    assert PackedLayout((5, 3, 3, 3, 2), "causal").runs() == [(0, 1, 5), (5, 3, 3), (14, 1, 2)]


def test_layers_may_have_directions_of_their_own():
    backbone = load_backbone("tiny-qwen2", attention="bidirectional", dtype="float32")
    ids = torch.randint(5, 500, (1, 12), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, -1] = 7
    with torch.no_grad():
        for direction, moves in (
            (("causal", "causal"), False),
            (("bidirectional", "causal"), True),
            (("causal", "bidirectional"), True),
        ):
            before, after = (states(backbone, x, (12,), direction=direction)[0] for x in (ids, changed))
            assert bool((before != after).any()) == moves


def test_padded_batch_is_refused_by_the_packed_kernel():
    model = load_backbone("tiny-qwen2").model
    ids = torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(AttentionContractError, match="padded batch"):
        model(input_ids=ids, attention_mask=torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]))
    with pytest.raises(AttentionContractError, match="without a layout"):
        model(input_ids=ids)


def test_layout_of_another_length_is_refused():
    model = load_backbone("tiny-qwen2").model
    with pytest.raises(AttentionContractError, match="covers 3 tokens"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long), packed=PackedLayout((3,), "causal"))
