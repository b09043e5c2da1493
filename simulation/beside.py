"""The last words of a run about what could fool a reader: simpler ways, the paper's protocol, controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from common.page.words import BASELINES, METHODS
from common.procedures import CONTROLS, PAPER_METHODS, control_verdict
from simulation.estimates import Estimate
from simulation.summary import PersonalFigures

Written = Callable[[Estimate | None], str]


def beside_lines(
    personal: PersonalFigures, not_run: Sequence[str], figure: str, value: Written, difference: Written
) -> list[str]:
    """Return what is said of all sites together, one line a way; nothing where nothing was run beside.

    Parameters
    ----------
    personal : what the run found over all sites.
    not_run : what the settings left out.
    figure : the figure of the task, as in ``summary.json``.
    value, difference : write an estimate, and one of a difference.
    """
    rows = [
        *_simpler(personal, figure, value, difference),
        *_paper(personal, figure, value),
        *_controls(personal, figure, value, difference),
    ]
    width = max((len(title) for title, _ in rows), default=0)
    lines = [f"  {title:<{width}}  {text}" for title, text in rows]
    if lines:
        lines = ["", "Beside it, all sites, same figure (95 % interval):", *lines]
    if not_run:
        lines.append(f"  not run with these settings: {'; '.join(not_run)}")
    return lines


def _simpler(
    personal: PersonalFigures, figure: str, value: Written, difference: Written
) -> Iterator[tuple[str, str]]:
    for key, words in BASELINES.items():
        own = personal.last.get(key, {})
        if own:
            apart = personal.difference.get(f"selected-{key}", {}).get(figure)
            text = (
                f"{value(own.get(figure))}, selected - this {difference(apart)}, beat AUC "
                f"{value(own.get('beat_auc'))}"
            )
            yield words.title, text


def _paper(personal: PersonalFigures, figure: str, value: Written) -> Iterator[tuple[str, str]]:
    for key in PAPER_METHODS:
        own = personal.paper.get(key, {})
        if own:
            name = METHODS[key].title.lower() if key in METHODS else "published rate and batch"
            text = f"{value(own.get(figure))}, beat AUC {value(own.get('beat_auc'))}"
            yield f"Paper's protocol, {name}", text


def _controls(
    personal: PersonalFigures, figure: str, value: Written, difference: Written
) -> Iterator[tuple[str, str]]:
    for key, words in CONTROLS.items():
        found = personal.controls.get(f"control_{key}")
        if found:
            auc = ", ".join(
                f"{METHODS[method].title.lower()} {value(one)}" for method, one in found.beat_auc.items()
            )
            verdict = control_verdict(one.low for one in found.beat_auc.values())
            text = (
                f"{verdict}; gain {difference(found.gain.get(figure))}, beat AUC {auc} "
                f"({found.patients} patients)"
            )
            yield f"Control: {words[0].lower()}{words[1:]}", text
