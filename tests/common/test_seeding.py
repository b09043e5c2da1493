import random

import numpy as np
import torch

from common.seeding import key, stream, torch_stream


def test_a_stream_is_known_by_its_names_alone():
    np.random.seed(1)  # noqa: NPY002 - the point is that global state does not matter
    first = stream(7, "train", "site-a", 3).random(4)
    np.random.seed(2)  # noqa: NPY002
    random.seed(5)
    assert np.array_equal(first, stream(7, "train", "site-a", 3).random(4))


def test_names_are_told_apart_by_type_and_border():
    assert len({key(1), key("1"), key("ab", "c"), key("a", "bc"), key("abc")}) == 5


def test_the_value_of_a_key_never_changes():
    # Stored cohorts and published runs depend on it.
    assert key(7, "train", "site-a", 3) == 1548072079478571200


def test_torch_streams_repeat_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b = (torch.rand(3, generator=torch_stream(1, "head")) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())
