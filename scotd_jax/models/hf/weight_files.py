"""Names of weight files: the formats in which Hugging Face models are published, in order of preference.

Weights are one file, or several with an index, a JSON file that maps every tensor to its file.
"""

import dataclasses
import importlib.util
import re
from collections.abc import Collection

from scotd_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class WeightFormat:
    """The file names of one format: `{stem}{suffix}`, or `{index}` beside `{stem}-00001-of-00002{suffix}` and so on."""

    stem: str
    suffix: str

    @property
    def single(self) -> str:
        """Name of the file that has all weights."""
        return self.stem + self.suffix

    @property
    def index(self) -> str:
        """Name of the index of several files."""
        return f"{self.single}.index.json"

    def is_shard(self, name: str) -> bool:
        """Returns whether the name is that of one of several files."""
        return re.fullmatch(rf"{self.stem}-\d+-of-\d+{re.escape(self.suffix)}", name) is not None


SAFETENSORS = WeightFormat("model", ".safetensors")
FLAX = WeightFormat("flax_model", ".msgpack")
TORCH = WeightFormat("pytorch_model", ".bin")
FORMATS = (SAFETENSORS, FLAX, TORCH)  # the first that a folder has is read; PyTorch's needs PyTorch
_OTHER_SUFFIXES = (".safetensors", ".msgpack", ".bin", ".h5", ".gguf", ".pt", ".pth", ".ckpt", ".onnx")


def weight_format(names: Collection[str]) -> WeightFormat:
    """Returns the format to read, from the names of a folder's files.

    Raises:
      InputError: if none of the names is a file of weights in a supported format, or only PyTorch can read it and is
        not installed (before anything is downloaded).
    """
    for form in FORMATS:
        if form.single in names or form.index in names:
            if form == TORCH and importlib.util.find_spec("torch") is None:
                raise InputError(
                    f"PyTorch is needed to read {form.single}: pip install 'scotd_jax[torch]', or use a copy of the "
                    "model in safetensors"
                )
            return form
    expected = ", ".join(form.single for form in FORMATS)
    found = ", ".join(sorted(name for name in names if name.endswith(_OTHER_SUFFIXES))) or "no weights"
    raise InputError(
        f"expected {expected}, or one of them in several files with an index; found {found}. Other formats: load the "
        "model in the program that wrote it and save it with save_pretrained of transformers"
    )


def weight_file(names: Collection[str]) -> str | None:
    """Returns the file of weights that is read, or its index, from the names of a folder's files; None without one."""
    return next((name for form in FORMATS for name in (form.single, form.index) if name in names), None)


def weight_files(names: Collection[str]) -> tuple[str, ...]:
    """Returns the files that are read as the weights of a model: one file, or an index and its files.

    Args:
      names: the names of all files of a folder or repository.

    Raises:
      InputError: as `weight_format`.
    """
    form = weight_format(names)
    if form.single in names:
        return (form.single,)
    return (form.index, *sorted(name for name in names if form.is_shard(name)))
