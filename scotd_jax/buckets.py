"""Buckets of Google Cloud Storage: which library reads and writes gs://, and how.

etils uses TensorFlow if it is installed, else gcsfs. TensorStore, which writes checkpoints, needs neither.
"""

import importlib.util

from scotd_jax.errors import InputError


def prepare_bucket(path: str) -> None:
    """Makes a path in a bucket usable in this process; does nothing for other paths.

    Raises:
      InputError: if no library for buckets is installed.
    """
    if not path.startswith("gs://") or uses_tensorflow():
        return
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(f"{path}: a bucket needs a further library: pip install 'scotd_jax[gcs]'")
    import fsspec

    # gcsfs would list a folder once, and never find the files that other processes write later.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


def uses_tensorflow() -> bool:
    """Whether etils uses TensorFlow for buckets."""
    return importlib.util.find_spec("tensorflow") is not None
