"""Numeric answers in canonical form: "1,000", "1000" and "$1,000.00." are the same number."""

import re
from fractions import Fraction

# A sign counts only if no digit precedes it: "5-3" is a difference. "1.5.2" and "1,23" are not numbers, so no further
# digits may follow a match, with or without a point or comma. `sign` precedes the currency sign, `minus` follows it.
_NUMBER = re.compile(
    r"(?<![\d.,])(?P<sign>[-\u2212]?)[$€£]?(?P<minus>-?)"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+)?(?P<decimals>\.\d+)?(?:/(?P<denominator>\d+))?(?![.,]?\d)"
)
_MAX_LENGTH = 100  # characters; a generated number may repeat digits up to the token limit


def parse_number(text: str) -> str | None:
    """Returns the number in an answer in canonical form ("1000", "-0.5", "2/3"); None if there is none or several.

    Ignores surrounding words and units, a currency sign, thousands separators, trailing zeros of a decimal and a final
    period. For an equation the number after the last "=" counts.
    """
    found = {number for match in _NUMBER.finditer(text.rpartition("=")[2]) if (number := _canonical(match)) is not None}
    return found.pop() if len(found) == 1 else None


def is_number(text: str) -> bool:
    """Returns whether the whole text is one number, as the gold answers of arithmetic tasks are."""
    match = _NUMBER.fullmatch(text.strip())
    return match is not None and _canonical(match) is not None


def _canonical(match: re.Match[str]) -> str | None:
    whole, decimals, denominator = match["whole"], match["decimals"], match["denominator"]
    if not (whole or decimals) or len(match[0]) > _MAX_LENGTH or (denominator and not int(denominator)):
        return None
    value = Fraction((whole or "0").replace(",", "") + (decimals or "")) / int(denominator or 1)
    if match["sign"] or match["minus"]:
        value = -value
    return _decimal(value)


def _decimal(value: Fraction) -> str:
    """Returns a decimal if a finite one exists, else a reduced fraction.

    It exists if the denominator has no prime factors except 2 and 5.
    """
    digits_after_point = 0
    rest = value.denominator
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest //= prime
            count += 1
        digits_after_point = max(digits_after_point, count)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**digits_after_point // value.denominator).zfill(digits_after_point + 1)
    text = f"{digits[:-digits_after_point]}.{digits[-digits_after_point:]}" if digits_after_point else digits
    return f"-{text}" if value < 0 else text
