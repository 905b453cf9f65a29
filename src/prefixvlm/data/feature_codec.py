"""The bytes of a feature member go in, its checked array comes out; and the other way round."""

import io
import math
import re

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

MAX_BYTES = 64 * 2**20  # of one member
# What numpy.save writes of such an array, and nothing else: neither a pickle nor an expression is ever looked at.
NPY = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"\{'descr': '<f(?P<size>[24])', 'fortran_order': False, 'shape': \((?P<rows>\d{1,8}), (?P<columns>\d{1,8})\), \}"
    rb" *\n",
    re.DOTALL,
)
NAME = "features"  # of the one tensor in a safetensors member
MAX_HEADER = 4096  # bytes; safetensors itself would parse 100 MB
ACCEPTED = "a float16 or float32 array of 2 dimensions"


def encode_npy(features: NDArray[np.floating]) -> bytes:
    """features: float[N, D] -> the npy member, in float16. Raises ValueError where float16 cannot hold a value."""
    with np.errstate(over="ignore"):
        small = np.ascontiguousarray(features, np.dtype("<f2"))
    if not np.isfinite(small).all():
        raise ValueError(
            f"features go up to {np.abs(features).max():.3g} and are stored in float16, which ends at 65504; set "
            "encoder.normalize=true"
        )
    buffer = io.BytesIO()
    np.save(buffer, small, allow_pickle=False)
    return buffer.getvalue()


def decode_npy(data: bytes) -> NDArray[np.floating]:
    """float16 or float32 [N, D]. Raises ValueError for anything else that an npy file may be."""
    _check_size(data)
    header = NPY.match(data)
    if header is None or header.end() != 10 + int.from_bytes(header["length"], "little"):
        raise ValueError(f"the npy member is not {ACCEPTED} as numpy.save writes it, but begins {data[:90]!r}")
    shape, dtype = (int(header["rows"]), int(header["columns"])), np.dtype(f"<f{header['size'].decode()}")
    wanted, found = math.prod(shape) * dtype.itemsize, len(data) - header.end()
    if wanted != found:
        raise ValueError(f"the npy member is cut short or damaged: {shape} wants {wanted} bytes, it has {found}")
    return _checked(np.frombuffer(data, dtype, offset=header.end()).reshape(shape))


def decode_safetensors(data: bytes) -> NDArray[np.floating]:
    """The tensor `features`, float16 or float32 [N, D]. Raises ValueError for anything else."""
    _check_size(data)
    header = int.from_bytes(data[:8], "little")
    if header > MAX_HEADER:
        raise ValueError(f"the safetensors member says that its header has {header} bytes; at most {MAX_HEADER} are")
    try:
        tensors = safetensors.numpy.load(data)
    except Exception as error:  # a SafetensorError, or KeyError, TypeError, ... for types that numpy has not
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
