"""A cache of compiled programs on disk, for processes that are killed dozens of times."""

from types import SimpleNamespace

import jax


def use_compilation_cache(folder: str, fills: bool) -> None:
    """Loads compiled programs from a folder in this process, and with `fills` adds those that it lacks.

    Only a process that is not killed may add programs.
    """
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0 if fills else 1e9)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _let_every_process_fill_its_cache()


def _let_every_process_fill_its_cache() -> None:
    """Makes every process write to its cache. JAX 0.10 writes only from process 0, because caches are usually shared.

    Otherwise the second host would compile for five seconds in every run. If this private attribute changes, tests are
    slower but still correct.
    """
    from jax._src import compiler

    compiler.distributed = SimpleNamespace(global_state=SimpleNamespace(process_id=0))
