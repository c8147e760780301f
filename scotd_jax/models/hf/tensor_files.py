"""The tensors of a Hugging Face folder by name, whatever the format and the number of its files."""

import contextlib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.models.hf.flax_file import open_flax
from scotd_jax.models.hf.json_files import read_object
from scotd_jax.models.hf.safetensors_file import open_safetensors
from scotd_jax.models.hf.stored_tensor import StoredTensor
from scotd_jax.models.hf.tensor_names import translate
from scotd_jax.models.hf.torch_file import open_torch
from scotd_jax.models.hf.weight_files import FLAX, SAFETENSORS, TORCH, weight_format

_OPENERS = {SAFETENSORS: open_safetensors, FLAX: open_flax, TORCH: open_torch}
_FLOATS = ("float64", "float32", "float16", "bfloat16")


class _Location(NamedTuple):
    """Where a tensor is stored: its file, its name there, whether it is transposed there, and its dtype."""

    file: str
    key: str
    transposed: bool
    dtype: str


class TensorFiles(contextlib.AbstractContextManager):
    """The tensors of a folder, by the names of the weight maps; records which ones were read.

    Only one file is open at a time, because an open file may be mapped into memory: tensors are best read in the order
    of their files.

    Attributes:
      description: the file, or the index and the number of its files, for progress lines.
    """

    def __init__(self, folder: pathlib.Path, path: epath.PathLike, kind: str):
        """Opens every file once to list its tensors.

        Args:
          folder: local folder with the files.
          path: the folder that messages name; `folder` may be a copy of it.
          kind: kind of the model.

        Raises:
          InputError: if there are no weights, a file is missing or damaged, or the index does not describe the files.
        """
        self._folder, self._path, self._kind = folder, epath.Path(path), kind
        self._stack, self._open_file = contextlib.ExitStack(), ""
        self._tensors: Mapping[str, StoredTensor] = {}
        self._read: set[str] = set()
        self._locations: dict[str, _Location] = {}
        names = [item.name for item in folder.iterdir()]
        try:
            self._format = weight_format(names)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        index = {} if self._format.single in names else self._read_index()
        files = sorted(set(index.values())) or [self._format.single]
        self.description = f"{self._format.index} ({len(files)} files)" if index else self._format.single
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            for file in files:
                self._list(file)
            for key, file in index.items():
                found = self._locations.get(translate(key, kind).name)
                if found is None or found.file != file:
                    raise InputError(f"{self._index_path}: lists {key!r} in {file}, which does not contain it")
            on_error.pop_all()

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __contains__(self, name: str) -> bool:
        return name in self._locations

    def close(self) -> None:
        """Closes the open file. Arrays that were read from it must not be used any more."""
        self._tensors, self._open_file = {}, ""
        self._stack.close()

    def file(self, name: str) -> epath.Path:
        """Returns the file of a tensor."""
        return self._path / self._locations[name].file

    def unread(self) -> set[str]:
        """Returns the names of the tensors that were not read, except integer and boolean ones (never parameters)."""
        buffers = ("int", "uint", "bool")
        return {n for n, at in self._locations.items() if n not in self._read and not at.dtype.startswith(buffers)}

    def read(self, name: str, shape: tuple[int, ...], index: tuple[slice, ...] = ()) -> np.ndarray:
        """Returns a tensor, or its slice `index`, with the dtype of the file.

        The array is valid until the next call, because it may be a view of a file.

        Raises:
          InputError: if the tensor has another shape than `shape` or no float type.
        """
        at = self._locations[name]
        tensor = self._open(at.file)[at.key]
        expected = shape[::-1] if at.transposed else shape
        if tensor.shape != expected or tensor.dtype not in _FLOATS:
            found = f"{tensor.dtype} {tensor.shape}"
            raise InputError(f"{self.file(name)}: tensor {at.key!r} is {found}; config.json requires floats {expected}")
        self._read.add(name)
        value = tensor.read(index[::-1] if at.transposed else index)
        return value.T if at.transposed else value

    def _list(self, file: str) -> None:
        for key, tensor in self._open(file).items():
            name, transposed = translate(key, self._kind)
            if name in self._locations:
                raise InputError(f"{self._path / file}: tensor {key!r} is also in {self.file(name)}")
            self._locations[name] = _Location(file, key, transposed, tensor.dtype)

    def _open(self, file: str) -> Mapping[str, StoredTensor]:
        if self._open_file != file:
            self.close()
            if not (self._folder / file).is_file():
                listed_by = "its folder" if file == self._format.single else self._format.index
                raise InputError(f"{self._path / file}: no such file, but {listed_by} lists it")
            try:
                self._tensors = self._stack.enter_context(_OPENERS[self._format](self._folder / file))
            except InputError as error:
                raise InputError(f"{self._path / file}: {error}") from error
            self._open_file = file
        return self._tensors

    @property
    def _index_path(self) -> epath.Path:
        return self._path / self._format.index

    def _read_index(self) -> dict[str, str]:
        """Returns the file of each tensor. Raises InputError if an entry is not the plain name of a file."""
        files = read_object(epath.Path(self._folder / self._format.index), self._index_path).get("weight_map")
        if not isinstance(files, dict) or not files:
            raise InputError(f"{self._index_path}: expected a field weight_map with the file of every tensor")
        for tensor, file in files.items():
            if not isinstance(file, str) or file in ("", "..") or pathlib.PurePath(file).name != file:
                raise InputError(
                    f"{self._index_path}: the file of {tensor!r} is {file!r}; expected a name in this folder"
                )
        return files
