"""What may stand in a file of weights beside tensors, and a format that holds nothing else."""

import _codecs
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workloads.errors import InputError

# NumPy's scalars and arrays of plain values, as training frameworks keep them beside weights: restoring one runs no
# code. Their names are those of NumPy before and after version 2.
_CORE: Any = np._core.multiarray  # type: ignore[attr-defined]
_MAKERS = {"scalar": _CORE.scalar, "_reconstruct": _CORE._reconstruct}
PLAIN_NUMPY: list[Any] = [
    *((maker, f"numpy.{core}.multiarray.{name}") for name, maker in _MAKERS.items() for core in ("core", "_core")),
    *(np.dtype, np.ndarray, _codecs.encode),
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdSU"),
]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LONGEST_HEADER = 100_000_000


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file: a header of JSON, and behind it their bytes.

    Raises
    ------
    InputError
        It is none, or damaged.
    """
    data = path.read_bytes()
    try:
        length = int.from_bytes(data[:8], "little")
        if length > min(_LONGEST_HEADER, len(data) - 8):
            raise ValueError("its header is longer than the file")
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        body = memoryview(bytearray(data[8 + length :]))
        return {str(name): _tensor(entry, body) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not a .safetensors file, or is damaged ({error})", key="weights") from None


def _tensor(entry: Any, body: memoryview) -> torch.Tensor:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {entry['dtype']} is not read; allowed: {', '.join(_DTYPES)}")
    dtype, shape = _DTYPES[entry["dtype"]], [int(side) for side in entry["shape"]]
    begin, end = entry["data_offsets"]
    if (
        not 0 <= begin <= end <= len(body)
        or end - begin != math.prod(shape) * dtype.itemsize
        or min(shape, default=0) < 0
    ):
        raise ValueError(f"bytes {begin} to {end} are no {entry['dtype']} tensor of shape {shape}")
    if begin == end:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(body[begin:end], dtype=dtype).reshape(shape)
