"""Personal models are suffixes and belong to one generic model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.learning.models import (
    build_network,
    keep_generic,
    load_network,
    load_personal,
    save_personal,
)
from common.config import ModelSettings
from common.errors import ModelError
from common.model import ResNet1d
from common.weights import Weights


def saved(toy_site: Any, network: ResNet1d, path: Path, digest: str) -> Path:
    suffix = {"head.bias": np.array([2.5], np.float32)}
    save_personal(path, suffix, generic_sha256=digest, model=network.settings, method="threshold", round_=3)
    return path


def test_a_suffix_replaces_its_arrays_and_nothing_else(
    toy_site: Any, network: ResNet1d, toy_weights: Weights, tmp_path: Path
) -> None:
    generic, _ = keep_generic(toy_site.site, toy_weights, toy_site.run)
    path = saved(toy_site, network, tmp_path / "p.safetensors", toy_weights.digest())
    personal = load_personal(path, generic)
    assert (personal.method, personal.round) == ("threshold", 3)
    assert personal.generic_sha256 == toy_weights.digest()
    for name, value in personal.network.state_dict().items():
        if name == "head.bias":
            assert value.item() == 2.5
        elif "num_batches" not in name:
            assert torch.equal(value, network.state_dict()[name]), name


def test_a_suffix_is_refused_on_another_generic_model(
    toy_site: Any, network: ResNet1d, toy_weights: Weights, tmp_path: Path
) -> None:
    other = Weights(toy_weights.trainable + 1, toy_weights.statistics)
    generic, _ = keep_generic(toy_site.site, other, toy_site.run)
    path = saved(toy_site, network, tmp_path / "p.safetensors", toy_weights.digest())
    with pytest.raises(ModelError, match="belongs to the generic model"):
        load_personal(path, generic)


def test_a_generic_model_is_not_a_suffix_and_the_other_way_round(
    toy_site: Any, network: ResNet1d, toy_weights: Weights, tmp_path: Path
) -> None:
    generic, _ = keep_generic(toy_site.site, toy_weights, toy_site.run)
    with pytest.raises(ModelError, match="not a personal model but 'generic'"):
        load_personal(generic, generic)
    path = saved(toy_site, network, tmp_path / "p.safetensors", toy_weights.digest())
    with pytest.raises(ModelError, match="not a generic model"):
        load_network(path)


def test_arrays_that_have_no_place_are_refused(
    toy_site: Any, network: ResNet1d, toy_weights: Weights, tmp_path: Path
) -> None:
    generic, _ = keep_generic(toy_site.site, toy_weights, toy_site.run)
    for suffix in ({"head.bias": np.zeros(2, np.float32)}, {"tail": np.zeros(1, np.float32)}):
        path = tmp_path / "p.safetensors"
        digest = toy_weights.digest()
        save_personal(path, suffix, generic_sha256=digest, model=network.settings, method="x", round_=1)
        with pytest.raises(ModelError, match="has no place"):
            load_personal(path, generic)


def test_weights_of_another_architecture_are_refused_by_their_schema(
    toy_site: Any, toy_weights: Weights
) -> None:
    wider = ModelSettings(depth=18, width=8, stem="paper")
    with pytest.raises(ModelError, match="schema"):
        build_network(wider, toy_site.run.schema, toy_weights)
