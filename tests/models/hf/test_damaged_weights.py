"""Weight files that are damaged, or contain other objects, are refused with the name of the file."""

import json
import os
import sys

import flax.serialization
import msgpack
import numpy as np
import pytest
import torch

from scotd_jax.errors import InputError
from scotd_jax.models.hf.loading import load_pretrained
from tests.helpers.published_folders import FORMATS, folder_of


def test_pytorch_files_without_pytorch_are_refused(tmp_path, monkeypatch):
    folder = folder_of("opt", FORMATS["torch"], tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it raises ImportError
    with pytest.raises(
        InputError, match=r"PyTorch is needed to read pytorch_model\.bin: pip install 'scotd_jax\[torch\]'"
    ):
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
    """Returns an array as Flax serializes it; `kind` is its msgpack extension type."""
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
    folder = folder_of("opt", "no weights", tmp_path)  # a pattern that matches no file
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


def test_mismatched_tensors_are_named_as_in_the_file(tmp_path):
    folder = folder_of("opt", FORMATS["flax"], tmp_path)
    file = folder / "flax_model.msgpack"
    tree = flax.serialization.msgpack_restore(file.read_bytes())
    tree["model"]["decoder"]["layers"]["0"]["fc1"]["kernel"] = np.zeros((10, 8), np.float16)
    file.write_bytes(flax.serialization.msgpack_serialize(tree))
    message = r"msgpack: tensor 'model/decoder/layers/0/fc1/kernel' is float16 \(10, 8\); .*requires floats \(8, 10\)"
    with pytest.raises(InputError, match=message):
        load_pretrained(folder)
