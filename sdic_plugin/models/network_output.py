"""What networks with several results return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from diffusers.utils import BaseOutput

FROM_MAPPING: Any = None
"""Default of all fields but the first: a call that gives them none gives the mapping that holds them."""


@dataclass
class NetworkOutput(BaseOutput):
    """An output that accelerate can rebuild.

    Its hooks, which move results between devices (`device_map`) and to float32 (mixed precision), make an output anew
    by calling its class with one mapping. So all fields but the first default to `FROM_MAPPING`, and fields that are
    None, which the mapping leaves out, are None again.
    """

    def __post_init__(self) -> None:
        """Take the fields from a mapping where that was all that was given."""
        names = [field.name for field in fields(self)]
        given = getattr(self, names[0])
        if isinstance(given, Mapping):
            for name in names:
                setattr(self, name, given.get(name))
        super().__post_init__()
