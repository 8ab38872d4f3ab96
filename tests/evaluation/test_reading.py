import dataclasses

import numpy as np
import pytest

from diffembed.errors import CheckpointError, ConfigError, InputError
from diffembed.evaluation.systems import vector_cache
from diffembed.evaluation.systems.reading import CHARACTERS_PER_BLOCK, Reader, read_with
from diffembed.evaluation.systems.vector_cache import VectorCache, hash_texts, vectors_folder

TEXTS = ["one two", "three", "one two", "four five six seven"]


def test_rows_come_back_in_order_and_each_text_is_read_once(words):
    vectors, reading = read_with(words).read(TEXTS, "document")
    assert np.array_equal(vectors["words"], words.encode(TEXTS)[0])
    assert words.read[:3] == [("document", None, text) for text in ("four five six seven", "one two", "three")]
    assert (reading.num_texts, reading.num_encoded, reading.num_tokens, reading.num_encoded_tokens) == (4, 3, 9, 7)
    assert reading.num_truncated == 0 and reading.tokens_per_s > 0


def test_a_second_reader_reads_from_disk(words, tmp_path):
    first, _ = read_with(words, cache_folder=tmp_path, key="k").read(TEXTS[:2], "document")
    words.read.clear()
    again, reading = read_with(words, cache_folder=tmp_path, key="k").read(TEXTS, "document")
    assert [text for _, _, text in words.read] == ["four five six seven"]
    assert np.array_equal(again["words"][:2], first["words"])
    assert (reading.num_encoded, reading.num_tokens, reading.num_encoded_tokens) == (1, 9, 4)
    words.read.clear()
    read_with(words, cache_folder=tmp_path, key="another model").read(TEXTS, "document")
    assert len(words.read) == 3


def test_two_processes_may_write_the_same_texts_in_another_order(words, tmp_path):
    one, other = (read_with(words, cache_folder=tmp_path, key="k") for _ in range(2))
    # Blocks follow the order of lengths, and equal lengths that of the texts.
    one.read(["aa", "bb"], "document")
    other.read(["bb", "aa"], "document")
    kept, reading = one.read(["aa", "bb"], "document")
    assert reading.num_encoded == 0 and np.array_equal(kept["words"], words.encode(["aa", "bb"])[0])


@pytest.mark.parametrize("what", ["library", "architecture"])
def test_what_makes_vectors_beside_the_weights_has_a_cache_of_its_own(what, monkeypatch):
    before = vectors_folder()
    if what == "library":
        monkeypatch.setattr(vector_cache.metadata, "version", lambda name: "99.0")
    else:
        family = dataclasses.replace(vector_cache.FAMILIES["bert"], pools_special_tokens=False)
        monkeypatch.setitem(vector_cache.FAMILIES, "bert", family)
    assert vectors_folder() != before and vectors_folder().parent == before.parent


def test_kind_and_instruction_are_part_of_the_key(words, tmp_path):
    reader = read_with(words, cache_folder=tmp_path, key="k")
    reader.read(["one"], "document")
    reader.read(["one"], "query")
    reader.read(["one"], "query", "find")
    reader.read(["one"], "query", "find")
    assert words.read == [("document", None, "one"), ("query", None, "one"), ("query", "find", "one")]
    assert len(set(hash_texts(["a\0b"], "query") + hash_texts(["b"], "query\0a") + hash_texts(["a"], "query"))) == 3


def test_a_text_that_was_cut_serves_its_own_limit_only(words, tmp_path):
    texts = ["a b", "a b c d"]
    words.max_tokens = 3
    _, short = read_with(words, cache_folder=tmp_path, key="k").read(texts, "document")
    assert (short.num_truncated, short.truncated_fraction) == (1, 0.5)
    words.max_tokens = 10
    words.read.clear()
    vectors, whole = read_with(words, cache_folder=tmp_path, key="k").read(texts, "document")
    assert [text for _, _, text in words.read] == ["a b c d"] and whole.num_truncated == 0
    words.max_tokens = 3
    words.read.clear()
    again, cut = read_with(words, cache_folder=tmp_path, key="k").read(texts, "document")
    assert words.read == [] and cut.num_truncated == 1
    assert not np.array_equal(again["words"][1], vectors["words"][1])


def test_finished_blocks_survive_a_failure(words, tmp_path):
    long = "x" * CHARACTERS_PER_BLOCK
    encode = words.encode

    def fails_on_short(texts, **settings):
        if "short" in texts:
            raise RuntimeError("killed")
        return encode(texts, **settings)

    words.encode = fails_on_short
    with pytest.raises(RuntimeError):
        read_with(words, cache_folder=tmp_path, key="k").read(["short", long], "document")
    words.encode, words.read = encode, []
    read_with(words, cache_folder=tmp_path, key="k").read(["short", long], "document")
    assert [text for _, _, text in words.read] == ["short"]


def test_labels_of_one_forward_are_kept_apart(tmp_path):
    def encode(texts, kind, instruction):
        ones = np.ones((len(texts), 2), np.float32)
        return {"mean": ones, "last": 2 * ones}, None

    settings = {"labels": ["mean", "last"], "dim": 2, "max_tokens": 9, "cache_folder": tmp_path}
    for _ in range(2):
        vectors, reading = Reader(encode, keys={"mean": "m", "last": "l"}, **settings).read(["a"], "document")
        assert vectors["mean"].tolist() == [[1, 1]] and vectors["last"].tolist() == [[2, 2]]
        assert reading.num_tokens is None and reading.truncated_fraction is None
    with pytest.raises(ConfigError, match="identity of each model"):
        Reader(encode, keys={"mean": "m"}, **settings)


def test_unusable_vectors_are_refused(words):
    def answer(vectors):
        words.encode = lambda texts, **settings: (vectors, None)
        return read_with(words)

    with pytest.raises(InputError, match=r"words returned vectors of shape \(1, 3\)"):
        answer(np.ones((1, 3))).read(["a"], "document")
    with pytest.raises(InputError, match="words returned NaN for the document that begins 'what'"):
        answer(np.full((1, 256), np.nan)).read(["what"], "document")


def test_a_damaged_cache_file_is_named(words, tmp_path):
    read_with(words, cache_folder=tmp_path, key="k").read(TEXTS, "document")
    (shard,) = tmp_path.glob("*/*.parquet")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=f"{shard.name} is damaged"):
        read_with(words, cache_folder=tmp_path, key="k")
    with pytest.raises(InputError, match=r"1 vectors of dim 3 were expected; got shape \(1, 2\)"):
        VectorCache(folder=tmp_path / "other", dim=3).add([b"x" * 16], np.ones((1, 2)), [1], [False], 9)
