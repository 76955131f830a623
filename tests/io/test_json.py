"""Registries as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from episome.errors import ModelFileError
from episome.io import decode, encode
from episome.io._json import dumps, loads

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda k: k != "$nd"), inner),
    max_leaves=8,
)
ARRAYS = hnp.arrays(
    st.sampled_from([np.int64, np.int32, np.uint8, np.bool_, np.float64, np.float32]),
    hnp.array_shapes(max_dims=3, min_side=0, max_side=3),
    elements={"allow_nan": False, "allow_infinity": False},
)


@given(PLAIN)
def test_plain_data_come_back(value):
    assert decode(json.loads(json.dumps(encode(value)))) == value


@given(ARRAYS)
def test_arrays_come_back_with_type_and_shape(array):
    got = decode(json.loads(json.dumps(encode({"a": [array]}))))["a"][0]

    assert got.dtype == array.dtype
    assert got.shape == array.shape
    assert np.array_equal(got, array)


@pytest.mark.parametrize("dtype", [object, str])
def test_arrays_of_text_come_back_as_objects(dtype):
    got = decode(encode(np.array([["a", "β"], ["", "x\n"]], dtype=dtype)))

    assert got.dtype == object
    assert got.tolist() == [["a", "β"], ["", "x\n"]]


def test_scalars_and_tuples_become_plain():
    assert encode({"a": np.int64(3), "b": (1, np.float32(0.5)), "c": np.bool_(True)}) == {
        "a": 3,
        "b": [1, 0.5],
        "c": True,
    }


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1: 2},
        {"a": {None: 1}},
        b"bytes",
        {1, 2},
        np.array([1, "a"], dtype=object),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.array([1j]),
        lambda: 0,
    ],
)
def test_anything_else_is_refused(value):
    with pytest.raises(TypeError, match=r"plain data|must be text"):
        encode(value)


def test_the_same_data_give_the_same_bytes():
    assert dumps({"b": 1, "a": "β"}) == dumps({"a": "β", "b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"a": float("nan")})


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'"a"', b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(ModelFileError, match=r"no JSON.*E-M04"):
        loads(data, "manifest.json")
