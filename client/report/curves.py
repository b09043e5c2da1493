"""Figures of what scores are worth: forecast against what happened, and votes along the scale.

Each function returns a figure with its words, or None where there is nothing to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from client.learning.calibration import MIN_STRIPS_POOLED, ReliabilityBin, reliability
from client.report import figures
from client.report.calibrated import Group, measured
from client.report.quality import Pick
from client.report.reading_quality import StripSignal
from common.page.figure import BLUE, INK, LABEL_MARKS, PALE, figure, tidy
from common.page.numbers import decimal, plural
from common.task import Label, Task

#: What is drawn of a strip's signal by label: title, unit, width of a step, figure.
MEASURES: tuple[tuple[str, str, float, Pick], ...] = (
    ("Heart rate", "per minute", 5.0, lambda one: one.heart_rate_bpm),
    ("QRS duration", "ms", 8.0, lambda one: one.qrs_ms),
)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure with what a page says about it.

    Attributes
    ----------
    canvas : the drawing.
    name : part of its ids on the page.
    title, text : for a person who does not see it.
    caption : what is seen, from how many patients, how to read it.
    """

    canvas: Canvas
    name: str
    title: str
    text: str
    caption: str


def reliability_curves(found: Sequence[Group], task: Task) -> Drawn | None:
    """Draw forecast against what happened, one panel per group with at least 50 strips."""
    panels = []
    for group in found:
        probability = group.probability
        bins = None if probability is None else reliability(probability, group.positive)
        if bins:
            panels.append((group, bins))
    if not panels:
        return None
    canvas = figure(figures.WIDTH, 3.35)
    grid = canvas.subplots(1, max(len(panels), 3), sharex=True, sharey=True, squeeze=False)[0]
    canvas.subplots_adjust(left=0.075, right=0.985, top=0.84, bottom=0.15, wspace=0.16)
    for index, axes in enumerate(grid):
        if index >= len(panels):
            axes.set_axis_off()
            continue
        group, bins = panels[index]
        _curve(axes, bins)
        model, who = group.title.split(", ")
        tidy(
            axes,
            x="forecast" if index == (len(panels) - 1) // 2 else "",
            y=f"share with {task.positive}" if index == 0 else "",
            title=f"{model},\n{who}",
            grid="both",
        )
    left_out = [group for group in found if group not in [shown for shown, _ in panels]]
    listed = "; ".join(
        f"{group.title}: {plural(len(group.counted), 'strip')} of {plural(group.patients, 'patient')}"
        for group, _ in panels
    )
    missing = (
        f" Not drawn, with fewer than {MIN_STRIPS_POOLED} strips: "
        f"{', '.join(f'{group.title.lower()} ({len(group.counted)})' for group in left_out)}."
        if left_out and all(len(group.counted) < MIN_STRIPS_POOLED for group in left_out)
        else ""
    )
    return Drawn(
        canvas,
        "reliability",
        "Reliability of the probability of a strip",
        " ".join(
            f"{group.title}, forecast and share seen: "
            + ", ".join(f"{decimal(one.mean_probability)} and {decimal(one.share)}" for one in bins)
            + "."
            for group, bins in panels
        ),
        f"Forecast probability of {task.positive} against the share of strips that had it, in groups of "
        "equally many strips. On the dotted line a forecast is right; "
        "below it a model says more than happens, above it less. Bars: 95\u202f% Wilson intervals, too "
        f"narrow where few patients fill a group. {listed}.{missing}",
    )


def _curve(axes: Axes, bins: Sequence[ReliabilityBin]) -> None:
    forecast = np.array([one.mean_probability for one in bins])
    shares = np.array([one.share for one in bins])
    axes.plot((0, 1), (0, 1), color=INK, linewidth=0.8, linestyle=":")
    axes.vlines(forecast, [one.low for one in bins], [one.high for one in bins], color=PALE, linewidth=1.4)
    axes.plot(forecast, shares, color=BLUE, linewidth=1.8, marker="o", markersize=5, clip_on=False)
    sizes = sorted({one.n for one in bins})
    each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    axes.text(
        0.98, 0.04, f"{plural(len(bins), 'group')} of {each} strips", transform=axes.transAxes,
        ha="right", va="bottom", fontsize=8.5, color=INK,
    )  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    ticks = (0, 0.25, 0.5, 0.75, 1)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def votes_of_group(group: Group, task: Task) -> Drawn | None:
    """Draw the vote of each strip of a group against the measured quantity; None without one."""
    if not measured([group], task):
        return None
    votes = [one.vote for one in group.strips if one.vote.value is not None]
    labels = [str(label) for label in Label if any(vote.label == label for vote in votes)]
    values = {name: np.array([vote.value for vote in votes if vote.label == name], float) for name in labels}
    shares = {name: np.array([vote.vote for vote in votes if vote.label == name]) for name in labels}
    names = {name: task.word(name) for name in labels}
    patients = len({vote.patient for vote in votes})
    strips = "test strip of a personal patient" if group.personal else "strip of a test patient"
    model = "the patient’s selected model" if group.method == "selected" else "the generic model"
    return Drawn(
        figures.votes_by_value(values, shares, names, f"{task.quantity}, {task.unit}"),
        "votes",
        f"Vote of each strip by {task.quantity}: {group.title.lower()}",
        f"{plural(len(votes), 'strip')} of {plural(patients, 'patient')}; one point per strip.",
        f"Each point is one {strips} ({plural(len(votes), 'strip')}, {plural(patients, 'patient')}): its "
        f"{task.quantity} and the share of its beats {model} calls positive. Above the dotted line the strip "
        f"is called positive. Strips of {task.gap} are shown; they count in no accuracy.",
    )


def signal_by_label(strips: Sequence[StripSignal], task: Task) -> Drawn | None:
    """Draw heart rate and QRS duration of the accepted strips by label; None where nothing was measured."""
    kept = [one for one in strips if one.exclusion is None and one.label != Label.GAP]
    panels = []
    for name, axis, width, pick in MEASURES:
        by_label = {
            str(label): np.array([v for one in kept if one.label == label and (v := pick(one)) is not None])
            for label in (Label.POSITIVE, Label.NEGATIVE)
        }
        if all(len(values) for values in by_label.values()):
            panels.append((name, axis, width, by_label))
    if not panels:
        return None
    canvas = figure(figures.WIDTH, 2.9)
    grid = canvas.subplots(1, 2, squeeze=False)[0]
    canvas.subplots_adjust(left=0.075, right=0.985, top=0.88, bottom=0.26, wspace=0.16)
    for index, axes in enumerate(grid):
        if index >= len(panels):
            axes.set_axis_off()
            continue
        name, axis, width, by_label = panels[index]
        everything = np.concatenate(list(by_label.values()))
        edges = width * np.arange(np.floor(everything.min() / width), everything.max() // width + 2)
        for label, values in by_label.items():
            marks = LABEL_MARKS[label]
            counts, _ = np.histogram(values, edges)
            axes.stairs(
                counts / len(values), edges, color=marks.color, linewidth=1.8, linestyle=marks.line,
                label=f"{task.word(label)} ({len(values)})",
            )  # fmt: skip
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        tidy(axes, x=axis, y="share of strips" if index == 0 else "", title=name)
    handles = grid[0].get_legend_handles_labels()
    canvas.legend(*handles, loc="lower center", ncols=2, frameon=False, fontsize=9, handlelength=2.6)
    medians = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{task.word(label)} {decimal(float(np.median(own)), 0)}" for label, own in by_label.items()
        )
        for name, _, _, by_label in panels
    )
    patients = len({one.patient for one in kept})
    return Drawn(
        canvas,
        "signal",
        "Heart rate and QRS duration by label",
        f"Medians. {medians}.",
        f"{' and '.join(name for name, *_ in panels)} of the {plural(len(kept), 'accepted strip')} of "
        f"{plural(patients, 'patient')}, each label as a share of its own strips. Medians. {medians}. Where "
        "the labels differ in these, a model may tell them apart by these alone.",
    )
