"""Weights as published: every format of every family gives the parameters of its safetensors file, bit for bit.

The folders in `published/` were made by `tests/helpers/published_weights.py`, whose docstring has the commands: one
tiny random model per family, written by the last version of transformers with Flax and by version 5.
"""

import json
import subprocess
import sys

import flax.serialization
import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from scotd_jax.errors import InputError
from scotd_jax.models.hf import loading, weight_map
from scotd_jax.models.hf.loading import load_pretrained
from tests.helpers.published_folders import FAMILIES, FORMATS, folder_of


def assert_same_bits(params, other):
    ours, theirs = weight_map.flatten(params), weight_map.flatten(other)
    assert {name: leaf.dtype for name, leaf in ours.items()} == {name: leaf.dtype for name, leaf in theirs.items()}
    for name, leaf in ours.items():
        assert leaf.tobytes() == theirs[name].tobytes(), name


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The parameters of every family from its safetensors file."""
    return {
        family: load_pretrained(folder_of(family, "model.safetensors", tmp_path_factory.mktemp(family)))[1]
        for family in FAMILIES
    }


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "sharded"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_format_gives_the_parameters_of_the_safetensors_file(family, form, sharded, expected, tmp_path):
    folder = folder_of(family, FORMATS[form], tmp_path, sharded=sharded)
    assert (len(list(folder.iterdir())) > 3) == sharded
    assert_same_bits(load_pretrained(folder)[1], expected[family])


@pytest.mark.parametrize(
    ("pattern", "sharded", "expected_line"),
    [
        ("*model*", False, "weights from model.safetensors"),
        ("[fp]*model*", False, "weights from flax_model.msgpack"),
        ("p*model*", True, "weights from pytorch_model.bin.index.json (4 files)"),
    ],
)
def test_progress_line_names_the_file(pattern, sharded, expected_line, tmp_path):
    lines = []
    load_pretrained(folder_of("t5-v1.0", pattern, tmp_path, sharded=sharded), log=lines.append)
    assert lines == [f"{tmp_path}: {expected_line}"]


@pytest.mark.parametrize("form", FORMATS)
def test_every_device_gets_its_slices(form, expected, tmp_path):
    folder = folder_of("t5-v1.1", FORMATS[form], tmp_path, sharded=True)
    mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])

    def sharding(leaf):  # alternately by rows and by columns
        axes = PartitionSpec("x") if leaf.ndim == 1 else PartitionSpec(*("x", None)[:: 1 if leaf.shape[0] > 8 else -1])
        return NamedSharding(mesh, axes)

    params = load_pretrained(folder, jax.tree.map(sharding, expected["t5-v1.1"]), "bfloat16")[1]
    for name, leaf in weight_map.flatten(params).items():
        want = weight_map.flatten(expected["t5-v1.1"])[name]
        want = want.astype(ml_dtypes.bfloat16) if name.endswith("/kernel") else want
        assert len({str(shard.index) for shard in leaf.addressable_shards}) == 2
        assert np.asarray(leaf).tobytes() == want.tobytes(), name


@pytest.mark.slow
def test_safetensors_and_msgpack_load_without_pytorch(tmp_path):
    for name, pattern in (("safetensors", "model.safetensors"), ("flax", FORMATS["flax"])):
        (tmp_path / name).mkdir()
        folder_of("opt", pattern, tmp_path / name)
    code = (
        "import sys\n"
        "from scotd_jax.models.hf.loading import load_pretrained\n"
        "for folder in sys.argv[1:]: load_pretrained(folder)\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "safetensors"), str(tmp_path / "flax")]
    subprocess.run(command, check=True, timeout=120)


def test_arrays_in_chunks_load(expected, tmp_path, monkeypatch):
    folder = folder_of("t5-v1.0", FORMATS["flax"], tmp_path)
    tree = flax.serialization.msgpack_restore((folder / "flax_model.msgpack").read_bytes())
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 100)
    data = flax.serialization.msgpack_serialize(tree)
    assert data.count(b"__msgpack_chunked_array__") > 10
    (folder / "flax_model.msgpack").write_bytes(data)
    assert_same_bits(load_pretrained(folder)[1], expected["t5-v1.0"])
    tree["shared"]["embedding"] = {"__msgpack_chunked_array__": True, "shape": {"0": 12, "1": 8}, "chunks": {}}
    (folder / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
    with pytest.raises(InputError, match=r"flax_model\.msgpack: .*chunked array without a list of chunks"):
        load_pretrained(folder)


def split_in_two(folder, last):
    """Splits model.safetensors into two files; the second has the tensors `last`."""
    tensors = load_file(folder / "model.safetensors")
    files = {"a.safetensors": {k: v for k, v in tensors.items() if k not in last}, "b.safetensors": last}
    for name, content in files.items():
        save_file(content, folder / name)
    index = {"weight_map": {key: name for name, content in files.items() for key in content}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def test_tied_copies_in_another_file_are_compared(expected, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_COMPARED", 20)  # two rows at a time
    folder = folder_of("opt", "model.safetensors", tmp_path)
    copy = load_file(folder / "model.safetensors")["model.decoder.embed_tokens.weight"].copy()
    split_in_two(folder, {"lm_head.weight": copy})
    assert_same_bits(load_pretrained(folder)[1], expected["opt"])
    copy[-1, -1] += 1
    save_file({"lm_head.weight": copy}, folder / "b.safetensors")
    with pytest.raises(InputError, match=r"b\.safetensors: tensor 'lm_head\.weight' differs from .*tied"):
        load_pretrained(folder)


def test_tensors_in_two_files_are_refused(tmp_path):
    folder = folder_of("opt", "model.safetensors", tmp_path)
    name = "model.decoder.embed_tokens.weight"
    split_in_two(folder, {})
    save_file({name.removeprefix("model."): np.zeros((12, 8), np.float32)}, folder / "b.safetensors")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["decoder.layers.9.fc1.bias"] = "b.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"b\.safetensors: tensor 'decoder.* is also in .*a\.safetensors"):
        load_pretrained(folder)


def test_masks_and_position_ids_are_ignored(expected, tmp_path):
    folder = folder_of("llama", "model.safetensors", tmp_path)
    buffers = {"model.layers.0.attn.bias": np.ones((1, 1, 8, 8), bool), "model.position_ids": np.arange(8)}
    save_file(load_file(folder / "model.safetensors") | buffers, folder / "model.safetensors")
    assert_same_bits(load_pretrained(folder)[1], expected["llama"])


def test_version_in_early_opt_files_is_ignored(expected, tmp_path):
    folder = folder_of("opt-350m", FORMATS["torch"], tmp_path)
    file = folder / "pytorch_model.bin"
    torch.save(torch.load(file, weights_only=True) | {"decoder.version": torch.ones(1)}, file)
    assert_same_bits(load_pretrained(folder)[1], expected["opt-350m"])


def test_safetensors_with_names_of_flax_load(expected, tmp_path):
    folder = folder_of("t5-v1.1", FORMATS["flax"], tmp_path)
    tree = flax.serialization.msgpack_restore((folder / "flax_model.msgpack").read_bytes())
    flat = weight_map.flatten(tree)
    save_file({name.replace("/", "."): np.array(value) for name, value in flat.items()}, folder / "model.safetensors")
    assert_same_bits(load_pretrained(folder)[1], expected["t5-v1.1"])
