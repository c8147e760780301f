"""Fast compilation applies inside its context manager only (tests/helpers/fast_compile.py)."""

import jax
import pytest
from jax._src import compiler  # jax 0.10: where fast_compile.py replaces the options

from tests.helpers import fast_compile

FUNCTION_OPTIONS = {"xla_cpu_max_isa": "AVX2"}


def options() -> dict:
    """Returns the options that XLA receives for a function with FUNCTION_OPTIONS."""
    return dict(compiler.get_compile_options(1, 1, env_options_overrides=FUNCTION_OPTIONS).env_option_overrides)


def test_fast_options_are_set_and_options_of_functions_are_kept():
    assert options() == FUNCTION_OPTIONS
    with fast_compile.fast_compilation():
        assert options() == fast_compile.fast_options() | FUNCTION_OPTIONS
        with fast_compile.fast_compilation(False):
            assert options() == FUNCTION_OPTIONS
        assert options() == fast_compile.fast_options() | FUNCTION_OPTIONS
    assert options() == FUNCTION_OPTIONS


def test_fast_options_are_reset_after_an_error():
    with pytest.raises(RuntimeError), fast_compile.fast_compilation():
        raise RuntimeError
    assert compiler.get_compile_options is fast_compile._default_get_compile_options


def test_programs_are_not_reused_across_compiler_settings():
    twice = jax.jit(lambda x: 2.0 * x)
    twice(1.0)
    assert twice._cache_size() == 1
    with fast_compile.fast_compilation():
        assert twice._cache_size() == 0
        twice(1.0)
        with fast_compile.fast_compilation():  # no change
            assert twice._cache_size() == 1
        with fast_compile.fast_compilation(False):
            assert twice._cache_size() == 0
        twice(1.0)
    assert twice._cache_size() == 0
