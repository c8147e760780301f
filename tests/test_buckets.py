"""Libraries for buckets, and artefacts in one. tests/end_to_end/test_object_store.py runs a whole chain."""

import importlib.util

import fsspec
import pytest
from etils import epath

from scotd_jax import buckets
from scotd_jax.errors import InputError
from scotd_jax.jobs.inspection.integrity import verify
from scotd_jax.rationales.store import ResponseWriter, read_responses
from scotd_jax.records import Response
from scotd_jax.training.metrics import MetricWriter, read_metrics
from scotd_jax.workdir import Workdir
from scotd_jax.workdir_lock import lock_workdir
from tests.helpers.object_store import BUCKET, serving_bucket


def test_bucket_without_a_library_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"gs://bucket/run: a bucket needs a further library: .*scotd_jax\[gcs\]"):
        Workdir("gs://bucket/run")


def test_gcsfs_does_not_remember_listings(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name == "gcsfs" else None)
    monkeypatch.setattr(fsspec.config, "conf", {})
    Workdir("gs://bucket/run")
    assert fsspec.config.conf == {"gcs": {"use_listings_cache": False}}


@pytest.fixture
def bucket(monkeypatch):
    """A bucket on the loopback interface, which this process uses by gcsfs."""
    gcsfs = pytest.importorskip("gcsfs", reason="gcsfs is not installed: .[gcs]")
    pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed: .[test]")
    from etils.epath import backend, gpath

    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(buckets, "uses_tensorflow", lambda: False)
    monkeypatch.setattr(fsspec.config, "conf", {})
    with serving_bucket() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for clear in (backend.fsspec_backend._get_filesystem.cache_clear, gcsfs.GCSFileSystem.clear_instance_cache):
            clear()
        yield server


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # connections of gcsfs
def test_artefacts_responses_and_metrics_in_a_bucket(bucket, monkeypatch):
    monkeypatch.setattr("scotd_jax.workdir_lock.SETTLE", 0.0)
    workdir = Workdir(f"gs://{BUCKET}/run")
    with lock_workdir(workdir.root):
        artefact = workdir.artefact("sample", "x")
        assert artefact.begin({"spec": 1})
        rows = [Response("q", i, f"answer {i}", None, None, None, "stop", -1.0, 3, "m", "") for i in range(2)]
        ResponseWriter(artefact.path, host=1).write(rows[:1])
        writer = ResponseWriter(artefact.path)
        writer.write(rows[1:])
        assert writer.written_keys() == {("q", 0), ("q", 1)}, "also rows of another process"
        assert list(read_responses(writer.merge(["q"], 1))) == rows
        (artefact.path / "release").mkdir()
        (artefact.path / "release/README.md").write_text("rows")
        artefact.finish({"rows": 2})
        workdir.save_config({"name": "run"})
        with MetricWriter(workdir.root / "metrics.jsonl", 0) as metrics:
            metrics.write(1, {"loss": 2.0})
    assert read_metrics(workdir.root / "metrics.jsonl") == [{"step": 1, "loss": 2.0}]
    assert artefact.files == ["release/README.md", "responses-00000-of-00001.jsonl"]
    assert {result.state for result in verify(str(workdir.root))} == {"intact"}
    (artefact.path / "release/README.md").write_text("other")
    with pytest.raises(InputError, match=rf"gs://{BUCKET}/run/rationales/x/release/README.md: has "):
        Workdir(str(workdir.root)).checked("sample", "x")
    artefact.remove()
    assert not [name for name in bucket.names("run/rationales/") if not name.endswith("/")]


def test_missing_bucket_is_refused(bucket):
    refused = pytest.raises(InputError, match=r"gs://another-bucket/run: cannot be written .*choose another --workdir")
    with refused, lock_workdir(epath.Path("gs://another-bucket/run")):
        pass
