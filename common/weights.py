"""A model's weights as two flat vectors, and back.

Two vectors instead of hundreds of arrays, because every array costs a deployment eight HTTP requests.
``trainable`` holds all parameters; ``statistics`` the running means and variances of batch normalization,
which are averaged as floats across sites. ``num_batches_tracked`` stays where it is: an average of it means
nothing, and nothing here reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from common.errors import ModelError

Vector = npt.NDArray[np.float32]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, eq=False)
class Weights:
    """All numbers of a model.

    Attributes
    ----------
    trainable : float32 1-D, parameters in the order of the schema.
    statistics : float32 1-D, running means and variances in the order of the schema.
    """

    trainable: Vector
    statistics: Vector

    def digest(self) -> str:
        """SHA-256 of the little-endian bytes, both lengths first: the model's hash."""
        out = hashlib.sha256(f"{self.trainable.size} {self.statistics.size}\n".encode())
        for vector in (self.trainable, self.statistics):
            out.update(np.ascontiguousarray(vector, dtype="<f4").tobytes())
        return out.hexdigest()


@dataclass(frozen=True)
class WeightSchema:
    """Names and shapes behind the two vectors, in order.

    Attributes
    ----------
    trainable, statistics : (name, shape) of every array.
    """

    trainable: Shapes
    statistics: Shapes

    @property
    def trainable_size(self) -> int:
        """Length of the trainable vector."""
        return _size(self.trainable)

    @property
    def statistics_size(self) -> int:
        """Length of the statistics vector."""
        return _size(self.statistics)

    @property
    def digest(self) -> str:
        """SHA-256 of names and shapes. Both ends of a wire compare it before they use a vector."""
        text = json.dumps([self.trainable, self.statistics], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def check(self, weights: Weights) -> None:
        """Refuse vectors of another length or with values that are not finite.

        Raises
        ------
        ModelError
        """
        for kind, vector, size in (
            ("trainable", weights.trainable, self.trainable_size),
            ("statistics", weights.statistics, self.statistics_size),
        ):
            if vector.ndim != 1 or vector.size != size:
                raise ModelError(
                    f"{kind} weights: {size} values are expected by this model, got shape {vector.shape}; "
                    "use the same depth, width and stem on both sides"
                )
            bad = vector.size - int(np.count_nonzero(np.isfinite(vector)))
            if bad:
                raise ModelError(
                    f"{kind} weights: {bad} of {size} values are not finite; the training that made them "
                    "diverged, lower the learning rate"
                )

    def split(self, weights: Weights) -> dict[str, Vector]:
        """Return named arrays, as a checkpoint stores them; views, not copies.

        Raises
        ------
        ModelError
            See ``check``.
        """
        self.check(weights)
        return dict(
            [*_pieces(self.trainable, weights.trainable), *_pieces(self.statistics, weights.statistics)]
        )

    def join(self, arrays: Mapping[str, npt.NDArray[np.floating]]) -> Weights:
        """Undo ``split``; arrays of other names are left aside.

        Raises
        ------
        ModelError
            If an array is missing, has another shape or is not finite.
        """
        weights = Weights(_joined(self.trainable, arrays), _joined(self.statistics, arrays))
        self.check(weights)
        return weights


def schema_of(model: nn.Module) -> WeightSchema:
    """Return the schema of a model; frozen parameters count as trainable, their place never moves."""
    parameters, buffers = _tensors(model)
    return WeightSchema(_shapes(parameters), _shapes(buffers))


def pack(model: nn.Module) -> Weights:
    """Copy a model's numbers into two vectors."""
    parameters, buffers = _tensors(model)
    return Weights(_flat(parameters), _flat(buffers))


def unpack(model: nn.Module, weights: Weights) -> None:
    """Copy two vectors into a model, all or nothing.

    Raises
    ------
    ModelError
        If a vector has another length than the model needs, or holds values that are not finite. The model
        is unchanged then.
    """
    parameters, buffers = _tensors(model)
    schema = WeightSchema(_shapes(parameters), _shapes(buffers))
    schema.check(weights)
    targets = {**parameters, **buffers}
    with torch.no_grad():
        for name, values in schema.split(weights).items():
            targets[name].copy_(torch.from_numpy(np.array(values, dtype=np.float32)))


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    buffers = {name: value for name, value in model.named_buffers() if value.is_floating_point()}
    return parameters, buffers


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items())


def _size(shapes: Shapes) -> int:
    return sum(math.prod(shape) for _, shape in shapes)


def _flat(tensors: Mapping[str, Tensor]) -> Vector:
    parts = [tensor.detach().cpu().numpy().ravel() for tensor in tensors.values()]
    # concatenate copies, so training on does not change what was packed
    return np.concatenate(parts).astype(np.float32, copy=False) if parts else np.empty(0, np.float32)


def _pieces(shapes: Shapes, vector: Vector) -> Iterator[tuple[str, Vector]]:
    start = 0
    for name, shape in shapes:
        end = start + math.prod(shape)
        yield name, vector[start:end].reshape(shape)
        start = end


def _joined(shapes: Shapes, arrays: Mapping[str, npt.NDArray[np.floating]]) -> Vector:
    parts = []
    for name, shape in shapes:
        if name not in arrays:
            raise ModelError(f"the array {name!r} is missing; these weights belong to another model")
        if arrays[name].shape != shape:
            raise ModelError(
                f"the array {name!r} has shape {arrays[name].shape} where this model has {shape}; these "
                "weights belong to another depth, width or stem"
            )
        parts.append(np.asarray(arrays[name], dtype=np.float32).ravel())
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
