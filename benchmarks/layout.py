"""How much faster channels-last activations are than a plain network of ``nn.Conv1d`` with the same weights.

Run ``python benchmarks/layout.py``. Both networks take turns on one thread; the ratio of medians is what
counts, since times on a shared machine drift. Above 1 means that the project's layout is faster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from common.config import ModelSettings
from common.model import BLOCKS, EXPANSION, STAGES, build_model
from common.seeding import torch_stream

NETWORKS = (
    (ModelSettings(depth=18, width=8, stem="small"), 128),
    (ModelSettings(depth=18, width=16, stem="small"), 128),
    (ModelSettings(depth=18, width=64, stem="small"), 32),
    (ModelSettings(depth=50, width=64, stem="paper"), 32),
)


class PlainBlock(nn.Module):
    """The block of the paper in its textbook form, (beats, channels, positions)."""

    def __init__(self, inputs: int, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        deep = outputs != channels
        self.norm1, self.norm2 = nn.BatchNorm1d(inputs), nn.BatchNorm1d(channels)
        self.norm3 = nn.BatchNorm1d(channels) if deep else None
        first, second = (1, stride) if deep else (stride, 1)
        taps = 1 if deep else 3
        self.conv1 = nn.Conv1d(inputs, channels, taps, first, taps // 2, bias=False)
        self.conv2 = nn.Conv1d(channels, channels, 3, second, 1, bias=False)
        self.conv3 = nn.Conv1d(channels, outputs, 1, bias=False) if deep else None
        changes = inputs != outputs or stride > 1
        self.shortcut = nn.Conv1d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Keep the order BN, ReLU, convolution."""
        active = torch.relu(self.norm1(hidden))
        way = hidden if self.shortcut is None else self.shortcut(active)
        out = self.conv2(torch.relu(self.norm2(self.conv1(active))))
        if self.norm3 is not None:
            out = self.conv3(torch.relu(self.norm3(out)))
        return way + out


class PlainResNet1d(nn.Module):
    """The reference: the same names and shapes of parameters, made of ``nn.Conv1d``."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        paper = settings.stem == "paper"
        self.stem = nn.Module()
        self.stem.conv = nn.Conv1d(1, settings.width, 7, 2 if paper else 1, 3, bias=False)
        self.pool = nn.MaxPool1d(3, 2, 1) if paper else nn.Identity()
        inputs, factor = settings.width, EXPANSION[settings.depth]
        for index, count in enumerate(BLOCKS[settings.depth]):
            channels = settings.width << index
            blocks = []
            for number in range(count):
                stride = 2 if index and not number else 1
                blocks.append(PlainBlock(inputs, channels, channels * factor, stride))
                inputs = channels * factor
            self.add_module(STAGES[index + 1], nn.Sequential(*blocks))
        self.norm = nn.BatchNorm1d(inputs)
        self.head = nn.Linear(inputs, 1)

    def forward(self, beats: Tensor) -> Tensor:
        """Map (B, 120) to logits (B,)."""
        return self.head(self.embed(beats)).squeeze(1)

    def embed(self, beats: Tensor) -> Tensor:
        """Map (B, 120) to what the head sees, (B, features)."""
        hidden = self.pool(self.stem.conv(beats.unsqueeze(1)))
        for name in STAGES[1:]:
            hidden = self.get_submodule(name)(hidden)
        return torch.relu(self.norm(hidden)).mean(2)


def train_step(model: nn.Module, beats: Tensor, labels: Tensor) -> None:
    """Forward and backward once."""
    model.zero_grad()
    nn.functional.binary_cross_entropy_with_logits(model(beats), labels).backward()


def compare(settings: ModelSettings, batch: int, repeats: int) -> tuple[float, float, float]:
    """Return the ratio in training, the ratio in inference, and beats trained per second here."""
    ours = build_model(settings, torch_stream("benchmark"))
    plain = PlainResNet1d(settings)
    plain.load_state_dict(ours.state_dict())
    beats = torch.randn(batch, 120, generator=torch_stream("beats"))
    labels = (torch.arange(batch) % 2).float()
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats + 1):  # the first is a warm-up
        for name, model in (("ours", ours), ("plain", plain)):
            model.train()
            took = _timed(partial(train_step, model, beats, labels))
            seconds.setdefault((name, "train"), []).append(took)
            model.eval()
            with torch.no_grad():
                seconds.setdefault((name, "infer"), []).append(_timed(partial(model, beats)))
    middle = {key: median(values[1:]) for key, values in seconds.items()}
    return (
        middle["plain", "train"] / middle["ours", "train"],
        middle["plain", "infer"] / middle["ours", "infer"],
        batch / middle["ours", "train"],
    )


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print one line per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, {repeats} interleaved repeats, medians")
    print("network                     training   inference   (nn.Conv1d = 1)   beats trained per second")
    for settings, batch in NETWORKS:
        train, infer, rate = compare(settings, batch, repeats)
        name = f"ResNet-{settings.depth}, width {settings.width}, {settings.stem} stem"
        print(f"{name:28}{train:8.2f}x {infer:10.2f}x {rate:43.0f}")


if __name__ == "__main__":
    main()
