"""Red cells that broke in the tube let potassium out: who says so, and when it must be suspected.

Some laboratories write it beside the result. Where they do not, two rules suspect it: the panel of the same
specimen shows that something else than blood was in it, or a repeat soon after is much lower. Neither rule
knows of treatment, and dialysis lowers potassium as fast: a suspicion is stored, and a setting
(``label.suspected_hemolysis``) decides whether it excludes.

Source: SCIENCE section 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from client.data.values import measured

if TYPE_CHECKING:
    from client.data.sources.base import Measurement

#: A panel outside these limits is that of an infusion or of a contaminated specimen.
SODIUM_BELOW: Final = 110.0  # mEq/L
GLUCOSE_ABOVE: Final = 1000.0  # mg/dL
#: A contaminated panel makes only a raised potassium suspect: above the normal range.
RAISED_ABOVE: Final = 5.0  # mEq/L
REPEAT_WITHIN: Final = timedelta(hours=4)
REPEAT_LOWER_BY: Final = 1.5  # mEq/L
# Results are printed with one or two decimals; sums of such numbers are off by less than this.
ROUNDING: Final = 1e-6
#: Values that a potassium measurement can have; another one is no repeat that refutes anything.
POSSIBLE: Final = (1.5, 12.0)  # mEq/L

# "hemolytic anemia" is a disease of the patient, not of the specimen.
_MENTION: Final = re.compile(r"ha?emoly(?:s[ei]s|[sz]ed|[sz]ing)\b", re.IGNORECASE)
# "not grossly hemolyzed", "non-hemolyzed", "no evidence of hemolysis", "if hemolyzed, ..."
_DENIED_BEFORE: Final = re.compile(
    r"(?:\b(?:no|not|non|without|nor|neither|negative for|free of|absence of)[\s-]*"
    r"(?:(?:visibl[ey]|gross(?:ly)?|significant(?:ly)?|any|obvious(?:ly)?|apparent(?:ly)?|detectable|"
    r"slight(?:ly)?|mild(?:ly)?|moderate(?:ly)?|marked(?:ly)?|evidence|signs?|trace|of|to|be|been|appear)"
    r"[\s-]+)*|\bif\b[^.;]*)$",
    re.IGNORECASE,
)
# "hemolysis: none", "hemolysis not seen", "hemolysis index 12": the number alone says neither yes nor no
_DENIED_AFTER: Final = re.compile(
    r"\s*(?:[:=]\s*(?:none|no|neg(?:ative)?|absent|not|0(?![.\d]))\b|0(?![.\d])|index\b|"
    r"-?\s*(?:none|negative|absent)\b|(?:is |was )?not (?:present|seen|detected|observed|noted|visible)\b)",
    re.IGNORECASE,
)


def reported(text: str) -> bool:
    """Return whether a laboratory's text says that the specimen was hemolyzed.

    >>> reported("GROSSLY HEMOLYZED. HEMOLYSIS FALSELY ELEVATES THIS RESULT.")
    True
    >>> reported("Specimen not hemolyzed")
    False
    """
    return any(
        not _DENIED_BEFORE.search(text[: mention.start()]) and not _DENIED_AFTER.match(text[mention.end() :])
        for mention in _MENTION.finditer(text)
    )


def contaminated(sodium: float | None = None, glucose: float | None = None) -> bool:
    """Return whether a panel is none of human blood.

    Parameters
    ----------
    sodium : mEq/L, None where it was not measured.
    glucose : mg/dL, None where it was not measured.
    """
    return (sodium is not None and sodium < SODIUM_BELOW) or (glucose is not None and glucose > GLUCOSE_ABOVE)


def with_suspicions(
    measurements: Sequence[Measurement], contaminated_at: Collection[datetime] = ()
) -> list[Measurement]:
    """Mark the measurements of one patient that a rule suspects; for laboratories that report no hemolysis.

    A raised potassium is suspected if the panel of its specimen time is contaminated. Any is suspected if a
    possible value within the next 4 hours, or of another specimen of the same time, is lower by more than
    1.5 mEq/L. What the laboratory reports stays reported.

    Parameters
    ----------
    measurements : rows of one patient, in any order; the order stays.
    contaminated_at : specimen times of contaminated panels, by the same clock.
    """
    found = [measured(measurement)[0] for measurement in measurements]
    known = sorted(
        (measurement.specimen_time, value)
        for measurement, value in zip(measurements, found, strict=True)
        if value is not None and POSSIBLE[0] <= value <= POSSIBLE[1]
    )
    return [
        replace(measurement, hemolysis="suspected")
        if measurement.hemolysis is None
        and value is not None
        and _suspected(measurement.specimen_time, value, known, contaminated_at)
        else measurement
        for measurement, value in zip(measurements, found, strict=True)
    ]


def _suspected(
    time: datetime,
    value: float,
    known: Sequence[tuple[datetime, float]],
    contaminated_at: Collection[datetime],
) -> bool:
    if value > RAISED_ABOVE and time in contaminated_at:
        return True
    return any(
        value - later > REPEAT_LOWER_BY + ROUNDING
        for when, later in known
        if timedelta(0) <= when - time <= REPEAT_WITHIN
    )
