"""From a Hugging Face folder to our config and parameters, with every tensor accounted for.

Nothing is guessed: a tensor that is missing, left over, of another shape, or a copy that differs from its original
stops the import with the names of file and tensor. Weights of any float type become float32.

With shardings every tensor goes to its devices as soon as it is read, each of them reading its own slice from the
file, so that a model far larger than the host's memory can be loaded: no more than one tensor is held at a time.
"""

import contextlib
import json
import pathlib
from typing import Any

import jax
import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors needs to hand it out
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open

from scotd_jax.errors import InputError
from scotd_jax.local_files import local_copy
from scotd_jax.models import registry
from scotd_jax.models.decoder_config import FAMILIES, DecoderConfig
from scotd_jax.models.hf import weight_map
from scotd_jax.models.opt import OPTConfig
from scotd_jax.models.t5 import T5Config

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_CONFIGS = {"opt": OPTConfig, "t5": T5Config, **dict.fromkeys(FAMILIES, DecoderConfig)}
_FLOATS = ("F64", "F32", "F16", "BF16")


def load_config(path: epath.PathLike) -> registry.ModelConfig:
    """Config of the model in the folder `path`; of its files only config.json and generation_config.json are read.

    Raises InputError if config.json is missing or broken, or describes a model that we do not have.
    """
    folder = epath.Path(path)
    values = _json(folder / "config.json")
    kind = values.get("model_type")
    if kind not in _CONFIGS:
        raise InputError(f"{folder / 'config.json'}: model_type is {kind!r}; supported are {', '.join(_CONFIGS)}")
    if kind == "t5":
        # transformers 5 writes tie_word_embeddings true for every T5 and says here whether it is v1.0 (tied, scaled).
        values["tie_word_embeddings"] = values.get("scale_decoder_outputs", values.get("tie_word_embeddings", True))
        if "decoder_start_token_id" not in values and (folder / "generation_config.json").exists():
            start = _json(folder / "generation_config.json").get("decoder_start_token_id")
            values.update({} if start is None else {"decoder_start_token_id": start})
    try:
        return _CONFIGS[kind].from_hf(values)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def load_pretrained(
    path: epath.PathLike, shardings: Any = None, kernels: str = "float32"
) -> tuple[registry.ModelConfig, dict[str, Any]]:
    """Config and parameters (nested dict of numpy float32) of the model in the folder `path`, local or remote.

    `kernels` is the dtype of what is only multiplied with: a model that does not learn needs no more than it computes
    with.

    With `shardings`, a tree like the parameters, they are arrays of jax that lie there; a process reads what its own
    devices hold. Reads model.safetensors or the files of model.safetensors.index.json. Raises InputError as the module
    says.
    """
    config = load_config(path)
    places = {} if shardings is None else weight_map.flatten(shardings)
    with (
        local_copy(path, lambda name: name.endswith((".safetensors", ".json"))) as folder,
        _Tensors(folder, path, config.kind) as files,
    ):
        leaves = {
            p.ours: _parameter(files, p, path, places.get(p.ours), kernels if p.ours.endswith("/kernel") else "float32")
            for p in weight_map.pairs(config)
        }
        if unread := sorted(name for name in files.unread() if not weight_map.is_unused(config.kind, name)):
            raise InputError(
                f"{files.file(unread[0])}: tensor {unread[0]!r} ({len(unread)} in all) belongs to no parameter of "
                f"this {config.kind} model; does config.json describe these weights?"
            )
    return config, weight_map.nest(leaves)


def _parameter(
    files: "_Tensors", pair: weight_map.Pair, shown: epath.PathLike, place: Any, dtype: str
) -> np.ndarray | jax.Array:
    names = [name for name in (pair.theirs, *pair.copies) if name in files]
    if not names and pair.ours == "lm_head/kernel":
        # transformers 5 ties the head of an unscaled T5 when both matrices are equal, and then stores only one.
        names = [name for name in ("shared.weight", "encoder.embed_tokens.weight") if name in files][:1]
    if not names:
        raise InputError(f"{shown}: no file holds tensor {pair.theirs!r} (our {pair.ours}), {pair.stored_shape}")
    for name in names[1:]:
        if not np.array_equal(files.read(name, pair.stored_shape), files.read(names[0], pair.stored_shape)):
            raise InputError(
                f"{files.file(name)}: tensor {name!r} differs from {names[0]!r}, but config.json says they are tied"
            )

    def read(index: tuple[slice, ...] = ()) -> np.ndarray:
        value = files.read(names[0], pair.stored_shape, index[::-1] if pair.transpose else index)
        return np.ascontiguousarray(value.T if pair.transpose else value, jax.numpy.dtype(dtype))

    if place is None:
        return read()
    parts: dict[str, np.ndarray] = {}  # devices that hold the same part share what was read

    def part(index: tuple[slice, ...]) -> np.ndarray:
        if (key := str(index)) not in parts:
            parts[key] = read(index)
        return parts[key]

    return jax.make_array_from_callback(pair.shape, place, part)


class _Tensors(contextlib.AbstractContextManager):
    """All tensors of a folder by name, over one or several files; remembers which were read."""

    def __init__(self, folder: pathlib.Path, shown: epath.PathLike, kind: str):
        self._shown, self._kind = epath.Path(shown), kind
        self._read: set[str] = set()
        self._stack = contextlib.ExitStack()
        self._files: dict[str, tuple[str, Any]] = {}
        listed = self._listed(folder)
        for file in sorted(set(listed.values())) or [SINGLE]:
            try:
                opened = self._stack.enter_context(safe_open(folder / file, framework="numpy"))
            except (SafetensorError, OSError) as error:
                self._stack.close()
                raise InputError(f"{self._shown / file}: not a complete safetensors file ({error})") from error
            self._files.update({self._name(key): (file, key, opened) for key in opened.keys()})  # noqa: SIM118
        for key, file in listed.items():
            if self._files.get(self._name(key), (None,))[0] != file:
                self._stack.close()
                raise InputError(f"{self._shown / INDEX}: says that {file} holds {key!r}, but it does not")

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def file(self, name: str) -> epath.Path:
        return self._shown / self._files[name][0]

    def unread(self) -> set[str]:
        return set(self._files) - self._read

    def read(self, name: str, shape: tuple[int, ...], index: tuple[slice, ...] = ()) -> np.ndarray:
        """float32[shape], or the part at `index`. InputError if the tensor is of another shape or not of floats."""
        _, key, opened = self._files[name]
        view = opened.get_slice(key)
        if tuple(view.get_shape()) != shape or view.get_dtype() not in _FLOATS:
            found = f"{view.get_dtype()} {tuple(view.get_shape())}"
            raise InputError(f"{self.file(name)}: tensor {key!r} is {found}; config.json asks for floats {shape}")
        self._read.add(name)
        return (view[index] if index else opened.get_tensor(key)).astype(np.float32, copy=False)

    def _listed(self, folder: pathlib.Path) -> dict[str, str]:
        """Tensor -> file as the index says; empty if there is no index. InputError if there are no weights."""
        if (folder / SINGLE).exists():
            return {}
        if (folder / INDEX).exists():
            return _json(epath.Path(folder / INDEX)).get("weight_map", {})
        other = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".msgpack", ".h5"))
        hint = f"; it has {other[0]}: load it once in transformers and save_pretrained it again" if other else ""
        raise InputError(f"{self._shown}: neither {SINGLE} nor {INDEX}{hint}")

    def _name(self, key: str) -> str:
        """Files of OPT without the head around it leave the first part of names out."""
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
