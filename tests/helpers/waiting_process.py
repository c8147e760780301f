"""A process that meets another one at two barriers, of which it may miss the second.

python -m tests.helpers.waiting_process HOST:PORT,PROCESS,PROCESSES MISSING
"""

import sys
import time

import jax

from scotd_jax.distributed import hosts, watchdog


def main(multihost: str, missing: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    hosts.initialize(multihost)
    hosts.sync_processes("the first barrier")
    if jax.process_index() == int(missing):
        print("missing", flush=True)
        time.sleep(60)
    watchdog.BARRIER_MINUTES = 0.02
    hosts.sync_processes("the second barrier")


if __name__ == "__main__":
    main(*sys.argv[1:])
