"""Every published layout gives the states of its original code, alone, padded on either side, and packed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffembed.backbones.attention import register_kernel
from diffembed.backbones.consistency import check_consistency
from diffembed.backbones.contract import kernel_name, prove
from diffembed.backbones.conversion.convert import convert_checkpoint
from diffembed.backbones.conversion.parity import check_golden, compare_golden, load_plain
from diffembed.backbones.denoising import read_states
from diffembed.backbones.head import load_head
from diffembed.backbones.loading import load_backbone
from diffembed.backbones.registry import family_of
from diffembed.errors import AttentionContractError, CheckpointError, ConversionError, InputError

NATIVE = {
    "dream": "qwen2",
    "llada": "llama",
    "illada": "llama",
    "diffullama": "llama",
    "diffugpt": "gpt2",
    "a2d_qwen3": "qwen3",
    "a2d_qwen2": "qwen2",
    "pplx_embed": "qwen3",
    "sdar": "qwen3",
    "llada_moe": "qwen3_moe",
    "llada2_moe": "glm4_moe",
}
FAMILY = {"diffullama": "diffullama"}
MASK_IDS = {"dream": 304, "llada": 310, "illada": 5, "a2d_qwen3": 303}
SHIFTED = {"dream", "diffullama", "diffugpt"}
BLOCK_CAUSAL = {
    "sdar": ("row_last_hidden_state_block_causal_4", 4),
    "llada2_moe": ("row_last_hidden_state_block_causal_8", 8),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*block-causal")


@pytest.fixture(scope="module")
def converted(golden_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """name -> (converted folder, report); each is converted once."""
    root, done = tmp_path_factory.mktemp("converted"), {}

    def convert(name: str):
        if name not in done:
            out = root / name
            done[name] = out, convert_checkpoint(golden_folder / name, out, family=FAMILY.get(name))
        return done[name]

    return convert


@pytest.mark.parametrize("name", NATIVE)
def test_states_and_logits_are_those_of_the_original(name, converted, golden_folder):
    out, report = converted(name)
    golden = check_golden(out, golden_folder / name / "golden.npz")
    assert report.native == NATIVE[name]
    runs = {key.rsplit(" ", 1)[0] for key in golden.differences}
    assert runs == {"row", "padded right", "padded left", "packed"}
    assert golden.largest_value > 1
    assert ("row logits" in golden.differences) == (name != "pplx_embed")


@pytest.mark.parametrize("name", NATIVE)
def test_the_check_fails_when_attention_is_forced_causal(name, converted, golden_folder):
    out, _ = converted(name)
    report = compare_golden(out, golden_folder / name / "golden.npz", attention="causal")
    assert report.looks_causal
    assert set(report.failures) == set(report.differences)
    assert min(report.failures.values()) > 0.1
    with pytest.raises(ConversionError, match="these are the states of causal attention"):
        check_golden(out, golden_folder / name / "golden.npz", attention="causal")


@pytest.mark.parametrize("kernel", ["packed", "sdpa"])
@pytest.mark.parametrize("name", NATIVE)
def test_the_attention_contract_holds(name, kernel, converted):
    body = load_plain(converted(name)[0]).base_model
    register_kernel()
    body.set_attn_implementation(kernel_name(kernel))
    verdict = prove(body, family_of(body.config.model_type, name), "bidirectional", kernel)
    assert verdict.held and verdict.num_layers == body.config.num_hidden_layers
    if kernel == "sdpa":
        # The packed kernel takes its direction from the layout, so there is no wrong declaration to refuse.
        with pytest.raises(AttentionContractError, match="declared causal"):
            prove(body, family_of(body.config.model_type, name), "causal", kernel)


@pytest.mark.parametrize("name", NATIVE)
def test_facts_beside_the_config(name, converted):
    out, report = converted(name)
    config = json.loads((out / "config.json").read_text())
    facts = json.loads((out / "diffembed.json").read_text())
    assert config["is_causal"] is False and "auto_map" not in config
    assert config["model_type"] == NATIVE[name]
    assert facts["mask_token_id"] == report.mask_token_id == MASK_IDS.get(name)
    assert facts["shifts_logits"] is (name in SHIFTED)
    assert facts["trained_attention"] == ("block-causal" if name in BLOCK_CAUSAL else "bidirectional")
    assert any("block-causal" in note for note in facts["notes"]) == (name in BLOCK_CAUSAL)
    assert not list(out.glob("*.py"))


@pytest.mark.parametrize("name", BLOCK_CAUSAL)
def test_trained_block_causal_attention_is_reached_with_an_explicit_mask(name, converted, golden_folder):
    out, _ = converted(name)
    key, block = BLOCK_CAUSAL[name]
    golden = np.load(golden_folder / name / "golden.npz")
    ids = torch.from_numpy(golden["row_input_ids"])
    blocks = torch.arange(ids.shape[1]) // block
    mask = (blocks[None, :] <= blocks[:, None])[None, None]
    with torch.inference_mode():
        states = load_plain(out).base_model(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
    assert np.abs(states - golden[key]).max() < 2e-5
    assert np.abs(states - golden["row_last_hidden_state"]).max() > 0.1


@pytest.mark.parametrize("max_shard_bytes", [10**9, 30_000])
@pytest.mark.parametrize("name", ["dream", "llada", "a2d_qwen3"])
def test_the_kept_head_scores_as_the_original_did(name, max_shard_bytes, golden_folder, tmp_path):
    convert_checkpoint(golden_folder / name, tmp_path / "out", max_shard_bytes=max_shard_bytes)
    backbone = load_backbone(str(tmp_path / "out"), dtype="float32")
    golden = np.load(golden_folder / name / "golden.npz")
    states = read_states(backbone, torch.from_numpy(golden["row_input_ids"][0]))
    logits = load_head(backbone).logits(states)
    assert np.abs(logits.numpy() - golden["row_logits"][0]).max() < 5e-5


def test_a_checkpoint_published_without_head_has_none(converted):
    """Its config ties a head it never had, so the embedding table must not pass for one."""
    backbone = load_backbone(str(converted("pplx_embed")[0]), dtype="float32")
    with pytest.raises(CheckpointError, match="no language-model head"):
        load_head(backbone)
    assert check_consistency(backbone).is_alive is None


def test_random_golden_weights_are_told_to_be_dead(converted):
    report = check_consistency(load_backbone(str(converted("llada")[0]), dtype="float32"))
    assert report.is_alive is False and report.masked_nll is not None


@pytest.mark.parametrize("name", ["sdar", "llada2_moe"])
def test_block_causal_training_is_said_aloud(name, golden_folder, tmp_path):
    with pytest.warns(UserWarning, match="block-causal"):
        convert_checkpoint(golden_folder / name, tmp_path / "out")


@pytest.mark.parametrize("name", ["dream", "llada"])
def test_tokenizer_without_remote_code_gives_the_published_ids(name, converted, golden_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(converted(name)[0], trust_remote_code=False)
    cases = json.loads((golden_folder / name / "golden_tokens.json").read_text())
    assert len(cases) >= 5
    for case in cases:
        assert tokenizer(case["text"], add_special_tokens=False)["input_ids"] == case["ids"]


def test_pplx_pipeline_is_kept(converted):
    out, _ = converted("pplx_embed")
    facts = json.loads((out / "diffembed.json").read_text())
    quantiser = "st_quantize.FlexibleQuantizer"
    assert facts["pipeline"] == {"pooling": "mean", "is_normalised": False, "quantiser": quantiser}
    modules = json.loads((out / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling"]


def test_pplx_embeds_without_remote_code(converted, golden_folder):
    from diffembed.embedding.embedder import Embedder

    texts = ["The quick brown fox", "", "two words"]
    embedder = Embedder.load(str(converted("pplx_embed")[0]), dtype="float32")
    assert (embedder.pooling, embedder.is_normalised, embedder.attention) == ("mean", False, "bidirectional")
    vectors = embedder.encode_documents(texts)
    sentence_transformers = pytest.importorskip("sentence_transformers")
    plain = sentence_transformers.SentenceTransformer(str(converted("pplx_embed")[0]), device="cpu")
    expected = plain.encode([texts[0], texts[2]])
    assert np.abs(vectors[[0, 2]] - expected).max() < 1e-5
    assert np.abs(expected).max() > 0.1 and not vectors[1].any()


def test_both_spellings_of_rope_give_the_same_network(golden_folder, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (source / name).write_bytes((golden_folder / "pplx_embed" / name).read_bytes())
    (source / "config.json").write_bytes((golden_folder / "pplx_embed" / "config_tf5_style.json").read_bytes())
    report = convert_checkpoint(source, tmp_path / "out", golden=golden_folder / "pplx_embed" / "golden.npz")
    assert report.golden is not None and not report.golden.failures


def test_a_conversion_that_fails_its_golden_file_leaves_nothing(golden_folder, tmp_path):
    with pytest.raises(ConversionError, match=r"does not reproduce golden\.npz"):
        convert_checkpoint(golden_folder / "dream", tmp_path / "out", golden=golden_folder / "a2d_qwen2" / "golden.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_golden_file_must_be_one(tmp_path):
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:-30])
    for name, message in (("other", "lacks row_input_ids"), ("empty", "no golden file"), ("cut", "no golden file")):
        with pytest.raises(InputError, match=message):
            compare_golden(tmp_path, tmp_path / f"{name}.npz")
