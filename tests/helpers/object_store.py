"""A server of Google Cloud Storage's protocol on the loopback interface, and processes that use it."""

import contextlib
import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.network import free_port

BUCKET = "runs-bucket"


class Bucket:
    """A bucket of a running server."""

    def __init__(self, url: str):
        self.url = url

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which gcsfs (for files) and TensorStore (for checkpoints) use the server."""
        return {"STORAGE_EMULATOR_HOST": self.url, "TENSORSTORE_GCS_HTTP_URL": self.url}

    def names(self, prefix: str = "") -> list[str]:
        """Names of the objects that begin with `prefix`."""
        query = urllib.parse.urlencode({"prefix": prefix})
        listing = json.loads(self._get(f"/storage/v1/b/{BUCKET}/o?{query}"))
        assert "nextPageToken" not in listing
        return [item["name"] for item in listing.get("items", [])]

    def download(self, prefix: str, folder: Path) -> None:
        """Writes all objects below a prefix into a local folder."""
        for name in self.names(f"{prefix}/"):
            path = folder / name.removeprefix(f"{prefix}/")
            if not name.endswith("/"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._get(f"/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, '')}?alt=media"))

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return response.read()


@contextlib.contextmanager
def serving_bucket() -> Iterator[Bucket]:
    """Serves an empty bucket in a thread."""
    from gcp_storage_emulator import server

    port = free_port()
    route = r"^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.+)/moveTo/o/(?P<dest_object_id>.+)$"
    server.HANDLERS = ((route, {"POST": _move}), *server.HANDLERS)
    running = server.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    running.start()
    try:
        yield Bucket(f"http://127.0.0.1:{port}")
    finally:
        running.stop()


def _move(request: Any, response: Any, storage: Any) -> None:
    """Moves an object, which the server lacks; without it the client retries for a minute before it copies instead."""
    from gcp_storage_emulator.handlers import objects

    request.params["dest_bucket_name"] = request.params["bucket_name"]
    objects.copy(request, response, storage)
    storage.delete_file(request.params["bucket_name"], request.params["object_id"])


def use_fsspec() -> None:
    """Makes etils use gcsfs in this process, as it does without TensorFlow, which has no setting for another server.

    If this private function changes, the tests fail.
    """
    from etils.epath import gpath

    from scotd_jax import buckets

    gpath._is_tf_installed = lambda: False
    buckets.uses_tensorflow = lambda: False
