"""Figures of the cross-site summary: numbers in, a matplotlib figure out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from common.page.figure import AMBER, BLUE, GREEN, INK, ORANGE, PALE, Marks, figure, tidy

WIDTH = 9.0

METHOD_MARKS = MappingProxyType(
    {
        "threshold": Marks(AMBER, (0, (1, 1.5)), "s"),
        "closed_form": Marks(GREEN, (0, (5, 2)), "^"),
        "fine_tuned": Marks(ORANGE, (0, (6, 2, 1, 2)), "D"),
        "selected": Marks(BLUE, "-", "o"),
    }
)


def losses(
    validation: Sequence[tuple[int, float]],
    training: Sequence[tuple[int, float]],
    rates: Sequence[tuple[int, float]],
    selected: int | None,
) -> Canvas:
    """Draw validation and training loss by federated round, and the learning rate below.

    Parameters
    ----------
    validation, training, rates : (federated round, value).
    selected : the round whose weights became the generic model.
    """
    canvas = figure(WIDTH, 3.6)
    axes = canvas.add_axes((0.075, 0.42, 0.9, 0.48))
    for points, marks, name in (
        (training, Marks(ORANGE, (0, (5, 2)), "^"), "training loss during the round"),
        (validation, Marks(BLUE, "-", "o"), "validation loss, mean over patients"),
    ):
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(
                x,
                y,
                color=marks.color,
                linestyle=marks.line,
                marker=marks.marker,
                markersize=4,
                linewidth=1.8,
                label=name,
            )
    if selected is not None:
        axes.axvline(selected, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"selected: {selected}",
            (selected, 1.0),
            (-4, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=9,
            color=INK,
        )
    tidy(axes, y="log loss, nats")
    axes.tick_params(labelbottom=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False, fontsize=9)
    below = canvas.add_axes((0.075, 0.14, 0.9, 0.2), sharex=axes)
    if rates:
        x, y = zip(*rates, strict=True)
        below.step(x, y, where="mid", color=PALE, linewidth=1.6)
    below.set_ylim(bottom=0)
    below.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(below, x="federated round", y="learning rate")
    return canvas


def methods_by_round(
    means: Mapping[str, Sequence[tuple[int, float]]],
    titles: Mapping[str, str],
    generic: float,
    title: str,
    percent: bool,
) -> Canvas:
    """Draw the mean over all sites by personalization round, one line per method.

    Parameters
    ----------
    means : per method, (personalization round, mean).
    titles : name per method.
    generic : mean of the generic model.
    title : of the vertical axis.
    percent : write the axis as percent.
    """
    canvas = figure(WIDTH, 3.1)
    axes = canvas.add_axes((0.075, 0.17, 0.62, 0.76))
    for method, points in means.items():
        if points:
            marks = METHOD_MARKS[method]
            x, y = zip(*points, strict=True)
            axes.plot(
                x, y, color=marks.color, linestyle=marks.line, marker=marks.marker, markersize=5,
                linewidth=2.6 if method == "selected" else 1.6, label=titles[method],
            )  # fmt: skip
    if math.isfinite(generic):
        axes.axhline(generic, color=PALE, linewidth=1.2, linestyle=(0, (4, 2)), label=titles["generic"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low - 0.1 * (high - low)), min(1.02, high + 0.1 * (high - low)))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    tidy(axes, x="personalization round", y=title)
    axes.legend(loc="center left", bbox_to_anchor=(1.03, 0.5), frameon=False, fontsize=9, handlelength=3.4)
    return canvas
