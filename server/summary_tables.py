"""The tables of the cross-site summary; what a site withheld is shown as too few patients."""

from __future__ import annotations

from collections.abc import Sequence

from common import protocol
from common.page import FIGURES, METHODS, FigureWords, Table
from common.page.numbers import (
    MISSING,
    SMALL_SAMPLE_NOTE,
    count,
    decimal,
    figure_value,
    interval_cell,
    plural,
    share,
    short_digest,
    size,
)
from server.sums import Pooled, Told, answer_bytes, generic, last_round, pooled

WITHHELD = "too few patients"


def sites_table(told: Sequence[Told], words: FigureWords) -> Table:
    """List the sites and how they fared in each run."""
    rows = []
    for one in told:
        story = one.story
        for site in one.sites:
            answered = sum(site in entry["answered"] for entry in story["rounds"])
            trained = sum(site in entry["trained"] for entry in story["rounds"])
            flat = one.answers.get(site, {})
            n = flat.get(f"last.selected.{words.wire}.n")
            rows.append(
                [
                    site,
                    *([one.name] if len(told) > 1 else []),
                    f"{answered} of {len(story['rounds'])}",
                    count(trained),
                    count(flat["generic.patients"]) if "generic.patients" in flat else _absent(one, site),
                    count(int(n)) if n else _absent(one, site),
                    _status(one, site),
                ]
            )
    return Table(
        caption="Sites. A number a site may not give, because too few patients are behind it, is shown as "
        f"“{WITHHELD}”.",
        head=(
            "Site",
            *(["Run"] if len(told) > 1 else []),
            "Rounds answered",
            "Rounds trained",
            "Generic test patients",
            "Personal patients",
            "Status",
        ),
        rows=rows,
        text=(1, len(rows[0]) - 1) if len(told) > 1 and rows else ((len(rows[0]) - 1,) if rows else ()),
        empty="No site took part.",
    )


def _absent(one: Told, site: str) -> str:
    return WITHHELD if site in one.answers else MISSING


def _status(one: Told, site: str) -> str:
    story = one.story
    if site in story["refused"]:
        return str(story["refused"][site])
    if site in story["personalize_failures"]:
        return protocol.sentence(story["personalize_failures"][site])
    codes = [entry["failures"][site] for entry in story["rounds"] if site in entry["failures"]]
    if codes:
        times = plural(len(codes), "federated round")
        return f"failed in {times}: {protocol.sentence(codes[-1])}"
    return "took part" if site in story["sites"] else MISSING


def selected_table(told: Sequence[Told]) -> Table:
    """Say which weights became the generic model, and by which rule."""
    rows = [
        [
            one.name,
            f"{chosen['round']} of {len(one.story['rounds'])}",
            chosen["rule"],
            decimal(chosen["loss"], 4),
            count(chosen["patients"]),
            short_digest(chosen["sha256"]),
        ]
        for one in told
        if (chosen := one.story["selected"])
    ]
    return Table(
        caption="The generic model of each run.",
        head=("Run", "Federated round", "Rule", "Validation loss", "Validation patients", "Weights"),
        rows=rows,
        text=(2, 5),
        empty="No generic model was selected.",
    )


def generic_table(told: Sequence[Told]) -> Table:
    """Return the figures of the generic model over all sites that answered, one column per run."""
    sums = [generic(one) for one in told]

    def beat(part: str, whole: Sequence[str]) -> list[str]:
        return [
            share(getattr(s.beats, part), sum(getattr(s.beats, name) for name in whole), 1)
            if s.beats
            else WITHHELD
            for s in sums
        ]

    def strip(parts: Sequence[str], whole: Sequence[str]) -> list[str]:
        return [
            share(sum(getattr(s.strips, n) for n in parts), sum(getattr(s.strips, n) for n in whole), 1)
            if s.strips
            else WITHHELD
            for s in sums
        ]

    rows = [
        ["Test patients", *(count(s.patients) if s.patients else WITHHELD for s in sums)],
        ["Strip level", *(f"{plural(s.sites['strips'], 'site')} answered" for s in sums)],
        ["  accuracy by vote", *strip(("tp", "tn"), ("tp", "fp", "tn", "fn"))],
        ["  sensitivity", *strip(("tp",), ("tp", "fn"))],
        ["  specificity", *strip(("tn",), ("tn", "fp"))],
        ["Beat level", *(f"{plural(s.sites['beats'], 'site')} answered" for s in sums)],
        [
            "  AUC, with the error of its bins",
            *(
                f"{decimal(s.histogram.auc, 3)} ± {decimal(s.histogram.auc_error_bound, 3)}"
                if s.histogram
                else WITHHELD
                for s in sums
            ),
        ],
        ["  F1", *(decimal(s.beats.f1, 3) if s.beats else WITHHELD for s in sums)],
        ["  sensitivity", *beat("tp", ("tp", "fn"))],
        ["  specificity", *beat("tn", ("tn", "fp"))],
        ["  positive predictivity", *beat("tp", ("tp", "fp"))],
    ]
    return Table(
        caption="The generic model on test patients of all sites, beats and strips "
        "pooled. The AUC comes from "
        "counts of scores in bins; ± is how far it can be from that of the scores themselves.",
        head=("", *(one.name if len(told) > 1 else "All sites" for one in told)),
        rows=rows,
        form="narrow",
    )


def methods_table(told: Sequence[Told], words: FigureWords) -> Table:
    """Return mean and number of patients by method and round, and the interval of the last round."""
    last = last_round(told)
    rows = []
    for method in METHODS:
        cells = [METHODS[method].title]
        for r in range(last + 1):
            cells.append(
                _mean(pooled(told, f"personal.{method if r else 'generic'}.{r}.{words.wire}"), words)
            )
        end = pooled(told, f"last.{method}.{words.wire}")
        cells += [_mean(end, words), interval_cell(end.interval, words)]
        rows.append(cells)
    return Table(
        caption=f"Mean {words.title} by personalization round (patients in brackets). "
        "Intervals take each site "
        "as a stratum.",
        head=("Method", *(f"Round {r}" for r in range(last + 1)), "Last round of each", "95\u202f% interval"),
        rows=rows if pooled(told, f"last.selected.{words.wire}").all.n else [],
        note=SMALL_SAMPLE_NOTE if any("†" in row[-1] for row in rows) else "",
        form="dense",
        empty="No site answered for enough personal patients.",
    )


def _mean(value: Pooled, words: FigureWords) -> str:
    return f"{figure_value(value.all.mean, words)} ({value.all.n})" if value.all.n else WITHHELD


def all_figures_table(told: Sequence[Told]) -> Table:
    """Return every figure of merit after the last round, by method."""
    rows = []
    for words in FIGURES.values():
        cells = [_mean(pooled(told, f"last.{method}.{words.wire}"), words) for method in METHODS]
        if any(cell != WITHHELD for cell in cells):
            rows.append([words.title, *cells])
    return Table(
        caption="All figures after each patient’s last round: mean (patients). Exploratory.",
        head=("Figure", *(own.title for own in METHODS.values())),
        rows=rows,
        empty="No site answered for enough personal patients.",
    )


def crossed_table(told: Sequence[Told]) -> Table:
    """List the kinds of messages, what they hold, and how large they are."""
    weights = max((one.weight_bytes or 0 for one in told), default=0)
    rounds = sum(len(one.story["rounds"]) for one in told)
    sent = size(weights) if weights else MISSING
    sums = answer_bytes(told)
    rows = [
        [
            protocol.HELLO,
            "protocol and software version",
            "site name, versions, task, digest of settings",
            "once",
            "below 1 kB",
        ],
        [
            protocol.ROUND,
            "weights, training settings",
            "weights; losses as sums; counts of patients, strips, beats",
            count(rounds),
            sent,
        ],
        [protocol.EVALUATE, "weights", "losses as sums; counts of patients and beats", "once per run", sent],
        [
            protocol.PERSONALIZE,
            "weights",
            "counts, sums and sums of squares over patients; counts of scores in bins",
            "once per run",
            f"{sent} there, {size(sums)} back" if sums else sent,
        ],
    ]  # fmt: skip
    return Table(
        caption="Everything that crossed the wire, per site. A message that holds "
        "anything else is refused on "
        "both sides.",
        head=("Message", "To the site", "From the site", "Times", "Size"),
        rows=rows,
        text=(1, 2, 3, 4),
        note="No beat, no row about a patient, no identifier and no date has a "
        "place in these messages. Weights "
        "are numbers too: they can reveal something about the data they were trained on. "
        "The engine adds its own control traffic (registration, heartbeats, timing).",
    )
