"""Loads config and parameters from a Hugging Face folder and checks every tensor.

Loading raises InputError, with the names of file and tensor, if a tensor is missing, unused, of the wrong shape, or a
copy that differs from its original. Weights of any float type become float32.

With shardings, the slices that each device needs are read from the file and transferred to the device before the next
tensor is read. The host holds at most one tensor at a time, so a model larger than its memory can be loaded.
"""

import contextlib
import json
import pathlib
from typing import Any

import jax
import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, for safetensors
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open

from scotd_jax.errors import InputError
from scotd_jax.local_files import local_copy
from scotd_jax.models import registry
from scotd_jax.models.decoder_config import FAMILIES, DecoderConfig
from scotd_jax.models.hf import weight_map
from scotd_jax.models.hf.weight_files import weight_files
from scotd_jax.models.opt_config import OPTConfig
from scotd_jax.models.t5_config import T5Config
from scotd_jax.tokenizer_files import config_files

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_CONFIGS = {"opt": OPTConfig, "t5": T5Config, **dict.fromkeys(FAMILIES, DecoderConfig)}
_FLOATS = ("F64", "F32", "F16", "BF16")


def load_config(path: epath.PathLike) -> registry.ModelConfig:
    """Loads the config of the model in the folder `path` from config.json and generation_config.json.

    Raises:
      InputError: if config.json is missing, broken, or describes an unsupported model.
    """
    with local_copy(path, config_files) as folder:
        return _read_config(epath.Path(folder), path)


def _read_config(folder: epath.Path, path: epath.PathLike) -> registry.ModelConfig:
    """Reads the config in the local copy `folder` of `path`."""
    values = _json(folder / "config.json")
    kind = values.get("model_type")
    if kind not in _CONFIGS:
        raise InputError(f"{path}/config.json: model_type is {kind!r}; supported are {', '.join(_CONFIGS)}")
    if kind == "t5":
        # transformers 5 writes tie_word_embeddings=true for every T5; scale_decoder_outputs marks v1.0 (tied, scaled).
        values["tie_word_embeddings"] = values.get("scale_decoder_outputs", values.get("tie_word_embeddings", True))
        if "decoder_start_token_id" not in values and (folder / "generation_config.json").exists():
            start = _json(folder / "generation_config.json").get("decoder_start_token_id")
            if start is not None:
                values["decoder_start_token_id"] = start
    try:
        return _CONFIGS[kind].from_hf(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def load_pretrained(
    path: epath.PathLike, shardings: Any = None, kernel_dtype: str = "float32"
) -> tuple[registry.ModelConfig, dict[str, Any]]:
    """Loads config and parameters of the model in the folder `path`, local or remote.

    Args:
      path: a folder with config.json, and model.safetensors or the files of model.safetensors.index.json.
      shardings: a tree like the parameters. If set, parameters are jax arrays with these shardings; a process reads
        only what its own devices hold. Otherwise they are numpy arrays.
      kernel_dtype: the dtype of kernels; for a model that is not trained its compute dtype suffices.

    Returns:
      The config, and the parameters as a nested dict, float32 apart from kernels.

    Raises:
      InputError: if a tensor is missing, unused, of the wrong shape or type, or differs from its copy.
    """
    config = load_config(path)
    shardings_by_name = {} if shardings is None else weight_map.flatten(shardings)
    with (
        local_copy(path, weight_files) as folder,
        _TensorFiles(folder, path, config.kind) as files,
    ):
        leaves = {
            pair.ours: _load_parameter(
                files,
                pair,
                path,
                shardings_by_name.get(pair.ours),
                kernel_dtype if pair.ours.endswith("/kernel") else "float32",
            )
            for pair in weight_map.pairs(config)
        }
        if unread := sorted(name for name in files.unread() if not weight_map.is_unused(config.kind, name)):
            raise InputError(
                f"{files.file(unread[0])}: tensor {unread[0]!r} ({len(unread)} in all) belongs to no parameter of "
                f"this {config.kind} model; does config.json describe these weights?"
            )
    return config, weight_map.nest(leaves)


def _load_parameter(
    files: "_TensorFiles",
    pair: weight_map.WeightPair,
    path: epath.PathLike,
    sharding: jax.sharding.Sharding | None,
    dtype: str,
) -> np.ndarray | jax.Array:
    names = [name for name in (pair.theirs, *pair.copies) if name in files]
    if not names and pair.ours == "lm_head/kernel":
        # transformers 5 ties the head of an unscaled T5 when both matrices are equal, and then stores only one.
        names = [name for name in ("shared.weight", "encoder.embed_tokens.weight") if name in files][:1]
    if not names:
        raise InputError(f"{path}: no file contains tensor {pair.theirs!r} (our {pair.ours}), {pair.stored_shape}")
    for name in names[1:]:
        if not np.array_equal(files.read(name, pair.stored_shape), files.read(names[0], pair.stored_shape)):
            raise InputError(
                f"{files.file(name)}: tensor {name!r} differs from {names[0]!r}, but config.json declares them tied"
            )

    def read(index: tuple[slice, ...] = ()) -> np.ndarray:
        value = files.read(names[0], pair.stored_shape, index[::-1] if pair.transpose else index)
        return np.ascontiguousarray(value.T if pair.transpose else value, jax.numpy.dtype(dtype))

    if sharding is None:
        return read()
    slices: dict[str, np.ndarray] = {}  # read once for all devices that hold the same slice

    def read_slice(index: tuple[slice, ...] | None) -> np.ndarray:
        if (key := str(index)) not in slices:
            slices[key] = read(index or ())
        return slices[key]

    return jax.make_array_from_callback(pair.shape, sharding, read_slice)


class _TensorFiles(contextlib.AbstractContextManager):
    """The tensors of a folder by name, in one or several files; records which tensors were read.

    Messages name the folder `path`; the files are read from `folder`, which may be a local copy.
    """

    def __init__(self, folder: pathlib.Path, path: epath.PathLike, kind: str):
        self._path, self._kind = epath.Path(path), kind
        self._read: set[str] = set()
        self._stack = contextlib.ExitStack()
        self._files: dict[str, tuple[str, str, Any]] = {}
        index = self._read_index(folder)
        for file in sorted(set(index.values())) or [SINGLE]:
            try:
                opened = self._stack.enter_context(safe_open(folder / file, framework="numpy"))
            except (SafetensorError, OSError) as error:
                self._stack.close()
                raise InputError(f"{self._path / file}: not a complete safetensors file ({error})") from error
            self._files.update({self._name(key): (file, key, opened) for key in opened.keys()})  # noqa: SIM118
        for key, file in index.items():
            if self._name(key) not in self._files or self._files[self._name(key)][0] != file:
                self._stack.close()
                raise InputError(f"{self._path / INDEX}: lists {key!r} in {file}, which does not contain it")

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def file(self, name: str) -> epath.Path:
        return self._path / self._files[name][0]

    def unread(self) -> set[str]:
        return set(self._files) - self._read

    def read(self, name: str, shape: tuple[int, ...], index: tuple[slice, ...] = ()) -> np.ndarray:
        """Returns float32[shape], or its slice `index`; raises InputError on another shape or no float type."""
        _, key, opened = self._files[name]
        view = opened.get_slice(key)
        if tuple(view.get_shape()) != shape or view.get_dtype() not in _FLOATS:
            found = f"{view.get_dtype()} {tuple(view.get_shape())}"
            raise InputError(f"{self.file(name)}: tensor {key!r} is {found}; config.json requires floats {shape}")
        self._read.add(name)
        return (view[index] if index else opened.get_tensor(key)).astype(np.float32, copy=False)

    def _read_index(self, folder: pathlib.Path) -> dict[str, str]:
        """Returns the file of each tensor; empty if there is no index. Raises InputError if there are no weights."""
        if (folder / SINGLE).exists():
            return {}
        if (folder / INDEX).exists():
            return _json(epath.Path(folder / INDEX)).get("weight_map", {})
        other = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".msgpack", ".h5"))
        hint = (
            f"; it contains {other[0]}: load it in transformers and save it again with save_pretrained" if other else ""
        )
        raise InputError(f"{self._path}: neither {SINGLE} nor {INDEX}{hint}")

    def _name(self, key: str) -> str:
        """Returns the name of a stored tensor; OPT files without a language-model head omit the prefix `model.`."""
        return f"model.{key}" if self._kind == "opt" and key.startswith("decoder.") else key


def _json(file: epath.Path) -> dict[str, Any]:
    if not file.exists():
        raise InputError(f"{file}: no such file; expected a Hugging Face folder with config.json and safetensors")
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: expected a JSON object")
    return values
