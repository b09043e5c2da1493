"""One patient to look at closely on the page of the site: which one."""

from __future__ import annotations

from collections.abc import Sequence

from client.report.comparison import Comparison
from client.report.evidence import Personal

#: Methods with weights of their own, so that there is something to see.
OWN_WEIGHTS = ("fine_tuned", "closed_form")


def choose(result: Comparison) -> Personal | None:
    """Return the patient with the median gain, among those whose selected model has weights of its own.

    The rule leaves no choice to whoever writes a report: neither the best patient nor the worst is shown.
    """
    key = result.words.key
    for methods in (OWN_WEIGHTS, None):
        group = [one for one in result.patients if methods is None or one.selected_method in methods]
        if group:
            return _median(group, key)
    return None


def _median(group: Sequence[Personal], key: str) -> Personal:
    ordered = sorted(
        group, key=lambda one: (one.last("selected", key) - one.last("generic", key), one.patient)
    )
    return ordered[(len(ordered) - 1) // 2]
