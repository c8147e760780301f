"""Metadata with which `tfds.builder_from_directory` opens a corpus, written without TFDS.

Both files are the JSON form of messages of TFDS (DatasetInfo, and Feature in features.json). Every part is a split,
whose files are named SPLIT-SHARD_X_OF_Y.tfrecord.
"""

from collections.abc import Mapping
from typing import Any

from scotd_jax.corpus.grouped_example import FEATURES

_FEATURES = "tensorflow_datasets.core.features"


def dataset_info(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns dataset_info.json, from the descriptions of all parts. The JSON form writes int64 as strings."""
    return {
        "description": "Questions with their rationales, as token ids; see README.md.",
        "fileFormat": "tfrecord",
        "name": "scotd_jax_corpus",
        "splits": [
            {
                "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
                "name": part,
                "numBytes": str(sum(file["bytes"] for file in description["files"])),
                "shardLengths": [str(file["records"]) for file in description["files"]],
            }
            for part, description in parts.items()
        ],
        "version": "1.0.0",
    }


def features() -> dict[str, Any]:
    """Returns features.json: bytes features are texts, int64 features are vectors of any length."""
    kinds = {
        "bytes": {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}},
        "int64": {
            "pythonClassName": f"{_FEATURES}.tensor_feature.Tensor",
            "tensor": {"dtype": "int64", "encoding": "none", "shape": {"dimensions": ["-1"]}},
        },
    }
    return {
        "featuresDict": {"features": {name: kinds[text.partition(",")[0]] for name, text in FEATURES.items()}},
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
    }
