"""Compiling in a hurry begins and ends where it should (tests/helpers/fast_compile.py)."""

import jax
import pytest
from jax._src import compiler as of_jax

from tests.helpers import fast_compile

OWN = {"xla_cpu_max_isa": "AVX2"}


def options() -> dict:
    """What XLA is told about a function with an option of its own."""
    return dict(of_jax.get_compile_options(1, 1, env_options_overrides=OWN).env_option_overrides)


def test_the_compiler_is_told_and_what_a_function_asks_for_stays():
    assert options() == OWN
    with fast_compile.hurry():
        assert options() == fast_compile.in_a_hurry() | OWN
        with fast_compile.hurry(False):
            assert options() == OWN
        assert options() == fast_compile.in_a_hurry() | OWN
    assert options() == OWN


def test_it_ends_with_an_error_too():
    with pytest.raises(RuntimeError), fast_compile.hurry():
        raise RuntimeError
    assert of_jax.get_compile_options is fast_compile._options


def test_no_program_is_left_for_the_other_kind():
    twice = jax.jit(lambda x: 2.0 * x)
    twice(1.0)
    assert twice._cache_size() == 1
    with fast_compile.hurry():
        assert twice._cache_size() == 0
        twice(1.0)
        with fast_compile.hurry():  # the same kind
            assert twice._cache_size() == 1
        with fast_compile.hurry(False):
            assert twice._cache_size() == 0
        twice(1.0)
    assert twice._cache_size() == 0
