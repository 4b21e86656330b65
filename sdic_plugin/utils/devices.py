"""Devices by name, and whether this machine has them; importing this costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_plugin.errors import SDICError, shorten

if TYPE_CHECKING:
    import torch

KINDS = (
    "cpu", "cuda", "fpga", "hip", "hpu", "ideep", "ipu", "lazy", "maia", "meta", "mkldnn", "mps", "mtia", "opencl",
    "opengl", "privateuseone", "ve", "vulkan", "xla", "xpu",
)  # fmt: skip
"""Kinds of devices that PyTorch knows by itself; plug-ins (entry points `torch.backends`) name others."""


def check_device(name: str | torch.device) -> None:
    """Raise SDICError unless tensors can be made on a device ("cpu", "cuda", "cuda:1", "mps" …).

    A name that no device can have is refused without importing PyTorch, which takes seconds.
    """
    from importlib.metadata import entry_points

    kind = str(name).partition(":")[0]
    if kind not in KINDS and not entry_points(group="torch.backends"):
        raise SDICError(f"The device {shorten(str(name))} is not usable here: give cpu, cuda or mps.")
    import torch

    usable = False
    cause: Exception | None = None
    try:
        usable = torch.device(name).type != "meta"  # which holds shapes, and no numbers
        torch.empty(1, device=name)
    # Backends that this build of PyTorch lacks fail in ways of their own.
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError) as error:
        usable, cause = False, error
    if not usable:
        raise SDICError(
            f"The device {shorten(str(name))} is not usable here: give {' or '.join(usable_devices())}."
        ) from cause


def usable_devices() -> list[str]:
    """Names of the kinds of devices that this machine computes on, "cpu" first."""
    import torch

    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return ["cpu", *(name for name, usable in found.items() if usable)]
