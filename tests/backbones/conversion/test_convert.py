"""What a conversion leaves on disk: all of it or nothing, under any defect of the source and at any moment of death."""

import json
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffembed.backbones.conversion.catalogue import LAYOUTS
from diffembed.backbones.conversion.convert import convert_checkpoint, converted_folder
from diffembed.backbones.loading import load_backbone
from diffembed.errors import CheckpointError, ConfigError, ConversionError, ResourceError, UnknownNameError


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a fork of this process, which may die; returns its wait status."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def peak_kib() -> int:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def edit_config(folder: Path, **changes: object) -> Path:
    """Changes keys of config.json; None removes a key."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("moment", ["weights", "config"])
def test_a_killed_conversion_leaves_nothing_that_loads(make_dream, tmp_path, moment):
    from transformers import AutoConfig, Qwen2Config

    source, root = make_dream(), tmp_path / "root"
    root.mkdir()

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def convert_and_die() -> None:
        if moment == "config":
            Qwen2Config.save_pretrained = die
        convert_checkpoint(
            source,
            root / "out",
            progress=lambda done, total: die() if moment == "weights" and done > total / 2 else None,
        )

    assert os.WTERMSIG(in_child(convert_and_die)) == signal.SIGKILL
    assert visible(root) == []
    (part,) = root.iterdir()
    assert list(part.glob("*.safetensors"))
    with pytest.raises((OSError, ValueError)):
        AutoConfig.from_pretrained(part)
    assert convert_checkpoint(source, root / "out").native == "qwen2"
    assert visible(root) == ["out"]


def test_an_error_half_way_leaves_nothing(make_dream, tmp_path):
    def fail(written, total):
        raise ZeroDivisionError

    out = tmp_path / "root" / "out"
    with pytest.raises(ZeroDivisionError):
        convert_checkpoint(make_dream(), out, progress=fail)
    assert list(out.parent.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_stays_at_a_block_however_large_the_checkpoint_is(make_dream, tmp_path):
    # 154 MB of float32 in one file: a reader of whole shards or models would show.
    large = make_dream(vocab_size=600_000)
    grown = tmp_path / "grown.txt"

    def convert_and_measure() -> None:
        before = peak_kib()
        convert_checkpoint(large, tmp_path / "out")
        grown.write_text(str(peak_kib() - before))

    convert_checkpoint(make_dream("small"), tmp_path / "warm")
    assert in_child(convert_and_measure) == 0
    assert (large / "model.safetensors").stat().st_size > 150e6
    assert int(grown.read_text()) < 80 * 1024


def test_weights_are_copied_bit_for_bit(make_llada, tmp_path):
    source = make_llada()
    tensors = {name: value.to(torch.bfloat16) for name, value in load_file(source / "model.safetensors").items()}
    save_file(tensors, source / "model.safetensors")
    report = convert_checkpoint(source, tmp_path / "out")
    native = load_file(tmp_path / "out" / "model.safetensors")
    assert report.dtype == "bfloat16"
    assert torch.equal(
        native["model.layers.1.mlp.down_proj.weight"], tensors["model.transformer.blocks.1.ff_out.weight"]
    )
    assert torch.equal(native["lm_head.weight"], tensors["model.transformer.ff_out.weight"])
    assert report.num_parameters == sum(value.numel() for value in tensors.values())


def test_the_hash_follows_the_weights_not_their_files(make_dream, tmp_path):
    source = make_dream()
    first = convert_checkpoint(source, tmp_path / "a").source_hash
    tensors = load_file(source / "model.safetensors")
    save_file(dict(sorted(tensors.items(), reverse=True)), source / "model.safetensors")
    assert convert_checkpoint(source, tmp_path / "b").source_hash == first
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, source / "model.safetensors")
    assert convert_checkpoint(source, tmp_path / "c").source_hash != first


def test_an_existing_folder_is_not_touched(make_dream, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="already exists"):
        convert_checkpoint(make_dream(), out)
    assert visible(out) == ["mine.txt"]


def test_a_full_disk_is_foreseen(make_dream, tmp_path, monkeypatch):
    source = make_dream()
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match="GB free"):
        convert_checkpoint(source, tmp_path / "root" / "out")
    assert list((tmp_path / "root").iterdir()) == []


def test_licence_and_unread_keys_are_kept(make_dream, tmp_path):
    source = edit_config(make_dream(), new_switch=3)
    (source / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\nlicense: none\n")
    (source / "LICENSE.txt").write_text("terms")
    (source / "modeling_dream.py").write_text("raise SystemExit('CANARY')")
    report = convert_checkpoint(source, tmp_path / "out")
    assert report.licence == "apache-2.0"
    assert any("new_switch" in note for note in report.notes)
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "terms"
    assert not list((tmp_path / "out").glob("*.py"))


def test_mask_token(make_dream, tmp_path):
    source = make_dream()
    assert convert_checkpoint(source, tmp_path / "stored").mask_token_id == 4
    assert convert_checkpoint(source, tmp_path / "given", mask_token_id=9).mask_token_id == 9
    with pytest.raises(ConversionError, match="mask_token_id is 512, but the embedding table has 512 rows"):
        convert_checkpoint(source, tmp_path / "outside", mask_token_id=512)
    edit_config(source, mask_token_id=None)
    assert convert_checkpoint(source, tmp_path / "declared").mask_token_id == 4
    assert json.loads((tmp_path / "given" / "config.json").read_text())["mask_token_id"] == 9


def test_a_tokenizer_larger_than_the_table_is_refused(make_dream, tmp_path):
    with pytest.raises(ConversionError, match="ids up to 511, but the embedding table has 500 rows"):
        convert_checkpoint(make_dream(vocab_size=500), tmp_path / "out")


def test_a_tokenizer_that_only_remote_code_reads_is_refused(make_llada, tmp_path):
    source = make_llada()
    (source / "tokenizer.json").rename(source / "vocab.json")
    remote = {"auto_map": {"AutoTokenizer": ["tokenization_x.X", None]}, "tokenizer_class": "X"}
    (source / "tokenizer_config.json").write_text(json.dumps(remote))
    with pytest.raises(ConversionError, match="tokenizer class 'X' is remote code"):
        convert_checkpoint(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "needs hidden_size as a whole number >= 1, found no such key"),
        ({"hidden_size": "32"}, 'needs hidden_size as a whole number >= 1, found "32"'),
        ({"num_hidden_layers": 0}, "needs num_hidden_layers as a whole number >= 1, found 0"),
        ({"rms_norm_eps": None}, "needs rms_norm_eps as a number, found no such key"),
        ({"tie_word_embeddings": "yes"}, 'needs tie_word_embeddings as true or false, found "yes"'),
        ({"use_mrope": True}, "must have use_mrope = false or null, found true"),
        ({"rope_theta": None}, "gives rope_theta neither by itself nor in rope_parameters"),
        ({"layer_types": ["sliding_attention"]}, "'sliding_attention' in layer_types"),
        ({"num_hidden_layers": 3}, "tensor model.layers.2.input_layernorm.weight .and 11 more. is missing"),
        ({"num_hidden_layers": 1}, "tensor model.layers.1.input_layernorm.weight of shape .32,. has no place"),
        ({"vocab_size": 520}, r"tensor model.embed_tokens.weight has shape .512, 32., config.json asks for .520, 32."),
        ({"hidden_act": "unheard"}, "qwen2 cannot be built from config.json"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"architectures": ["Unheard"]}, "no known published layout has; known are a2d-llama"),
        ({"architectures": None}, "no known published layout has"),
        ({"is_causal": True}, "is_causal = true"),
    ],
)
def test_config_defects(make_dream, tmp_path, changes, message):
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(edit_config(make_dream(), **changes), tmp_path / "root" / "out")
    assert not (tmp_path / "root").exists() or list((tmp_path / "root").iterdir()) == []


def damage_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"{not json" + data[17:])


def overlong_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])


def quantised(path: Path) -> None:
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "model.safetensors is damaged or cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "an interrupted download"),
        (damage_header, "not a safetensors table"),
        (overlong_header, "reaches past the end"),
        (quantised, "tensor model.norm.weight in model.safetensors has dtype F8_E4M3"),
        (lambda path: path.unlink(), "has no weights; expected model.safetensors"),
    ],
)
def test_weight_file_defects(make_dream, tmp_path, damage, message):
    source = make_dream()
    damage(source / "model.safetensors")
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_index_may_not_leave_the_folder(make_dream, tmp_path):
    source = make_dream()
    index = {"weight_map": {"model.norm.weight": "../other.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConversionError, match="which is not a file of the folder itself"):
        convert_checkpoint(source, tmp_path / "out")


def test_an_index_must_tell_the_truth(make_dream, tmp_path):
    source = make_dream()
    index = {"weight_map": {"model.absent.weight": "model.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConversionError, match=r"places tensor model\.absent\.weight in model\.safetensors"):
        convert_checkpoint(source, tmp_path / "out")


def test_family_names(make_dream, tmp_path):
    with pytest.raises(UnknownNameError, match=r"no published layout 'dreams' .did you mean 'dream'"):
        convert_checkpoint(make_dream(), tmp_path / "out", family="dreams")
    with pytest.raises(ConversionError, match="which is the layout dream; it cannot be read as sdar"):
        convert_checkpoint(tmp_path / "dream", tmp_path / "out", family="sdar")
    assert len(LAYOUTS) == 12


def test_a_folder_has_no_revision(make_dream, tmp_path):
    with pytest.raises(ConfigError, match="revision 'main' would have no effect"):
        convert_checkpoint(make_dream(), tmp_path / "out", revision="main")


def test_first_use_converts_once_for_all(make_dream, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEMBED_CACHE", str(tmp_path / "cache"))
    source = make_dream()
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(converted_folder(source))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and found[0].parent == tmp_path / "cache" / "converted"
    written = (found[0] / "model.safetensors").stat().st_mtime_ns
    assert converted_folder(source) == found[0]
    assert (found[0] / "model.safetensors").stat().st_mtime_ns == written
    assert converted_folder(found[0]) == found[0]


def test_loading_a_published_folder_converts_it_on_first_use(make_llada, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEMBED_CACHE", str(tmp_path / "cache"))
    source = make_llada()
    report = convert_checkpoint(source, tmp_path / "out")
    backbone = load_backbone(str(source), dtype="float32")
    assert len(visible(tmp_path / "cache" / "converted")) == 2
    again = load_backbone(str(source), dtype="float32", kernel="sdpa")
    assert len(visible(tmp_path / "cache" / "converted")) == 2
    for loaded in (backbone, again):
        assert loaded.attention == "bidirectional" and loaded.verdict is not None and loaded.verdict.held
        assert (loaded.mask_token_id, loaded.shifts_logits) == (4, False)
        assert loaded.source_hash == report.source_hash


def test_first_use_after_a_death_starts_again(make_dream, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEMBED_CACHE", str(tmp_path / "cache"))
    source = make_dream()
    target = converted_folder(source)
    stale = target.with_name(f".{target.name}.xyz.part")
    target.rename(stale)
    assert converted_folder(source) == target
    assert not stale.exists()


def test_a_changed_source_is_converted_anew(make_dream, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEMBED_CACHE", str(tmp_path / "cache"))
    source = make_dream()
    first = converted_folder(source)
    edit_config(source, rms_norm_eps=1e-5)
    second = converted_folder(source)
    assert second != first
    # What is copied beside the weights counts too: a tokenizer, a pooling, a prompt.
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    third = converted_folder(source)
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert len({first, second, third, converted_folder(source)}) == 4


def test_a_hub_snapshot_is_named_by_its_id_and_commit(make_dream, tmp_path, monkeypatch):
    """The hub cache is laid out by hand, so that the real hub client finds the repository offline."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--Dream-org--Dream-v0-Base-7B"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    make_dream().rename(repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    report = convert_checkpoint("Dream-org/Dream-v0-Base-7B", tmp_path / "out")
    assert report.source == "Dream-org/Dream-v0-Base-7B" and report.revision == commit
    assert str(tmp_path) not in (tmp_path / "out" / "diffembed.json").read_text()


def test_a_source_that_is_nowhere(tmp_path):
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        convert_checkpoint(tmp_path / "absent", tmp_path / "out")
