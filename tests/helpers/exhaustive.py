"""Leaves the repetitions of a slow test to `make test-exhaustive`."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def repeat_for(values: Iterable[Any], kept: Container[Any]) -> list[Any]:
    """Returns the values of `pytest.mark.parametrize`; those that are not in `kept` have the marker `exhaustive`."""

    def exhaustive(value: Any) -> Any:
        several = value if isinstance(value, tuple) else (value,)
        return pytest.param(*several, marks=pytest.mark.exhaustive)

    return [value if value in kept else exhaustive(value) for value in values]
