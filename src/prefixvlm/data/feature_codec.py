"""Encoding and decoding of stored image features: npy and safetensors members."""

import math
import re
import zlib

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

MAX_BYTES = 64 * 2**20  # a member
# The header that numpy.save writes for such an array. numpy.load would unpickle, and parse the header as Python. Ours
# has a checksum of shape and array in a comment, which numpy passes over; those of former versions have none.
NPY = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"(?P<array>\{'descr': '<f(?P<size>[24])', 'fortran_order': False, "
    rb"'shape': \((?P<rows>\d{1,8}), (?P<columns>\d{1,8})\), \})"
    rb"(?: # crc32 (?P<crc32>[0-9a-f]{8}))? *\n",
    re.DOTALL,
)
ALIGNMENT = 64  # of the array in the file, in bytes; of numpy's format
NAME = "features"  # the one tensor in a safetensors member
MAX_HEADER = 4096  # bytes; safetensors itself would parse 100 MB
ACCEPTED = "a float16 or float32 array of 2 dimensions"


def encode_npy(features: NDArray[np.floating]) -> bytes:
    """Encode features, float[N, D], as an npy member in float16 with a checksum.

    Raises ValueError for values beyond float16.
    """
    with np.errstate(over="ignore"):
        small = np.ascontiguousarray(features, np.dtype("<f2"))
    if not np.isfinite(small).all():
        raise ValueError(
            f"features go up to {np.abs(features).max():.3g} and are stored in float16, which ends at 65504; set "
            "encoder.normalize=true"
        )
    array, data = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {small.shape}, }}".encode(), small.tobytes()
    header = b"%s # crc32 %08x" % (array, _checksum(array, data))
    header = header.ljust(-(len(header) + 11) % ALIGNMENT + len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def _checksum(array: bytes, data: bytes | memoryview) -> int:
    return zlib.crc32(data, zlib.crc32(array))


def decode_npy(data: bytes) -> NDArray[np.floating]:
    """Decode an array, float16 or float32 [N, D]. Raises ValueError for any other npy file."""
    _check_size(data)
    header = NPY.match(data)
    if header is None or header.end() != 10 + int.from_bytes(header["length"], "little"):
        raise ValueError(f"the npy member is not {ACCEPTED} as numpy.save writes it, but begins {data[:90]!r}")
    shape, dtype = (int(header["rows"]), int(header["columns"])), np.dtype(f"<f{header['size'].decode()}")
    # Checked before numpy allocates: the shape may be a lie.
    expected, size = math.prod(shape) * dtype.itemsize, len(data) - header.end()
    if expected != size:
        raise ValueError(f"the npy member is cut short or damaged: {shape} needs {expected} bytes, it has {size}")
    if header["crc32"] and int(header["crc32"], 16) != _checksum(header["array"], memoryview(data)[header.end() :]):
        raise ValueError("the npy member is damaged: its checksum is not that of its bytes")
    return _checked(np.frombuffer(data, dtype, offset=header.end()).reshape(shape))


def decode_safetensors(data: bytes) -> NDArray[np.floating]:
    """Decode the tensor `features`, float16 or float32 [N, D]. Raises ValueError for anything else."""
    _check_size(data)
    header = int.from_bytes(data[:8], "little")
    if header > MAX_HEADER:
        raise ValueError(
            f"the safetensors member declares that its header has {header} bytes; at most {MAX_HEADER} are"
        )
    try:
        tensors = safetensors.numpy.load(data)
    except Exception as error:  # SafetensorError, but KeyError or TypeError for dtypes that numpy lacks
        raise ValueError(f"the safetensors member does not decode ({type(error).__name__}: {error})") from error
    if list(tensors) != [NAME]:
        raise ValueError(f"the safetensors member holds {', '.join(tensors) or 'nothing'}; it must hold {NAME} alone")
    array = tensors[NAME]
    if array.ndim != 2 or array.dtype not in (np.float16, np.float32):
        raise ValueError(f"the safetensors member is {array.dtype} {array.shape}; it must be {ACCEPTED}")
    return _checked(array)


def _check_size(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise ValueError(f"the features have {len(data)} bytes; at most {MAX_BYTES} are read")


def _checked(array: NDArray[np.floating]) -> NDArray[np.floating]:
    if not array.size:
        raise ValueError(f"the features are empty, {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("the features are not all finite numbers")
    return array
