"""The generic model as a file: what the server selects and what every site keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.checkpoint import load_checkpoint, save_checkpoint
from common.config import ModelSettings, Settings, validated
from common.errors import ModelError
from common.protocol import RunPlan
from common.weights import Weights


@dataclass(frozen=True)
class GenericModel:
    """Weights with what is needed to use them.

    Attributes
    ----------
    weights : the two flat vectors.
    model : architecture.
    schema : digest of the weights' names and shapes.
    story : where it came from (run, federated round, rule of choice).
    """

    weights: Weights
    model: ModelSettings
    schema: str
    story: Mapping[str, Any] = field(default_factory=dict)

    def plan(self, *, name: str, seed: int, settings: Settings) -> RunPlan:
        """Return the plan a site follows when it personalizes from this file, without a server."""
        return RunPlan(
            name=name,
            seed=seed,
            schema=self.schema,
            preprocessing=settings.preprocessing_digest(),
            model=self.model,
        )


def save_generic(path: Path, generic: GenericModel) -> str:
    """Write the model; return the SHA-256 of the file."""
    arrays = {"trainable": generic.weights.trainable, "statistics": generic.weights.statistics}
    story = {"model": generic.model.model_dump(), "schema": generic.schema, "story": dict(generic.story)}
    return save_checkpoint(path, arrays, {"kind": "generic", **story})


def load_generic(path: Path) -> GenericModel:
    """Read a generic model.

    Raises
    ------
    ModelError
        If the file is missing, damaged or holds something else.
    """
    arrays, metadata = load_checkpoint(path)
    if metadata.get("kind") != "generic":
        raise ModelError(
            f"{path} is not a generic model but {metadata.get('kind', 'something else')!r}; "
            "a federation writes it as best.safetensors"
        )
    return GenericModel(
        weights=Weights(
            np.asarray(arrays["trainable"], np.float32), np.asarray(arrays["statistics"], np.float32)
        ),
        model=validated(ModelSettings, metadata["model"], f"{path}, model"),
        schema=str(metadata["schema"]),
        story=metadata["story"],
    )
