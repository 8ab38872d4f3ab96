import itertools
import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffembed.backbones.head import Head, load_head
from diffembed.backbones.loading import load_backbone
from diffembed.embedding.embedder import Embedder
from diffembed.errors import CheckpointError, ConfigError, DiffEmbedError, EmptyInputError, InputError
from diffembed.training import callbacks
from diffembed.training.adapt import LanguageModel, adapt, find_mask_token, measure_held_out
from diffembed.training.adapt_config import ObjectiveConfig
from diffembed.training.noising import NoisyCollator, PlannedRows
from diffembed.training.token_rows import read_token_rows

WEIGHTS = "checkpoints/checkpoint-6/trainable.safetensors"


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("tiny-gemma3", attention="bidirectional", dtype="float32")


def collator_of(num_rows=12, length=24, **settings):
    rows = np.random.default_rng(0).integers(10, 400, (num_rows, length)).astype(np.int32)
    rows[:, 0] = 2
    values = {
        "rows": rows,
        "objective": ObjectiveConfig(),
        "seed": 7,
        "step_rows": num_rows,
        "mask_token_id": 4,
        "special_ids": (0, 1, 2, 4),
        "vocabulary_size": 512,
        "shifts_logits": True,
    }
    return NoisyCollator(**{**values, **settings})


@pytest.mark.parametrize("kind", ["diffusion", "mntp", "causal"])
def test_adaptation_lowers_the_held_out_loss(adapt_config, tmp_path, kind):
    run = {"schedule_steps": 30, "save_every_steps": 30}
    report = adapt(adapt_config(objective={"kind": kind}, run=run, measure_every_steps=15))
    lines = [entry for entry in metrics(tmp_path / "adapt") if "held_out" in entry]
    assert [entry["step"] for entry in lines] == [0, 15, 30]
    assert [entry["tokens"] for entry in lines] == [0, 15 * 8 * 32, 30 * 8 * 32]
    assert lines[-1]["held_out"]["loss"] < 0.8 * lines[0]["held_out"]["loss"]
    assert lines[-1]["held_out"]["mean_nll"] < 0.9 * lines[0]["held_out"]["mean_nll"]
    adapted = Embedder.load(str(report.model), dtype="float32")
    assert adapted.attention == ("causal" if kind == "causal" else "bidirectional")


def test_untrained_network_with_a_zero_head_costs_log_vocabulary(backbone):
    collator = collator_of()
    measures = measure_held_out(LanguageModel(backbone, Head(weight_VD=torch.zeros(512, backbone.dim))), collator, 5)
    assert measures["mean_nll"] == pytest.approx(math.log(512), rel=1e-5)
    predicted = collator([(row, -1, row) for row in range(12)])
    assert measures["loss"] == pytest.approx(math.log(512) * float(predicted["weight_BT"].sum()), rel=1e-5)


def test_loss_is_that_of_plain_transformers_logits(backbone):
    """The whole path against the native model's own logits over padded-free rows, position i read at i - 1."""
    from diffembed.backbones.tiny import build_tiny

    collator = collator_of(num_rows=3)
    batch = collator([(row, 0, row) for row in range(3)])
    batch.pop("row_index")
    ours = LanguageModel(backbone, load_head(backbone))(**batch)["loss"]
    model, _ = build_tiny("gemma3_text")
    model.config.is_causal = False
    model.set_attn_implementation("eager")
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["target_BT"][:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(ours, (nll * batch["weight_BT"][:, 1:].flatten()).sum(), rtol=1e-4, atol=1e-5)


def test_noise_depends_on_the_place_in_the_step_and_not_on_how_the_step_is_cut():
    collator = collator_of()
    places = [(row, 3, place) for place, row in enumerate(range(12))]
    whole = collator(places)
    parts = [collator(places[first : first + 4]) for first in (0, 4, 8)]
    for key in ("input_ids", "is_predicted_BT"):
        assert torch.equal(torch.cat([part[key] for part in parts]), whole[key])
    # A micro-batch's weights are those of the step times the number of micro-batches, which the trainer divides by.
    torch.testing.assert_close(torch.cat([part["weight_BT"] for part in parts]) / 3, whole["weight_BT"])
    assert not torch.equal(collator([(0, 3, 0)])["input_ids"], collator([(0, 4, 0)])["input_ids"])


def test_planned_rows_read_every_row_once_an_epoch_in_a_new_order():
    batches = list(PlannedRows(num_rows=12, step_rows=4, micro_rows=2, num_steps=6, seed=0))
    assert len(batches) == 12
    rows = [row for batch in batches for row, _, _ in batch]
    assert sorted(rows[:12]) == sorted(rows[12:]) == list(range(12)) and rows[:12] != rows[12:]
    assert [(step, place) for batch in batches for _, step, place in batch][:6] == [
        (0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)
    ]  # fmt: skip


@pytest.mark.slow
def test_micro_rows_do_not_change_the_weights(adapt_config, tmp_path):
    for name, micro_rows in (("four", 4), ("eight", 8)):
        adapt(adapt_config(name, batch={"micro_rows": micro_rows}, lora={"dropout": 0.0}, run={"stop_after_steps": 3}))
    file = "checkpoints/checkpoint-3/trainable.safetensors"
    four, eight = load_file(tmp_path / "four" / file), load_file(tmp_path / "eight" / file)
    assert any(weight.abs().max() > 1e-3 for name, weight in four.items() if "lora_B" in name)
    for name, weight in four.items():
        torch.testing.assert_close(eight[name], weight, rtol=1e-3, atol=1e-4)


def test_resume_equals_the_uninterrupted_run_bit_for_bit(adapt_config, straight_adaptation, tmp_path, monkeypatch):
    config = adapt_config("broken")
    started = []

    def start(self):
        started.append(0)
        if len(started) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(callbacks.Throughput, "start", start)
        adapt(config)
    adapt(config)
    resumed, expected = load_file(tmp_path / "broken" / WEIGHTS), load_file(straight_adaptation[1] / WEIGHTS)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected) and len(expected) == 28
    broken, straight = (
        [e for e in metrics(f) if "held_out" in e][-1] for f in (tmp_path / "broken", straight_adaptation[1])
    )
    assert broken == straight


def test_adapted_model_is_a_base_for_training(straight_adaptation, train_config):
    from diffembed.training.contrast import train

    report = train(train_config(model={"name": str(straight_adaptation[1] / "model")}, run={"stop_after_steps": 2}))
    assert len(Embedder.load(str(report.model), dtype="float32").adapter_folders) == 2


@pytest.mark.slow
def test_all_weights_can_be_adapted_with_a_tied_head(adapt_config, tmp_path):
    report = adapt(adapt_config(lora=None, optimiser={"learning_rate": 1e-3}, run={"stop_after_steps": 3}))
    before = load_backbone("tiny-gemma3", dtype="float32").model.get_input_embeddings().weight
    after = Embedder.load(str(report.model), dtype="float32").backbone.model.get_input_embeddings().weight
    assert (after - before).abs().max() > 1e-3


def test_nan_stops_with_the_texts_of_the_step_saved(adapt_config, tmp_path, monkeypatch):
    forward = LanguageModel.forward
    monkeypatch.setattr(
        LanguageModel, "forward", lambda self, **batch: {"loss": forward(self, **batch)["loss"] * float("nan")}
    )
    with pytest.raises(DiffEmbedError, match="step 1: the loss is nan"):
        adapt(adapt_config())
    lines = (tmp_path / "adapt/checkpoints/offending_rows-1.jsonl").read_text().splitlines()
    assert len(lines) == 4 and "token" in json.loads(lines[0])["text"]


def test_development_score_is_taken_while_adapting(adapt_config, tmp_path):
    config = adapt_config(development={"suite": "x", "every_steps": 3, "keep": "last"})
    vectors = []

    def score(encoder):
        vectors.append(encoder.encode_documents(["a text"]))
        return {"norm": float(np.linalg.norm(vectors[-1])) / len(vectors)}

    report = adapt(config, score=score)
    scores = [(entry["step"], entry["development"]) for entry in metrics(tmp_path / "adapt") if "development" in entry]
    taken = [(step, values["norm"], values["mean"]) for step, values in scores]
    assert taken == [
        (step, pytest.approx(score), pytest.approx(score)) for step, score in ((0, 1), (3, 1 / 2), (6, 1 / 3))
    ]
    # Those of the weights in the model, not of the best ones.
    assert report.step == 6 and report.scores["norm"] == pytest.approx(1 / 3)


def test_mask_token_is_named_or_refused(adapt_config, backbone):
    config = adapt_config()
    assert find_mask_token(config, backbone) == backbone.tokenizer.mask_token_id
    named = replace(config, objective=ObjectiveConfig(mask_token="<eos>"))
    assert find_mask_token(named, backbone) == backbone.tokenizer.eos_token_id
    unknown = replace(config, objective=ObjectiveConfig(mask_token="<blank>"))
    with pytest.raises(ConfigError, match="mask_token '<blank>' is no token of tiny-gemma3"):
        find_mask_token(unknown, backbone)
    with pytest.raises(ConfigError, match="tiny-gemma3 has no mask token; name a token"):
        find_mask_token(config, replace(backbone, mask_token_id=None))


@pytest.fixture
def untied(tmp_path):
    """A folder of a network whose head is apart from its embeddings, without a mask token."""
    from diffembed.backbones.tiny import build_tiny

    model, tokenizer = build_tiny("qwen2")
    model.config.tie_word_embeddings = False
    tokenizer.mask_token = None
    folder = tmp_path / "untied"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = torch.randn(512, 32, generator=torch.Generator().manual_seed(0))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_token_that_masked_is_kept_with_the_model(adapt_config, untied):
    assert load_backbone(str(untied)).mask_token_id is None
    config = adapt_config(model={"name": str(untied)}, objective={"mask_token": "<eos>"}, run={"stop_after_steps": 1})
    adapted = Embedder.load(str(adapt(config).model), dtype="float32")
    assert adapted.backbone.mask_token_id == adapted.backbone.tokenizer.eos_token_id


def test_a_head_that_would_be_left_behind_is_refused(adapt_config, untied):
    config = adapt_config(model={"name": str(untied)}, objective={"mask_token": "<eos>"}, lora=None)
    with pytest.raises(ConfigError, match="would not be saved with all weights; train adapters"):
        adapt(config)


def test_held_out_text_is_no_training_text_under_another_name(adapt_config, tmp_path):
    config = adapt_config()
    folder = replace(config, text=replace(config.text, files=(str(tmp_path),)))
    with pytest.raises(ConfigError, match=r"held\.txt is both trained on and held out"):
        adapt(folder)


def test_untied_head_is_read_from_the_checkpoint(untied):
    folder = untied
    tensors = load_file(folder / "model.safetensors")
    loaded = load_backbone(str(folder), dtype="float32")
    assert torch.equal(load_head(loaded).weight_VD, tensors["lm_head.weight"])
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="saved without its language-model head"):
        load_head(loaded)


def test_rows_are_one_stream_behind_the_beginning_token(backbone, tmp_path):
    (tmp_path / "one.txt").write_text("first text\nsecond line\n" * 40, encoding="utf-8")
    lines = [json.dumps({"text": "a row of its own"}), json.dumps({"text": " "})]
    (tmp_path / "two.jsonl").write_text("\n".join(lines * 30), encoding="utf-8")
    tokenizer = backbone.tokenizer
    read = read_token_rows([str(tmp_path)], tokenizer, row_tokens=16)
    assert (read.rows[:, 0] == tokenizer.bos_token_id).all() and set(read.inputs) == {
        f"text {tmp_path.name}/one.txt",
        f"text {tmp_path.name}/two.jsonl",
    }
    ids = read.rows[:, 1:].ravel().tolist()
    plain = tokenizer("first text\nsecond line\n" * 40, add_special_tokens=False)["input_ids"]
    row = tokenizer("a row of its own", add_special_tokens=False)["input_ids"]
    expected = [*plain, tokenizer.eos_token_id, *([*row, tokenizer.eos_token_id] * 30)]
    assert ids == expected[: len(ids)] and len(expected) - len(ids) < 15


def test_long_files_are_tokenised_in_pieces_without_a_seam(backbone, tmp_path, monkeypatch):
    from diffembed.training import token_rows

    lines = ["a token sees what stands before it\n", "\n", "  \n", "\n\n\n"]
    draw = random.Random(0)
    (tmp_path / "long.txt").write_text("".join(lines[draw.randrange(4)] for _ in range(120)), encoding="utf-8")
    whole = read_token_rows([str(tmp_path / "long.txt")], backbone.tokenizer, row_tokens=16)
    monkeypatch.setattr(token_rows, "PIECE_BYTES", 10)
    pieces = [text for text, _ in token_rows._read_pieces(tmp_path / "long.txt")]
    assert len(pieces) > 8
    assert all(one.endswith("it\n") and other[0] == "a" for one, other in itertools.pairwise(pieces))
    assert np.array_equal(read_token_rows([str(tmp_path)], backbone.tokenizer, row_tokens=16).rows, whole.rows)


def test_sample_of_rows_is_seeded_and_held_out_rows_are_spread(backbone, tmp_path):
    (tmp_path / "t.txt").write_text("\n".join(f"line {n}" for n in range(400)), encoding="utf-8")

    def rows(**settings):
        return read_token_rows([str(tmp_path)], backbone.tokenizer, row_tokens=16, **settings).rows

    everything = rows()
    assert np.array_equal(rows(max_rows=5, seed=1), rows(max_rows=5, seed=1))
    assert not np.array_equal(rows(max_rows=5, seed=1), rows(max_rows=5, seed=2))
    assert np.array_equal(rows(max_rows=2), everything[[0, -1]])


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none.txt", InputError, "no file"),
        ("odd.bin", InputError, "is no text or row file"),
        ("empty", InputError, "has no text or row files"),
        ("latin.txt", InputError, r"latin.txt:2 is not UTF-8 text .*; save the file as UTF-8"),
        ("short.txt", EmptyInputError, "less than one row of 64"),
        ("rows.jsonl", InputError, "rows.jsonl:1 has no column 'text'"),
    ],
)
def test_text_that_cannot_be_read_is_refused(backbone, tmp_path, name, error, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.bin").write_bytes(b"\0")
    (tmp_path / "latin.txt").write_bytes("a line\na café\n".encode("latin-1"))
    (tmp_path / "short.txt").write_text("short", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"body": "x"}\n', encoding="utf-8")
    with pytest.raises(error, match=message):
        read_token_rows([str(tmp_path / name)], backbone.tokenizer, row_tokens=64)
