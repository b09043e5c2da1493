"""How hard the synthetic cohort is: ``python benchmarks/difficulty.py RUN``.

``RUN`` is the folder of a finished ``fedkalemia-sim run --source synthetic`` or ``demo``. Printed, never
asserted:

* strip AUC of single features (nothing is learned) and of the generic model, on patients it never saw;
* two negative controls for personal models: the closed-form head is taught to tell two blocks of days apart
  in which the patient was equally normokalemic, with strips held out at random and with the latest held out.
  What it reaches there is what electrodes and days give away; .5 would be nothing. Beside it stands the same
  procedure on the true labels.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.data.beatstore import BeatStore
from client.learning.access import cohort_run, opened
from client.learning.dataset import StripRef, by_patient, cohort_strips, labelled, read_strip
from client.learning.evaluation import embed, infer
from client.learning.models import load_network
from client.learning.personalizers import Head, Scaling, beat_weights, fit_head
from client.site import load_site
from common.intervals import mean_interval
from common.metrics import auc
from common.model import ResNet1d
from common.seeding import stream
from common.task import Label

HELD_OUT = 0.25
LEAST = 5  # strips of each class; a personal patient of the demo has few normal strips to spare
REPEATS = 5
R_AT, RATE_HZ = 40, 125.0
Floats = npt.NDArray[np.float64]
Features = dict[str, float]


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--name", default="main", help="name of the cohort and the federation")
    options = parser.parse_args()
    network, _ = load_network(options.run / "server" / options.name / "best.safetensors")
    scores: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    patients, gains = 0, defaultdict[str, list[float]](list)
    for folder in sorted((options.run / "sites").iterdir()):
        unseen, own, scaling = _strips(folder, options.name, network)
        store = BeatStore(load_site(folder).beats)
        patients += len(by_patient(unseen))
        for strip in unseen:
            beats = read_strip(store, strip)
            found = features(beats) | {"generic model, mean logit": float(infer(network, beats).mean())}
            for name, value in found.items():
                scores[name].append((value, strip.positive))
        for patient, strips in by_patient(own).items():
            control = Control(network, store, scaling, (folder.name, str(patient)))
            for name, value in control.run(strips).items():
                gains[name].append(value)
    _print(scores, patients, gains)


def features(beats: npt.NDArray[np.float32]) -> Features:
    """Measure the median of a strip's beats (n, 120), mV at 125 Hz, R at index 40."""
    beat = np.median(beats, axis=0).astype(np.float64)
    level = float(np.median(beat[R_AT - 10 : R_AT - 6]))  # before the QRS complex
    t_wave = beat[R_AT + 15 : R_AT + 60] - level
    height = float(t_wave.max())
    slope = float(-np.diff(t_wave[int(t_wave.argmax()) :]).min(initial=0.0) * RATE_HZ)
    r = max(float(beat[R_AT] - level), 0.05)
    return {
        "T amplitude": height,
        "T to R ratio": height / r,
        "T downslope": slope,
        "T slope to amplitude": slope / max(height, 0.05),
    }


class Control:
    """One patient's closed-form head on true labels and on two blocks of days that mean nothing."""

    def __init__(self, network: ResNet1d, store: BeatStore, scaling: Scaling, names: tuple[str, ...]) -> None:
        self._network, self._store, self._scaling, self._names = network, store, scaling, names
        self._embedded: dict[int, npt.NDArray[np.float32]] = {}

    def run(self, strips: Sequence[StripRef]) -> Features:
        """Return strip AUC by question and hold-out; nothing where a class has too few strips."""
        negative = [strip for strip in strips if strip.label == Label.NEGATIVE]
        questions = {"true labels": (list(strips), [strip.positive for strip in strips])}
        if blocks := day_blocks(negative):
            questions["two normal day blocks"] = (negative, blocks)
        out: Features = {}
        for question, (chosen, labels) in questions.items():
            if min(sum(labels), len(labels) - sum(labels)) < LEAST:
                continue
            for name, held_out in (("random", random_hold_out), ("latest", latest_hold_out)):
                rng = stream("difficulty", *self._names, question)
                times = REPEATS if name == "random" else 1
                found = [self._auc(chosen, labels, held_out(labels, rng)) for _ in range(times)]
                out[f"{question}, {name} strips held out"] = float(np.mean(found))
        return out

    def _auc(self, strips: Sequence[StripRef], labels: Sequence[bool], test: Sequence[int]) -> float:
        train = [i for i in range(len(strips)) if i not in set(test)]
        parts = [self._embedding(strips[i]) for i in train]
        positive = np.repeat([labels[i] for i in train], [len(part) for part in parts])
        weights = beat_weights([len(part) for part in parts], [labels[i] for i in train], "labels")
        head = fit_head(
            np.concatenate(parts), positive, weights, Head.of(self._network), self._scaling, penalty=0.1
        )
        means = [float(head.logits(self._embedding(strips[i])).mean()) for i in test]
        return auc(np.array(means), np.array([labels[i] for i in test]))

    def _embedding(self, strip: StripRef) -> npt.NDArray[np.float32]:
        if strip.strip_id not in self._embedded:
            self._embedded[strip.strip_id] = embed(self._network, read_strip(self._store, strip, 40))
        return self._embedded[strip.strip_id]


def day_blocks(strips: Sequence[StripRef]) -> list[bool]:
    """Cut strips in order of time into two blocks of whole days as equal as possible; empty if impossible."""
    days = [strip.end.toordinal() for strip in strips]
    cuts = [i for i in range(1, len(days)) if days[i] != days[i - 1]]
    if not cuts:
        return []
    cut = min(cuts, key=lambda i: abs(2 * i - len(days)))
    return [i >= cut for i in range(len(days))]


def random_hold_out(labels: Sequence[bool], rng: np.random.Generator) -> list[int]:
    """Choose a quarter of each class at random."""
    return [int(i) for one in _classes(labels) for i in rng.permutation(one)[: _quarter(one)]]


def latest_hold_out(labels: Sequence[bool], _: np.random.Generator) -> list[int]:
    """Choose the latest quarter of each class; strips are in order of time."""
    return [i for one in _classes(labels) for i in one[-_quarter(one) :]]


def _classes(labels: Sequence[bool]) -> list[list[int]]:
    return [[i for i, label in enumerate(labels) if label is wanted] for wanted in (False, True)]


def _quarter(one: Sequence[int]) -> int:
    return int(np.ceil(HELD_OUT * len(one)))


def _strips(folder: Path, name: str, network: ResNet1d) -> tuple[list[StripRef], list[StripRef], Scaling]:
    """Return strips of unseen patients, those of personal patients, and the scale of the embedding."""
    site = load_site(folder)
    store = BeatStore(site.beats)
    with opened(site) as factory, factory() as session:
        run = cohort_run(session, site, name)
        test = labelled(cohort_strips(session, run.id, splits=["test"]))
        own = labelled(cohort_strips(session, run.id, roles=["personal"]))
        train = labelled(cohort_strips(session, run.id, roles=["generic"], splits=["train"]))
    beats = np.concatenate([read_strip(store, strip, 20) for strip in train])
    return test, own, Scaling.of(embed(network, beats))


def _print(scores: dict[str, list[tuple[float, bool]]], patients: int, gains: dict[str, list[float]]) -> None:
    first = next(iter(scores.values()))
    print(
        f"{len(first)} strips ({sum(p for _, p in first)} positive) of {patients} unseen patients, strip AUC"
    )
    for name, pairs in scores.items():
        found, labels = np.array([v for v, _ in pairs]), np.array([p for _, p in pairs])
        print(f"  {name:<48} {auc(found, labels):.3f}")
    print("\nclosed-form head, mean strip AUC over personal patients (95 % interval)")
    for name, values in gains.items():
        interval = mean_interval(values, stream("difficulty", name))
        limits = f"({interval.low:.3f} to {interval.high:.3f})" if interval else ""
        print(f"  {name:<48} {np.mean(values):.3f} {limits}  n = {len(values)}")


if __name__ == "__main__":
    main()
