"""What the federation costs over a plain training loop that does the same work in one process.

    python benchmarks/federation.py [--rounds 4] [--beats 40] [--repeats 3]

Three synthetic sites with a database and a beat store each. The plain loop keeps one network and does, for
every round and site, the same validation pass, the same local training and the same mean, with nothing in
between. The federation runs the unmodified Flower apps through the in-process grid: messages serialized both
ways, protocol checks, databases, checkpoints. Both end with the same weights, bit for bit, or the benchmark
fails. Runs alternate; printed is the median ratio. Bar: at most 1.10 where a site's work is at least 1 s.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from client.app import app as client_app
from client.data.beatstore import BeatStore
from client.learning.access import cohort_run, generic_strips, opened
from client.learning.evaluation import score_strips
from client.learning.training import train_generic
from client.site import Site
from common.checkpoint import load_checkpoint
from common.files import write_json
from common.model import build_model
from common.protocol import WEIGHT_KEYS
from common.seeding import torch_stream
from common.weights import Weights, pack, unpack
from server.aggregation import WeightedMean
from server.app import app as server_app
from simulation.grid import run_in_process

SITES = ("east", "north", "south")


def main() -> None:
    """Compare the two and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="federated rounds (at most 5: constant rate)")
    parser.add_argument("--beats", type=int, default=40, help="beats of a strip; sets a site's work")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sites = make_sites(Path(folder), min(options.rounds, 5), options.beats)
        plain(sites)  # the first optimizer step imports much of torch
        ratios: dict[str, list[float]] = {"wall": [], "processor": []}
        for repeat in range(options.repeats):
            expected, plain_wall, plain_cpu = timed(lambda: plain(sites))
            out = Path(folder) / f"out-{repeat}"
            got, wall, cpu = timed(lambda out=out: federated(sites, out))  # type: ignore[misc]
            if got.digest() != expected.digest():
                sys.exit("the federation ended with other weights than the plain loop")
            ratios["wall"].append(wall / plain_wall)
            ratios["processor"].append(cpu / plain_cpu)
            work = plain_cpu / len(sites) / (sites[0].settings.federation.rounds + 1)
            print(f"plain {plain_wall:6.1f} s, federated {wall:6.1f} s; a site's work {work:.2f} s a round")
        for kind, values in ratios.items():
            print(f"federated / plain, {kind} time: {statistics.median(values):.3f} (bar 1.10)")


def make_sites(folder: Path, rounds: int, beats: int) -> list[Site]:
    """Write the sites of the tests, with a network and data large enough to be work."""
    settings = {
        "model": {"depth": 18, "width": 16},
        "training": {"beats_per_strip": 0, "batch_size": 128, "learning_rate": 1e-3},
        "federation": {"rounds": rounds, "min_sites": len(SITES), "schedule": "plateau"},
    }
    support = load(Path(__file__).parents[1] / "tests" / "support" / "sites.py")
    return [
        support.make_tiny_site(folder / name, name, generic=30, personal=0, beats=beats, settings=settings)
        for name in SITES
    ]


def plain(sites: list[Site]) -> Weights:
    """Train without a federation: the same steps on the same beats, one after the other."""
    settings = sites[0].settings
    network = build_model(settings.model, torch_stream(settings.seed, "initial"))
    data = []
    for site in sites:
        with opened(site) as factory, factory() as session:
            cohort = cohort_run(session, site, "main")
            train, validation = (generic_strips(site, session, cohort, s) for s in ("train", "validation"))
        data.append((site.name, BeatStore(site.beats), train, validation))
    weights, beats = pack(network), settings.training.beats_per_strip
    for number in range(1, settings.federation.rounds + 1):
        mean = WeightedMean()
        for name, store, train, validation in data:
            unpack(network, weights)
            score_strips(network, validation, store, beats)
            outcome = train_generic(
                network, train, store, settings.training, (settings.seed, "train", name, number)
            )
            mean.add(pack(network), outcome.beats)
        weights = mean.mean() or weights
    unpack(network, weights)
    for _, store, _, validation in data:
        score_strips(network, validation, store, beats)
    return weights


def federated(sites: list[Site], out: Path) -> Weights:
    """Train with the two Flower apps in this process."""
    write_json(out / "settings.json", sites[0].settings.model_dump(mode="json"))
    config = {"out": str(out), "settings": str(out / "settings.json"), "personalize": False}
    nodes = [{"site-folder": str(site.folder)} for site in sites]
    run_in_process(server_app, client_app, nodes, config)
    arrays, _ = load_checkpoint(out / "last.safetensors")
    return Weights(*(arrays[f"weights.{key}"].astype("float32") for key in WEIGHT_KEYS))


def timed(work: Callable[[], Weights]) -> tuple[Weights, float, float]:
    """Return the result, and the wall and processor seconds it took."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - processor


def load(path: Path) -> ModuleType:
    """Load a module from a file."""
    spec = importlib.util.spec_from_file_location("fedkalemia_test_sites", path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path} is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
