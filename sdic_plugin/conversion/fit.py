"""Checks that networks from different files belong together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from torch import nn

from sdic_plugin.errors import CheckpointError

SHARED_VALUES = {
    "encoder": lambda network: {
        "number of styles": network.config.num_styles,
        "style width": network.config.style_width,
        "feature resolution (a quarter of the encoder's image size)": network.config.image_size // 4,
    },
    "generator": lambda network: {
        "number of styles": network.num_styles,
        "style width": network.config.style_width,
        "feature resolution (a quarter of the encoder's image size)": network.config.feature_resolution,
        "number of feature channels": network.feature_channels,
    },
    "dicn": lambda network: {
        "number of styles": network.config.num_styles,
        "style width": network.config.style_width,
        "number of feature channels": network.config.feature_channels,
    },
}
"""The values in which networks of one pipeline must agree, per component."""


def check_fit(networks: Mapping[str, nn.Module]) -> None:
    """Raise CheckpointError, naming both sides, if two networks do not fit each other.

    Args:
        networks: Networks by component name; what is missing is not compared.
    """
    known = {name: values(networks[name]) for name, values in SHARED_VALUES.items() if name in networks}
    for (first, mine), (second, theirs) in itertools.combinations(known.items(), 2):
        for value in mine.keys() & theirs.keys():
            if mine[value] != theirs[value]:
                raise CheckpointError(
                    f"The {first} and the {second} do not fit each other: the {value} is {mine[value]} in the "
                    f"{first}, but {theirs[value]} in the {second}, so give files that belong together."
                )
