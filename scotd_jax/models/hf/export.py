"""Exports parameters as a Hugging Face folder that transformers loads without changes.

The folder has the files that `save_pretrained` of transformers writes: config.json, generation_config.json,
model.safetensors (or numbered files with an index), the tokenizer's files, and README.md as the model card. Special
tokens come from the tokenizer: with start or end tokens that differ from those of training, a model generates wrong
text without an error.
"""

import contextlib
import errno
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import save_file

from scotd_jax.digests import describe_files, find_damage
from scotd_jax.errors import InputError
from scotd_jax.local_files import staged_folder
from scotd_jax.models import registry
from scotd_jax.models.hf import weight_map
from scotd_jax.models.hf.weight_files import SAFETENSORS
from scotd_jax.models.t5_config import T5Config
from scotd_jax.tokenization import Tokenizer

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}


def export_pretrained(
    path: epath.PathLike,
    config: registry.ModelConfig,
    params: Any,
    tokenizer: Tokenizer,
    card_text: str,
    *,
    dtype: str = "float32",
    max_shard_size: int = 5 * 10**9,
    max_new_tokens: int = 256,
) -> None:
    """Writes the folder `path` (local or remote). Files are renamed into it only after all of them are complete.

    They are read back and compared with what was written, before weights of an earlier export are removed.
    Parameters are fetched from their devices one file at a time.

    Args:
      path: the folder.
      config: the model config.
      params: the parameters.
      tokenizer: the tokenizer that the model was trained with.
      card_text: the model card, README.md.
      dtype: the dtype of the stored weights.
      max_shard_size: the largest size of a file, in bytes.
      max_new_tokens: the default for `generate`, written to generation_config.json.

    Raises:
      InputError: if the tokenizer has more tokens than the model, a weight overflows `dtype`, the disk is full, or a
        file that was read back differs.
      ValueError: if `params` do not match `config`.
    """
    if tokenizer.size > config.vocab_size:
        raise InputError(
            f"{path}: the tokenizer has {tokenizer.size} tokens, the model only {config.vocab_size} embedding rows; "
            "this tokenizer cannot be the one that the model was trained with"
        )
    leaves, pairs = weight_map.flatten(params), weight_map.pairs(config)
    _check_shapes(leaves, pairs)
    files = _split_into_files(pairs, DTYPES[dtype].itemsize, max_shard_size)
    with _full_disk_explained(path), staged_folder(path) as staging:
        for name, group in files.items():
            save_file({p.theirs: _to_tensor(leaves[p.ours], p, dtype) for p in group}, staging / name, {"format": "pt"})
        if len(files) > 1:
            _write_json(staging / SAFETENSORS.index, _index(files, DTYPES[dtype].itemsize))
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
        _write_json(staging / "config.json", {**config.to_hf(), **ids, "dtype": dtype})
        _write_json(staging / "generation_config.json", _generation_config(config, tokenizer, ids, max_new_tokens))
        tokenizer.save(staging, config.kind)
        (staging / "README.md").write_text(card_text)
        written = describe_files(epath.Path(staging), (item.name for item in staging.iterdir()))
    # Only now, so that at every moment there are complete weights.
    folder = epath.Path(path)
    for name, problem in find_damage(folder, written, full=True).items():
        raise InputError(f"{folder / name}: read back, it {problem}; check the disk and run again")
    _remove_old_weights(folder, {*files, *([SAFETENSORS.index] if len(files) > 1 else [])})


def _generation_config(
    config: registry.ModelConfig, tokenizer: Tokenizer, ids: Mapping[str, int], max_new_tokens: int
) -> dict[str, Any]:
    values: dict[str, Any] = {**ids, "do_sample": False, "max_new_tokens": max_new_tokens}
    if len(tokenizer.eos_ids) > 1:
        values["eos_token_id"] = list(tokenizer.eos_ids)
    if config.start_token is not None:
        values["decoder_start_token_id"] = config.start_token
    if isinstance(config, T5Config) and config.decoder_layers > config.num_layers:
        values["use_cache"] = False  # transformers 5 allocates a cache for the number of encoder layers
    if config.vocab_size > tokenizer.size:  # some rows of the output matrix have no token
        values["suppress_tokens"] = list(range(tokenizer.size, config.vocab_size))
    return values


def _check_shapes(leaves: Mapping[str, Any], pairs: list[weight_map.WeightPair]) -> None:
    expected = {pair.ours: pair.shape for pair in pairs}
    found = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    if expected != found:
        name = sorted(name for name in expected | found if expected.get(name) != found.get(name))[0]
        raise ValueError(f"parameter {name}: the config requires {expected.get(name)}, found {found.get(name)}")


def _to_tensor(leaf: Any, pair: weight_map.WeightPair, dtype: str) -> np.ndarray:
    """Returns the tensor to store; raises InputError if a value overflows `dtype`."""
    value = np.asarray(leaf)
    if pair.transpose:
        value = value.T
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(value.astype(DTYPES[dtype]))
    if dtype == "float16" and not np.array_equal(np.isfinite(stored), np.isfinite(value)):
        raise InputError(f"parameter {pair.ours} has values beyond float16; export it as bfloat16 or float32")
    return stored


def _split_into_files(
    pairs: list[weight_map.WeightPair], itemsize: int, limit: int
) -> dict[str, list[weight_map.WeightPair]]:
    """Returns the tensors of each file, in order; a file exceeds `limit` bytes only if a single tensor does."""
    groups: list[list[weight_map.WeightPair]] = [[]]
    size = 0
    for pair in pairs:
        pair_size = int(np.prod(pair.shape)) * itemsize
        if groups[-1] and size + pair_size > limit:
            groups.append([])
            size = 0
        groups[-1].append(pair)
        size += pair_size
    if len(groups) == 1:
        return {SAFETENSORS.single: groups[0]}
    return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups)}


def _index(files: Mapping[str, list[weight_map.WeightPair]], itemsize: int) -> dict[str, Any]:
    count = sum(int(np.prod(pair.shape)) for group in files.values() for pair in group)
    files_by_tensor = {pair.theirs: name for name, group in files.items() for pair in group}
    return {
        "metadata": {"total_parameters": count, "total_size": count * itemsize},
        "weight_map": dict(sorted(files_by_tensor.items())),
    }


def _write_json(file: pathlib.Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _remove_old_weights(folder: epath.Path, keep: set[str]) -> None:
    """Removes weights of an earlier export: transformers would prefer a single file to new numbered ones."""
    for item in list(folder.iterdir()):
        if item.name.startswith("model") and ".safetensors" in item.name and item.name not in keep:
            item.unlink()


@contextlib.contextmanager
def _full_disk_explained(path: epath.PathLike) -> Iterator[None]:
    """Turns the various errors of a full disk into an InputError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
        if not full:
            raise
        raise InputError(f"{path}: the disk is full, nothing was exported; free some space and try again") from error
