"""Tests of parsing numbers in all common notations."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scotd_jax.tasks.numeric_answers import is_number, parse_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *((text, "1000") for text in ("1,000", "1000", "1000.0", "$1,000.00.", " 1000 ", "01000", "1000 dollars")),
        *((text, "5") for text in ("$5", "5.", "5%", "€5", "5,", "The answer is 5.", "4 + 1 = 5", "x = 5", "10/2")),
        *((text, "-0.5") for text in ("-0.50", "-.5", "-1/2", "\u22120.5", "-$0.5", "$-0.5")),
        ("1,234,567.", "1234567"),
        ("2/3", "2/3"),
        ("4/6", "2/3"),
        ("0.0", "0"),
        ("-0", "0"),
        ("0.125", "0.125"),
        ("5 or 5.0", "5"),
        *((text, None) for text in ("", "none", "five", "4 or 5", "5-3", "1,0", "1,2345", "1.5.2", "9:30", "1/0", "=")),
        ("9" * 5000, None),
    ],
)
def test_parse_number(text, number):
    assert parse_number(text) == number


@given(st.decimals(-(10**9), 10**9, allow_nan=False, places=4))
def test_canonical_form_is_independent_of_the_notation(value):
    for text in (f"{value:f}", f"{value:,f}", f"It costs ${value:,f}."):
        canonical = parse_number(text)
        assert canonical is not None
        assert Decimal(canonical) == value
        assert parse_number(canonical) == canonical
        assert is_number(canonical)


def test_is_number_accepts_numbers_only():
    assert all(map(is_number, ("5", "-5", "1,000", "$3.50", "2/3", " 7 ")))
    assert not any(map(is_number, ("5 km", "5.", "Route 66", "", "1/0", "a")))
