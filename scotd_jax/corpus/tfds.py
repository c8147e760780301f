"""Metadata that `tfds.builder_from_directory` needs to open a corpus, built without TFDS.

Both files are protobuf messages of TFDS in their JSON form: DatasetInfo in dataset_info.json, Feature in features.json.
Each part of the corpus is a split of the data set.
"""

from collections.abc import Mapping
from typing import Any

from scotd_jax.corpus.grouped_example import FEATURES

_FEATURES = "tensorflow_datasets.core.features"


def dataset_info(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns dataset_info.json, from the descriptions of all parts. Protobuf's JSON form writes int64 as strings."""
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
    """Returns features.json: bytes features become texts, int64 features vectors of any length."""
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
