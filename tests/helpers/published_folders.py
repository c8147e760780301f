"""Folders with tiny published models, as made by `published_weights.py`."""

import pathlib
import shutil

PUBLISHED = pathlib.Path(__file__).parents[1] / "models/hf/published"
FAMILIES = sorted(folder.name for folder in PUBLISHED.iterdir())
FORMATS = {"flax": "flax_model*msgpack*", "torch": "pytorch_model*bin*"}


def folder_of(family, pattern, tmp_path, *, sharded=False):
    """Returns a folder with the config of a family and the weights that match the pattern."""
    source = PUBLISHED / family
    for file in [source / "config.json", *(source / "sharded" if sharded else source).glob(pattern)]:
        shutil.copyfile(file, tmp_path / file.name)
    return tmp_path
