"""The choice of weight files by their names."""

import pytest

from scotd_jax.errors import InputError
from scotd_jax.models.hf.weight_files import weight_files

BIN_SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["tf_model.h5", "pytorch_model.bin", "flax_model.msgpack", "model.safetensors"], ("model.safetensors",)),
        (["pytorch_model.bin", "flax_model.msgpack", "config.json"], ("flax_model.msgpack",)),
        (["pytorch_model.bin", "rust_model.ot", "tf_model.h5"], ("pytorch_model.bin",)),
        (
            [*BIN_SHARDS[::-1], "pytorch_model.bin.index.json", "training_args.bin", "pytorch_model.fp32.bin"],
            ("pytorch_model.bin.index.json", *BIN_SHARDS),
        ),
        (
            ["flax_model.msgpack.index.json", "flax_model-00001-of-00001.msgpack", "pytorch_model.bin"],
            ("flax_model.msgpack.index.json", "flax_model-00001-of-00001.msgpack"),
        ),
        (["model.safetensors.index.json", "model.safetensors"], ("model.safetensors",)),
        (
            [
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model.fp16-00001-of-00002.safetensors",
            ],
            ("model.safetensors.index.json", "model-00001-of-00002.safetensors"),
        ),
    ],
)
def test_weight_files_prefer_formats_that_need_no_pytorch(names, expected):
    assert weight_files(names) == expected


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["config.json"], "found no weights"),
        (["model-q4.gguf", "tf_model.h5"], "found model-q4.gguf, tf_model.h5"),
        ([*BIN_SHARDS], "found pytorch_model-00001-of-00002.bin"),  # without an index
    ],
)
def test_folders_without_supported_weights_are_refused(names, found):
    with pytest.raises(InputError, match=rf"expected model.safetensors, flax_model.msgpack, .*; {found}"):
        weight_files(names)
