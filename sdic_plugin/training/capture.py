"""A loss with its gradients as one graph, compiled: fewer passes over feature maps, and fewer kernels to launch.

PyTorch runs a step operation by operation, and on both kinds of device that leaves the machine idle: a CPU waits for
memory, which every element-wise operation reads and writes anew, and a GPU waits for thousands of launches. Here the
loss of a step is traced together with its backward pass (a penalty on gradients, with its second derivatives, too)
into one graph of PyTorch's own operations, which `torch.compile` turns into few kernels; on a GPU they are replayed as
one CUDA graph. `torch.compile` alone would not do: it differentiates with respect to all parameters, those of frozen
networks included, and it knows no second derivatives.

The loss is the very function that a plain run calls, so that reading and debugging need nothing of this
(`compile = "no"`). Both differ by rounding alone. Compiling takes a minute or several; the compiler's results are kept
on disk, so that resuming a run takes seconds.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from sdic_plugin.errors import SDICError

Compile = Literal["auto", "yes", "no"]
COMPILE = get_args(Compile)
"""Values of the setting `compile`; "auto" becomes "yes" or "no", by what the machine has and how long the run is."""

WORTHWHILE_STEPS = 2000
"""Steps of a run from which compiling it surely takes less time than it saves."""

DEFAULT_COMPILERS = {"darwin": "clang++", "win32": "cl"}

Outputs = dict[str, torch.Tensor]
LossFunction = Callable[..., tuple[torch.Tensor, Outputs]]
"""Takes tensors (lists of them, or None), and switches by name; returns a scalar loss and further figures by name."""

Captured = Callable[..., tuple[torch.Tensor, Outputs, list[torch.Tensor | None]]]


def compiler_problem(device: torch.device) -> str | None:
    """Say what `torch.compile` lacks on this device, or None."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX") or DEFAULT_COMPILERS.get(sys.platform, "g++")  # as torch.compile chooses
        if not shutil.which(compiler):
            return f"there is no C++ compiler {compiler} (the environment variable CXX may name another)"
        if not Path(sysconfig.get_path("include"), "Python.h").is_file():
            return "Python's header files are missing (of the system's Python, a package such as python3-dev has them)"
        return None
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "triton is not installed, or does not support this GPU"
    return f"it is not supported on {device.type}"


def resolve_compile(wanted: Compile, steps: int, precision: str, device: torch.device) -> Compile:
    """Return "yes" or "no": whether a run of this many steps compiles its losses.

    Raises:
        SDICError: If that was asked for, but the machine or the precision does not allow it.
    """
    # In float16 the gradients are scaled by what accelerate decides in every step.
    problem = "mixed_precision is 'fp16'" if precision == "fp16" else compiler_problem(device)
    if wanted == "yes" and problem is not None:
        raise SDICError(f"compile is 'yes', but that does not work here, for {problem}: set it to 'auto' or 'no'.")
    if wanted == "auto":
        return "yes" if problem is None and steps >= WORTHWHILE_STEPS else "no"
    return wanted


class CapturedLoss:
    """A loss and its gradients, compiled once for each combination of shapes and switches.

    Args:
        function: Gives the loss. All its random numbers must be among its inputs.
        parameters: What to differentiate with respect to.
        networks: Those that the function uses; it may update buffers of theirs.
        device: Where it runs.
    """

    def __init__(
        self,
        function: LossFunction,
        parameters: Sequence[nn.Parameter],
        networks: Sequence[nn.Module],
        device: torch.device,
    ) -> None:
        self.function, self.parameters, self.networks, self.device = function, list(parameters), networks, device
        self._compiled: dict[object, Captured] = {}

    def __call__(self, *inputs: Any, **switches: int) -> tuple[torch.Tensor, Outputs, list[torch.Tensor | None]]:
        """Compute the loss, the further outputs, and one gradient per parameter (None where it has no influence).

        Raises:
            SDICError: If compiling fails.
        """
        key = (_shapes(inputs), tuple(switches.items()))
        if key not in self._compiled:
            self._compiled[key] = self._compile(inputs, switches)
        try:  # the first call of what was traced compiles it
            with torch.no_grad():
                loss, outputs, gradients = self._compiled[key](*inputs)
        except RuntimeError as error:
            from torch._dynamo.exc import BackendCompilerFailed  # takes a second to import

            if not isinstance(error, BackendCompilerFailed):
                raise
            reason = str(error).partition("\n")[0]
            raise SDICError(f"torch.compile does not work on this machine ({reason}): set compile=no.") from error
        if self.device.type == "cuda":  # the next replay writes over them
            loss, outputs = loss.clone(), {name: value.clone() for name, value in outputs.items()}
            gradients = [None if each is None else each.clone() for each in gradients]
        return loss, outputs, gradients

    def _compile(self, inputs: Sequence[Any], switches: dict[str, int]) -> Captured:
        used: list[bool] = []

        def differentiated(*inputs: Any) -> tuple[torch.Tensor, Outputs, list[torch.Tensor]]:
            with torch.enable_grad():
                loss, outputs = self.function(*inputs, **switches)
                gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            used[:] = [gradient is not None for gradient in gradients]
            detached = {name: value.detach() for name, value in outputs.items()}
            return loss.detach(), detached, [gradient for gradient in gradients if gradient is not None]

        with _kept_buffers(self.networks):
            graph = make_fx(differentiated)(*inputs)
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        return partial(_with_unused, torch.compile(graph, mode=mode, dynamic=False, fullgraph=True), used)


def _with_unused(graph: Captured, used: Sequence[bool], *inputs: Any) -> Any:
    loss, outputs, gradients = graph(*inputs)
    left = iter(gradients)
    return loss, outputs, [next(left) if each else None for each in used]


def _shapes(inputs: object) -> object:
    if isinstance(inputs, torch.Tensor):
        return inputs.shape, inputs.dtype
    return tuple(map(_shapes, inputs)) if isinstance(inputs, tuple | list) else inputs


@contextmanager
def _kept_buffers(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Undo what tracing a step, which runs it, does to buffers such as BatchNorm's statistics."""
    buffers = [buffer for network in networks for buffer in network.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
