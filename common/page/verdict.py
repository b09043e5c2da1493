"""The answer in one sentence, by the same rule on every page."""

from __future__ import annotations

from common.intervals import Interval
from common.page.numbers import decimal, figure_value, plural
from common.page.render import Note
from common.page.words import FigureWords

#: Below this beat AUC a generic model is said to tell little.
WEAK_AUC = 0.6


def weak_model(auc: float, sample: str, where: str = "", more: str = "") -> Note:
    """Warn that the model everything starts from tells the labels hardly, or not at all, apart.

    Parameters
    ----------
    auc : beat AUC, all beats pooled.
    sample : whose beats these are.
    where : which model, where there are several.
    more : what else is known of it, as sentences.
    """
    found = "did not tell the labels apart" if auc <= 0.5 else "hardly told the labels apart"
    return Note(
        f"The generic model{where} {found}: beat AUC {decimal(auc, 2)}, pooled over {sample}.",
        f"{more} What personalization adds to it says little about a good model.".strip(),
    )


def verdict(words: FigureWords, selected: float, threshold: float, n: int, interval: Interval | None) -> str:
    """Say what the comparison declared before the run found.

    Parameters
    ----------
    words : the figure the task is judged by.
    selected, threshold : mean over patients with the selected model, and with a threshold per patient.
    n : patients.
    interval : of the mean difference; None where there are too few patients for one.
    """
    what = "of strips called right" if words.key == "strip_accuracy" else f"in {words.title}"
    numbers = (
        f"{figure_value(selected, words)} against {figure_value(threshold, words)} {what}, on average over "
        f"{plural(n, 'patient')}"
    )
    if interval is None:
        return (
            "Too few patients to say whether fitting the model to a patient does better than giving the "
            f"patient a threshold of their own: {numbers}."
        )
    if interval.low > 0:
        found = "did better than"
    elif interval.high < 0:
        found = "did worse than"
    else:
        found = "was not clearly better or worse than"
    return (
        f"Fitting the model to a patient {found} only giving the patient a threshold of their own: {numbers}."
    )
