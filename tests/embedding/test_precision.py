"""Codes against arithmetic done the long way."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.embedding.precision import Int8Codes, hamming, normalise, pack_signs, unpack_signs
from diffembed.errors import CheckpointError, EmptyInputError, InputError


def draw(rows, dim, seed=0):
    return normalise(np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32))


def test_codes_are_within_half_a_step_inside_the_sample():
    vectors = draw(50, 8)
    vectors[:, 3] = 0
    int8 = Int8Codes.fit(vectors)
    codes = int8.encode(vectors)
    assert codes.dtype == np.int8 and (np.abs(codes).max(0) == [127, 127, 127, 0, 127, 127, 127, 127]).all()
    assert (np.abs(int8.decode(codes) - vectors) <= int8.step_D / 2 + 1e-6).all()


def test_same_vector_same_code_in_any_company():
    int8, vectors = Int8Codes.fit(draw(100, 16)), draw(40, 16, seed=1) * 3
    alone = np.concatenate([int8.encode(vectors[row : row + 1]) for row in range(40)])
    assert (alone == int8.encode(vectors)).all()
    refitted = Int8Codes.fit(vectors).encode(vectors)
    assert (refitted != alone).any(), "fitted on each batch, the same vector would change its code"
    assert np.abs(alone).max() == 127, "beyond the sample codes are clipped, never wrapped"
    assert (np.sign(alone)[np.abs(alone) > 0] == np.sign(vectors)[np.abs(alone) > 0]).all()


def test_scores_are_those_of_the_decoded_vectors(monkeypatch):
    monkeypatch.setattr("diffembed.embedding.precision.ROWS_PER_BLOCK", 7)
    documents, queries = draw(40, 16), draw(5, 16, seed=1)
    int8 = Int8Codes.fit(documents)
    codes = int8.encode(documents)
    np.testing.assert_allclose(int8.scores(queries, codes), queries @ int8.decode(codes).T, atol=1e-6)
    assert np.abs(int8.scores(queries, codes) - queries @ documents.T).max() < 0.01


def test_calibration_is_read_back_to_the_last_bit(tmp_path):
    int8 = Int8Codes.fit(draw(100, 48))
    int8.save(tmp_path / "int8.json")
    assert Int8Codes.load(tmp_path / "int8.json").step_D.tobytes() == int8.step_D.tobytes()


@pytest.mark.parametrize("damage", ["", "{}", '{"step": "x"}', '{"step": [1, 0]}', '{"step": []}', '{"step": [NaN]}'])
def test_damaged_calibration(tmp_path, damage):
    (tmp_path / "int8.json").write_text(damage)
    with pytest.raises(CheckpointError, match="holds no int8 calibration"):
        Int8Codes.load(tmp_path / "int8.json")
    with pytest.raises(CheckpointError, match="holds no int8 calibration"):
        Int8Codes.load(tmp_path / "missing.json")


def test_refusals():
    int8 = Int8Codes.fit(draw(3, 4))
    with pytest.raises(EmptyInputError, match="sample is empty"):
        Int8Codes.fit(np.zeros((0, 4), np.float32))
    with pytest.raises(InputError, match=r"has 4 components, got an array of \(2, 5\)"):
        int8.encode(draw(2, 5))
    with pytest.raises(InputError, match="NaN or infinity"):
        int8.encode(np.array([[0, 1, np.nan, 0]], np.float32))
    with pytest.raises(InputError, match="codes of 2 bytes are not those of 24"):
        unpack_signs(np.zeros((1, 2), np.uint8), 24)


@given(st.integers(1, 70), st.integers(0, 5))
def test_hamming_counts_the_signs_that_differ(dim, seed):
    documents, queries = draw(9, dim, seed), draw(3, dim, seed + 1)
    codes, asked = pack_signs(documents), pack_signs(queries)
    assert codes.shape == (9, -(-dim // 8)) and codes.dtype == np.uint8
    want = [[sum(a != b for a, b in zip(q >= 0, d >= 0, strict=True)) for d in documents] for q in queries]
    assert hamming(asked, codes).tolist() == want
    signs, asked_signs = unpack_signs(codes, dim), unpack_signs(asked, dim)
    assert (asked_signs @ signs.T == dim - 2 * hamming(asked, codes)).all()


def test_first_component_is_the_highest_bit():
    assert pack_signs(np.array([[1, -1, -1, -1, -1, -1, -1, 0, -1, 5]], np.float32)).tolist() == [
        [0b10000001, 0b01000000]
    ]


def test_file_says_what_it_is(tmp_path):
    Int8Codes.fit(draw(3, 2)).save(tmp_path / "int8.json")
    assert json.loads((tmp_path / "int8.json").read_text())["codes"] == "int8"
