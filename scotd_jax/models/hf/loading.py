"""Loads config and parameters from a Hugging Face folder and checks every tensor.

Loading raises InputError, with the names of file and tensor, if a tensor is missing, unused, of the wrong shape, not
finite, or a copy that differs from its original. Weights of any float type become float32.

With shardings, the slices that each device needs are read from the file and transferred to the device before the next
tensor is read. The host holds one tensor and maps one file at a time, so a model larger than its memory can be loaded.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.local_files import local_copy
from scotd_jax.models import registry
from scotd_jax.models.decoder_config import DecoderConfig
from scotd_jax.models.decoder_families import FAMILIES
from scotd_jax.models.hf import weight_map
from scotd_jax.models.hf.json_files import read_object
from scotd_jax.models.hf.tensor_files import TensorFiles
from scotd_jax.models.hf.weight_files import weight_files
from scotd_jax.models.opt_config import OPTConfig
from scotd_jax.models.t5_config import T5Config
from scotd_jax.tokenizer_files import config_files

_COMPARED = 2**24  # elements of a tensor that are compared with its copy at a time
_CHECKED = 2**20  # elements of a tensor that are checked at a time, to bound the memory
_CONFIGS = {"opt": OPTConfig, "t5": T5Config, **dict.fromkeys(FAMILIES, DecoderConfig)}


def load_config(path: epath.PathLike) -> registry.ModelConfig:
    """Loads the config of the model in the folder `path` from config.json and generation_config.json.

    Raises:
      InputError: if config.json is missing, broken, or describes an unsupported model.
    """
    with local_copy(path, config_files) as folder:
        return _read_config(epath.Path(folder), path)


def _read_config(folder: epath.Path, path: epath.PathLike) -> registry.ModelConfig:
    """Reads the config in the local copy `folder` of `path`."""
    values = read_object(folder / "config.json", f"{path}/config.json")
    kind = values.get("model_type")
    if kind not in _CONFIGS:
        raise InputError(f"{path}/config.json: model_type is {kind!r}; supported are {', '.join(_CONFIGS)}")
    if kind == "t5":
        # transformers 5 writes tie_word_embeddings=true for every T5; scale_decoder_outputs marks v1.0 (tied, scaled).
        values["tie_word_embeddings"] = values.get("scale_decoder_outputs", values.get("tie_word_embeddings", True))
        if "decoder_start_token_id" not in values and (folder / "generation_config.json").exists():
            generation = read_object(folder / "generation_config.json", f"{path}/generation_config.json")
            start = generation.get("decoder_start_token_id")
            if start is not None:
                values["decoder_start_token_id"] = start
    try:
        return _CONFIGS[kind].from_hf(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def load_pretrained(
    path: epath.PathLike,
    shardings: Any = None,
    kernel_dtype: str = "float32",
    log: Callable[[str], None] = lambda message: None,
) -> tuple[registry.ModelConfig, dict[str, Any]]:
    """Loads config and parameters of the model in the folder `path`, local or remote.

    Args:
      path: a folder with config.json and weights in one of the formats of `weight_files.FORMATS`.
      shardings: a tree like the parameters. If set, parameters are jax arrays with these shardings; a process reads
        only what its own devices hold. Otherwise they are numpy arrays.
      kernel_dtype: the dtype of kernels; for a model that is not trained its compute dtype suffices.
      log: prints a line that names the file of the weights.

    Returns:
      The config, and the parameters as a nested dict, float32 apart from kernels.

    Raises:
      InputError: if a tensor is missing, unused, of the wrong shape or type, not finite, or differs from its copy.
    """
    config = load_config(path)
    shardings_by_name = {} if shardings is None else weight_map.flatten(shardings)
    with (
        local_copy(path, weight_files) as folder,
        TensorFiles(folder, path, config.kind) as files,
    ):
        log(f"{path}: weights from {files.description}")
        pairs = weight_map.pairs(config)
        stored = {pair.ours: _stored_names(files, pair, path) for pair in pairs}
        leaves = {
            pair.ours: _load_parameter(
                files,
                stored[pair.ours],
                pair,
                shardings_by_name.get(pair.ours),
                kernel_dtype if pair.ours.endswith("/kernel") else "float32",
            )
            for pair in sorted(pairs, key=lambda pair: files.file(stored[pair.ours][0]))  # opens every file once
        }
        if unread := sorted(name for name in files.unread() if not weight_map.is_unused(config.kind, name)):
            raise InputError(
                f"{files.file(unread[0])}: tensor {unread[0]!r} ({len(unread)} in all) belongs to no parameter of "
                f"this {config.kind} model; does config.json describe these weights?"
            )
    return config, weight_map.nest(leaves)


def _stored_names(files: TensorFiles, pair: weight_map.WeightPair, path: epath.PathLike) -> list[str]:
    """Returns the names of a parameter's tensor and its copies, as far as the files have them; at least one."""
    names = [name for name in (pair.theirs, *pair.copies) if name in files]
    if not names and pair.ours == "lm_head/kernel":
        # transformers 5 ties the head of an unscaled T5 when both matrices are equal, and then stores only one.
        names = [name for name in ("shared.weight", "encoder.embed_tokens.weight") if name in files][:1]
    if not names:
        raise InputError(f"{path}: no file contains tensor {pair.theirs!r} (our {pair.ours}), {pair.stored_shape}")
    return names


def _load_parameter(
    files: TensorFiles,
    names: Sequence[str],
    pair: weight_map.WeightPair,
    sharding: jax.sharding.Sharding | None,
    dtype: str,
) -> np.ndarray | jax.Array:
    """Loads the first of the tensors `names`; raises InputError if another one differs from it."""
    for name in names[1:]:
        if not _equal(files, name, names[0], pair.stored_shape):
            raise InputError(
                f"{files.file(name)}: tensor {name!r} differs from {names[0]!r}, but config.json declares them tied"
            )

    def read(index: tuple[slice, ...] = ()) -> np.ndarray:
        value = files.read(names[0], pair.stored_shape, index[::-1] if pair.transpose else index)
        with np.errstate(over="ignore"):  # the check finds such numbers
            value = np.array(value.T if pair.transpose else value, jax.numpy.dtype(dtype), order="C")
        if not _is_finite(value):
            raise InputError(
                f"{files.file(names[0])}: tensor {names[0]!r} contains NaN, infinity or numbers beyond {dtype}; the "
                "file is damaged, or these are the weights of a training that diverged"
            )
        return value

    if sharding is None:
        return read()
    slices: dict[str, np.ndarray] = {}  # read once for all devices that hold the same slice

    def read_slice(index: tuple[slice, ...] | None) -> np.ndarray:
        if (key := str(index)) not in slices:
            slices[key] = read(index or ())
        return slices[key]

    return jax.make_array_from_callback(pair.shape, sharding, read_slice)


def _is_finite(array: np.ndarray) -> bool:
    """Whether all elements are finite."""
    flat = array.reshape(-1)
    return all(np.isfinite(flat[start : start + _CHECKED]).all() for start in range(0, flat.size, _CHECKED))


def _equal(files: TensorFiles, name: str, other: str, shape: tuple[int, ...]) -> bool:
    """Whether two tensors are equal. Reads a block of rows at a time, because they may be large."""
    step = max(1, _COMPARED // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
        index = (slice(start, min(start + step, shape[0])), *(slice(None) for _ in shape[1:]))
        first, second = (np.array(files.read(name, shape, index), np.float32) for name in (name, other))
        if not np.array_equal(first, second):
            return False
    return True
