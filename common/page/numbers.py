"""Numbers as a reader sees them: sensible digits, a real minus sign, the sample size beside every figure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal

import numpy as np

from common.intervals import Interval
from common.page.words import FigureWords
from common.wording import plural as plural

#: Shown where a figure does not exist: an en dash, never a zero.
MISSING = "–"
MINUS = "−"
#: Keeps a number and its unit on one line.
SPACE = "\u202f"
#: What a float holds beyond these digits is how it was computed.
DIGITS = 12


def count(value: int) -> str:
    """Write a whole number with a comma every three digits: ``12,345``."""
    return _sign(f"{value:,d}")


def decimal(value: float | None, digits: int = 2, signed: bool = False) -> str:
    """Write a number with fixed decimals, ``+`` in front of a positive one if ``signed``.

    Halves are rounded away from zero, as people do: ``percent(.125)`` is 13 %, ``percent(.575)`` 58 %. A
    value that rounds to zero has no sign. None, NaN and infinity are ``MISSING``.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    value = float(Decimal(f"{value:.{DIGITS}g}").quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
    text = f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}"
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")
    return _sign(text)


def percent(value: float | None, digits: int = 0, signed: bool = False) -> str:
    """Write a share as percent: ``.834`` as ``83 %``."""
    if value is None or not math.isfinite(value):
        return MISSING
    return decimal(100 * value, digits, signed) + SPACE + "%"


def figure_value(value: float | None, words: FigureWords) -> str:
    """Write a figure of merit in its own form, percent or decimals."""
    return percent(value, words.digits) if words.percent else decimal(value, words.digits)


def figure_difference(value: float | None, words: FigureWords, unit: bool = True) -> str:
    """Write a difference of two figures: ``+4 points`` for shares, ``+0.041`` otherwise."""
    if not words.percent:
        return decimal(value, words.digits, signed=True)
    text = decimal(None if value is None else 100 * value, words.digits + 1, signed=True)
    return text + (" points" if unit and text != MISSING else "")


def interval_text(interval: Interval | None, words: FigureWords, difference: bool = False) -> str:
    """Write an interval with its level, or the reason why there is none.

    Returns
    -------
    ``95 % interval 71 to 93 %``, with ``(small sample)`` from 6 to 20 patients, or ``too few patients for
    an interval``.
    """
    if interval is None or not math.isfinite(interval.low + interval.high):
        return "too few patients for an interval"
    if difference:
        low = figure_difference(interval.low, words, unit=False)
        high = figure_difference(interval.high, words)
    elif words.percent:
        # A t interval may leave the scale; what is shown does not.
        low = decimal(100 * max(0.0, interval.low), words.digits)
        high = percent(min(1.0, interval.high), words.digits)
    else:
        low, high = (decimal(min(1.0, max(0.0, end)), words.digits) for end in interval[:2])
    mark = " (small sample)" if "small sample" in interval.method else ""
    return f"95{SPACE}% interval {low} to {high}{mark}"


#: Stands below a table with an interval of 6 to 20 patients.
SMALL_SAMPLE_NOTE = "† small sample: Student’s t from 6 to 20 patients."


def interval_cell(interval: Interval | None, words: FigureWords, difference: bool = False) -> str:
    """Write an interval for a table: without its level, ``†`` for a small sample."""
    if interval is None:
        return "too few"
    text = interval_text(interval, words, difference).removeprefix(f"95{SPACE}% interval ")
    return text.replace(" (small sample)", f"{SPACE}†")


def share(part: int, whole: int, digits: int = 0) -> str:
    """Write a share with its counts: ``83 % (10 of 12)``."""
    if whole == 0:
        return MISSING
    return f"{percent(part / whole, digits)} ({count(part)} of {count(whole)})"


def quartiles(values: Iterable[float | None]) -> tuple[float, float, float] | None:
    """Return median, first and third quartile (linear between values); None without a known value.

    None and NaN are unknown and left out.
    """
    kept = [value for value in values if value is not None and math.isfinite(value)]
    if not kept:
        return None
    low, middle, high = np.quantile(kept, [0.25, 0.5, 0.75])
    return float(middle), float(low), float(high)


def median_iqr(values: Iterable[float | None], digits: int = 0) -> str:
    """Write the median and quartiles: ``64 (52 to 76)``; unknown values are left out."""
    found = quartiles(values)
    if found is None:
        return MISSING
    middle, low, high = (decimal(value, digits) for value in found)
    return f"{middle} ({low} to {high})"


def short_digest(digest: str | None) -> str:
    """Write the first 12 digits of a hash, enough to compare by eye."""
    return digest[:12] if digest else MISSING


def size(n_bytes: float) -> str:
    """Write a number of bytes: ``3.4 MB``."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return decimal(value, 0 if unit == "B" or value >= 100 else 1) + SPACE + unit


def _sign(text: str) -> str:
    return text.replace("-", MINUS)
