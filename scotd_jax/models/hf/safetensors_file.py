"""Opens safetensors files."""

import contextlib
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np
from safetensors import SafetensorError, safe_open

from scotd_jax.errors import InputError
from scotd_jax.models.hf.stored_tensor import StoredTensor

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
_DTYPES |= {
    f"{letter}{bits}": f"{name}{bits}" for letter, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
}


@contextlib.contextmanager
def open_safetensors(file: pathlib.Path) -> Iterator[dict[str, StoredTensor]]:
    """Yields the tensors of a file by name.

    Raises:
      InputError: if the file is damaged. The caller adds the name of the file to the message.
    """
    try:
        opened = safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise InputError(f"not a complete safetensors file ({error})") from error
    with opened:
        yield {name: _tensor(opened, name) for name in opened.keys()}  # noqa: SIM118  it is no mapping


def _tensor(opened: Any, name: str) -> StoredTensor:
    view = opened.get_slice(name)
    dtype = view.get_dtype()
    return StoredTensor(
        tuple(view.get_shape()), _DTYPES.get(dtype, dtype), functools.partial(_read, opened, name, view)
    )


def _read(opened: Any, name: str, view: Any, index: tuple[slice, ...]) -> np.ndarray:
    return view[index] if index else opened.get_tensor(name)
