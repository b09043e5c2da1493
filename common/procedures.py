"""Names of what is run beside the primary result: simpler ways, the paper's protocol, controls.

A site computes them (``client.learning.protocols``), ``common.protocol`` lists their sums, and the summary
across sites names them, and what the settings left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from common.config import PersonalizationSettings

#: Baselines on the same strips, fitted to the patient; the guard never chooses them.
SIMPLER = ("t_wave", "heart_rate", "scratch")
#: Methods of the paper's protocol whose sums are sent; ``published`` is its own learning rate and batch.
PAPER_METHODS = ("generic", "threshold", "fine_tuned", "published", "selected")
#: Controls as on the wire, and what they are.
CONTROLS: Mapping[str, str] = MappingProxyType(
    {"permuted": "Labels of other days", "days": "Two stretches of days, all negative"}
)
#: Methods that could learn what a control should not hold; what the guard selects may be the generic model.
LEARNING = ("closed_form", "fine_tuned", "selected")
#: Figures of merit that these are judged by: that of each task, and the beat AUC, which has no threshold.
HEADLINES: Mapping[str, str] = MappingProxyType({"hyperkalemia": "strip-accuracy", "ventricular": "beat-f1"})
BEAT_AUC = "beat-auc"

#: Beat AUC of who tells nothing apart.
CHANCE = 0.5
#: The verdict on a control whose labels, which mean nothing, were told apart.
FLAGGED = "flagged"


def control_verdict(lower_bounds: Iterable[float | None]) -> str:
    """Say what a control found; source: SCIENCE section 9, controls.

    Parameters
    ----------
    lower_bounds : of the 95 % intervals of the beat AUC, by method that could learn; None where there are
        too few patients for an interval.

    Returns
    -------
    ``FLAGGED`` if one is above chance, else ``not flagged``; without any interval ``too few patients``.
    """
    known = [low for low in lower_bounds if low is not None]
    if not known:
        return "too few patients"
    return FLAGGED if max(known) > CHANCE else f"not {FLAGGED}"


def not_run(settings: PersonalizationSettings) -> tuple[str, ...]:
    """Name what these settings leave out, in the words of a report."""
    paper = "paper" in settings.protocols
    missing = [] if paper else ["the protocol of the source paper"]
    if settings.depth == "quick":
        missing.append("the personal network trained from scratch")
        missing += ["fine-tuning with the published learning rate and batch"] if paper else []
        missing.append("the control with two stretches of days")
        missing.append("fine-tuning in the control with the labels of other days")
    return tuple(missing)
