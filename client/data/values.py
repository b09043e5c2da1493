"""From a printed laboratory result to a number in mEq/L, or to none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from client.data.sources.base import Measurement

Censored = Literal["above", "below"]

# Factor to mEq/L: potassium carries one charge, so a millimole is a milliequivalent.
UNITS: Final[Mapping[str, float]] = MappingProxyType({"meq/l": 1.0, "mmol/l": 1.0})

_BEYOND = re.compile(
    r"(?P<sign>greater than|more than|less than|[<>])\s*=?\s*(?P<bound>\d+(?:\.\d+)?)\s*(?:m(?:eq|mol)/l)?",
    re.IGNORECASE,
)


def read_value(text: str, number: float | None) -> tuple[float | None, Censored | None]:
    """Return a result's value and whether it is censored.

    A number counts only where the printed result and the numeric column agree. ``GREATER THAN 10`` is 10,
    censored above, whatever the numeric column says. Any other text has no value, ``___`` included, which
    stands for a text that was removed to hide who the patient is: nobody knows what it qualified.

    >>> read_value("4.0", 4.0)
    (4.0, None)
    >>> read_value("GREATER THAN 10", None)
    (10.0, 'above')
    >>> read_value("HEMOLYZED", 6.1)
    (None, None)
    """
    if match := _BEYOND.fullmatch(text.strip()):
        below = match["sign"].lower() in ("<", "less than")
        return float(match["bound"]), "below" if below else "above"
    try:
        printed = float(text)
    except ValueError:
        return None, None
    return (number, None) if number is not None and printed == number else (None, None)


def measured(measurement: Measurement) -> tuple[float | None, Censored | None]:
    """Return the potassium of a row in mEq/L, and whether it is censored; None for text or another unit."""
    value, censored = read_value(measurement.text, measurement.number)
    factor = UNITS.get(measurement.unit.lower())
    return (None if value is None or factor is None else value * factor), censored
