"""What a cohort will hold, as a text for people, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulation.cohort.estimate import Cost, size_text
from simulation.cohort.forecast import PERSONAL_STRIPS, Forecast
from simulation.cohort.parts import SiteOrder
from simulation.cohort.profile import PROFILES, CohortSizes, Monitor, SiteProfile

ACROSS = 5  # sites side by side
Column = tuple[SiteOrder, Forecast, Cost]


def describe_cohort(columns: Sequence[Column]) -> str:
    """Return aligned lines: one column per site, then monitors, laboratories and how it was counted.

    Parameters
    ----------
    columns : per site, what is asked for, what it will hold and what it costs.
    """
    blocks = [_table(columns[first : first + ACROSS]) for first in range(0, len(columns), ACROSS)]
    width = max(len(order.profile.name) for order, _, _ in columns)
    profiles = [order.profile for order, _, _ in columns]
    monitors = [f"  {profile.name:<{width}}  {monitor_text(profile.monitor)}" for profile in profiles]
    tables = [f"  {profile.name:<{width}}  {tables_text(profile)}" for profile in profiles]
    return "\n\n".join(
        [*blocks, "\n".join(["Monitors", *monitors, "", "Laboratories and tables", *tables]), _how(columns)]
    )


def monitor_text(monitor: Monitor) -> str:
    """Return the monitors of a site in one line."""
    rate = f"{monitor.rate_hz:g} Hz"
    if monitor.turning_point:
        rate = f"{monitor.acquired_hz:g} to {rate} by turning points"
    low, high = monitor.band_hz
    gains = ", ".join(f"{gain}" for gain in monitor.gains)
    return (
        f"{rate}, {monitor.bits} bits at {gains} per mV, {low:g} to {high:g} Hz, "
        f"mains {monitor.mains_hz} Hz, lead II absent {100 * monitor.lead_ii_missing:g} % of the time"
    )


def tables_text(profile: SiteProfile) -> str:
    """Return what is special about a site's laboratory and tables in one line."""
    laboratory, files = profile.laboratory, profile.files
    parts = [
        laboratory.unit,
        "blood gas only"
        if laboratory.whole_blood_only
        else f"serum, {100 * laboratory.whole_blood_share:g} % with a blood gas twin",
    ]
    if laboratory.assay_offset:
        parts.append(f"{laboratory.assay_offset:+g} mEq/L of bias")
    if laboratory.clock_offset_min:
        away = "ahead" if laboratory.clock_offset_min > 0 else "behind"
        parts.append(f"clock {abs(laboratory.clock_offset_min)} min {away}")
    case = "upper case" if files.upper_case else "lower case"
    parts += [] if files.layout == "mimic3" else [f"layout {files.layout}"]
    return ", ".join([*parts, f"{case} .csv{'.gz' if files.compressed else ''}"])


def profile_list() -> str:
    """Return the built-in profiles, one a line."""
    width = max(len(name) for name in PROFILES)
    return "\n".join(f"{name:<{width}}  {profile.description}" for name, profile in PROFILES.items())


def sizes_text(sizes: CohortSizes) -> str:
    """Say how much of the monitored time is written."""
    if sizes.continuous:
        return "all monitored hours"
    hours = sizes.window_hours
    before = f"{hours * 60:g} min" if hours < 1 else f"{hours:g} h"
    return f"the {before} before each draw"


def _table(columns: Sequence[Column]) -> str:
    def row(title: str, cell: Callable[[SiteProfile, Forecast, Cost], str]) -> list[str]:
        return [title, *(cell(order.profile, found, cost) for order, found, cost in columns)]

    rows = [
        row("", lambda profile, _, __: profile.name),
        row("patients", lambda _, found, __: _count(found.patients)),
        row("  ordinary potassium", lambda _, found, __: _count(found.roles["usual"])),
        row("  kidney injury", lambda _, found, __: _count(found.roles["injury"])),
        row("  on dialysis", lambda _, found, __: _count(found.roles["dialysis"])),
        row("  dialysed for weeks", lambda _, found, __: _count(found.roles["personal"])),
        row("potassium draws", lambda _, found, __: _count(found.draws)),
        row("  with ECG", lambda _, found, __: _count(found.recorded_draws)),
        row("    above 5.5 mEq/L", lambda _, found, __: _share(found, "positive")),
        row("    5.0 to 5.5 (gap)", lambda _, found, __: _share(found, "gap")),
        row("    below 3.5", lambda _, found, __: _share(found, "low")),
        row("personal patients, expected", lambda _, found, __: _count(found.personal)),
        row("hours of ECG", lambda _, __, cost: _count(cost.ecg_h)),
        row("disk", lambda _, __, cost: size_text(cost.bytes)),
        row("files", lambda _, __, cost: _count(cost.files)),
    ]
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return lines of cells, the first column to the left and the others to the right."""
    first, *others = (max(len(row[column]) for row in rows) for column in range(len(rows[0])))
    return "\n".join(
        "  ".join([row[0].ljust(first), *(c.rjust(w) for c, w in zip(row[1:], others, strict=True))]).rstrip()
        for row in rows
    )


def _how(columns: Sequence[Column]) -> str:
    planned = sum(found.planned for _, found, _ in columns)
    total = sum(found.patients for _, found, _ in columns)
    counted = f"all {total:,} patients"
    if planned < total:
        counted = f"{planned:,} of {total:,} patients, scaled up"
    return (
        f"Counted by planning {counted}. Written: ECG of {sizes_text(columns[0][0].sizes)}. A personal "
        f"patient has {PERSONAL_STRIPS} strips or more of each label with lead II and without movement; "
        "signal quality takes some away."
    )


def _share(found: Forecast, label: str) -> str:
    total = sum(found.labels.values())
    return _percent(found.labels[label] / total) if total else "-"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count(number: float) -> str:
    return f"{number:,.0f}"
