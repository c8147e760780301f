"""Fast compilation applies inside its context manager only (tests/helpers/fast_compile.py)."""

import threading
from collections.abc import Callable
from typing import Any

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
    with fast_compile.unoptimized_code():
        assert options() == fast_compile.UNOPTIMIZED_CODE | FUNCTION_OPTIONS
    assert options() == FUNCTION_OPTIONS


def test_fast_options_are_reset_after_an_error():
    with pytest.raises(RuntimeError), fast_compile.fast_compilation():
        raise RuntimeError
    assert options() == FUNCTION_OPTIONS


def test_programs_are_not_reused_across_compiler_settings(monkeypatch):
    twice, compiled = jax.jit(lambda x: 2.0 * x), []
    monkeypatch.setattr(fast_compile, "_default_get_compile_options", record_options(compiled))

    def call(enabled: bool) -> list[bool]:
        """Returns for every program that is compiled whether it has the fast options."""
        compiled.clear()
        with fast_compile.fast_compilation(enabled):
            twice(1.0)
            twice(1.0)
        return list(compiled)

    assert [call(enabled) for enabled in (False, True, False, True)] == [[False], [True], [], []]
    with fast_compile.fast_compilation():
        thread = threading.Thread(target=twice, args=(1,))  # a new program, for integers
        thread.start()
        thread.join()
    assert compiled == [True], "the setting applies to all threads"


def record_options(compiled: list[bool]) -> Callable[..., Any]:
    """Returns a `get_compile_options` that appends to `compiled` whether the options are the fast ones."""
    original = fast_compile._default_get_compile_options

    def get_compile_options(*args, env_options_overrides=None, **more):
        compiled.append(bool(env_options_overrides))
        return original(*args, env_options_overrides=env_options_overrides, **more)

    return get_compile_options
