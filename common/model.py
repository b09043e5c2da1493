"""The pre-activation 1D ResNet family, and freezing by stage.

Source: Chiu 2022, Methods, Model Architecture (ResNet-50, 1D convolutions, BN-ReLU-convolution, block
sizes, strides and filters unchanged); He 2016, "Identity mappings in deep residual networks".
Deviations: depth and width are settings; the stem ``small`` keeps all 120 samples (stride 1, no pooling),
because the paper's leaves 4 positions in the last stage; the output is one logit, since there are two labels.

Hidden activations are channels last, (beats, positions, channels), all the way: convolutions see them as
images of height one in channels-last memory, a convolution of one tap is a matrix product, and batch
normalization runs over the rows of a plain matrix. Parameters keep the names and shapes a network of
``nn.Conv1d`` would have. ``benchmarks/layout.py`` compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.config import ModelSettings
from common.errors import ModelError

#: Stages in the order a beat passes them. Freezing and caching happen at their ends; ``norm`` (the last
#: batch normalization and ReLU) and ``head`` follow and are never frozen.
STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")

#: Names accepted wherever a stage ends a prefix; ``none`` is the beat itself.
CUTS = ("none", *STAGES)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
EXPANSION = {18: 1, 34: 1, 50: 4}
STEM_TAPS = 7


class Conv(nn.Module):
    """A convolution without bias over channels-last activations, "same" padding for odd tap counts.

    Parameters
    ----------
    inputs, outputs : channels.
    taps : odd length of the kernel.
    stride : distance of two output positions, in input positions.
    generator : the stream the weights are drawn from (He 2015, normal, by fan-in).
    """

    def __init__(self, inputs: int, outputs: int, taps: int, stride: int, generator: torch.Generator) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(outputs, inputs, taps))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu", generator=generator)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, L, inputs) to (B, ceil(L / stride), outputs)."""
        outputs, inputs, taps = self.weight.shape
        if taps == 1:
            picked = hidden if self.stride == 1 else hidden[:, :: self.stride]
            return picked @ self.weight.view(outputs, inputs).t()
        image = functional.conv2d(
            _as_image(hidden), self.weight.unsqueeze(2), stride=(1, self.stride), padding=(0, taps // 2)
        )
        return _from_image(image)


class NormRelu(nn.BatchNorm1d):
    """Batch normalization and ReLU over the last axis; a position of a beat counts as one observation."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Keep the shape (B, L, C)."""
        rows: Tensor = super().forward(hidden.reshape(-1, hidden.shape[-1]))
        return functional.relu(rows, inplace=True).view(hidden.shape)


class Stem(nn.Module):
    """The first convolution; the paper's also halves the length twice."""

    def __init__(self, settings: ModelSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.pool = settings.stem == "paper"
        self.conv = Conv(1, settings.width, STEM_TAPS, 2 if self.pool else 1, generator)

    def forward(self, beats: Tensor) -> Tensor:
        """Map (B, L) in mV to (B, L or L / 4, width)."""
        if beats.ndim != 2:
            raise ModelError(
                f"the network takes beats as (beats, samples), got an array of shape {tuple(beats.shape)}"
            )
        hidden: Tensor = self.conv(beats.unsqueeze(2))
        if not self.pool:
            return hidden
        return _from_image(functional.max_pool2d(_as_image(hidden), (1, 3), stride=(1, 2), padding=(0, 1)))


class Block(nn.Module):
    """A pre-activation residual block: of two convolutions, or of three with a narrow middle (bottleneck).

    The shortcut is the input itself or, where channels or length change, a one-tap convolution of the
    activated input.
    """

    def __init__(
        self, inputs: int, channels: int, outputs: int, stride: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        bottleneck = outputs != channels
        self.norm1 = NormRelu(inputs)
        self.conv1 = Conv(inputs, channels, 1 if bottleneck else 3, 1 if bottleneck else stride, generator)
        self.norm2 = NormRelu(channels)
        self.conv2 = Conv(channels, channels, 3, stride if bottleneck else 1, generator)
        self.norm3 = NormRelu(channels) if bottleneck else None
        self.conv3 = Conv(channels, outputs, 1, 1, generator) if bottleneck else None
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else Conv(inputs, outputs, 1, stride, generator)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, L, inputs) to (B, ceil(L / stride), outputs)."""
        active = self.norm1(hidden)
        way: Tensor = hidden if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(self.norm2(self.conv1(active)))
        if self.norm3 is not None and self.conv3 is not None:
            out = self.conv3(self.norm3(out))
        return way + out


class ResNet1d(nn.Module):
    """Beats in, one logit per beat out; positive logits speak for the positive label.

    A forward pass is ``suffix(prefix(beats, cut), cut)`` for every cut, bit for bit on equal batches, so the
    activations of frozen stages can be kept. Build it with ``build_model``.

    Attributes
    ----------
    settings : what it was built from.
    features : length of the embedding.
    """

    def __init__(self, settings: ModelSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        self.features = settings.width * 8 * EXPANSION[settings.depth]
        self._frozen: tuple[str, ...] = ()
        self._statistics_frozen = False
        self.stem = Stem(settings, generator)
        inputs = settings.width
        for index, count in enumerate(BLOCKS[settings.depth]):
            channels = settings.width << index
            outputs = channels * EXPANSION[settings.depth]
            blocks = []
            for number in range(count):
                stride = 2 if index > 0 and number == 0 else 1
                blocks.append(Block(inputs, channels, outputs, stride, generator))
                inputs = outputs
            self.add_module(STAGES[index + 1], nn.Sequential(*blocks))
        self.norm = NormRelu(self.features)
        self.head = nn.utils.skip_init(nn.Linear, self.features, 1)  # type: ignore[no-untyped-call]
        replace_head(self, generator)

    def forward(self, beats: Tensor) -> Tensor:
        """Return the logit of each beat.

        Parameters
        ----------
        beats : float32 (B, 120), mV, R peak at index 40.

        Returns
        -------
        float32 (B,)
        """
        return self.suffix(beats, "none")

    def prefix(self, beats: Tensor, through: str) -> Tensor:
        """Run the stages up to and including ``through``.

        Wrap it in ``torch.no_grad()`` to keep the result for training; what ``torch.inference_mode()``
        returns cannot be trained on.

        Parameters
        ----------
        beats : float32 (B, 120), mV.
        through : one of ``CUTS``; ``none`` returns the beats.

        Returns
        -------
        float32 (B, L, C), channels last; (B, 120) for ``none``.
        """
        hidden = beats
        for name in STAGES[: _position(through)]:
            hidden = self.get_submodule(name)(hidden)
        return hidden

    def suffix(self, hidden: Tensor, after: str) -> Tensor:
        """Run everything behind stage ``after`` and return logits (B,)."""
        logits: Tensor = self.head(self.embed(hidden, after))
        return logits.squeeze(1)

    def embed(self, hidden: Tensor, after: str = "none") -> Tensor:
        """Return what the head sees: the mean over positions of the last activations, (B, features).

        Parameters
        ----------
        hidden : beats (B, 120), or what ``prefix(beats, after)`` returned.
        after : the stage ``hidden`` comes from, one of ``CUTS``.
        """
        for name in STAGES[_position(after) :]:
            hidden = self.get_submodule(name)(hidden)
        active: Tensor = self.norm(hidden)
        return active.mean(1)

    def train(self, mode: bool = True) -> ResNet1d:
        """Set the mode; frozen stages and frozen statistics stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        if self._statistics_frozen:
            for module in self.modules():
                if isinstance(module, NormRelu):
                    module.eval()
        return self


def build_model(settings: ModelSettings, generator: torch.Generator) -> ResNet1d:
    """Build a network with random weights.

    Parameters
    ----------
    settings : depth, width and stem.
    generator : the only source of randomness (``common.seeding.torch_stream``); equal streams give equal
        weights, and no global generator is touched.

    Returns
    -------
    ResNet1d in training mode, on the CPU.
    """
    return ResNet1d(settings, generator)


def freeze(model: ResNet1d, through: str) -> None:
    """Freeze the stages up to and including ``through``, and release all others.

    Frozen means: no gradients, and batch normalization in evaluation mode also after ``model.train()``.
    ``requires_grad`` alone would leave the running statistics moving.

    Raises
    ------
    ModelError
        If ``through`` is not one of ``CUTS``; ``none`` releases everything.
    """
    model._frozen = STAGES[: _position(through)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.split(".")[0] not in model._frozen)
    model.train(model.training)


@contextmanager
def frozen_statistics(model: ResNet1d) -> Iterator[None]:
    """Keep all batch normalization in evaluation mode inside the block, whatever ``model.train()`` says.

    Scale and shift of the stages that are not frozen go on learning.
    """
    before = model._statistics_frozen
    model._statistics_frozen = True
    model.train(model.training)
    try:
        yield
    finally:
        model._statistics_frozen = before
        model.train(model.training)


def replace_head(model: ResNet1d, generator: torch.Generator) -> None:
    """Draw a fresh head: weights uniform within ±1/√features, no offset.

    Source: Chiu 2022, Methods (the classification layer is replaced by a randomly initialized one).
    """
    bound = model.features**-0.5
    with torch.no_grad():
        model.head.weight.uniform_(-bound, bound, generator=generator)
        model.head.bias.zero_()


def _position(cut: str) -> int:
    if cut not in CUTS:
        raise ModelError(f"there is no stage {cut!r}; allowed: {', '.join(CUTS)}")
    return CUTS.index(cut)


def _as_image(hidden: Tensor) -> Tensor:
    """View (B, L, C) as an image (B, C, 1, L) in channels-last memory; nothing is copied."""
    return hidden.unsqueeze(1).permute(0, 3, 1, 2)


def _from_image(image: Tensor) -> Tensor:
    """Undo ``_as_image``; copies only where the kernel answered in another memory order."""
    return image.permute(0, 2, 3, 1).squeeze(1).contiguous()
