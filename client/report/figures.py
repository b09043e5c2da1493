"""Figures of the site report: numbers in, a matplotlib figure out. No database, no model, no file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from common.metrics import EDGE, ScoreHistogram
from common.page.figure import AMBER, BLUE, GRID, INK, LABEL_MARKS, PALE, figure, tidy
from common.page.numbers import count

Floats = npt.NDArray[np.floating[Any]]

WIDTH = 9.0
RATE_HZ = 125.0
R_PEAK = 40
#: Logits beyond are drawn in the outermost bins.
SHOWN_LOGIT = 8.0


def score_distribution(histogram: ScoreHistogram, names: Mapping[str, str]) -> Canvas:
    """Draw how beat scores spread, per label, each as a share of its own label's beats.

    Parameters
    ----------
    histogram : counts of logits.
    names : word per label.
    """
    canvas = figure(WIDTH, 2.7)
    axes = canvas.add_axes((0.075, 0.2, 0.9, 0.7))
    edges = np.linspace(-EDGE, EDGE, len(histogram.positive) + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    reach = _reach(histogram, middles)
    wide = np.linspace(-reach, reach, 33)
    for label in ("positive", "negative"):
        counts = np.asarray(getattr(histogram, label), float)
        centers = np.clip(middles, wide[0] + 1e-6, wide[-1] - 1e-6)
        binned, _ = np.histogram(centers, wide, weights=counts)
        share = binned / max(counts.sum(), 1)
        marks = LABEL_MARKS[label]
        named = f"{names[label]} ({count(int(counts.sum()))})"
        axes.stairs(share, wide, color=marks.color, linewidth=1.8, linestyle=marks.line, label=named)
        axes.stairs(share, wide, fill=True, color=marks.color, alpha=0.10, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlim(wide[0], wide[-1])
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    tidy(axes, x="beat score (logit); right of the dotted line a beat is called positive", y="share of beats")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
    return canvas


def _reach(histogram: ScoreHistogram, middles: Floats) -> float:
    """Return the logit up to which the axis reaches: 99 % of the beats of each label lie inside."""
    for reach in (1.0, 2.0, 4.0):
        inside = np.abs(middles) < reach
        counts = [np.asarray(side, float) for side in (histogram.positive, histogram.negative)]
        if all(side[inside].sum() >= 0.99 * side.sum() for side in counts):
            return reach
    return SHOWN_LOGIT


def votes_by_value(
    values: Mapping[str, Floats], votes: Mapping[str, Floats], names: Mapping[str, str], x: str
) -> Canvas:
    """Draw each strip's vote against the measured quantity.

    Parameters
    ----------
    values, votes : per label, (n_strips,).
    names : word per label.
    x : title of the axis, with its unit.
    """
    canvas = figure(WIDTH, 3.2)
    axes = canvas.add_axes((0.075, 0.17, 0.9, 0.72))
    for label in values:
        marks = LABEL_MARKS[label]
        hollow = marks.marker != "x"
        axes.plot(
            values[label], votes[label], linestyle="none", marker=marks.marker, markersize=5,
            markerfacecolor="none" if hollow else None, markeredgecolor=marks.color, markeredgewidth=1.1,
            label=f"{names[label]} ({len(values[label])})", clip_on=False,
        )  # fmt: skip
    axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    tidy(axes, x=x, y="vote: beats called positive")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)
    return canvas


def by_round(
    panels: Sequence[tuple[str, Floats]], title: str, percent: bool, low: float | None = None
) -> Canvas:
    """Draw a figure of merit by personalization round, one panel per method.

    Every patient is a thin line, the mean over the patients who reached a round a thick one; their number
    stands below the round.

    Parameters
    ----------
    panels : title and values (n_patients, n_rounds + 1), round 0 first, NaN where a patient has no such
        round.
    title : of the vertical axis.
    percent : write the axis as percent.
    low : lower end of the axis; the lowest value by default.
    """
    everything = np.concatenate([values.ravel() for _, values in panels])
    kept = everything[np.isfinite(everything)]
    bottom = low if low is not None else (max(0.0, math.floor(10 * kept.min()) / 10) if len(kept) else 0.0)
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    canvas = figure(WIDTH, 3.15 * rows)
    grid = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    canvas.subplots_adjust(
        left=0.08,
        right=0.985,
        top=1 - 0.33 / (3.15 * rows),
        bottom=0.72 / (3.15 * rows),
        wspace=0.1,
        hspace=0.5,
    )
    base = panels[0][1]
    for index, axes in enumerate(grid.ravel()):
        if index >= len(panels):
            axes.set_axis_off()
            continue
        name, values = panels[index]
        rounds = np.arange(values.shape[1])
        generic = _mean(base[:, :1])[0]
        # Strip accuracies share few values; a little apart, lines on the same value can be counted.
        apart = (
            0.012 * (1 - bottom) * (np.arange(len(values)) - (len(values) - 1) / 2)
            if percent
            else np.zeros(len(values))
        )
        for row, shift in zip(values, apart, strict=True):
            axes.plot(rounds, row + shift, color=PALE, linewidth=0.7, alpha=0.65, marker=".", markersize=2.5)
        axes.axhline(generic, color=AMBER, linewidth=1.6, linestyle=(0, (4, 2)))
        axes.plot(rounds, _mean(values), color=BLUE, linewidth=2.8, marker="o", markersize=5)
        reached = np.isfinite(values).sum(axis=0)
        axes.set_xticks(rounds, [f"{r}\n{n}" for r, n in zip(rounds, reached, strict=True)])
        axes.set_ylim(bottom - 0.05 * (1 - bottom), 1 + 0.05 * (1 - bottom))
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        tidy(axes, y=title if index % columns == 0 else "", title=name)
    canvas.supxlabel(
        "personalization round (patients who reached it below)", fontsize=9, color=INK, y=0.1 / rows * 0.35
    )
    return canvas


def _mean(values: Floats) -> Floats:
    """Mean over rows, leaving NaN out; NaN where a column has nothing else."""
    known = np.isfinite(values)
    sums = np.where(known, values, 0.0).sum(axis=0)
    count = known.sum(axis=0)
    out: Floats = np.divide(sums, count, out=np.full(values.shape[1], np.nan), where=count > 0)
    return out


@dataclass(frozen=True, eq=False)
class BeatView:
    """Mean beats of one patient with what a model looks at.

    Attributes
    ----------
    title : of the panel.
    beats : mean beat per label (120,), mV.
    attention : by stage and label, relevance (120,), 0 to 1; all zero where there is none.
    """

    title: str
    beats: Mapping[str, Floats]
    attention: Mapping[str, Mapping[str, Floats]]


def mean_beats(views: Sequence[BeatView], names: Mapping[str, str]) -> Canvas:
    """Draw mean beats by label, and below them where stages of the model look (Grad-CAM)."""
    rows = [(stage, label) for label in views[0].beats for stage in views[0].attention]
    row_in, beats_in, below_in, above_in = 0.26, 2.05, 0.5, 0.35
    height = beats_in + above_in + below_in + row_in * len(rows)
    canvas = figure(WIDTH, height)
    low = min(float(np.min(beat)) for view in views for beat in view.beats.values())
    high = max(float(np.max(beat)) for view in views for beat in view.beats.values())
    width = 0.87 / len(views)
    for index, view in enumerate(views):
        left = 0.12 + index * width
        axes = canvas.add_axes(
            (left, (below_in + row_in * len(rows)) / height, width - 0.04, beats_in / height)
        )
        for label, beat in view.beats.items():
            marks = LABEL_MARKS[label]
            time = (np.arange(len(beat)) - R_PEAK) / RATE_HZ * 1000
            axes.plot(time, beat, color=marks.color, linestyle=marks.line, linewidth=1.8, label=names[label])
        axes.set_ylim(low - 0.08 * (high - low), high + 0.12 * (high - low))
        axes.set_xlim(time[0], time[-1])
        tidy(axes, y="lead II, mV" if index == 0 else "", title=view.title, grid="both")
        axes.tick_params(labelbottom=False)
        if index == 0:
            axes.legend(loc="upper right", frameon=False, fontsize=9, handlelength=2.6)
        below = canvas.add_axes((left, below_in / height, width - 0.04, row_in * len(rows) / height))
        _attention(below, [(view.attention[stage][label], label) for stage, label in rows], time)
        titles = [f"{names[label]}, {stage}" for stage, label in rows] if index == 0 else [""] * len(rows)
        below.set_yticks([len(rows) - row - 0.6 for row in range(len(rows))], titles, fontsize=8)
        below.set_xlabel("time from the R peak, ms", fontsize=9, color=INK)
    return canvas


def _attention(axes: Axes, rows: Sequence[tuple[Floats, str]], time: Floats) -> None:
    """Draw rows of relevance below each other, one area each; one axes, because each costs time."""
    axes.set_xlim(time[0], time[-1])
    axes.set_ylim(0, len(rows))
    axes.tick_params(labelsize=8.5, colors=INK)
    axes.tick_params(axis="y", length=0)
    for spine in axes.spines.values():
        spine.set_color(GRID)
    for row, (relevance, label) in enumerate(rows):
        floor = len(rows) - 1 - row
        axes.axhline(floor, color=GRID, linewidth=0.8)
        if not relevance.any():
            axes.text(0.5, (floor + 0.5) / len(rows), "none", transform=axes.transAxes, ha="center",
                      va="center", fontsize=8)  # fmt: skip
            continue
        # An area instead of a heat map: dark where relevance is high would not print, height does.
        color = LABEL_MARKS[label].color
        axes.fill_between(time, floor, floor + 0.85 * relevance, color=color, alpha=0.75, linewidth=0)


def embedding(panels: Sequence[tuple[str, Mapping[str, Floats]]], names: Mapping[str, str]) -> Canvas:
    """Draw two-dimensional maps of beats, one panel per model.

    Parameters
    ----------
    panels : title and, per label, positions (n_beats, 2).
    names : word per label.
    """
    canvas = figure(WIDTH, 3.6)
    grid = canvas.subplots(1, len(panels), squeeze=False)
    canvas.subplots_adjust(left=0.03, right=0.98, top=0.9, bottom=0.1, wspace=0.12)
    for axes, (title, groups) in zip(grid.ravel(), panels, strict=True):
        for label, points in groups.items():
            marks = LABEL_MARKS[label]
            axes.plot(
                points[:, 0], points[:, 1], linestyle="none", marker=marks.marker, markersize=3.2,
                markerfacecolor="none", markeredgecolor=marks.color, markeredgewidth=0.8,
                label=names[label],
            )  # fmt: skip
        tidy(axes, title=title, grid="")
        axes.set_xticks([])
        axes.set_yticks([])
    # Below both panels: a title may be as long as its panel is wide.
    handles = grid.ravel()[0].get_legend_handles_labels()
    canvas.legend(*handles, loc="lower center", ncols=2, frameon=False, fontsize=9, handletextpad=0.2)
    return canvas
