"""The cross-site summary: one page from ``server.json`` alone: what the server knows, and no more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import protocol
from common.errors import FederationError
from common.files import write_atomic
from common.page import BASELINES, METHODS, Figure, FigureWords, Key, Note, headline, inline_svg, render
from common.page.numbers import (
    MISSING,
    figure_difference,
    figure_value,
    interval_text,
    plural,
)
from common.page.verdict import WEAK_AUC, verdict, weak_model
from common.procedures import SIMPLER
from server import figures
from server import summary_cohort as cohort
from server import summary_tables as tables
from server import summary_validity as validity
from server.sums import Told, counted, generic, last_round, load, pooled

TEMPLATE = Path(__file__).parent / "summary.html"
FITTED = ("threshold", "closed_form", "fine_tuned", "selected")


def write_summary(server_outs: Sequence[Path], path: Path) -> None:
    """Write the summary of one or several federations of one journey.

    Parameters
    ----------
    server_outs : output folders of servers, each with its ``server.json``.
    path : the page.

    Raises
    ------
    FederationError
        If a folder holds no federation, or federations of different tasks or journeys are put together.
    StorageError
        If the page cannot be written; an older page stays.
    """
    told = [load(out) for out in server_outs]
    tasks = sorted({one.settings.task for one in told})
    if len(tasks) != 1:
        raise FederationError(
            f"a summary is about one task, these folders are about {' and '.join(tasks) or 'none'}; name the "
            "output folders of one journey"
        )
    names = [one.story["name"] for one in told]
    if len(set(names)) != len(names) or len({one.story["settings_sha256"] for one in told}) != 1:
        raise FederationError(
            f"a summary puts the federations of one journey together, each once; these ({', '.join(names)}) "
            "repeat, or were run with different settings: patients would be counted twice"
        )
    write_atomic(path, render(TEMPLATE, page_content(told)))


def page_content(told: Sequence[Told]) -> dict[str, Any]:
    """Return everything the template shows."""
    task = told[0].settings.words
    words = headline(task.name)
    answers = cohort.Answers.of(told)
    flow = cohort.flow_figure(answers, task, 1)
    drawn: list[Figure] = []
    for one in told:
        drawn += _losses(one, len(drawn) + bool(flow), several=len(told) > 1)
    rounds = _rounds(told, words, len(drawn) + bool(flow))
    return {
        "task": task,
        "asked": (
            f"Can one ECG lead tell {task.positive} from {task.negative}, and does "
            "it help to fit the model to "
            f"each patient? {_sites_sentence(told)} A strip is {task.strip_rule}."
        ),
        "answer": answer(told, words),
        "keys": keys(told, words),
        "notes": notes(told, words),
        "figures": {"flow": flow, "losses": drawn, "rounds": rounds},
        "rules": cohort.rules_sentence(told),
        "tables": {
            "sites": tables.sites_table(told, words),
            "inclusion": cohort.inclusion_table(answers, task),
            "beats": cohort.beats_table(answers),
            "one": cohort.table_one(answers, task, [one.name for one in told]),
            "selected": tables.selected_table(told),
            "generic": tables.generic_table(told),
            "methods": tables.methods_table(told, words),
            "differences": validity.differences_table(told, words),
            "all": tables.all_figures_table(told),
            "ways": validity.ways_table(told, words),
            "paper": validity.paper_table(told, words),
            "controls": validity.controls_table(told, words),
            "crossed": tables.crossed_table(told),
        },
        "baselines": [BASELINES[way] for way in SIMPLER if pooled(told, f"last.{way}.{words.wire}").sites],
        "left_out": validity.left_out(told),
        "facts": _facts(told),
        "settings": [(one.name, json.dumps(one.story["settings"], indent=2, sort_keys=True)) for one in told],
    }


def _sites_sentence(told: Sequence[Told]) -> str:
    sites = sorted({site for one in told for site in one.story["sites"]})
    return (
        f"{plural(len(sites), 'site')} trained a generic model together while every ECG stayed at its own, "
        "then fitted it to their own patients. This page is written from what "
        "the sites sent: counts and sums."
    )


def answer(told: Sequence[Told], words: FigureWords) -> str:
    """Answer in one plain sentence."""
    change = pooled(told, f"difference.selected-threshold.{words.wire}")
    if not change.all.n:
        return "No site could answer for enough personal patients, so there is no result across sites."
    selected, threshold = (
        pooled(told, f"last.{method}.{words.wire}").all.mean for method in ("selected", "threshold")
    )
    return verdict(words, selected, threshold, change.all.n, change.interval)


def keys(told: Sequence[Told], words: FigureWords) -> list[Key]:
    """Return the numbers of the first screen."""
    change = pooled(told, f"difference.selected-threshold.{words.wire}")
    if not change.all.n:
        return []
    out = []
    for method in ("selected", "threshold", "generic"):
        value = pooled(told, f"last.{method}.{words.wire}")
        below = f"mean {words.title}, {validity.of_sites(value)}; {interval_text(value.interval, words)}"
        out.append(
            Key(METHODS[method].title, figure_value(value.all.mean, words), below, method == "selected")
        )
    interval = interval_text(change.interval, words, difference=True)
    below = f"{validity.of_sites(change)}; {interval}; the comparison declared before the run"
    return [*out, Key("Selected − own threshold", figure_difference(change.all.mean, words), below)]


def notes(told: Sequence[Told], words: FigureWords) -> list[Note]:
    """Return what a reader must know before believing the numbers."""
    out = []
    for one in told:
        story, where = one.story, f" ({one.name})" if len(told) > 1 else ""
        if story["status"] != "finished":
            text = story["failure"] or "Its numbers may be incomplete."
            out.append(Note(f"The federation is {story['status']}{where}.", text))
        for site, why in sorted(story["refused"].items()):
            out.append(Note(f"Site {site} did not take part{where}:", f"{why}."))
        for site, code in sorted(story["personalize_failures"].items()):
            out.append(Note(f"Site {site} did not personalize{where}:", f"{protocol.sentence(code)}."))
        for site in sorted(one.answers):
            if hidden := one.left_out(site):
                out.append(_below_the_smallest_cell(site, hidden, one.settings.policy.min_cell, where))
        histogram = generic(one).histogram
        if histogram is not None and histogram.auc < WEAK_AUC:
            sample = f"test patients of {plural(generic(one).sites['histogram'], 'site')}"
            out.append(weak_model(histogram.auc, sample, where))
        if (story["selected"] or {}).get("rule", "").startswith("last"):
            out.append(
                Note(
                    f"The generic model is the last one{where}, not the best one:",
                    f"{story['selected']['rule']}.",
                )
            )
    out += _too_few(told, words)
    out += _worse_off(told, words)
    out += validity.simpler_ways(told, words)
    out += validity.control_notes(told, words)
    return out


def _below_the_smallest_cell(site: str, hidden: int, min_cell: int, where: str) -> Note:
    return Note(
        f"Site {site} sent {plural(hidden, 'number')} over fewer than {plural(min_cell, 'patient')}{where}.",
        "Its own smallest cell is smaller than that of this run. They are not on this page.",
    )


def _too_few(told: Sequence[Told], words: FigureWords) -> list[Note]:
    last = pooled(told, f"last.selected.{words.wire}")
    answered = {site for one in told for site in one.answers}
    if withheld := sorted(answered - set(last.sites)):
        return [
            Note(
                f"Too few patients: {', '.join(withheld)}.",
                "These sites withheld their personal results; they are in no mean on this page.",
            )
        ]
    return []


def _worse_off(told: Sequence[Told], words: FigureWords) -> list[Note]:
    """Say how many patients lost, and at how many sites that number is not known."""
    worse = counted(told, "worse-than-generic")
    sites = {site for one in told for site in pooled([one], f"last.selected.{words.wire}").sites}
    silent = sum("worse-than-generic" not in one.answers[s] for one in told for s in sites & set(one.answers))
    lost = "lost more than 0.05 beat F1 against the generic model"
    where = "Which ones is in the report of their site."
    if silent:
        text = f"{plural(silent, 'answer')} withheld the number, because few patients would be behind it"
        text += "" if worse is None else f"; in the others it is {worse}"
        return [Note(f"Some patients {lost}.", f"{text}. {where}")]
    if worse is None:
        return []
    return [Note(f"{plural(worse, 'patient')} {lost}.", where if worse else "No site withheld this number.")]


def _losses(one: Told, before: int, several: bool) -> list[Figure]:
    rounds = one.story["rounds"]
    evaluations = [entry for entry in one.story["evaluations"] if entry["loss"] is not None]
    validation = [(entry["round"], entry["loss"]) for entry in evaluations]
    training = [(entry["round"], entry["train_loss"]) for entry in rounds if entry["train_loss"] is not None]
    if not validation and not training:
        return []
    selected = one.story["selected"]["round"] if one.story["selected"] else None
    canvas = figures.losses(
        validation, training, [(entry["round"], entry["learning_rate"]) for entry in rounds], selected
    )
    where = f" ({one.name})" if several else ""
    patients = max((entry["patients"] for entry in evaluations), default=0)
    trained = max((entry["train_patients"] for entry in rounds), default=0)
    chosen = (
        f"The weights of federated round {selected} became the generic model. "
        if selected is not None
        else ""
    )
    text = (
        f"Loss by federated round{where}. Validation: the weights after a round, mean over "
        f"{plural(patients, 'validation patient')} of all sites (round 0: before any training). Training: "
        f"mean over beats during the round, {plural(trained, 'patient')}. {chosen}Below: the learning rate."
    )
    number = before + 1
    svg = inline_svg(canvas, f"f{number}-losses", f"Loss by federated round{where}", text)
    return [Figure(svg, text, number)]


def _rounds(told: Sequence[Told], words: FigureWords, before: int) -> Figure | None:
    last = last_round(told)
    means = {
        method: [
            (r, value.all.mean)
            for r in range(last + 1)
            # Before the first round every method is the generic model.
            if (value := pooled(told, f"personal.{method if r else 'generic'}.{r}.{words.wire}")).all.n
        ]
        for method in FITTED
    }
    generic_mean = pooled(told, f"last.generic.{words.wire}").all.mean
    if not any(means.values()):
        return None
    number = before + 1
    canvas = figures.methods_by_round(
        means, {key: own.title for key, own in METHODS.items()}, generic_mean, words.title, words.percent
    )
    text = (
        f"Mean {words.title} over the patients of all sites that answered, by "
        "personalization round. Patients "
        "with fewer strips stop earlier; the table below says how many are behind each point."
    )
    svg = inline_svg(canvas, f"f{number}-rounds", f"{words.heading} by round", text)
    return Figure(svg, text, number)


def _facts(told: Sequence[Told]) -> list[tuple[str, str]]:
    def each(pick: Any) -> str:
        values = list(dict.fromkeys(str(pick(one)) for one in told))
        return values[0] if len(values) == 1 else "; ".join(f"{one.name}: {pick(one)}" for one in told)

    return [
        ("Runs", ", ".join(one.name for one in told)),
        ("Software", each(lambda one: f"fedkalemia {one.story['software']}")),
        ("Protocol", each(lambda one: one.story["protocol"])),
        ("Seed", each(lambda one: one.story["seed"])),
        ("Settings digest", each(lambda one: one.story["settings_sha256"])),
        ("Schedule", each(lambda one: one.story["schedule"] or MISSING)),
    ]
