"""Figures of the physiology page: strips on ECG paper, mean beats, potassium courses, and the check."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from common.page.figure import BLUE, GRID, INK, ORANGE, PALE, STYLE, figure, tidy
from simulation.cohort.labs import Draw
from simulation.cohort.profile import SiteProfile
from simulation.cohort.proof import examples
from simulation.cohort.proof.check import Finding
from simulation.cohort.proof.delineate import MeanBeat
from simulation.cohort.proof.examples import Strip
from simulation.cohort.proof.studies import Array

MM = 1 / 25.4  # inches
MM_PER_S, MM_PER_MV = 25.0, 10.0
PAPER, PAPER_FINE, PAPER_BOLD = "#fffafa", "#f6dcdc", "#e9b5b5"
ROW_MV = (-0.9, 1.6)  # shown of each strip around its median
DEEP_ROW_MV = (-1.5, 1.6)  # where paced beats are shown
TITLE_MM = 5.0
# One lightness scale from low to high potassium: read without colour, too.
LEVEL_COLORS = ("#b7d7ea", "#5aa5cd", "#0072B2", "#E69F00", "#D55E00", "#97310a", "#4a1203")
_LOCK = threading.Lock()


def draw_all(
    folder: Path, profiles: Sequence[SiteProfile], seed: int, findings: Sequence[Finding]
) -> list[Path]:
    """Write every figure as SVG.

    Parameters
    ----------
    folder : where; created when missing.
    profiles : sites; the first one's monitor is used where the monitor does not matter.
    seed : of the patients shown.
    findings : of the check.

    Returns
    -------
    Paths, in the order of the page.
    """
    first = profiles[0]
    drawings: Mapping[str, Callable[[], Figure]] = {
        "potassium-levels": lambda: paper(
            examples.strips_at_levels(first, seed, examples.plain_patient(first, seed)), 7.0
        ),
        "mean-beats": lambda: beats_by_level(examples.mean_beats(first, seed)),
        "confounders": lambda: paper(examples.confounders(first, seed), 4.0, columns=2, row_mv=DEEP_ROW_MV),
        "devices": lambda: paper(examples.devices(profiles, seed), 7.0),
        "potassium-courses": lambda: courses(examples.courses(first, seed)),
        "check": lambda: check(findings),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in drawings.items():
        paths.append(folder / f"physiology-{name}.svg")
        # Style keys are global in matplotlib; with a fixed salt and no date equal figures have equal bytes.
        with _LOCK, mpl.rc_context({**STYLE, "svg.fonttype": "path"}):
            canvas = draw()
            canvas.savefig(paths[-1], format="svg", facecolor="white", metadata={"Date": None})
    return paths


def paper(
    strips: Sequence[Strip], seconds: float, columns: int = 1, row_mv: tuple[float, float] = ROW_MV
) -> Figure:
    """Draw strips on ECG paper, true to scale: 25 mm/s and 10 mm/mV.

    Parameters
    ----------
    strips : one per row, row by row.
    seconds : shown of each.
    columns : strips side by side.
    row_mv : amplitudes a row has room for.
    """
    rows = -(-len(strips) // columns)
    width = seconds * MM_PER_S
    height = (row_mv[1] - row_mv[0]) * MM_PER_MV
    gap, margin = 4.0, 2.0
    total = (
        columns * width + (columns - 1) * gap + 2 * margin,
        rows * (height + TITLE_MM) + 2 * margin,
    )
    canvas = figure(total[0] * MM, total[1] * MM)
    for index, strip in enumerate(strips):
        row, column = divmod(index, columns)
        left = margin + column * (width + gap)
        bottom = total[1] - margin - (row + 1) * (height + TITLE_MM)
        axes = canvas.add_axes((left / total[0], bottom / total[1], width / total[0], height / total[1]))
        _paper(axes, seconds, row_mv)
        at = int(strip.from_s * strip.rate_hz)
        shown = strip.signal[at : at + int(seconds * strip.rate_hz)]
        level = float(np.nanmedian(strip.signal))
        axes.plot(np.arange(len(shown)) / strip.rate_hz, shown - level, color=INK, linewidth=0.7)
        axes.set_title(strip.title, loc="left", fontsize=8.5, color=INK, pad=2)
    return canvas


def _paper(axes: Axes, seconds: float, row_mv: tuple[float, float]) -> None:
    axes.set_xlim(0, seconds)
    axes.set_ylim(*row_mv)
    axes.set_facecolor(PAPER)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(PAPER_BOLD)
        spine.set_linewidth(0.5)
    for step_s, color, line in ((0.04, PAPER_FINE, 0.25), (0.2, PAPER_BOLD, 0.45)):
        step_mv = step_s * MM_PER_S / MM_PER_MV
        x = np.arange(0, seconds + step_s / 2, step_s)
        y = np.arange(np.ceil(row_mv[0] / step_mv), row_mv[1] / step_mv + 0.5) * step_mv
        lines = [[(value, row_mv[0]), (value, row_mv[1])] for value in x]
        lines += [[(0, value), (seconds, value)] for value in y]
        axes.add_collection(LineCollection(lines, colors=color, linewidths=line, zorder=0))


def beats_by_level(patients: Sequence[tuple[str, Mapping[float, MeanBeat]]]) -> Figure:
    """Draw mean beats of several patients, one panel each, one line per potassium level."""
    rows = -(-len(patients) // 3)
    canvas = figure(9.0, 2.7 * rows + 0.5)
    grid = canvas.subplots(rows, 3, sharex=True, squeeze=False)
    for axes, (title, beats) in zip(grid.ravel(), patients, strict=True):
        for color, (level, beat) in zip(LEVEL_COLORS, beats.items(), strict=False):
            shown = (beat.times_ms >= -320) & (beat.times_ms <= 632)
            base = np.median(beat.samples[(beat.times_ms > -90) & (beat.times_ms < -60)])
            axes.plot(
                beat.times_ms[shown],
                beat.samples[shown] - base,
                color=color,
                linewidth=1.1,
                label=f"{level:g}",
            )
        tidy(axes, title=title)
    for axes in grid[-1]:
        axes.set_xlabel("ms from the R peak", fontsize=9, color=INK)
    for axes in grid[:, 0]:
        axes.set_ylabel("mV", fontsize=9, color=INK)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    canvas.tight_layout(rect=(0, 0.06, 1, 1))
    canvas.legend(
        handles,
        labels,
        title="potassium, mEq/L",
        loc="lower center",
        ncols=len(labels),
        frameon=False,
        fontsize=8.5,
        title_fontsize=8.5,
    )
    return canvas


def courses(stays: Sequence[tuple[str, Array, Array, tuple[Draw, ...]]]) -> Figure:
    """Draw true potassium and what the laboratory reported, one panel per stay."""
    canvas = figure(9.0, 1.9 * len(stays) + 0.3)
    grid = canvas.subplots(len(stays), 1, squeeze=False)
    for axes, (title, hours, values, draws) in zip(grid[:, 0], stays, strict=True):
        days = hours / 24
        axes.axhspan(5.0, 5.5, color=GRID, alpha=0.5, linewidth=0)
        axes.plot(days, values, color=BLUE, linewidth=0.9, label="true")
        read = [draw for draw in draws if draw.value is not None]
        clean = [draw for draw in read if not draw.hemolysed]
        spoiled = [draw for draw in read if draw.hemolysed]
        for chosen, marker, color, name in (
            (clean, "o", INK, "reported"),
            (spoiled, "x", ORANGE, "reported, specimen hemolysed"),
        ):
            axes.plot(
                [draw.minute / 1440 for draw in chosen],
                [draw.value for draw in chosen],
                linestyle="none",
                marker=marker,
                markersize=3.6,
                color=color,
                label=name,
            )
        tidy(axes, y="mEq/L", title=title)
        axes.set_xlim(0, days[-1])
        axes.set_ylim(2.5, 8.2)
    grid[-1, 0].set_xlabel("days in the unit; grey band: 5.0 to 5.5 mEq/L, the gap", fontsize=9, color=INK)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    canvas.tight_layout(rect=(0, 0.04, 1, 1))
    canvas.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=8.5)
    return canvas


def check(findings: Sequence[Finding]) -> Figure:
    """Draw every asserted quantity on its own scale: the allowed range, and what was simulated."""
    shown = [finding for finding in findings if finding.target.range is not None]
    canvas = figure(9.0, 0.36 * len(shown) + 0.8)
    axes = canvas.add_axes((0.44, 0.09, 0.36, 0.88))
    left, right, before, simulated, published = -0.5, 1.5, -0.54, 1.58, 2.02
    for row, finding in enumerate(shown):
        limits = finding.target.range
        if limits is None:
            continue
        low, high = limits
        # Every quantity has its own scale: the allowed range is drawn equally wide for all.
        values = (np.array([finding.low, finding.value, finding.high]) - low) / (high - low)
        axes.plot([0, 1], [row, row], color=GRID, linewidth=9, solid_capstyle="butt")
        axes.plot(np.clip(values[[0, 2]], left, right), [row, row], color=BLUE, linewidth=1.4)
        color, marker = (BLUE, "o") if finding.verdict == "inside" else (ORANGE, "D")
        axes.plot(np.clip(values[1], left, right), row, marker=marker, color=color, markersize=6)
        digits = 0 if finding.target.unit in ("ms", "%") else 2
        unit = f", {finding.target.unit}" if finding.target.unit else ""
        name = finding.target.quantity + unit
        axes.text(before, row, name, ha="right", va="center", fontsize=8, color=INK)
        for x, value in ((0, low), (1, high)):
            axes.text(
                x, row + 0.36, _number(value, digits), ha="center", va="center", fontsize=6.5, color=PALE
            )
        axes.text(simulated, row, _number(finding.value, digits), va="center", fontsize=8, color=INK)
        told = finding.target.published.partition(" (")[0]
        axes.text(published, row, told, va="center", fontsize=8, color=PALE)
    axes.text(simulated, -0.75, "simulated", fontsize=8, fontweight="bold", color=INK, va="center")
    axes.text(published, -0.75, "published", fontsize=8, color=PALE, va="center")
    axes.set_xlim(left, right)
    axes.set_ylim(len(shown) - 0.3, -1)
    axes.set_axis_off()
    axes.plot([], [], color=GRID, linewidth=9, label="allowed range around the published value")
    axes.plot([], [], color=BLUE, marker="o", markersize=6, linewidth=1.4, label="simulated, 95 % interval")
    if any(finding.verdict != "inside" for finding in shown):
        axes.plot([], [], color=ORANGE, marker="D", markersize=6, linestyle="none", label="not inside")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.1, 0.0), ncols=3, frameon=False, fontsize=8, handlelength=1.6
    )
    return canvas


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")
