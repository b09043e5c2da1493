"""A patient's strips over time: the measured value above, the votes below, on a time axis without long gaps.

Patients stay for days and come back after months; a true time axis would show two dots. Gaps in which
nothing was measured are drawn short, with a mark and their length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from client.report.story import SHOWN, DrawStory, Story, StripStory
from common.page.figure import GRID, INK, LABEL_MARKS, PALE, Marks, figure, tidy
from common.task import Task

Floats = npt.NDArray[np.float64]

WIDTH = 9.0
#: Longer gaps are drawn so long, in hours.
LONG_GAP_H, DRAWN_GAP_H = 36.0, 10.0
#: Draws so long before the first and after the last strip are drawn too.
AROUND = timedelta(days=1)
#: Labels on the time axis at most.
MOST_TICKS = 9
#: Steps between labels, in hours.
STEPS_H = (1 / 60, 5 / 60, 10 / 60, 0.5, 1, 2, 6, 12, 24, 48, 120, 240, 480, 960)


@dataclass(frozen=True, eq=False)
class TimeAxis:
    """Times as places on an axis from which long gaps were taken out.

    Attributes
    ----------
    hours : (n,) distinct times, in hours since the first, rising.
    places : (n,) where they are drawn.
    breaks : place and length in hours of each gap that was shortened.
    """

    first: datetime
    hours: Floats
    places: Floats
    breaks: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, times: Sequence[datetime]) -> TimeAxis:
        """Lay out an axis for some times, at least one."""
        first = min(times)
        hours = np.unique([(time - first) / timedelta(hours=1) for time in times])
        steps = np.diff(hours)
        drawn = np.where(steps > LONG_GAP_H, DRAWN_GAP_H, steps)
        places = np.concatenate([[0.0], np.cumsum(drawn)])
        breaks = tuple(
            (float(places[i] + DRAWN_GAP_H / 2), float(steps[i])) for i in np.flatnonzero(steps > LONG_GAP_H)
        )
        return cls(first, hours, places, breaks)

    def place(self, time: datetime) -> float:
        """Return where a time is drawn; between two known times in proportion."""
        return float(np.interp((time - self.first) / timedelta(hours=1), self.hours, self.places))

    def ticks(self, origin: datetime) -> list[datetime]:
        """Return times to label, whole steps from ``origin``, none inside a gap that was taken out."""
        width = float(self.places[-1]) or 1.0
        step = next((step for step in STEPS_H if width / step <= MOST_TICKS), STEPS_H[-1])
        offset = (origin - self.first) / timedelta(hours=1)
        inside = []
        for begin, end in self._pieces():
            n = np.arange(np.ceil((begin - offset) / step - 1e-9), np.floor((end - offset) / step + 1e-9) + 1)
            inside += [origin + timedelta(hours=float(k * step)) for k in n]
            if not len(n):  # a short visit between two gaps has a label too
                inside.append(self.first + timedelta(hours=float(begin)))
        return _thinned(inside, self.place, width / MOST_TICKS)

    def _pieces(self) -> list[tuple[float, float]]:
        cuts = np.flatnonzero(np.diff(self.hours) > LONG_GAP_H)
        begins = self.hours[np.concatenate([[0], cuts + 1])]
        ends = self.hours[np.concatenate([cuts, [len(self.hours) - 1]])]
        return list(zip(begins, ends, strict=True))


def _thinned(times: Sequence[datetime], place: Callable[[datetime], float], apart: float) -> list[datetime]:
    kept: list[datetime] = []
    for time in times:
        if not kept or place(time) - place(kept[-1]) >= 0.6 * apart:
            kept.append(time)
    return kept


def timeline(
    story: Story,
    task: Task,
    limits: Sequence[float],
    moment: Callable[[datetime], str],
    origin: datetime,
) -> Canvas:
    """Draw a patient's strips over time.

    Parameters
    ----------
    story : of the patient; at least one strip, and a vote or a measured value.
    task : for its words.
    limits : values at which a label begins or ends, drawn as lines; empty without a measured quantity.
    moment : writes a time as the page does.
    origin : labelled times are whole hours or days from it, such as a midnight.
    """
    reach = (story.strips[0].start - AROUND, story.strips[-1].end + AROUND)
    draws = [draw for draw in story.draws if draw.value is not None and reach[0] <= draw.when <= reach[1]]
    measured = task.quantity is not None and bool(draws)
    heights = ([2.0] if measured else []) + ([2.3] if story.voted else [])
    total = sum(heights) + 1.15
    canvas = figure(WIDTH, total)
    axis = TimeAxis.of([draw.when for draw in draws] + [_middle(strip) for strip in story.strips])
    panels, top = [], total - 0.31
    for height in heights:
        panels.append(canvas.add_axes((0.085, (top - height) / total, 0.895, height / total)))
        top -= height + 0.12
    lower = panels[-1]
    if measured:
        _values(panels[0], draws, {strip.draw for strip in story.strips}, limits, axis)
        tidy(panels[0], y=f"{task.quantity}, {task.unit}")
    if story.voted:
        _votes(lower, story, axis)
    _legend(lower, task, story)
    end = float(axis.places[-1]) or 1.0
    ticks = axis.ticks(origin)
    for axes in panels:
        axes.set_xlim(-0.02 * end, 1.02 * end)
        _periods(axes, story, axis)
        for place, _ in axis.breaks:
            axes.axvline(place, color=PALE, linewidth=0.8, linestyle=(0, (1, 3)))
        axes.set_xticks([axis.place(tick) for tick in ticks], [""] * len(ticks))
    lower.set_xticks(
        [axis.place(tick) for tick in ticks],
        ["\n".join(part.strip(",") for part in moment(tick).rsplit(" ", 1)) for tick in ticks],
    )
    for place, hours in axis.breaks:
        text = f"{hours / 24:.0f} d" if hours >= 48 else f"{hours:.0f} h"
        panels[0].annotate(
            text, (place, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", va="bottom", fontsize=7.5, color=PALE,
        )  # fmt: skip
    return canvas


def _middle(strip: StripStory) -> datetime:
    return strip.start + (strip.end - strip.start) / 2


def _values(
    axes: Axes, draws: Sequence[DrawStory], used: set[int | None], limits: Sequence[float], axis: TimeAxis
) -> None:
    known = [(draw, axis.place(draw.when)) for draw in draws]
    rest = [(x, draw.value) for draw, x in known if draw.draw not in used]
    _dots(axes, rest, Marks(PALE, "-", "."), PALE, size=3.5)
    for label, marks in LABEL_MARKS.items():
        own = [(x, draw.value) for draw, x in known if draw.draw in used and draw.label == label]
        _dots(axes, own, marks, "none")
    for limit in limits:
        axes.axhline(limit, color=INK, linewidth=0.8, linestyle=":")


def _votes(axes: Axes, story: Story, axis: TimeAxis) -> None:
    """Draw the votes: generic model hollow, what was selected filled, a line from one to the other."""
    for label, marks in LABEL_MARKS.items():
        own = [(strip.votes, axis.place(_middle(strip))) for strip in story.strips if strip.label == label]
        both = [(x, [votes[m].share for m in SHOWN]) for votes, x in own if len(votes) == len(SHOWN)]
        ends = ([x for x, _ in both], [min(two) for _, two in both], [max(two) for _, two in both])
        axes.vlines(*ends, color=marks.color, linewidth=0.9, alpha=0.6)
        for method, inside, size in (("generic", "white", 4.5), ("selected", marks.color, 5.5)):
            points = [(x, votes[method].share) for votes, x in own if method in votes]
            _dots(axes, points, marks, inside, size)
    for strip in story.of("train"):
        axes.annotate(
            str(strip.pair), (axis.place(_middle(strip)), 1.04), xycoords="data", ha="center", va="bottom",
            fontsize=7.5, color=LABEL_MARKS[strip.label].color,
        )  # fmt: skip
    axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    axes.set_ylim(-0.04, 1.16)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    tidy(axes, y="vote: beats called positive")


def _dots(
    axes: Axes, points: Sequence[tuple[float, float | None]], marks: Marks, inside: str, size: float = 5.5
) -> None:
    """Draw points of one kind at once: a hundred artists cost more time than all the rest of a page."""
    if points:
        axes.plot(
            *zip(*points, strict=True), linestyle="none", marker=marks.marker, markersize=size,
            markeredgecolor=marks.color, markerfacecolor=inside, markeredgewidth=1.2, zorder=3,
        )  # fmt: skip


def _legend(axes: Axes, task: Task, story: Story) -> None:
    labels = {strip.label for strip in story.strips}
    handles: list[Any] = []
    names: Mapping[str, str] = {
        "positive": task.positive, "negative": task.negative, "gap": task.gap or "gap"
    }  # fmt: skip
    for label in ("positive", "negative", "gap"):
        if label in labels:
            marks = LABEL_MARKS[label]
            (line,) = axes.plot(
                [], [], linestyle="none", marker=marks.marker, markersize=5.5, color=marks.color,
                label=names[label],
            )  # fmt: skip
            handles.append(line)
    for filled, name in ((False, "generic model"), (True, "selected model")) if story.voted else ():
        (line,) = axes.plot(
            [], [], linestyle="none", marker="s", markersize=5, markeredgecolor=PALE,
            markerfacecolor=PALE if filled else "white", label=f"{name} ({'filled' if filled else 'hollow'})",
        )  # fmt: skip
        handles.append(line)
    below = -0.17 if story.voted else -0.2  # the letters have one size, the panels two
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, below), ncols=5, frameon=False,
        fontsize=8.5, handletextpad=0.3, columnspacing=1.4,
    )  # fmt: skip


def _periods(axes: Axes, story: Story, axis: TimeAxis) -> None:
    """Shade the time of the test strips, and hatch the gap before it."""
    trained = [strip.end for strip in story.of("train")]
    if story.cut is None or not trained:
        return
    begin, cut = axis.place(max(trained)), axis.place(story.cut)
    axes.axvspan(cut, axes.get_xlim()[1], color=GRID, alpha=0.45, linewidth=0, zorder=0)
    if cut > begin:
        axes.axvspan(begin, cut, facecolor="none", edgecolor=GRID, hatch="///", linewidth=0, zorder=0)


def by_round(series: Mapping[str, Floats], title: str, percent: bool, axes: Axes) -> None:
    """Draw one figure of merit of one patient by round, a line per method.

    Parameters
    ----------
    series : by the method's name, (n_rounds + 1,); the last is drawn thick.
    title : of the vertical axis.
    percent : write the axis as percent.
    axes : to draw on.
    """
    styles = [("o", "-"), ("s", (0, (4, 2))), ("^", (0, (1, 1.5))), ("D", (0, (5, 1, 1, 1)))]
    for index, (name, values) in enumerate(series.items()):
        marker, line = styles[index % len(styles)]
        last = index == len(series) - 1
        axes.plot(
            np.arange(len(values)), values, color=INK if last else PALE, linewidth=2.2 if last else 1.1,
            marker=marker, markersize=5 if last else 4, linestyle="-" if last else line, label=name,
            markerfacecolor=None if last else "white",
        )  # fmt: skip
    known = np.concatenate(list(series.values()))
    known = known[np.isfinite(known)]
    bottom = max(0.0, float(np.floor(10 * known.min()) / 10) - 0.05) if len(known) else 0.0
    axes.set_ylim(min(bottom, 0.95), 1.04)
    axes.set_xticks(range(max((len(values) for values in series.values()), default=1)))
    if percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    tidy(axes, x="personalization round", y=title)
