"""XLA in a hurry, for tests of values within a tolerance: they compute for no time and compile for long.

Left alone, XLA spends most of such a test on LLVM's optimizations. Without them, and without the newer way of making
code for fusions, a gradient of a tiny model compiles in a seventh of the time. The operations are the same and sum in
another order. Tests of bits, of memory and of work stay with what users get.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import compiler

_HURRY = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
_options = compiler.get_compile_options


@functools.cache
def in_a_hurry() -> dict[str, Any]:
    """The options that this XLA knows; it refuses others, and newer ones have fewer."""

    def known(name: str) -> bool:
        try:
            jax.jit(lambda: 0).lower().compile(compiler_options={name: _HURRY[name]})
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in _HURRY.items() if known(name)}


def flags() -> str:
    """XLA_FLAGS of other processes."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in in_a_hurry().items())


def _in_a_hurry(*args, env_options_overrides=None, **more):
    return _options(*args, env_options_overrides=in_a_hurry() | (env_options_overrides or {}), **more)


@contextlib.contextmanager
def hurry(yes: bool = True) -> Iterator[None]:
    """Compiles in a hurry, or not. JAX has no setting for it that a process can change. No program of the one kind is
    left for the other: bits that are compared have to come from the same compiler."""
    before = compiler.get_compile_options
    in_a_hurry()  # found out as users compile
    if before is (_in_a_hurry if yes else _options):
        yield
        return
    jax.clear_caches()
    compiler.get_compile_options = _in_a_hurry if yes else _options
    try:
        yield
    finally:
        compiler.get_compile_options = before
        jax.clear_caches()
