"""Opens PyTorch's files of weights. Requires PyTorch, which only reads tensors: code in a file is never run."""

import contextlib
import functools
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from scotd_jax.errors import InputError
from scotd_jax.models.hf.stored_tensor import StoredTensor


@contextlib.contextmanager
def open_torch(file: pathlib.Path) -> Iterator[dict[str, StoredTensor]]:
    """Yields the tensors of a file by name.

    The file is mapped into memory; a file in the format of PyTorch before 1.6, which is no zip file, is loaded instead.

    Raises:
      InputError: if the file is damaged or contains anything but tensors. The caller adds the name of the file to the
        message.
    """
    import torch

    with file.open("rb") as stream:
        is_zip = stream.read(4) == b"PK\x03\x04"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # a damaged pickle raises almost anything
        raise InputError(f"not a complete PyTorch file of tensors ({_reason(error)})") from error
    if not isinstance(state, Mapping):
        raise InputError(f"expected tensors by name, found {type(state).__name__}")
    for name, value in state.items():
        dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta
        if not isinstance(name, str) or not dense:
            raise InputError(f"expected dense tensors only, found {type(value).__name__} at {name!r}")
    yield {name: _stored(value.detach(), torch) for name, value in state.items()}


def _stored(tensor: Any, torch: Any) -> StoredTensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.dtype == torch.bfloat16:  # numpy() refuses it
        tensor = tensor.view(torch.int16)
    return StoredTensor(tuple(tensor.shape), dtype, functools.partial(_read, tensor, dtype))


def _read(tensor: Any, dtype: str, index: tuple[slice, ...]) -> np.ndarray:
    value = tensor[index].numpy()
    return value.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else value


def _reason(error: Exception) -> str:
    """Returns the essence of PyTorch's message, without its advice on how to run the code in a file."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it contains {found[1]}, but code in files is never run"
    if str(error).startswith("Weights only load failed"):
        return "it contains more than tensors"
    return str(error).split("\n", 1)[0] or type(error).__name__
