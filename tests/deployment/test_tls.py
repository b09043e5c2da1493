"""The same two apps in two places: over TLS between processes, and in one process. Same weights, bit for bit.

The deployment is a real one: our own commands, the authority of ``pki init``, the front end, node keys, and
at every site the executor, whose gate every message and every reply passes.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.checkpoint import load_checkpoint
from common.generic import load_generic

pytestmark = pytest.mark.deployment


def test_weights_over_tls_are_those_of_one_process(whole: Any) -> None:
    over_tls = whole.deployment.out()
    for kind in ("best", "last"):
        one, _ = load_checkpoint(whole.one / f"{kind}.safetensors")
        two, _ = load_checkpoint(over_tls / f"{kind}.safetensors")
        assert one.keys() == two.keys()
        assert all(one[key].tobytes() == two[key].tobytes() for key in one)
    digests = {load_generic(out / "best.safetensors").weights.digest() for out in (whole.one, over_tls)}
    assert len(digests) == 1


def test_evaluations_and_personal_sums_over_tls_are_those_of_one_process(whole: Any) -> None:
    one = json.loads((whole.one / "server.json").read_text())
    story = whole.ended.story
    assert story["evaluations"] == one["evaluations"]
    assert untimed(story["personalize"]) == untimed(one["personalize"])
    assert set(story["personalize"]) == set(whole.deployment.sites)


def untimed(personalize: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each site's sums without how long it took."""
    return {name: {k: v for k, v in sums.items() if k != "seconds"} for name, sums in personalize.items()}
