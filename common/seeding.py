"""Random streams with names.

Every random choice draws from a stream keyed by what it is for, for example
``stream(seed, "personalize", site, patient, round)``. No global generator is ever seeded, so
the answer of one part never depends on how many numbers another part drew.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def key(*names: object) -> int:
    """Hash a sequence of names to a 63-bit integer that is the same on every machine and day.

    Names are compared by type and text, so ``key(1)`` differs from ``key("1")`` and
    ``key("ab", "c")`` from ``key("a", "bc")``.
    """
    text = "\x1f".join(f"{type(name).__name__}:{name}" for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(*names: object) -> np.random.Generator:
    """Return the NumPy generator that belongs to these names."""
    return np.random.default_rng(key(*names))


def torch_stream(*names: object) -> torch.Generator:
    """Return the PyTorch CPU generator that belongs to these names."""
    import torch  # here, because ingest must not import torch

    return torch.Generator().manual_seed(key(*names))
