"""Libraries for buckets. tests/end_to_end/test_object_store.py runs a chain in one."""

import importlib.util

import fsspec
import pytest

from scotd_jax.errors import InputError
from scotd_jax.workdir import Workdir


def test_bucket_without_a_library_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"gs://bucket/run: a bucket needs a further library: .*scotd_jax\[gcs\]"):
        Workdir("gs://bucket/run")


def test_gcsfs_does_not_remember_listings(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name == "gcsfs" else None)
    monkeypatch.setattr(fsspec.config, "conf", {})
    Workdir("gs://bucket/run")
    assert fsspec.config.conf == {"gcs": {"use_listings_cache": False}}
