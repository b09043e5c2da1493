"""How fast a patient's personalization is: ``python benchmarks/personalization.py``.

Five rounds of fine-tuning with an evaluation on all test strips and on the coming pair after each, for one
made-up patient. The plain way is a network of ``nn.Conv1d`` with a full forward pass each time. Both take
turns on one thread; the ratio of medians is what counts. Also printed: whether the project's own network
gives the same weights with and without kept activations, and its share of the machine's matrix-product
peak.
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy
from datetime import datetime, timedelta
from statistics import median

import numpy as np
import torch
from layout import PlainResNet1d  # beside this file
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.flop_counter import FlopCounterMode

from client.learning.activations import Activations
from client.learning.dataset import Beats, StripRef
from client.learning.personalizers import Recipe, fine_tune
from client.learning.training import batches
from common.config import ModelSettings, PersonalizationSettings
from common.model import STAGES, ResNet1d, build_model
from common.seeding import stream, torch_stream
from common.task import Label
from common.weights import pack

NETWORKS = (
    ModelSettings(depth=18, width=8, stem="small"),
    ModelSettings(depth=18, width=16, stem="small"),
    ModelSettings(depth=50, width=64, stem="paper"),
)
ROUNDS, TEST_STRIPS = 5, 12
BAR = 2.0
PEAK_SIDE, PEAK_REPEATS = 1024, 9


class Memory:
    """Beats in memory."""

    def __init__(self, beats: Beats) -> None:
        self.beats = beats

    def read(self, offset: int, n: int) -> Beats:
        """Return ``n`` beats from row ``offset``."""
        return self.beats[offset : offset + n]

    def gather(self, rows: np.ndarray) -> Beats:
        """Return the beats of these rows."""
        return self.beats[rows]


def strips_of(n_beats: int) -> tuple[list[StripRef], Memory]:
    """Make a patient: pairs to train on, then test strips; labels alternate."""
    count = 2 * ROUNDS + TEST_STRIPS
    start = datetime(2150, 1, 1)
    strips = [
        StripRef(
            i, 1, Label.POSITIVE if i % 2 else Label.NEGATIVE, start + timedelta(days=i),
            start + timedelta(days=i, minutes=10), i * n_beats, n_beats,
        )
        for i in range(count)
    ]  # fmt: skip
    return strips, Memory(stream("beats").normal(0, 1, (count * n_beats, 120)).astype(np.float32))


def ours(network: ResNet1d, n_beats: int, recipe: Recipe) -> ResNet1d:
    """Personalize as the engine does; return the model of the last round."""
    strips, store = strips_of(n_beats)
    test = strips[2 * ROUNDS :]
    activations = Activations(network, store, PersonalizationSettings())
    model = network
    for round_ in range(1, ROUNDS + 1):
        pairs = strips[: 2 * round_]
        hidden = torch.cat([activations.hidden(strip) for strip in pairs])
        positive = np.repeat([strip.positive for strip in pairs], n_beats)
        weights = np.full(len(positive), 1 / n_beats)
        model = fine_tune(network, hidden, recipe.freeze_through, positive, weights, recipe, ("b",), round_)
        activations.score(model, [*test, *strips[2 * round_ : 2 * round_ + 2]])
    return model


def plainly(network: PlainResNet1d, n_beats: int, recipe: Recipe) -> None:
    """Personalize with full forward passes, in training and after every round."""
    strips, store = strips_of(n_beats)
    test = strips[2 * ROUNDS :]
    frozen = STAGES[: STAGES.index(recipe.freeze_through) + 1]
    for round_ in range(1, ROUNDS + 1):
        pairs = strips[: 2 * round_]
        beats = torch.from_numpy(np.concatenate([store.read(s.offset, s.n_beats) for s in pairs]))
        target = torch.from_numpy(np.repeat([s.positive for s in pairs], n_beats).astype(np.float32))
        model = deepcopy(network).eval()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.split(".")[0] not in frozen)
        optimizer = torch.optim.Adam(
            [p for p in model.parameters() if p.requires_grad], lr=recipe.learning_rate, fused=True
        )
        for epoch in range(recipe.epochs):
            order = stream("b", "order", round_, epoch).permutation(len(target))
            for batch in batches(order, recipe.batch_size):
                rows = torch.from_numpy(batch)
                optimizer.zero_grad()
                binary_cross_entropy_with_logits(model(beats[rows]), target[rows]).backward()
                optimizer.step()
        with torch.inference_mode():
            for strip in [*test, *strips[2 * round_ : 2 * round_ + 2]]:
                model(torch.from_numpy(store.read(strip.offset, strip.n_beats)))


def same_weights(network: ResNet1d, n_beats: int, recipe: Recipe) -> bool:
    """Say whether training on kept activations gives the weights of training on beats."""
    strips, store = strips_of(n_beats)
    beats = torch.from_numpy(store.read(0, 2 * n_beats).copy())
    positive = np.repeat([strip.positive for strip in strips[:2]], n_beats)
    found = []
    for after in (recipe.freeze_through, "none"):
        with torch.no_grad():
            inputs = torch.cat([network.prefix(part, after) for part in torch.split(beats, 16)])
        model = fine_tune(network, inputs, after, positive, np.ones(len(positive)), recipe, ("b",), 1)
        found.append(pack(model).digest())
    return found[0] == found[1]


def peak_gflops() -> float:
    """Measure the fastest of some square matrix products of 32-bit numbers, one thread."""
    a, b = (torch.randn(PEAK_SIDE, PEAK_SIDE, generator=torch_stream(name)) for name in "ab")
    took = []
    for _ in range(PEAK_REPEATS):
        start = time.perf_counter()
        torch.mm(a, b)
        took.append(time.perf_counter() - start)
    return 2 * PEAK_SIDE**3 / min(took) / 1e9


def main() -> None:
    """Print one line per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--beats", type=int, default=200, help="beats of a strip")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="without the network of the paper")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe.of(PersonalizationSettings(), "restart", "frozen")
    peak = peak_gflops()
    print(f"torch {torch.__version__}, 1 thread, {options.repeats} interleaved repeats, medians")
    print(f"{options.beats} beats a strip, {TEST_STRIPS} test strips; matrix products: {peak:.0f} GFLOPS")
    for settings in NETWORKS[: 2 if options.small else None]:
        network = build_model(settings, torch_stream("benchmark")).eval()
        reference = PlainResNet1d(settings)
        reference.load_state_dict(network.state_dict())
        seconds: dict[str, list[float]] = {"ours": [], "plain": []}
        for _ in range(options.repeats):
            for name, work, model in (("ours", ours, network), ("plain", plainly, reference)):
                start = time.perf_counter()
                work(model, options.beats, recipe)  # type: ignore[operator]
                seconds[name].append(time.perf_counter() - start)
        with FlopCounterMode(display=False) as counter:
            ours(network, options.beats, recipe)
        mine, theirs = median(seconds["ours"]), median(seconds["plain"])
        share = counter.get_total_flops() / mine / 1e9 / peak
        same = "the same" if same_weights(network, options.beats, recipe) else "OTHER"
        reached = "reached" if theirs / mine >= BAR else "not reached"
        print(
            f"ResNet-{settings.depth}, width {settings.width}, {settings.stem} stem: {mine:.1f} s against "
            f"{theirs:.1f} s, {theirs / mine:.2f} times faster (bar {BAR:g}: {reached}); {same} weights with "
            f"and without kept activations; {share:.0%} of the peak"
        )


if __name__ == "__main__":
    main()
