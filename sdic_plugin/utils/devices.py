"""Devices by name, and whether this machine has them."""

from __future__ import annotations

import torch

from sdic_plugin.errors import SDICError, shorten


def check_device(name: str | torch.device) -> None:
    """Raise SDICError unless tensors can be made on a device ("cpu", "cuda", "cuda:1", "mps" …)."""
    cause: Exception | None = None
    try:
        usable = torch.device(name).type != "meta"  # which holds shapes, and no numbers
        torch.empty(1, device=name)
    # Backends that this build of PyTorch lacks raise errors of many kinds.
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError) as error:
        usable, cause = False, error
    if not usable:
        raise SDICError(
            f"The device {shorten(str(name))} is not usable here: give {' or '.join(usable_devices())}."
        ) from cause


def usable_devices() -> list[str]:
    """Names of the kinds of devices that this machine computes on, "cpu" first."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return ["cpu", *(name for name, usable in found.items() if usable)]
