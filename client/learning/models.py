"""Models on a site's disk: the generic one it received, and the suffix each patient's model has of its own.

A personal model is the generic model with some arrays replaced. Only those are stored, with the hash of the
generic model they belong to; they are refused on any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.site import Site
from common.checkpoint import load_checkpoint, save_checkpoint
from common.config import ModelSettings
from common.errors import ModelError
from common.generic import GenericModel, load_generic, save_generic
from common.model import ResNet1d, build_model
from common.protocol import RunPlan
from common.seeding import torch_stream
from common.weights import Weights, schema_of, unpack

#: Characters of a model's hash that name it in a path.
HASH_CHARACTERS = 12
#: A personal model is fitted to one patient's beats: for its owner only.
PRIVATE = 0o600


@dataclass(frozen=True)
class PersonalModel:
    """A patient's model, ready to use, and where it came from."""

    network: ResNet1d
    method: str
    round: int
    generic_sha256: str


def build_network(model: ModelSettings, schema: str, weights: Weights) -> ResNet1d:
    """Build the network a message or file describes and load its weights.

    Returns
    -------
    ResNet1d in evaluation mode.

    Raises
    ------
    ModelError
        If the schema is not that of the architecture, or the weights do not fit it.
    """
    # Every random number is replaced; the stream is only there because no global one may be used.
    network = build_model(model, torch_stream("replaced"))
    own = schema_of(network).digest
    if own != schema:
        raise ModelError(
            f"the weights were made for a network other than depth {model.depth}, width {model.width}, "
            f"stem {model.stem} of this software (schema {schema[:12]} against {own[:12]}); install the "
            "version the coordinator runs"
        )
    unpack(network, weights)
    return network.eval()


def generic_path(site: Site, name: str, sha256: str) -> Path:
    """Return where a site keeps a generic model used under a name; ``sha256`` is that of its weights."""
    return site.models / f"generic-{name}-{sha256[:HASH_CHARACTERS]}.safetensors"


def personal_path(
    site: Site, name: str, run_id: int, patient_id: int, method: str, generic_sha256: str
) -> Path:
    """Return where a site keeps a patient's suffix; the numbers are the database's, not the hospital's.

    Each personalization run has a folder of its own, so that no run writes over the models of another.
    """
    folder = site.models / name / f"run-{run_id}-{generic_sha256[:HASH_CHARACTERS]}"
    return folder / f"patient-{patient_id}-{method}.safetensors"


def keep_generic(site: Site, weights: Weights, plan: RunPlan) -> tuple[Path, str]:
    """Write the generic model a site received; return its path and the SHA-256 of the file.

    The file depends on name and weights only: written again, it is the same file.
    """
    digest = weights.digest()
    path = generic_path(site, plan.name, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    story = {"run": plan.name, "weights-sha256": digest}
    return path, save_generic(path, GenericModel(weights, plan.model, plan.schema, story))


def save_personal(
    path: Path,
    suffix: Mapping[str, npt.NDArray[np.float32]],
    *,
    generic_sha256: str,
    model: ModelSettings,
    method: str,
    round_: int,
) -> str:
    """Write a personal suffix; return the SHA-256 of the file.

    Parameters
    ----------
    suffix : the arrays that replace those of the generic model, by parameter name.
    generic_sha256 : ``Weights.digest()`` of the generic model.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    story = {
        "kind": "personal",
        "generic-sha256": generic_sha256,
        "model": model.model_dump(),
        "method": method,
        "round": round_,
    }
    return save_checkpoint(path, suffix, story, mode=PRIVATE)


def load_network(path: Path) -> tuple[ResNet1d, str]:
    """Read a generic model; return the network in evaluation mode and its weights' hash."""
    generic = load_generic(path)
    return build_network(generic.model, generic.schema, generic.weights), generic.weights.digest()


def load_personal(path: Path, generic: Path) -> PersonalModel:
    """Put a personal suffix on its generic model.

    Parameters
    ----------
    path, generic : files written by ``save_personal`` and ``keep_generic``.

    Raises
    ------
    ModelError
        If a file is missing or damaged, is not of that kind, or the suffix belongs to another generic model.
    """
    suffix, story = load_checkpoint(path)
    if story.get("kind") != "personal":
        raise ModelError(f"{path} is not a personal model but {story.get('kind', 'something else')!r}")
    network, digest = load_network(generic)
    if story["generic-sha256"] != digest:
        raise ModelError(
            f"{path.name} belongs to the generic model {story['generic-sha256'][:12]}, not to {digest[:12]} "
            f"in {generic.name}; run the personalization again with this generic model"
        )
    _replace(network, suffix, path)
    return PersonalModel(network, str(story["method"]), int(story["round"]), digest)


def _replace(network: ResNet1d, suffix: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    state = network.state_dict()
    for name, values in suffix.items():
        if name not in state or tuple(state[name].shape) != values.shape:
            raise ModelError(f"{path}: the array {name!r} has no place in the generic model")
        state[name].copy_(state[name].new_tensor(values))
