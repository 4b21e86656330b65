"""Random generators whose seeds are hashed, so that small numbers used for different purposes never collide."""

from __future__ import annotations

import numpy as np
import torch

from sdic_plugin.errors import SDICError, shorten


def seeded_rng(*numbers: int) -> torch.Generator:
    """Return a random generator (CPU) of these numbers, each 0 or more; other numbers give unrelated streams.

    `torch.Generator().manual_seed(k)` draws the very numbers that initialised a network under `torch.manual_seed(k)`:
    z of seed 0 are then rows of the first mapping layer, and map to outliers.

    Raises:
        SDICError: If a number is negative.
    """
    if min(numbers, default=0) < 0:
        raise SDICError(f"The seed {shorten(min(numbers))} is out of range: give a whole number from 0 on.")
    state = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
