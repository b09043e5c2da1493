"""How fast a patient's personalization is: ``python benchmarks/personalization.py``.

The five rounds of one made-up patient as the engine does them: after each, the generic model, the threshold,
the closed-form head and the fine-tuned stages are scored on all test strips and on the coming pair. The plain
way is a network of ``nn.Conv1d`` with a full forward pass each time a model is fitted or scored. Both take
turns on one thread; the ratio of medians is what counts. Also printed: the same for fine-tuning alone,
whether the project's own network gives the same weights with and without kept activations, and its share of
the machine's matrix-product peak.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
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
from client.learning.guard import METHODS
from client.learning.personalization import personalize
from client.learning.personalizers import (
    Head,
    Recipe,
    Scaling,
    beat_weights,
    fine_tune,
    fit_head,
    fit_threshold,
)
from client.learning.planning import Outcome, Plan
from client.learning.protocols import Procedure
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


def plan_of(strips: list[StripRef]) -> Plan:
    """Let the first strips be pairs and the rest be tested on."""
    pairs = tuple((strips[i + 1], strips[i]) for i in range(0, 2 * ROUNDS, 2))
    return Plan(Outcome.PERSONAL, pairs=pairs, test=tuple(strips[2 * ROUNDS :]))


def ours(network: ResNet1d, n_beats: int, settings: PersonalizationSettings, methods: Sequence[str]) -> None:
    """Personalize with the project's own engine."""
    strips, store = strips_of(n_beats)
    activations = Activations(network, store, settings)
    recipe = Recipe.of(settings, "restart", "frozen")
    procedure = Procedure("prospective", tuple(methods), recipe)
    scaling = Scaling.of(np.zeros((0, network.features)))
    personalize(network, plan_of(strips), activations, settings, procedure, scaling, ("b",))


def plainly(
    network: PlainResNet1d, n_beats: int, settings: PersonalizationSettings, methods: Sequence[str]
) -> None:
    """Do the same with a full forward pass for every model, after every round, on every strip."""
    strips, store = strips_of(n_beats)
    plan, start = plan_of(strips), Head.of(network)  # type: ignore[arg-type]
    recipe = Recipe.of(settings, "restart", "frozen")
    scaling = Scaling.of(np.zeros((0, len(start.weight))))

    def beats_of(asked: Sequence[StripRef]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([store.read(s.offset, s.n_beats) for s in asked]))

    def embed(asked: Sequence[StripRef]) -> np.ndarray:
        with torch.inference_mode():
            return network.embed(beats_of(asked)).numpy()

    for round_ in range(ROUNDS + 1):
        pairs = [strip for pair in plan.pairs[:round_] for strip in pair]
        asked = [*plan.test, *(plan.pairs[round_] if round_ < ROUNDS else ())]
        labels = [strip.positive for strip in pairs]
        positive = np.repeat(np.array(labels, bool), n_beats)
        weights = beat_weights([n_beats] * len(pairs), labels, settings.balance) if pairs else np.empty(0)
        for method in methods if pairs else ("generic",):
            head = start
            if method == "threshold":
                offset = fit_threshold(start.logits(embed(pairs)), positive, weights)
                head = Head(start.weight, start.bias + offset)
            elif method == "closed_form":
                head = fit_head(embed(pairs), positive, weights, start, scaling, settings.penalty)
            elif method == "fine_tuned":
                tuned = train_plainly(network, beats_of(pairs), positive, weights, recipe, round_)
                with torch.inference_mode():
                    for strip in asked:
                        tuned(beats_of([strip]))
                continue
            for strip in asked:
                head.logits(embed([strip]))


def train_plainly(
    network: PlainResNet1d,
    beats: torch.Tensor,
    positive: np.ndarray,
    weights: np.ndarray,
    recipe: Recipe,
    round_: int,
) -> PlainResNet1d:
    """Fine-tune the last stages with a full forward pass for every batch."""
    frozen = STAGES[: STAGES.index(recipe.freeze_through) + 1]
    target = torch.from_numpy(positive.astype(np.float32))
    share = torch.from_numpy((weights / weights.mean()).astype(np.float32))
    model = deepcopy(network).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.split(".")[0] not in frozen)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=recipe.learning_rate, fused=True)
    for epoch in range(recipe.epochs):
        order = stream("b", "order", round_, epoch).permutation(len(target))
        for batch in batches(order, recipe.batch_size):
            rows = torch.from_numpy(batch)
            optimizer.zero_grad()
            losses = binary_cross_entropy_with_logits(model(beats[rows]), target[rows], reduction="none")
            (losses * share[rows]).mean().backward()
            optimizer.step()
    return model


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
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="without the network of the paper")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = PersonalizationSettings()
    recipe = Recipe.of(settings, "restart", "frozen")
    peak = peak_gflops()
    print(f"torch {torch.__version__}, 1 thread, {options.repeats} interleaved repeats, medians")
    print(f"{options.beats} beats a strip, {TEST_STRIPS} test strips; matrix products: {peak:.0f} GFLOPS")
    for form in NETWORKS[: 2 if options.small else None]:
        network = build_model(form, torch_stream("benchmark")).eval()
        reference = PlainResNet1d(form).eval()
        reference.load_state_dict(network.state_dict())
        same = "the same" if same_weights(network, options.beats, recipe) else "OTHER"
        print(
            f"ResNet-{form.depth}, width {form.width}, {form.stem} stem; {same} weights on kept activations"
        )
        for title, methods in (("all methods", METHODS), ("fine-tuning alone", ("generic", "fine_tuned"))):
            seconds: dict[str, list[float]] = {"ours": [], "plain": []}
            for _ in range(options.repeats):
                for name, work, model in (("ours", ours, network), ("plain", plainly, reference)):
                    start = time.perf_counter()
                    work(model, options.beats, settings, methods)  # type: ignore[operator]
                    seconds[name].append(time.perf_counter() - start)
            with FlopCounterMode(display=False) as counter:
                ours(network, options.beats, settings, methods)
            mine, theirs = median(seconds["ours"]), median(seconds["plain"])
            share = counter.get_total_flops() / mine / 1e9 / peak
            print(
                f"  {title}: {mine:.1f} s against {theirs:.1f} s, {theirs / mine:.2f} times faster"
                f"{'' if methods != METHODS else f' (bar {BAR:g}: {verdict(theirs / mine)})'}; "
                f"{share:.0%} of the peak"
            )


def verdict(ratio: float) -> str:
    """Say whether the bar was reached."""
    return "reached" if ratio >= BAR else "not reached"


if __name__ == "__main__":
    main()
