import pytest
import torch
from sentence_transformers.base.losses.gradcache import RandContext

from diffembed.backbones.loading import load_backbone
from diffembed.training.adapters import PackedDropout, attach_lora
from diffembed.training.config import LoraConfig


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(share, dtype):
    torch.manual_seed(0)
    out = PackedDropout(share)(torch.ones(1001, 333, dtype=dtype))
    dropped = out == 0
    assert float(dropped.float().mean()) == pytest.approx(share, abs=0.003)
    assert out.dtype == dtype and len(out.unique()) == 2
    assert float(out[~dropped][0]) == pytest.approx(1 / (1 - share), rel=5e-3)
    # No lane of the packed draws is dropped more often than another.
    lanes = dropped.flatten()[: 4 * (dropped.numel() // 4)].view(-1, 4).float().mean(dim=0)
    assert float((lanes - share).abs().max()) < 0.006


def test_dropout_masks_the_gradient_alike_and_rests_in_evaluation():
    values = torch.randn(50, 7, requires_grad=True)
    out = PackedDropout(0.4)(values)
    out.sum().backward()
    assert torch.equal(values.grad == 0, out == 0) and (out == 0).any()
    assert torch.equal(PackedDropout(0.4).eval()(values), values)


def test_dropout_is_replayed_from_the_global_random_state():
    dropout, values = PackedDropout(0.5), torch.ones(64)
    context = RandContext(values)
    first, second = dropout(values), dropout(values)
    with context:
        again = dropout(values)
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_every_adapter_of_the_seven_projections_gets_the_dropout():
    network = load_backbone("tiny-gemma3", dtype="float32").model
    attach_lora(network, LoraConfig(rank=2, dropout=0.25))
    found = [module for module in network.modules() if isinstance(module, PackedDropout)]
    assert len(found) == 2 * 7 and all(module.share == 0.25 for module in found)
    assert not any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in network.modules())


@pytest.mark.parametrize(("dtype", "expected"), [("model", torch.bfloat16), ("float32", torch.float32)])
def test_adapters_have_the_dtype_that_was_asked_for(dtype, expected):
    network = load_backbone("tiny-gemma3", dtype="bfloat16").model
    attach_lora(network, LoraConfig(rank=2, dtype=dtype))
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    assert len(trained) == 28 and {weight.dtype for weight in trained} == {expected}


def test_fresh_adapters_change_nothing_and_follow_from_the_seed():
    backbone = load_backbone("tiny-gemma3", dtype="float32", kernel="sdpa")
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        before = backbone.model(input_ids=ids).last_hidden_state
        torch.manual_seed(3)
        attach_lora(backbone.model, LoraConfig(rank=2))
        torch.testing.assert_close(backbone.model.eval()(input_ids=ids).last_hidden_state, before)
    again = load_backbone("tiny-gemma3", dtype="float32").model
    torch.manual_seed(3)
    attach_lora(again, LoraConfig(rank=2))
    pairs = zip(backbone.model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)
