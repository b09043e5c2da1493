"""The cross-site summary: from ``server.json`` alone, exact where sites answered, silent where not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from common.config import make_settings
from common.errors import FederationError
from common.files import read_json, write_json
from common.metrics import Confusion, Moments, ScoreHistogram
from common.page import FIGURES, METHODS, headline
from server.state import Story
from server.summary import write_summary
from server.summary_validity import differences_table
from server.sums import Pooled, generic, load, pooled

LIFT = {"generic": 0.0, "threshold": 0.10, "closed_form": 0.17, "fine_tuned": 0.14, "selected": 0.15}
BESIDE = {"t_wave": 0.05, "heart_rate": -0.1, "scratch": 0.02}
JUDGED = ("strip-accuracy", "beat-f1", "beat-auc")


def values(site: str, n: int) -> np.ndarray:
    """Return what the generic model reaches on each patient of a site."""
    return np.clip(np.random.default_rng(len(site)).normal(0.7, 0.08, n), 0.3, 0.8)


def site_answer(site: str, patients: int, rounds: int = 4) -> dict[str, Any]:
    """Return the sums a site with so many personal patients would send."""
    rng = np.random.default_rng(patients + len(site))
    logits, positive = rng.normal(0, 1.5, 4000), np.arange(4000) < 1500
    logits[positive] += 2
    flat: dict[str, Any] = {
        "generic.patients": 14,
        **Confusion.of(logits > 0, positive).as_flat("generic.beat"),
        **Confusion(20, 4, 26, 5).as_flat("generic.strip"),
        **ScoreHistogram.of(logits, positive).as_flat("generic.histogram"),
        "suppressed": 0,
    }
    if not patients:
        return flat | {"suppressed": 40}
    base = values(site, patients)
    for method in METHODS:
        for figure in FIGURES.values():
            for round_ in range(rounds + 1):
                if (round_ and method != "generic") or method in ("generic", "selected"):
                    gain = LIFT[method] * (1 - 0.5**round_)
                    flat |= Moments.of(base + gain).as_flat(f"personal.{method}.{round_}.{figure.wire}")
            flat |= Moments.of(base + LIFT[method]).as_flat(f"last.{method}.{figure.wire}")
    noise = rng.normal(0, 0.03, patients)
    for more, less in (("selected", "threshold"), ("selected", "generic"), ("closed_form", "generic")):
        for figure in FIGURES.values():
            change = LIFT[more] - LIFT[less] + noise
            flat |= Moments.of(change).as_flat(f"difference.{more}-{less}.{figure.wire}")
    return flat | beside(base, noise) | {"worse-than-generic": 0}


def beside(
    base: np.ndarray, noise: np.ndarray, t_wave: float = BESIDE["t_wave"], auc: float = 0.48
) -> dict[str, Any]:
    """Return sums of simpler ways, the paper's protocol and a control whose models reach a beat AUC."""
    flat: dict[str, Any] = {}
    for way, lift in {**BESIDE, "t_wave": t_wave}.items():
        for figure in JUDGED:
            flat |= Moments.of(base + lift).as_flat(f"last.{way}.{figure}")
        for figure in JUDGED[:2]:
            flat |= Moments.of(LIFT["selected"] - lift + noise).as_flat(f"difference.selected-{way}.{figure}")
    for method in ("generic", "threshold", "fine_tuned", "published", "selected"):
        for figure in JUDGED:
            flat |= Moments.of(base + LIFT.get(method, 0.0) + 0.05).as_flat(f"paper.{method}.{figure}")
    flat |= Moments.of(noise + 0.01).as_flat("control.permuted.gain.strip-accuracy")
    for method in ("closed_form", "selected"):
        flat |= Moments.of(auc + noise).as_flat(f"control.permuted.{method}.beat-auc")
    return flat


def federation(
    out: Path,
    sites: dict[str, int],
    *,
    task: str = "hyperkalemia",
    preset: str = "standard",
    name: str = "main",
    **changes: Any,
) -> Path:
    """Write the ``server.json`` of a federation whose sites have so many personal patients."""
    settings = make_settings(task, preset)
    Story(settings, name, status="finished", sites=tuple(sites)).write(out, None)
    story = read_json(out / "server.json")
    names = sorted(sites)
    story["rounds"] = [
        {
            "round": r, "learning_rate": 1e-3 if r < 9 else 5e-4, "asked": names, "trained": names,
            "answered": names, "failures": {}, "train_loss": 0.3 + 0.35 * 0.8**r,
            "train_patients": 90, "train_strips": 260,
            "train_beats": 15600, "seconds": 4.0,
        }
        for r in range(1, 13)
    ]  # fmt: skip
    story["evaluations"] = [
        {"round": r, "loss": 0.42 + 0.27 * 0.75**r, "patients": 31, "beats": 5000, "sites": names}
        for r in range(13)
    ]
    story["schedule"] = "plateau"
    story["selected"] = {
        "round": 11, "rule": "best of median-3 validation", "loss": 0.4321, "patients": 31,
        "sha256": "ab" * 32,
    }  # fmt: skip
    story["personalize"] = {site: site_answer(site, n) for site, n in sites.items()}
    write_json(out / "server.json", story | changes)
    return out


def page_of(folder: Path, outs: Sequence[Path]) -> str:
    path = folder / "summary.html"
    write_summary(outs, path)
    return path.read_text()


def plain(page: str) -> str:
    """Return what a reader sees."""
    return re.sub(
        r"\s+", " ", re.sub(r"<style>.*?</style>|<svg.*?</svg>|<[^>]+>", " ", page, flags=re.DOTALL)
    )


def test_the_mean_over_sites_is_the_mean_over_their_patients(tmp_path: Path) -> None:
    told = [load(federation(tmp_path, {"north": 7, "south-east": 12}))]
    everybody = np.concatenate([values("north", 7), values("south-east", 12)])
    assert pooled(told, "last.generic.strip-accuracy").all.mean == pytest.approx(everybody.mean())


def test_folds_add_up_within_a_site(tmp_path: Path) -> None:
    outs = [federation(tmp_path / name, {"north": 7, "south": 8}, name=name) for name in ("fold-a", "fold-b")]
    both = pooled([load(out) for out in outs], "last.selected.beat-f1")
    assert {site: moments.n for site, moments in both.sites.items()} == {"north": 14, "south": 16}


def test_the_answer_does_not_depend_on_the_order_of_sites(tmp_path: Path) -> None:
    sites = {"north": 7, "south": 8, "west": 6}
    one = pooled([load(federation(tmp_path / "a", sites))], "last.selected.beat-f1")
    other = pooled([load(federation(tmp_path / "b", dict(reversed(sites.items()))))], "last.selected.beat-f1")
    assert (one.all, one.interval) == (other.all, other.interval)


def test_pooled_histograms_give_the_auc_of_all_beats_within_the_printed_bound(tmp_path: Path) -> None:
    sums = generic(load(federation(tmp_path, {"north": 7, "south": 8})))
    assert sums.histogram is not None
    assert sum(sums.histogram.positive) == 2 * 1500
    assert 0.8 < sums.histogram.auc < 0.9
    assert sums.histogram.auc_error_bound < 0.02


def test_a_site_with_too_few_patients_is_named_and_counts_for_nothing(tmp_path: Path) -> None:
    page = plain(page_of(tmp_path, [federation(tmp_path, {"north": 7, "south": 8, "tiny": 0})]))
    assert "Too few patients: tiny." in page
    assert "15 patients of 2 sites" in page
    assert "nan" not in page.lower().replace("predominant", "").replace("maintenance", "")


def test_a_withheld_number_of_worse_patients_is_not_counted_as_none(tmp_path: Path) -> None:
    out = federation(tmp_path, {"north": 7, "south": 8})
    story = read_json(out / "server.json")
    del story["personalize"]["south"]["worse-than-generic"]
    write_json(out / "server.json", story)
    page = plain(page_of(tmp_path, [out]))
    assert "Some patients lost more than 0.05 beat F1 against the generic model." in page
    assert (
        "1 answer withheld the number, because few patients would be behind it; in the others it is 0."
        in page
    )


def test_a_generic_model_at_chance_is_called_that(tmp_path: Path) -> None:
    out = federation(tmp_path, {"north": 7, "south": 8})
    story = read_json(out / "server.json")
    for flat in story["personalize"].values():
        flat["generic.histogram.positive"] = [3 * count for count in flat["generic.histogram.negative"]]
    write_json(out / "server.json", story)
    page = plain(page_of(tmp_path, [out]))
    assert "did not tell the labels apart: beat AUC 0.50, pooled over test patients of 2 sites" in page


def test_nobody_has_enough_patients(tmp_path: Path) -> None:
    page = plain(page_of(tmp_path, [federation(tmp_path, {"north": 0, "south": 0})]))
    assert "No site could answer for enough personal patients" in page


def test_failures_are_sentences_and_not_codes(tmp_path: Path) -> None:
    out = federation(
        tmp_path,
        {"north": 7, "south": 8},
        personalize_failures={"west": "storage_failed"},
        refused={"east": "it prepares its beats with other settings"},
    )
    page = plain(page_of(tmp_path, [out]))
    assert "its disk is full" in page or "disk is full" in page
    assert "storage_failed" not in page
    assert "other settings" in page


def test_a_federation_that_failed_says_so_first(tmp_path: Path) -> None:
    out = federation(tmp_path, {"north": 7}, status="failed", failure="1 of 2 sites answered, 2 must")
    assert "The federation is failed" in plain(page_of(tmp_path, [out]))


def test_last_weights_are_not_sold_as_the_best(tmp_path: Path) -> None:
    rule = "last weights of a decaying schedule"
    chosen = {"round": 12, "rule": rule, "loss": None, "patients": 4, "sha256": "cd" * 32}
    page = plain(page_of(tmp_path, [federation(tmp_path, {"north": 7}, selected=chosen)]))
    assert "not the best one" in page
    assert rule in page


def test_the_page_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    out = federation(tmp_path, {"north": 7, "south": 8})
    assert page_of(tmp_path, [out]) == page_of(tmp_path, [out])


def test_words_of_the_other_task_do_not_appear(tmp_path: Path) -> None:
    page = page_of(tmp_path, [federation(tmp_path, {"north": 7}, task="ventricular")])
    settings = page.index("All settings")
    seen = plain(page[:settings] + page[page.index("<footer>") :]).replace("say nothing about potassium", "")
    assert "potassium" not in seen.lower()
    assert "kalemia" not in seen.replace("fedkalemia", "").lower()


def changed(out: Path, **own: Any) -> Path:
    """Give every site other sums beside its result."""
    story = read_json(out / "server.json")
    for site, flat in story["personalize"].items():
        n = flat["last.generic.beat-f1.n"]
        flat |= beside(values(site, n), np.random.default_rng(n).normal(0, 0.03, n), **own)
    write_json(out / "server.json", story)
    return out


def test_a_simpler_way_that_does_as_well_is_on_the_first_screen(tmp_path: Path) -> None:
    out = federation(tmp_path, {"north": 7, "south": 8})
    assert "A simpler way did as well as the selected model, or better," not in plain(
        page_of(tmp_path, [out])
    )
    page = plain(page_of(tmp_path, [changed(out, t_wave=0.2)]))
    first = page[: page.index("Rounds answered")]
    assert "A simpler way did as well as the selected model, or better," in first
    assert "the T-wave features," in first
    assert "heart rate" not in first


def test_a_control_above_chance_is_flagged_beside_the_gain(tmp_path: Path) -> None:
    out = federation(tmp_path, {"north": 7, "south": 8})
    page = plain(page_of(tmp_path, [out]))
    assert "Control with labels of other days: not flagged. The same procedure gained" in page
    assert "against +1" in page, "the gain with the true labels"
    page = plain(page_of(tmp_path, [changed(out, auc=0.56)]))
    assert "Control with labels of other days: flagged. Labels that mean nothing" in page
    few = plain(page_of(tmp_path, [federation(tmp_path / "few", {"north": 5})]))
    assert "Control with labels of other days: too few patients." in few
    assert "two stretches of days" not in page[: page.index("Rounds answered")], "nobody told that one"


def test_simpler_ways_and_the_paper_are_tables_of_the_same_patients(tmp_path: Path) -> None:
    page = plain(page_of(tmp_path, [federation(tmp_path, {"north": 7, "south": 8, "tiny": 0})]))
    section = page[page.index("Simpler ways, the paper’s protocol and controls") :]
    everybody = np.concatenate([values("north", 7), values("south", 8)])
    mean, sd = 100 * (everybody.mean() + BESIDE["t_wave"]), 100 * everybody.std(ddof=1)
    assert f"T-wave features 15 2 {mean:.0f} % ({sd:.0f} %)" in section
    paper, later = (100 * (everybody.mean() + LIFT["fine_tuned"] + more) for more in (0.05, 0.0))
    assert f"Fine-tuned 15 2 {paper:.0f} %" in section
    assert f" {later:.0f} % Published rate and batch 15 2" in section


def test_what_was_not_run_is_named(tmp_path: Path) -> None:
    page = plain(page_of(tmp_path, [federation(tmp_path, {"north": 7}, preset="quick")]))
    assert "Not run with these settings: the personal network trained from scratch;" in page
    assert "Not run" not in plain(page_of(tmp_path, [federation(tmp_path / "full", {"north": 7})]))


def test_answers_that_tell_nothing_beside_the_result_leave_a_sentence(tmp_path: Path) -> None:
    out = federation(tmp_path, {"north": 7})
    story = read_json(out / "server.json")
    new = (
        "paper.",
        "control.",
        *(f"{kind}{way}." for way in BESIDE for kind in ("last.", "difference.selected-")),
    )
    flat = story["personalize"]["north"]
    story["personalize"]["north"] = {k: v for k, v in flat.items() if not k.startswith(new)}
    write_json(out / "server.json", story)
    page = plain(page_of(tmp_path, [out]))
    assert "No control could be told across sites." in page[: page.index("Rounds answered")]
    for what in ("simpler ways", "the paper’s protocol", "a control"):
        assert f"No site could tell of {what}" in page


def test_p_of_one_site_is_students_and_all_but_the_declared_one_are_corrected(tmp_path: Path) -> None:
    told = [load(federation(tmp_path, {"north": 9}))]
    change = pooled(told, "difference.selected-t_wave.strip-accuracy")
    error = change.all.sd / 3
    assert change.p == pytest.approx(2 * stats.t.sf(abs(change.all.mean) / error, 8), rel=1e-6, abs=1e-11)
    same = Pooled({"north": Moments.of([0.1] * 9)})
    assert (same.p, Pooled({"north": Moments.of([0.1, -0.1])}).p) == (None, None)
    assert Pooled({"north": Moments.of([0.1, -0.1] * 4)}).p == pytest.approx(1)
    rows = differences_table(told, headline("hyperkalemia")).rows
    assert rows[0][1].startswith("primary")
    assert not rows[0][-1].endswith("‡")
    assert all(row[-1].endswith("‡") for row in rows[1:])
    assert len(rows) == 3 + len(BESIDE)


def test_what_crossed_the_wire_is_listed(tmp_path: Path) -> None:
    page = plain(page_of(tmp_path, [federation(tmp_path, {"north": 7})]))
    assert all(kind in page for kind in ("query.hello", "train.round", "evaluate.round", "query.personalize"))
    assert "Only weights, counts and sums left" in page


def test_a_folder_without_a_federation_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="holds no federation"):
        write_summary([tmp_path], tmp_path / "summary.html")


def test_two_tasks_do_not_fit_on_one_page(tmp_path: Path) -> None:
    outs = [federation(tmp_path / task, {"north": 7}, task=task) for task in ("hyperkalemia", "ventricular")]
    with pytest.raises(FederationError, match="about one task"):
        write_summary(outs, tmp_path / "summary.html")


def test_state_and_summary_agree_on_the_empty_story(tmp_path: Path) -> None:
    """A server that failed before its first round leaves a story without history; it can be read."""
    Story(make_settings(), "main", status="failed", failure="no site came").write(tmp_path, None)
    assert "no site came" in plain(page_of(tmp_path, [tmp_path]))
