"""Sections on what a score is worth: calibration, alarms, votes along the scale, quality of the data."""

from __future__ import annotations

from typing import Any

from client.report import calibrated, curves, quality
from client.report.curves import Drawn
from client.report.drawing import Drawing
from client.report.evidence import Evidence
from client.report.reading_votes import ScoredStrips
from common.config import Settings
from common.page import Figure


def calibration(evidence: Evidence, settings: Settings, site: str, draw: Drawing) -> dict[str, Any]:
    """Return the section on calibration, alarms and votes along the scale of the measured value.

    Parameters
    ----------
    evidence : of the site.
    settings, site : of the page.
    draw : numbers the figures, in the order of the page.
    """
    task = settings.words
    found = calibrated.groups(evidence.generic, evidence.scored or ScoredStrips())
    measured = calibrated.measured(found, task)
    personal = [group for group in measured if group.personal and group.method == "selected"]
    return {
        "sentence": calibrated.alarms_sentence(found, task),
        "figure": _figure(draw, curves.reliability_curves(found, task)),
        "votes_figures": [
            shown
            for group in personal
            if (shown := _figure(draw, curves.votes_of_group(group, task))) is not None
        ],
        "tables": {
            "calibration": calibrated.calibration_table(found),
            "alarms": calibrated.alarms_table(found, task),
            "votes": calibrated.votes_table(measured, settings),
            "correlation": calibrated.correlation_table(measured, settings, site),
        },
        "measured": bool(measured),
    }


def data_quality(evidence: Evidence, settings: Settings, site: str, draw: Drawing) -> dict[str, Any]:
    """Return the section on the quality of the data, by label.

    Parameters
    ----------
    evidence, settings, site, draw : as for ``calibration``.
    """
    return {
        "sentences": quality.quality_sentences(evidence.signals, evidence.members, settings, site),
        "figure": _figure(draw, curves.signal_by_label(evidence.signals, settings.words)),
        "tables": {
            "quality_steps": quality.steps_table(evidence.signals, settings, site),
            "quality_signal": quality.signal_table(evidence.signals, settings, site),
        },
    }


def _figure(draw: Drawing, drawn: Drawn | None) -> Figure | None:
    if drawn is None:
        return None
    return draw.page(drawn.canvas, drawn.name, drawn.title, drawn.text, drawn.caption)
