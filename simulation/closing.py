"""The last words of a run: where the reports are and what they say."""

from __future__ import annotations

from pathlib import Path

from common.logs import duration
from common.task import TASKS
from simulation.beside import beside_lines
from simulation.summary import Estimate, PersonalFigures, RunSummary

# What a reader of the task looks at: strip accuracy saturates where strips are easy.
HEADLINE = {"hyperkalemia": ("strip_accuracy", "strip accuracy"), "ventricular": ("beat_f1", "beat F1")}


def closing_text(out: Path, summary: RunSummary) -> str:
    """Return the text a run ends with."""
    task = TASKS[summary.task]
    lines = ["", task.title, "=" * len(task.title)]
    lines += [_generic_line(summary), "", *_table(summary)]
    figure = HEADLINE[summary.task][0]
    lines += [*beside_lines(summary.personal, summary.not_run, figure, _estimate, _signed), ""]
    lines += _worse_lines(summary.personal)
    lines += [f"note: {note}" for note in summary.notes]
    lines += ["", "Reports (open them in a browser):"]
    places = {**summary.pages, "all numbers": "summary.json"}
    width = max(len(name) for name in places)
    lines += [f"  {name:<{width}}  {out / place}" for name, place in places.items()]
    total = duration(sum(summary.seconds.values()))
    lines += ["", f"{total}, at most {summary.peak_memory_mb:.0f} MB of memory. {task.disclaimer}"]
    return "\n".join(lines)


def _generic_line(summary: RunSummary) -> str:
    generic = summary.generic
    if generic is None:
        return "Generic model: no unseen patients to test it on."
    return (
        f"Generic model on {generic.patients} unseen patients: beat AUC {_value(generic.beat_auc)}, "
        f"beat F1 {_value(generic.beat_f1)}, strip accuracy {_value(generic.strip_accuracy)} "
        f"({generic.strips} strips)"
    )


def _table(summary: RunSummary) -> list[str]:
    key, figure = HEADLINE[summary.task]
    head = ("", "patients", "generic", "threshold", "selected", "selected - threshold")
    rows: list[tuple[str, ...]] = [head]
    named = [(name, site.personal) for name, site in summary.sites.items()]
    for name, personal in [*named, ("all sites", summary.personal)]:
        difference = personal.difference.get("selected-threshold", {}).get(key)
        rows.append(
            (
                name,
                str(personal.patients),
                *(_estimate(personal.last.get(m, {}).get(key)) for m in ("generic", "threshold", "selected")),
                _signed(difference),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    title = f"Personal models, {figure} on later test strips, mean over patients (95 % interval):"
    return [title] + ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]


def _worse_lines(personal: PersonalFigures) -> list[str]:
    return [
        f"worse than generic by more than .05 beat F1: patient {entry['patient']} at {entry['site']}: "
        f"{_value(entry['generic_beat_f1'])} -> {_value(entry['selected_beat_f1'])} "
        f"({entry['test_strips']} test strips, {entry['test_beats']} test beats)"
        for entry in personal.worse
    ]


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None or estimate.mean is None:
        return "-"
    interval = f" ({_value(estimate.low)} to {_value(estimate.high)})" if estimate.low is not None else ""
    return _value(estimate.mean) + interval


def _signed(estimate: Estimate | None) -> str:
    if estimate is None or estimate.mean is None:
        return "-"
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f" ({estimate.low:+.3f} to {estimate.high:+.3f})"
    return f"{estimate.mean:+.3f}{interval}"


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
