"""Masked tokens are restored by the network's own scores, in the order of its confidence."""

import pytest
import torch

from diffembed.backbones.consistency import PARAGRAPH, check_consistency
from diffembed.backbones.denoising import Denoiser, read_states
from diffembed.backbones.head import Head
from diffembed.backbones.loading import Backbone, load_backbone
from diffembed.errors import CheckpointError, ConfigError, InputError

SENTENCE = "Search is the first use of such vectors; clustering is another."


def train_to_restore(backbone: Backbone, ids_T: torch.Tensor, *, steps: int) -> None:
    """A plain masked-diffusion loop on one text, written here: random masks, cross-entropy at the masked places."""
    assert backbone.mask_token_id is not None
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(backbone.model.parameters(), lr=5e-3)
    for _ in range(steps):
        is_masked = torch.rand(len(ids_T)) < torch.rand(()) * 0.5 + 0.1
        is_masked[0] = not backbone.shifts_logits and is_masked[0]
        if not is_masked.any():
            continue
        noisy = ids_T.masked_fill(is_masked, backbone.mask_token_id)
        positions = torch.arange(len(ids_T))[None]
        hidden = backbone.model(input_ids=noisy[None], position_ids=positions).last_hidden_state[0]
        rows = is_masked.nonzero()[:, 0] - int(backbone.shifts_logits)
        logits = hidden[rows] @ backbone.model.get_input_embeddings().weight.T
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, ids_T[is_masked]).backward()
        optimiser.step()


@pytest.fixture(scope="module")
def learned() -> Backbone:
    """A tiny network that has learned one sentence by heart."""
    backbone = load_backbone("tiny-qwen2", attention="bidirectional", dtype="float32", kernel="sdpa")
    untrained = Denoiser(backbone)
    ids_T = untrained.tokenize(SENTENCE)
    assert untrained.fill(SENTENCE.replace("vectors", "[MASK]")).text != SENTENCE
    train_to_restore(backbone, ids_T, steps=150)
    return backbone


def hide(sentence: str, *words: str) -> str:
    for word in words:
        sentence = sentence.replace(word, "[MASK]")
    return sentence


def test_a_learned_sentence_is_restored(learned):
    denoiser = Denoiser(learned)
    ids = denoiser.tokenize(SENTENCE)
    text = SENTENCE
    # Hide two whole tokens of the sentence, chosen by id so that one mask stands for one token.
    tokens = [learned.tokenizer.decode([token]) for token in ids.tolist()]
    whole = [token.strip() for token in tokens if len(token.strip()) > 2 and text.count(token.strip()) == 1][:2]
    assert len(whole) == 2
    filled = denoiser.fill(hide(text, *whole))
    assert filled.text == SENTENCE
    assert sorted(token.token.strip() for token in filled.tokens) == sorted(whole)
    assert all(0 < token.probability <= 1 for token in filled.tokens)
    assert [token.step for token in filled.tokens] == [1, 2]


def test_the_surest_mask_is_written_first_and_seen_by_the_next_step(learned):
    denoiser = Denoiser(learned)
    ids = denoiser.tokenize(SENTENCE)
    hidden_places = torch.tensor([3, 5, 8])
    masked = ids.clone()
    masked[hidden_places] = denoiser.mask_token_id
    first = denoiser.score(masked, hidden_places).max(-1)
    text = learned.tokenizer.decode(ids[1:3]) + "[MASK]" + learned.tokenizer.decode(ids[4:5]) + "[MASK]"
    text += learned.tokenizer.decode(ids[6:8]) + "[MASK]" + learned.tokenizer.decode(ids[9:])
    assert torch.equal(denoiser.tokenize(text), masked)
    filled = denoiser.fill(text)
    surest = int(first.values.argmax())
    assert filled.tokens[0].position == int(hidden_places[surest])
    assert filled.tokens[0].probability == pytest.approx(float(first.values[surest].exp()))
    masked[hidden_places[surest]] = first.indices[surest]
    rest = torch.tensor([place for place in hidden_places.tolist() if place != int(hidden_places[surest])])
    second = denoiser.score(masked, rest).max(-1)
    assert filled.tokens[1].position == int(rest[second.values.argmax()])
    assert filled.tokens[1].probability == pytest.approx(float(second.values.max().exp()))


@pytest.mark.parametrize(("num_steps", "expected"), [(1, [1, 1, 1, 1, 1]), (2, [1, 1, 1, 2, 2]), (5, [1, 2, 3, 4, 5])])
def test_steps_share_the_masks(learned, num_steps, expected):
    filled = Denoiser(learned).fill("a [MASK] b [MASK] c [MASK][MASK] [MASK]", num_steps=num_steps)
    assert [token.step for token in filled.tokens] == expected
    assert len({token.position for token in filled.tokens}) == 5


@pytest.mark.parametrize("shifts_logits", [True, False])
def test_scores_are_read_where_the_convention_puts_them(learned, shifts_logits):
    """The logits of position i - 1 score token i in a shifted network; place 0 falls back to its own logits."""
    backbone = load_backbone("tiny-qwen2", attention="bidirectional", dtype="float32", kernel="sdpa")
    backbone.shifts_logits = shifts_logits
    denoiser = Denoiser(backbone)
    ids = denoiser.tokenize("one two three four")
    logits = read_states(backbone, ids).clone() @ backbone.model.get_input_embeddings().weight.detach().T
    logits[:, denoiser.mask_token_id] = float("-inf")
    expected = logits.log_softmax(-1)[[0, 0, 2] if shifts_logits else [0, 1, 3]]
    scores = denoiser.score(ids, torch.tensor([0, 1, 3]))
    assert torch.allclose(scores, expected, atol=1e-5)
    assert not torch.allclose(scores[2], logits.log_softmax(-1)[3 if shifts_logits else 2], atol=1e-2)


def test_the_mask_itself_is_never_written(learned):
    denoiser = Denoiser(learned)
    scores = denoiser.score(denoiser.tokenize("a [MASK]"), torch.tensor([1]))
    assert float(scores[0, denoiser.mask_token_id]) == float("-inf")
    assert float(scores[0].exp().sum()) == pytest.approx(1, abs=1e-5)


def test_scale_and_softcap_of_the_head():
    weight, hidden = torch.randn(5, 4), torch.randn(2, 4)
    plain = hidden @ weight.T
    assert torch.allclose(Head(weight_VD=weight, scale=0.5).logits(hidden), plain / 2)
    assert torch.allclose(Head(weight_VD=weight, softcap=2.0).logits(hidden), 2 * torch.tanh(plain / 2))


def test_texts_without_masks_and_impossible_steps(learned):
    denoiser = Denoiser(learned)
    with pytest.raises(InputError, match=r"the text has no \[MASK\]"):
        denoiser.fill("nothing hidden")
    with pytest.raises(ConfigError, match="3 steps for 1 masks; give 1 to 1"):
        denoiser.fill("a [MASK]", num_steps=3)
    with pytest.raises(InputError, match=r"tokens, tiny-qwen2 reads 4096"):
        denoiser.fill("a " * 5000 + "[MASK]")


def test_causal_backbones_and_encoders_cannot_fill():
    with pytest.raises(ConfigError, match="is causal; restoring masked tokens needs bidirectional attention"):
        Denoiser(load_backbone("tiny-qwen2", attention="causal", dtype="float32"))
    with pytest.raises(CheckpointError, match="has no language-model head"):
        Denoiser(load_backbone("all-minilm-l6-v2", dtype="float32"))


def test_consistency_tells_learned_weights_from_random_ones(learned):
    random = load_backbone("tiny-qwen2", attention="bidirectional", dtype="float32", kernel="sdpa")
    before, after = check_consistency(random, SENTENCE), check_consistency(learned, SENTENCE)
    assert before.is_alive is False and after.is_alive is True
    assert before.unigram_nll == after.unigram_nll > 1
    assert after.contract["attention"] == "bidirectional"
    assert check_consistency(random).num_tokens > 80 and len(PARAGRAPH) > 400


def test_consistency_refuses_states_that_are_not_finite():
    backbone = load_backbone("tiny-llama", attention="bidirectional", dtype="float32")
    with torch.no_grad():
        backbone.model.norm.weight[0] = float("inf")
    with pytest.raises(CheckpointError, match="not finite"):
        check_consistency(backbone)
