"""Counts with their nouns, for lines on a terminal and for pages alike."""

from __future__ import annotations


def plural(number: int, word: str, many: str | None = None) -> str:
    """Write a count with its noun: ``1 patient``, ``12 patients``."""
    return f"{number:,d} {word if number == 1 else many or word + 's'}"
