"""Decoding of feature members, valid and hostile: an array or one sentence; no code runs, no memory is allocated."""

import io
import json
import pickle
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from prefixvlm.data import feature_codec
from prefixvlm.data.feature_codec import decode_npy, decode_safetensors, encode_npy

GOOD = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)


def npy(array: np.ndarray, **keywords: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **keywords)
    return buffer.getvalue()


def with_header(text: str, data: bytes = b"\0" * 24, version: bytes = b"\x01\x00") -> bytes:
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


def of_shape(shape: str, descr: str = "<f2", order: bool = False) -> bytes:
    return with_header(f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}")


def tensors(header: object, data: bytes = b"\0" * 24) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was run",)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("shape", [(1, 1), (1, 768), (257, 64), (50, 1024)])
def test_members_that_numpy_and_safetensors_write(shape, dtype):
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    for decoded in (decode_npy(npy(array)), decode_safetensors(safetensors.numpy.save({"features": array}))):
        assert decoded.dtype == dtype
        assert np.array_equal(decoded, array)


def test_features_are_stored_in_float16_and_larger_values_raise():
    stored = decode_npy(encode_npy(GOOD))
    assert np.array_equal(stored, GOOD.astype(np.float16))
    assert np.array_equal(np.load(io.BytesIO(encode_npy(GOOD.T))), GOOD.T.astype(np.float16))
    with pytest.raises(ValueError, match=r"up to 7e\+04 .*normalize=true"):
        encode_npy(np.array([[7e4, 1]], np.float32))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not a float16 or float32 array"),
        (npy(np.array([[Bomb()]], dtype=object), allow_pickle=True), "is not a float16 or float32 array"),
        (pickle.dumps(Bomb()), "is not a float16 or float32 array"),
        (npy(GOOD.astype(np.float64)), "is not a float16 or float32 array"),
        (npy(GOOD.astype(">f4")), "is not a float16 or float32 array"),
        (npy(GOOD.astype(np.int16)), "is not a float16 or float32 array"),
        (npy(GOOD[0]), "of 2 dimensions"),
        (npy(GOOD[None]), "of 2 dimensions"),
        (npy(np.asfortranarray(GOOD)), "is not a float16 or float32 array"),
        (npy(GOOD)[:-1], "cut short or damaged: (3, 4) needs 48 bytes, it has 47"),
        (npy(GOOD)[:100], "is not a float16"),
        (npy(GOOD) + b"\0", "it has 49"),
        (of_shape("(99999999, 99999999)"), "needs 19999999600000002 bytes, it has 24"),
        (of_shape("(999999999999999, 3)"), "is not a float16"),
        (of_shape("(-4, -3)"), "is not a float16"),
        (of_shape("(0, 12)")[:-24], "the features are empty"),
        (of_shape("__import__('os').abort()"), "is not a float16"),
        (with_header("(" * 117), "is not a float16"),
        (with_header("{'descr': '<f2', 'fortran_order': False, 'shape': (3, 4), }", version=b"\x02\x00"), "is not a f"),
        (npy(np.array([[1, np.nan]], np.float16)), "not all finite"),
        (npy(np.array([[1, np.inf]], np.float32)), "not all finite"),
    ],
)
def test_a_hostile_npy_member_is_one_sentence(data, reason):
    assert_raises_one_sentence(decode_npy, data, reason)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not decode"),
        (safetensors.numpy.save({"features": GOOD.astype(np.float64)}), "is float64 (3, 4); it must be a float16 or"),
        (safetensors.numpy.save({"features": GOOD.astype(np.int32)}), "is int32 (3, 4)"),
        (safetensors.torch.save({"features": torch.zeros(3, 4, dtype=torch.bfloat16)}), "safetensors member"),
        (safetensors.numpy.save({"features": GOOD[0]}), "is float32 (4,)"),
        (safetensors.numpy.save({"other": GOOD}), "holds other; it must hold features alone"),
        (safetensors.numpy.save({"features": GOOD, "other": GOOD}), "it must hold features alone"),
        (safetensors.numpy.save({"features": GOOD})[:-1], "does not decode"),
        (tensors({"features": {"dtype": "F16", "shape": [9**9, 9**9], "data_offsets": [0, 24]}}), "does not decode"),
        (tensors({"features": {"dtype": "F16", "shape": [3, 4], "data_offsets": [0, 2**60]}}), "does not decode"),
        ((2**40).to_bytes(8, "little") + b"{}", "its header has 1099511627776 bytes; at most 4096"),
        (tensors({"__metadata__": {"a": "x" * 5000}}), "at most 4096"),
        (safetensors.numpy.save({"features": GOOD * np.float32(np.nan)}), "not all finite"),
    ],
)
def test_a_hostile_safetensors_member_is_one_sentence(data, reason):
    assert_raises_one_sentence(decode_safetensors, data, reason)


@pytest.mark.parametrize("decode", [decode_npy, decode_safetensors])
def test_a_member_that_is_too_large_raises(decode, monkeypatch):
    monkeypatch.setattr(feature_codec, "MAX_BYTES", 100)
    assert_raises_one_sentence(decode, b"\0" * 101, "the features have 101 bytes; at most 100 are read")


def assert_raises_one_sentence(decode, data, reason):
    tracemalloc.start()
    with pytest.raises(ValueError, match=".") as caught:
        decode(data)
    assert tracemalloc.get_traced_memory()[1] < 2**20  # nothing was allocated for the size in the header
    tracemalloc.stop()
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("shape", [(1, 1), (257, 64), (10**5, 2)])
def test_numpy_reads_a_member_with_a_checksum(shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    data = encode_npy(array)
    assert np.array_equal(np.load(io.BytesIO(data)), array)
    assert np.array_equal(decode_npy(data), array)
    assert len(data) - array.nbytes == 128  # as numpy.save
    assert np.array_equal(decode_npy(npy(array)), array)  # of a former version, without a checksum


def test_no_flipped_byte_is_read_as_other_values():
    data = encode_npy(GOOD)
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises(ValueError, match="npy member"):
                decode_npy(bytes(flipped))
