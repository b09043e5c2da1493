"""The inclusion flowchart: numbers in, a matplotlib figure out. A site and the server draw the same form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from common.page.figure import INK, PALE, figure

WIDTH = 9.0


@dataclass(frozen=True)
class Box:
    """One box of the flowchart: a first line in bold, then plain lines."""

    title: str
    lines: Sequence[str] = ()

    @property
    def height(self) -> float:
        """Height in inches."""
        return 0.24 + 0.19 * (1 + len(self.lines))


@dataclass(frozen=True)
class Step:
    """One step of the flowchart: the box on the way, and what leaves the way above it."""

    box: Box
    left_out: Box | None = None


@dataclass(frozen=True)
class Branch:
    """One arm at the end of the flowchart, boxes from top to bottom."""

    boxes: Sequence[Box] = field(default_factory=tuple)


def flowchart(steps: Sequence[Step], branches: Sequence[Branch]) -> Canvas:
    """Draw the inclusion flowchart: one way down, what is left out to the right, two arms at the end.

    Source: the form of Chiu 2022, Figure 1.
    """
    gap, way, aside = 0.34, 3.7, 3.7
    heights: list[float] = []
    for step in steps:
        above = max(gap, step.left_out.height + 0.24) if step.left_out else gap
        heights.append(above if heights else 0.0)
        heights.append(step.box.height)
    arms = max((sum(box.height + gap for box in branch.boxes) for branch in branches), default=0.0)
    total = sum(heights) + arms + (0.2 if branches else 0.0) + 0.1
    canvas = figure(WIDTH, total)
    axes = canvas.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(total, 0)
    axes.set_axis_off()

    center, y = 0.3 + way / 2, 0.05
    for index, step in enumerate(steps):
        if index:
            above = heights[2 * index]
            _arrow(axes, center, y, center, y + above)
            if step.left_out:
                middle = y + above / 2
                _arrow(axes, center, middle, 5.0, middle)
                _box(axes, step.left_out, 5.0, middle - step.left_out.height / 2, aside, quiet=True)
            y += above
        _box(axes, step.box, center - way / 2, y, way)
        y += step.box.height
    if branches:
        width, space = 4.05, 0.3
        start = 0.3
        centers = [start + width / 2 + i * (width + space) for i in range(len(branches))]
        split = y + 0.2
        axes.plot([center, center], [y, split], color=PALE, linewidth=1)
        axes.plot([min(center, *centers), max(center, *centers)], [split, split], color=PALE, linewidth=1)
        for x, branch in zip(centers, branches, strict=True):
            top = split
            for box in branch.boxes:
                _arrow(axes, x, top, x, top + gap)
                _box(axes, box, x - width / 2, top + gap, width)
                top += gap + box.height
    return canvas


def description(steps: Sequence[Step], branches: Sequence[Branch]) -> str:
    """Return the flowchart as text, for a reader who does not see it."""
    parts = []
    for step in steps:
        if step.left_out:
            parts.append(f"{step.left_out.title}: {'; '.join(step.left_out.lines)}.")
        parts.append(f"{step.box.title}: {'; '.join(step.box.lines)}.")
    parts += [f"{box.title}: {'; '.join(box.lines)}." for branch in branches for box in branch.boxes]
    return " ".join(parts)


def _box(axes: Axes, box: Box, x: float, y: float, width: float, quiet: bool = False) -> None:
    axes.add_patch(
        Rectangle(
            (x, y), width, box.height, facecolor="#ffffff" if quiet else "#f5f6f8",
            edgecolor=PALE, linewidth=0.8, linestyle=(0, (3, 2)) if quiet else "-",
        )
    )  # fmt: skip
    axes.text(x + 0.12, y + 0.24, box.title, fontsize=9.5, fontweight="bold", color=INK)
    for index, line in enumerate(box.lines):
        axes.text(x + 0.12, y + 0.24 + 0.19 * (index + 1), line, fontsize=9, color=INK)


def _arrow(axes: Axes, x: float, y: float, to_x: float, to_y: float) -> None:
    axes.annotate(
        "", (to_x, to_y), (x, y),
        arrowprops={"arrowstyle": "-|>", "color": PALE, "linewidth": 1, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
