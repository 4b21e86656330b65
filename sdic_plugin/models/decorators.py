"""diffusers' decorators of methods, which keep a method's signature, as type checkers cannot see there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from diffusers import configuration_utils
from diffusers.utils import accelerate_utils

MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def register_to_config(init: MethodT) -> MethodT:
    """Keep what a network's constructor was given as its `config`."""
    return cast(MethodT, configuration_utils.register_to_config(init))


def apply_forward_hook(method: MethodT) -> MethodT:
    """Have accelerate's offloading bring the network to its device before a method other than `forward`."""
    return cast(MethodT, accelerate_utils.apply_forward_hook(method))
