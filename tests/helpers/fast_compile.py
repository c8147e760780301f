"""Faster XLA compilation, for tests that compare values within a tolerance and spend most of their time compiling.

By default XLA spends most of such a test on LLVM optimizations. Without them, and without the newer fusion emitters, a
gradient of a tiny model compiles in a seventh of the time. Operations are the same, but sums have another order. Tests
of exact bits keep the default options; tests of memory and FLOPs may compile with UNOPTIMIZED_CODE.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import compiler  # private: jax 0.10 has no public way to set default compile options

# LLVM optimizes less. The fusions and buffers of a program stay, and with them its memory and FLOPs.
UNOPTIMIZED_CODE = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}
_FAST_OPTIONS = UNOPTIMIZED_CODE | {"xla_cpu_use_fusion_emitters": False}
_default_get_compile_options = compiler.get_compile_options


@functools.cache
def fast_options() -> dict[str, Any]:
    """Returns the fast options that this version of XLA supports; an unknown option is an error."""

    def is_supported(name: str) -> bool:
        try:
            jax.jit(lambda: 0).lower().compile(compiler_options={name: _FAST_OPTIONS[name]})
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in _FAST_OPTIONS.items() if is_supported(name)}


def flags() -> str:
    """Returns the value of XLA_FLAGS for fast compilation in other processes."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in fast_options().items())


def _fast_get_compile_options(*args, env_options_overrides=None, **more):
    return _default_get_compile_options(
        *args, env_options_overrides=fast_options() | (env_options_overrides or {}), **more
    )


@contextlib.contextmanager
def fast_compilation(enabled: bool = True) -> Iterator[None]:
    """Compiles with the fast options, or with the default ones if not `enabled`.

    JAX has no such setting that can change within a process. Compiled programs are discarded at each change, because
    results that are compared bit by bit must come from the same compiler options.
    """
    previous = compiler.get_compile_options
    fast_options()  # must be computed with the default options
    wanted = _fast_get_compile_options if enabled else _default_get_compile_options
    if previous is wanted:
        yield
        return
    jax.clear_caches()
    compiler.get_compile_options = wanted
    try:
        yield
    finally:
        compiler.get_compile_options = previous
        jax.clear_caches()
