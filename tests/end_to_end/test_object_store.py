"""The whole chain in a bucket of a server on the loopback interface, killed and resumed, equals one on a local disk."""

import signal
import time

import pytest

from tests.helpers.killable_chain import ChainPaths, check_equal, contents, finish, send, start
from tests.helpers.object_store import BUCKET, serving_bucket

pytest.importorskip("gcsfs", reason="gcsfs, which reads and writes gs://, is not installed: .[gcs]")
pytest.importorskip("gcp_storage_emulator", reason="the server gcp-storage-emulator is not installed: .[test]")

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def test_chain_in_a_bucket_that_is_killed_equals_one_on_disk(tmp_path, monkeypatch):
    local = ChainPaths(tmp_path / "local", tmp_path / "cache")
    finish(local, fill_cache=True)
    with serving_bucket() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        paths = ChainPaths(tmp_path / "bucket", local.cache, f"gs://{BUCKET}/runs/one")
        for number, prefix, step in (
            (signal.SIGKILL, "runs/one/rationales/sampled/parts/", "sample sampled"),
            (signal.SIGTERM, "runs/one/students/student/checkpoints/4/", "train student"),
            (signal.SIGKILL, "runs/one/exports/student/", "export student"),
        ):
            process = start(paths)
            while process.is_alive() and not bucket.names(prefix):
                time.sleep(0.1)
            assert send(number, process, paths) == step
        finish(paths)
        bucket.download("runs/one", paths.workdir)
    check_equal(paths.workdir, contents(local.workdir))
