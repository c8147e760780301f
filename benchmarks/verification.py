"""Share of a run's CPU time that goes into digests and checksums of its files, records and arrays.

    python -m benchmarks.verification [--config=world] [--settings=runlocal]

Runs the chain of a config and adds up the CPU time of all code that computes or compares digests and checksums: of
artefacts, when they are finished and when they are read; of responses, records of corpora and arrays of checkpoints.
Then compares all files completely, as `scotd-jax verify` does.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import runpy
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import google_crc32c
import jax

from benchmarks.paired_runs import LIBRARIES, describe_machine, versions
from scotd_jax import digests, running
from scotd_jax.config.packaged import resolve_config
from scotd_jax.training import array_digests


class Stopwatch:
    """Adds up the CPU time of functions by name. Calls inside of one that is measured count only once."""

    def __init__(self):
        self.seconds: Counter[str] = Counter()
        self._thread = threading.local()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function that does the same and is measured."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._thread, "measures", False):
                return function(*args, **kwargs)
            self._thread.measures, begin = True, time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._thread.measures = False
                self.seconds[name] += time.thread_time() - begin

        return call


def measure_digests(stopwatch: Stopwatch) -> None:
    """Measures all digests and checksums in this process. Call it before jobs are imported."""
    sha256 = hashlib.sha256

    class Sha256:
        """A hash whose methods are measured, for files that are digested while they are written."""

        def __init__(self, data: bytes = b""):
            self._hash = stopwatch.timed("sha256", sha256)(data)
            self.update = stopwatch.timed("sha256", self._hash.update)
            self.digest, self.hexdigest = self._hash.digest, self._hash.hexdigest

    hashlib.sha256 = Sha256
    google_crc32c.value = stopwatch.timed("crc32c", google_crc32c.value)
    for name in ("digest", "file_digest", "_sampled"):
        setattr(digests, name, stopwatch.timed("files", getattr(digests, name)))
    array_digests.describe_arrays = stopwatch.timed("arrays", array_digests.describe_arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="world")
    parser.add_argument("--settings", help="of the config, for example runlocal")
    args = parser.parse_args()
    stopwatch = Stopwatch()
    measure_digests(stopwatch)
    config = runpy.run_path(resolve_config(args.config))["get_config"](args.settings)
    with tempfile.TemporaryDirectory() as workdir:
        begin = time.process_time()
        running.run(config, workdir, (), (), "")
        total, seconds = time.process_time() - begin, dict(stopwatch.seconds)
        from scotd_jax.jobs.inspection.integrity import verify

        begin = time.process_time()
        with contextlib.redirect_stdout(None):
            states = {result.state for result in verify(workdir)}
        verified = time.process_time() - begin
    assert states == {"intact"}, states
    output = {
        "benchmark": "verification",
        "config": vars(args),
        "chain_cpu_seconds": round(total, 1),
        "verification_cpu_seconds": {name: round(value, 2) for name, value in seconds.items()},
        "share": round(sum(seconds.values()) / total, 5),
        "verify_command_cpu_seconds": round(verified, 1),
        "versions": versions(LIBRARIES),
    }
    print(json.dumps(output | {"device": describe_machine(jax.devices()[0].platform)}))


if __name__ == "__main__":
    main()
