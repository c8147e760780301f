"""Numbers as answers: "1,000", "1000" and "$1,000.00." are one number."""

import re
from fractions import Fraction

# A sign counts only where it does not follow a digit: "5-3" is a difference. Nothing that goes on in digits after a
# point or comma, as 1.5.2 or 1,23 do, is a number.
_NUMBER = re.compile(
    r"(?<![\d.,])(?P<sign>[-\u2212]?)[$€£]?(?P<minus>-?)"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+)?(?P<part>\.\d+)?(?:/(?P<under>\d+))?(?![.,]?\d)"
)
_LONGEST = 100  # characters: what a model says may go on in zeros for ever


def parse_number(text: str) -> str | None:
    """The number that an answer states, in canonical text: "1000", "-0.5", "2/3"; None if it states none or several.

    Words and units around it do not matter, nor do a currency sign, commas between thousands, zeros at the end of a
    decimal and a final period. Of an equation the number after the last "=" counts.
    """
    found = {number for match in _NUMBER.finditer(text.rpartition("=")[2]) if (number := _canonical(match)) is not None}
    return found.pop() if len(found) == 1 else None


def is_number(text: str) -> bool:
    """Whether `text` is a number and nothing else, as the gold answers of arithmetic tasks are."""
    match = _NUMBER.fullmatch(text.strip())
    return match is not None and _canonical(match) is not None


def _canonical(match: re.Match[str]) -> str | None:
    whole, part, under = match["whole"], match["part"], match["under"]
    if not (whole or part) or len(match[0]) > _LONGEST or (under and not int(under)):
        return None
    value = Fraction((whole or "0").replace(",", "") + (part or "")) / int(under or 1)
    if match["sign"] or match["minus"]:
        value = -value
    return _decimal(value)


def _decimal(value: Fraction) -> str:
    """As a decimal where it has a finite one, else as a reduced fraction."""
    places = 0
    rest = value.denominator
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest //= prime
            count += 1
        places = max(places, count)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
    text = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return f"-{text}" if value < 0 else text
