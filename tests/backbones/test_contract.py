"""The proof of the attention contract: it passes on what is right and catches every planted breach."""

from types import SimpleNamespace

import pytest
import torch

from diffembed.backbones import attention as attention_module
from diffembed.backbones.contract import attention_modules, layer_windows, prove
from diffembed.backbones.loading import load_backbone
from diffembed.errors import AttentionContractError

TINY = ("tiny-qwen2", "tiny-llama", "tiny-gemma3")
KERNELS = ("packed", "sdpa", "eager")


def prove_again(backbone, attention=None):
    return prove(backbone.model, backbone.family, attention or backbone.attention, backbone.kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("name", TINY)
def test_holds_for_every_kernel(name, attention, kernel):
    verdict = load_backbone(name, attention=attention, kernel=kernel).verdict
    assert verdict.held and verdict.attention == attention and verdict.kernel == kernel
    assert verdict.num_sliding_layers == (1 if name == "tiny-gemma3" else 0)
    # Of each layer what one end must not see, and two tokens that the other must; then the neighbours in the batch.
    assert verdict.num_checks >= 3 * verdict.num_layers + 1


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("built", "declared"), [("causal", "bidirectional"), ("bidirectional", "causal")])
def test_the_other_attention_is_caught(kernel, built, declared):
    backbone = load_backbone("tiny-gemma3", attention=built, kernel=kernel, dtype="float32")
    if kernel == "packed":
        # The layout, not the config, directs the packed kernel: a kernel that ignores it must be caught.
        backbone.model.config.is_causal = declared == "causal"
        force_direction(backbone, built)
    with pytest.raises(AttentionContractError, match=f"layer 0 is declared {declared}"):
        prove_again(backbone, declared)


def force_direction(backbone, direction, layers=(0, 1)):
    """Makes the attention of some layers ignore the layout's direction."""
    for index in layers:
        module = attention_modules(backbone.model, backbone.family)[index]
        forward = module.forward

        def forced(*args, packed, forward=forward, **kwargs):
            return forward(*args, packed=attention_module.PackedLayout(packed.lengths, direction), **kwargs)

        module.forward = forced


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-gemma3"])
def test_one_planted_causal_layer_is_caught(name, layer):
    backbone = load_backbone(name, attention="bidirectional", dtype="float32")
    force_direction(backbone, "causal", layers=(layer,))
    with pytest.raises(AttentionContractError, match=f"layer {layer} is declared bidirectional, but token 0 does not"):
        prove_again(backbone)


def test_one_open_layer_in_a_causal_network_is_caught():
    backbone = load_backbone("tiny-qwen2", attention="causal", dtype="float32")
    force_direction(backbone, "bidirectional", layers=(1,))
    with pytest.raises(AttentionContractError, match="layer 1 is declared causal, but token 0 sees"):
        prove_again(backbone)


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_a_window_that_is_one_off_is_caught(attention, shift):
    backbone = load_backbone("tiny-gemma3", attention=attention, dtype="float32")
    module = attention_modules(backbone.model, backbone.family)[0]
    assert module.sliding_window == 8
    module.sliding_window += shift
    with pytest.raises(AttentionContractError, match=r"layer 0 .* window of 8"):
        prove_again(backbone)


def test_a_planted_packing_leak_is_caught(monkeypatch):
    backbone = load_backbone("tiny-qwen2", attention="bidirectional", dtype="float32")
    honest = attention_module.PackedLayout.runs
    # All documents of a pack become one.
    monkeypatch.setattr(
        attention_module.PackedLayout, "runs",
        lambda self: [(0, 1, self.num_tokens)] if len(self.lengths) > 1 else honest(self),
    )  # fmt: skip
    with pytest.raises(AttentionContractError, match="neighbours in the pack"):
        prove_again(backbone)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_planted_padding_leak_is_caught(kernel):
    """The original code added the 0/1 padding mask to the scores, so that padding was attended (paper.md 4.2, 1)."""
    backbone = load_backbone("tiny-qwen2", attention="bidirectional", kernel=kernel, dtype="float32")
    for module in attention_modules(backbone.model, backbone.family):
        forward = module.forward

        def leaking(hidden_states, *args, attention_mask=None, forward=forward, **kwargs):
            if attention_mask is not None:
                attention_mask = (attention_mask >= 0 if kernel == "eager" else attention_mask).float()
            return forward(hidden_states, *args, attention_mask=attention_mask, **kwargs)

        module.forward = leaking
    with pytest.raises(AttentionContractError, match="padding on its right"):
        prove_again(backbone)


@pytest.mark.parametrize(("window", "expected"), [(127, 127), (128, None), (262_144, None)])
def test_a_window_that_no_text_outgrows_is_none(window, expected):
    """Phi-3's 128k models store a window of 262,144; a probe of that length would be longer than any text."""
    config = SimpleNamespace(sliding_window=window, max_position_embeddings=128)
    assert layer_windows(config, 2) == [expected] * 2


def test_proof_leaves_the_network_as_it_was():
    backbone = load_backbone("tiny-gemma3")
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    backbone.model.train()
    prove_again(backbone)
    assert backbone.model.training
    assert all(torch.equal(before[key], value) for key, value in backbone.model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in backbone.model.modules())
