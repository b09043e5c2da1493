"""Two flat vectors are the whole model, and nothing that is not one of its own fits."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from common.config import ModelSettings
from common.errors import ModelError
from common.model import ResNet1d, build_model, freeze
from common.seeding import torch_stream
from common.weights import Weights, pack, schema_of, unpack


def model_of(name: str = "model", width: int = 4) -> ResNet1d:
    model = build_model(ModelSettings(depth=18, width=width, stem="small"), torch_stream(name))
    model(torch.randn(6, 120, generator=torch_stream(name, "beats")))  # moves the running statistics
    return model


def changed(weights: Weights, **vectors: np.ndarray) -> Weights:
    return dataclasses.replace(weights, **vectors)


def test_unpacking_what_was_packed_gives_the_same_answers_bit_for_bit():
    source, target = model_of("a"), model_of("b")
    beats = torch.randn(4, 120, generator=torch_stream("beats"))
    assert not torch.equal(source.eval()(beats), target.eval()(beats))
    unpack(target, pack(source))
    assert torch.equal(source(beats), target(beats))
    assert pack(target).digest() == pack(source).digest()


def test_the_vectors_hold_every_parameter_and_every_running_statistic_once():
    model = model_of()
    schema, weights = schema_of(model), pack(model)
    assert weights.trainable.size == sum(parameter.numel() for parameter in model.parameters())
    assert {name.rsplit(".", 1)[1] for name, _ in schema.statistics} == {"running_mean", "running_var"}
    norms = [name for name in model.state_dict() if name.endswith("num_batches_tracked")]
    assert len(schema.statistics) == 2 * len(norms)
    assert (weights.trainable.size, weights.statistics.size) == (
        schema.trainable_size,
        schema.statistics_size,
    )
    assert weights.trainable.dtype == weights.statistics.dtype == np.float32


def test_the_number_of_batches_stays_where_it_was():
    source, target = model_of("a"), model_of("b")
    source(torch.zeros(2, 120))
    before = target.norm.num_batches_tracked.clone()
    unpack(target, pack(source))
    assert torch.equal(target.norm.num_batches_tracked, before)


def test_averaging_vectors_averages_every_array():
    first, second = model_of("a"), model_of("b")
    mean = Weights(*((getattr(pack(first), k) + getattr(pack(second), k)) / 2 for k in vars(pack(first))))
    target = model_of("c")
    unpack(target, mean)
    for name, value in target.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.allclose(value, (first.state_dict()[name] + second.state_dict()[name]) / 2), name


def test_what_was_packed_does_not_change_when_training_goes_on():
    model = model_of()
    weights = pack(model)
    digest = weights.digest()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert weights.digest() == digest != pack(model).digest()


def test_unpacking_does_not_tie_the_model_to_the_vectors():
    model, weights = model_of(), pack(model_of("b"))
    unpack(model, weights)
    weights.trainable[:] = 0
    assert pack(model).trainable.any()


def test_freezing_does_not_move_anything_in_the_vectors():
    model = model_of()
    schema, digest = schema_of(model), pack(model).digest()
    freeze(model, "stage3")
    assert schema_of(model) == schema
    assert pack(model).digest() == digest


def test_models_of_the_same_settings_have_one_schema_and_others_another():
    assert schema_of(model_of("a")).digest == schema_of(model_of("b")).digest
    assert schema_of(model_of(width=8)).digest != schema_of(model_of(width=4)).digest


def test_the_digest_is_that_of_the_bytes():
    weights = Weights(np.array([1.0, -2.0], np.float32), np.array([0.5], np.float32))
    expected = hashlib.sha256(b"2 1\n" + bytes.fromhex("0000803f000000c00000003f")).hexdigest()
    assert weights.digest() == expected


def test_the_digest_changes_with_one_number_and_with_the_border_between_the_vectors():
    weights = pack(model_of())
    other = weights.trainable.copy()
    other[17] = np.nextafter(other[17], np.float32(9))
    assert changed(weights, trainable=other).digest() != weights.digest()
    moved = Weights(weights.trainable[:-1], np.concatenate([weights.trainable[-1:], weights.statistics]))
    assert moved.digest() != weights.digest()


@pytest.mark.parametrize("kind", ["trainable", "statistics"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda vector: vector[:-1], "values are expected by this model"),
        (lambda vector: vector.reshape(1, -1), "values are expected by this model"),
        (lambda vector: np.where(np.arange(vector.size) == 3, np.nan, vector), "1 of .* not finite"),
        (lambda vector: np.where(np.arange(vector.size) < 2, np.inf, vector), "2 of .* not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_the_model_stays_as_it_was(kind, spoil, says):
    model, weights = model_of("a"), pack(model_of("b"))
    digest = pack(model).digest()
    with pytest.raises(ModelError, match=f"{kind} weights: .*{says}"):
        unpack(model, changed(weights, **{kind: spoil(getattr(weights, kind)).astype(np.float32)}))
    assert pack(model).digest() == digest


def test_named_arrays_are_those_of_the_model_and_join_to_the_same_vectors():
    model = model_of()
    schema, weights = schema_of(model), pack(model)
    arrays = schema.split(weights)
    for name, array in arrays.items():
        assert np.array_equal(array, model.state_dict()[name].numpy()), name
    shuffled = dict(reversed(arrays.items())) | {"something else": np.zeros(3)}
    assert schema.join(shuffled).digest() == weights.digest()


def test_joining_arrays_of_another_model_names_the_first_that_does_not_fit():
    schema = schema_of(model_of(width=8))
    small = model_of(width=4)
    with pytest.raises(ModelError, match=r"'stem\.conv.weight' has shape"):
        schema.join(schema_of(small).split(pack(small)))
    with pytest.raises(ModelError, match=r"'stem\.conv.weight' is missing"):
        schema.join({})
