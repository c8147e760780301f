"""Several processes that work on one run: who speaks and writes, and how they wait for each other.

Training is one program over the devices of all processes. Sampling is not: every process asks its own questions of a
model on its own devices, since rows are named and their noise depends on nothing else. Process 0 alone writes
manifests and merges files; the work directory must be one that all processes see.
"""

from typing import Any

import jax
import numpy as np

from scotd_jax.errors import InputError


def join(how: str) -> None:
    """Joins the other processes: "auto" where the cluster says who they are (TPU, Slurm), else "HOST:PORT,I,N".

    Raises InputError on anything else. To be called before any device is used.
    """
    if how == "auto":
        jax.distributed.initialize()
        return
    parts = how.split(",")
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        raise InputError(f"--multihost={how}: expected 'auto' or HOST:PORT,PROCESS,PROCESSES, e.g. 10.0.0.2:8476,0,4")
    if jax.config.jax_platforms == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(parts[0], int(parts[2]), int(parts[1]))


def is_first() -> bool:
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Returns when every process has come to the same place, which `where` names."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(where)


def own_share(items: list) -> list:
    """The items of this process; those of all processes together are the whole list."""
    return items[jax.process_index() :: jax.process_count()]


def to_own_devices(tree: Any, places: Any) -> Any:
    """Arrays that lie on the devices of all processes, as arrays on the devices of this one (all processes call it)."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    whole = jax.tree.map(lambda leaf: np.asarray(multihost_utils.process_allgather(leaf, tiled=True)), tree)
    return jax.device_put(whole, places)
