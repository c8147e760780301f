"""Weights as published: every format of every family gives the parameters of its safetensors file, bit for bit.

The folders in `published/` were made by `tests/helpers/published_weights.py`, whose docstring has the commands: one
tiny random model per family, written by the last transformers with Flax and by today's.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import flax.serialization
import jax
import ml_dtypes
import msgpack
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from scotd_jax.errors import InputError
from scotd_jax.models.hf import loading, weight_map
from scotd_jax.models.hf.loading import load_pretrained

PUBLISHED = pathlib.Path(__file__).parent / "published"
FAMILIES = sorted(folder.name for folder in PUBLISHED.iterdir())
FORMATS = {"flax": "flax_model*msgpack*", "torch": "pytorch_model*bin*"}


def folder_of(family, pattern, tmp_path, *, sharded=False):
    """Returns a folder with the config of a family and the weights that match the pattern."""
    source = PUBLISHED / family
    for file in [source / "config.json", *(source / "sharded" if sharded else source).glob(pattern)]:
        shutil.copyfile(file, tmp_path / file.name)
    return tmp_path


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


def test_pytorch_files_without_pytorch_are_refused(tmp_path, monkeypatch):
    folder = folder_of("opt", FORMATS["torch"], tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it raises ImportError
    with pytest.raises(InputError, match=r"pytorch_model\.bin: PyTorch is needed .*pip install 'scotd_jax\[torch\]'"):
        load_pretrained(folder)


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


@pytest.mark.parametrize("end", [0, 1, 20, 2000, -1])
@pytest.mark.parametrize(("family", "form"), [("opt", "flax"), ("opt", "torch"), ("t5-v1.0", "torch")])
def test_cut_files_are_refused(family, form, end, tmp_path):
    folder = folder_of(family, FORMATS[form], tmp_path)
    [file] = folder.glob("*model*")
    file.write_bytes(file.read_bytes()[:end])
    with pytest.raises(InputError, match=rf"{file.name}: not a complete .* file"):
        load_pretrained(folder)


def flax_array(data, shape=(2, 3), dtype="float32", kind=1):
    return msgpack.ExtType(kind, msgpack.packb((shape, dtype, data)))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"w": flax_array(bytes(20))}, r"float32 \(2, 3\) .*has 20 bytes"),
        ({"w": flax_array(bytes(48), dtype="object")}, "type 'object'"),
        ({"w": flax_array(bytes(24), kind=2)}, "no array at byte"),
        ({"w": flax_array(bytes(24), shape=(-2, -3))}, "unexpected byte 0xfe"),
        ({"w": [1.0]}, "unexpected array"),
        ({"w": 3}, "'w' is no array"),
        ({"model": {"x": flax_array(bytes(24))}, "step": None}, "unexpected byte 0xc0"),
        ([1], "unexpected array"),
        ({"w" * 70000: flax_array(bytes(24))}, "a name of 70000 bytes"),
    ],
)
def test_wrong_msgpack_files_are_refused(content, problem, tmp_path):
    folder = folder_of("opt", "no weights", tmp_path)
    (folder / "flax_model.msgpack").write_bytes(msgpack.packb(content))
    with pytest.raises(InputError, match=rf"flax_model\.msgpack: not a complete msgpack file of Flax .*{problem}"):
        load_pretrained(folder)


def test_msgpack_files_with_more_data_or_deep_maps_are_refused(tmp_path):
    folder = folder_of("opt", FORMATS["flax"], tmp_path)
    file = folder / "flax_model.msgpack"
    file.write_bytes(file.read_bytes() + b"\x80")
    with pytest.raises(InputError, match="more data after the end"):
        load_pretrained(folder)
    file.write_bytes(b"\x81\xa1a" * 5000)
    with pytest.raises(InputError, match="unexpected map"):
        load_pretrained(folder)


class Code:
    """Pickled as a call of `os.mkdir`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [False, True])
def test_code_in_pytorch_files_is_not_run(zipped, tmp_path):
    folder = folder_of("opt", "no weights", tmp_path)
    state = {"model.norm.weight": torch.ones(2), "more": Code(tmp_path / "ran")}
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"bin: .*it contains posix\.mkdir, but code in files is never run") as refusal:
        load_pretrained(folder)
    assert "allow" not in str(refusal.value)  # no advice to disable the check
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([torch.ones(2)], "expected tensors by name, found list"),
        ({"state_dict": {"w": torch.ones(2)}}, "expected dense tensors only, found dict at 'state_dict'"),
        ({"w": torch.ones(2).to_sparse()}, "expected dense tensors only, found Tensor at 'w'"),
        ({"w": torch.ones(2, device="meta")}, "expected dense tensors only, found Tensor at 'w'"),
        ({"w": torch.ones(2)}, "no file contains tensor"),
    ],
)
def test_wrong_pytorch_files_are_refused(content, problem, tmp_path):
    folder = folder_of("opt", "no weights", tmp_path)
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=problem):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda files: {}, "expected a field weight_map"),
        (lambda files: files | {"w": "../opt/pytorch_model.bin"}, "the file of 'w' is '../opt/pytorch_model.bin'"),
        (lambda files: files | {"w": "/etc/passwd"}, "the file of 'w' is '/etc/passwd'"),
        (lambda files: files | {"w": ".."}, r"the file of 'w' is '\.\.'"),
        (lambda files: files | {"w": 3}, "the file of 'w' is 3"),
        (lambda files: files | {"w": next(iter(files.values()))}, "lists 'w' in .*, which does not contain it"),
        (lambda files: files | {"w": "absent.bin"}, r"absent\.bin: no such file, but .*index\.json lists it"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_wrong_indices_are_refused(form, change, problem, tmp_path):
    folder = folder_of("opt", FORMATS[form], tmp_path, sharded=True)
    [file] = folder.glob("*.index.json")
    index = json.loads(file.read_text())
    file.write_text(json.dumps(index | {"weight_map": change(index["weight_map"])}))
    with pytest.raises(InputError, match=problem):
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


def test_mismatched_tensors_are_named_as_in_the_file(tmp_path):
    folder = folder_of("opt", FORMATS["flax"], tmp_path)
    file = folder / "flax_model.msgpack"
    tree = flax.serialization.msgpack_restore(file.read_bytes())
    tree["model"]["decoder"]["layers"]["0"]["fc1"]["kernel"] = np.zeros((10, 8), np.float16)
    file.write_bytes(flax.serialization.msgpack_serialize(tree))
    message = r"msgpack: tensor 'model/decoder/layers/0/fc1/kernel' is float16 \(10, 8\); .*requires floats \(8, 10\)"
    with pytest.raises(InputError, match=message):
        load_pretrained(folder)
