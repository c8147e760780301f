"""Faster XLA compilation, for tests that compare values within a tolerance and spend most of their time compiling.

By default XLA spends most of such a test on LLVM optimizations. Without them, and without the newer fusion emitters, a
gradient of a tiny model compiles in a seventh of the time. Operations are the same, but sums have another order. Tests
that compare the bits of different programs keep the default options; tests of memory and FLOPs may compile with
UNOPTIMIZED_CODE. A run that resumes executes the same programs, so its bits are equal with any options.

JAX has no such setting that can change within a process. Here it is part of the keys under which JAX caches programs,
because results that are compared bit by bit must come from the same compiler options.
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
_names = jax.make_user_context(())  # names of the options in force


@functools.cache
def fast_options() -> dict[str, Any]:
    """Returns the fast options that this version of XLA supports; an unknown option is an error."""

    def is_supported(name: str) -> bool:
        try:
            with _names(()):  # `_get_compile_options` would call this function again
                jax.jit(lambda: 0).lower().compile(compiler_options={name: _FAST_OPTIONS[name]})
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in _FAST_OPTIONS.items() if is_supported(name)}


def flags() -> str:
    """Returns the value of XLA_FLAGS for fast compilation in other processes."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in fast_options().items())


def _get_compile_options(*args, env_options_overrides=None, **more):
    if names := _names.value:
        options = {name: value for name, value in fast_options().items() if name in names}
        env_options_overrides = options | (env_options_overrides or {})
    return _default_get_compile_options(*args, env_options_overrides=env_options_overrides, **more)


compiler.get_compile_options = _get_compile_options


@contextlib.contextmanager
def _compiling_with(names: tuple[str, ...]) -> Iterator[None]:
    previous = _names.get_global()
    _names.set_global(names)  # for all threads
    try:
        yield
    finally:
        _names.set_global(previous)


def fast_compilation(enabled: bool = True) -> contextlib.AbstractContextManager[None]:
    """Compiles with the fast options, or with the default ones if not `enabled`."""
    return _compiling_with(tuple(_FAST_OPTIONS) if enabled else ())


def unoptimized_code() -> contextlib.AbstractContextManager[None]:
    """Compiles with UNOPTIMIZED_CODE."""
    return _compiling_with(tuple(UNOPTIMIZED_CODE))
