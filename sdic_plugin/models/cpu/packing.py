"""Fused convolutions: bfloat16 on the CPU, with weights in oneDNN's own layout and the BatchNorm after them folded in.

oneDNN rearranges a convolution's weights in every call. Where the weights are larger than the map (the encoder's
heads, the generator's first blocks), that costs bfloat16 what it saves in products. `fuse_convolutions` rearranges
them once. It is an explicit step, for a copy of weights is only as good as the last write to them:

- A fused layer has no parameters and no buffers. They are set aside: reading or setting one raises an error that says
  to unfuse first, and a parameter that other code still refers to is empty until then.
- A fused network refuses `state_dict`, `load_state_dict`, `save_pretrained`, `train`, and moves and casts that would
  change something. Copies and pickles of it are unfused.
- `unfuse_convolutions` brings back the very same parameters, bit for bit. The price is memory: a second copy.

Of the convolutions that blocks name in `fusable_convs`, those are fused whose weights are at least as large as the map
that they get of one photo. They stay correct for inputs of any batch, size and layout; wherever packed weights do not
apply (gradients, compiling, tracing, another dtype), a fused layer computes what it did before, from the parameters
set aside.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, wraps
from typing import Any, NamedTuple, Protocol, Self, SupportsIndex, TypeVar, cast, runtime_checkable

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from sdic_plugin.errors import FusedWeightsError, SDICError
from sdic_plugin.models.cpu.fast_path import fast_path_applies
from sdic_plugin.models.layers import ModulatedConv2d, scale_and_shift


@cache
def packing_supported() -> bool:
    """Whether this CPU and this torch have what is needed; the operators are those that torch.compile calls."""
    operators = ("_convolution_pointwise", "_convolution_transpose_pointwise", "_reorder_convolution_transpose_weight")
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
        and all(hasattr(torch.ops.mkldnn, name) for name in operators)
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def packing_applies(x: torch.Tensor) -> bool:
    """Whether a fused layer that gets x uses its packed weights."""
    return x.dtype == torch.bfloat16 and fast_path_applies(x, "packing") and packing_supported()


def conv_block(
    conv: nn.Module, x: torch.Tensor, norm: nn.Module | None = None, slope: float | None = None
) -> torch.Tensor:
    """2-D convolution, then BatchNorm and leaky ReLU where given: [B, in, H, W] to [B, out, H', W']."""
    if isinstance(conv, FusedConv2d):
        return conv(x, slope)
    x = conv(x)
    if norm is not None:
        x = norm(x)
    return x if slope is None else F.leaky_relu(x, slope)


# Layers.


class FusedLayer(nn.Module):
    """A layer whose tensors are set aside in `plain`, a copy that computes as the layer did before."""

    plain: nn.Module
    _originals: dict[str, torch.Tensor]

    def __getattr__(self, name: str) -> torch.Tensor | nn.Module:
        """Refuse to give the tensors that are set aside."""
        if name in vars(self).get("_originals", ()):
            raise FusedWeightsError(_refusal(f"The layer's {name} cannot be used"))
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: torch.Tensor | nn.Module) -> None:
        """Refuse to replace the tensors that are set aside."""
        if name in vars(self).get("_originals", ()):
            raise FusedWeightsError(_refusal(f"The layer's {name} cannot be set"))
        super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Refuse new parameters; setting one that the layer did not have comes here too."""
        raise FusedWeightsError(_refusal(f"The layer's {name} cannot be set"))

    def register_buffer(self, name: str, *arguments: object, **options: object) -> None:
        """Refuse new buffers."""
        raise FusedWeightsError(_refusal(f"The layer's {name} cannot be set"))

    def train(self, mode: bool = True) -> Self:
        """Refuse training mode; `eval()` changes nothing."""
        if mode:
            raise FusedWeightsError(_refusal("The layer cannot be trained"))
        return super().train(mode)

    def extra_repr(self) -> str:
        """Describe the layer as it was."""
        return f"{self.plain.extra_repr()}, fused"

    def check_apply(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Raise FusedWeightsError if a function of `nn.Module._apply`, a move or a cast, would change the tensors."""
        for tensor in self._originals.values():
            probe = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            if function(probe) is not probe:
                raise FusedWeightsError(_refusal("The network can be neither moved nor cast"))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        self.check_apply(fn)
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, *arguments: object) -> None:
        raise FusedWeightsError(_refusal("The network's weights cannot be saved"))

    def _load_from_state_dict(self, *arguments: object) -> None:
        raise FusedWeightsError(_refusal("No weights can be loaded into the network"))

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Copies and pickles are not fused."""
        return _blank, (type(self.plain),), self.plain.__reduce_ex__(protocol)[2]


def _blank(layer_class: type[nn.Module]) -> nn.Module:
    """What `copy` and `pickle` fill with the state of a layer."""
    return layer_class.__new__(layer_class)


class FusedConv2d(FusedLayer, nn.Conv2d):
    """A convolution that does what `conv_block` says, in one call; the norm after it is a `FusedNorm`."""

    plain: nn.Conv2d
    packed: torch.Tensor
    packed_bias: torch.Tensor | None
    norm: nn.BatchNorm2d | None

    def forward(self, x: torch.Tensor, slope: float | None = None) -> torch.Tensor:
        """Map [B, in, H, W] to [B, out, H', W'], with a leaky ReLU of this slope where one is given."""
        if not packing_applies(x):
            return conv_block(self.plain, x, self.norm, slope)
        activation = ("none", []) if slope is None else ("leaky_relu", [slope])
        geometry = self.padding, self.stride, self.dilation, self.groups
        return torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.packed_bias, *geometry, *activation, "")


class FusedNorm(FusedLayer):
    """Stands where a BatchNorm was that is in the convolution before it now."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Refuse to be called: the convolution before it does its work."""
        raise FusedWeightsError(_refusal("This BatchNorm is part of the convolution before it"))


class FusedModulatedConv2d(FusedLayer, ModulatedConv2d):
    """A modulated convolution of a map that is styled already; `modulation` and the filter stay as they are."""

    plain: ModulatedConv2d
    packed: torch.Tensor
    squares: torch.Tensor

    def convolve(self, x: torch.Tensor, style: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Convolve a styled map, and filter it where the layer upsamples; only where `packing_applies`.

        Returns:
            The map, and the demodulation [B, out] of the style [B, in], float32.
        """
        demodulation = torch.rsqrt((style.float() * self.weight_gain).square() @ self.squares.T + 1e-8)
        if self.blur is None:
            padding = [self.plain.weight.shape[-1] // 2] * 2
            convolve = torch.ops.mkldnn._convolution_pointwise
            return convolve(x, self.packed, None, padding, [1, 1], [1, 1], 1, "none", [], ""), demodulation
        convolve = torch.ops.mkldnn._convolution_transpose_pointwise
        x = convolve(x, self.packed, None, [0, 0], [0, 0], [2, 2], [1, 1], 1, "none", [], "")
        return self.blur(x, padding=1), demodulation

    def demodulation(self, style: torch.Tensor) -> torch.Tensor:
        """As the layer did before."""
        return self.plain.demodulation(style)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """As the layer did before."""
        return self.plain.forward(x, style)


# Fusing and undoing it.


class FusableConv(NamedTuple):
    """A convolution that can be fused, and the BatchNorm that follows it, if any."""

    conv: nn.Conv2d | ModulatedConv2d
    norm: nn.BatchNorm2d | None = None


@runtime_checkable
class FusableBlock(Protocol):
    """A module that names convolutions of its own which can be fused."""

    def fusable_convs(self) -> list[FusableConv]:
        """The convolutions, each with the BatchNorm that follows it."""


def _map_shapes(network: nn.Module, inputs: Sequence[torch.Tensor]) -> dict[str, list[int]]:
    """The shape of what each layer of a network gets, by the layer's name; nothing is computed."""
    tensors = {id(each): each.to("meta") for each in (*network.parameters(), *network.buffers())}
    twin = copy.deepcopy(network, cast("dict[int, Any]", tensors))
    shapes: dict[str, list[int]] = {}

    def note(name: str, layer_inputs: tuple[torch.Tensor, ...]) -> None:
        shapes[name] = list(layer_inputs[0].shape)

    for name, module in twin.named_modules():
        module._forward_hooks.clear()  # which are not ours, and expect numbers
        module._forward_pre_hooks.clear()
        if isinstance(module, nn.Conv2d | ModulatedConv2d):
            module.register_forward_pre_hook(lambda _, layer_inputs, name=name: note(name, layer_inputs))
    twin(*(each.to("meta") for each in inputs))
    return shapes


def _worthwhile(network: nn.Module, inputs: Sequence[torch.Tensor]) -> list[tuple[FusableConv, list[int]]]:
    """The convolutions that are to be fused, with the shapes of their maps."""
    shapes, names = _map_shapes(network, inputs), {module: name for name, module in network.named_modules()}
    blocks = [module for module in network.modules() if isinstance(module, FusableBlock)]
    fusable = [each for block in blocks for each in block.fusable_convs() if names[each.conv] in shapes]
    shaped = [(each, shapes[names[each.conv]]) for each in fusable]
    return [(each, shape) for each, shape in shaped if each.conv.weight.numel() >= math.prod(shape)]


def _packed_parts(fusable: FusableConv, shape: list[int]) -> dict[str, torch.Tensor | None]:
    """Attributes of the fused layer beside the tensors set aside; its weights are laid out for maps of a shape."""
    conv, norm = fusable
    if isinstance(conv, ModulatedConv2d):
        squares = conv.weight.float().square().sum(dim=(2, 3))
        if conv.blur is None:
            padding = (conv.weight.shape[-1] // 2,) * 2
            return {"packed": _packed(conv.weight, shape, (1, 1), padding), "squares": squares}
        reorder = torch.ops.mkldnn._reorder_convolution_transpose_weight
        inputs_first = conv.weight.transpose(0, 1).contiguous()
        return {"packed": reorder(inputs_first, [0, 0], [0, 0], [2, 2], [1, 1], 1, shape), "squares": squares}
    weight, bias, dtype = conv.weight, conv.bias, conv.weight.dtype
    if norm is not None:
        scale, shift = scale_and_shift(norm)
        bias = shift if bias is None else bias.float() * scale + shift
        weight = (weight.float() * scale[:, None, None, None]).to(dtype)
    assert not isinstance(conv.padding, str)  # the networks' convolutions give numbers
    packed = _packed(weight, shape, conv.stride, conv.padding)
    return {"packed": packed, "packed_bias": None if bias is None else bias.to(dtype, copy=True)}


def _packed(weight: torch.Tensor, shape: list[int], stride: tuple[int, ...], padding: tuple[int, ...]) -> torch.Tensor:
    geometry = list(padding), list(stride), [1, 1], 1
    # torch's own declaration lacks the last argument.
    return torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *geometry, shape)  # type: ignore[call-arg]


def _fuse(fusable: FusableConv, parts: dict[str, torch.Tensor | None]) -> None:
    conv, norm = fusable
    if isinstance(conv, ModulatedConv2d):
        _put_away(conv, FusedModulatedConv2d, **parts)
        return
    if norm is not None:
        _put_away(norm, FusedNorm)
    _put_away(conv, FusedConv2d, norm=None if norm is None else norm.plain, **parts)


def _put_away(layer: nn.Module, fused_class: type[FusedLayer], **parts: object) -> None:
    """Make a layer one of a fused class, in place: whoever holds it, or its tensors, cannot use them any more."""
    plain = copy.copy(layer)
    plain._parameters, plain._buffers = dict(layer._parameters), dict(layer._buffers)
    originals: dict[str, torch.Tensor] = {}
    for name, parameter in layer._parameters.items():
        if parameter is not None:
            originals[name] = parameter
            with_gradients = parameter.requires_grad and not parameter.is_inference()
            plain._parameters[name] = nn.Parameter(parameter.data, with_gradients)
    for name, buffer in layer._buffers.items():
        if buffer is not None:
            originals[name], plain._buffers[name] = buffer, buffer.data
    for tensor in originals.values():
        tensor.data = torch.empty(0, dtype=tensor.dtype)
    layer._parameters, layer._buffers = {}, {}
    layer.__class__ = fused_class
    # Past nn.Module's own __setattr__: nothing of this is a part of the network.
    vars(layer).update(plain=plain, _originals=originals, **parts)


def _bring_back(layer: FusedLayer) -> None:
    """Undo `_put_away`."""
    plain, originals = layer.plain, layer._originals
    for name, tensor in originals.items():
        if tensor.numel() == 0:  # else its holder gave it new values
            tensor.data = getattr(plain, name).data
    for name in ("plain", "_originals", "packed", "packed_bias", "norm", "squares"):
        vars(layer).pop(name, None)
    module: nn.Module = layer
    module.__class__ = type(plain)
    module._parameters.update({name: cast("nn.Parameter | None", originals.get(name)) for name in plain._parameters})
    module._buffers.update({name: originals.get(name) for name in plain._buffers})


def _refusal(what: str) -> str:
    return f"{what} while the convolutions are fused: call unfuse_convolutions() first."


# Networks.


MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def _refused_while_fused(method: MethodT, what: str) -> MethodT:
    """A method of `ModelMixin` that a fused network does not carry out, with its signature: pipelines look at it."""

    @wraps(method)
    def checked(self: FusableMixin, *arguments: Any, **options: Any) -> Any:
        self._refuse_if_fused(what)
        return method(self, *arguments, **options)

    return cast(MethodT, checked)


class FusableMixin(ModelMixin):
    """Gives a network `fuse_convolutions` and `unfuse_convolutions`, and what a fused one refuses."""

    @property
    def is_fused(self) -> bool:
        """Whether some of the convolutions are fused."""
        return any(True for _ in self._fused_layers())

    def check_fusable(self) -> None:
        """Raise SDICError, with the reason, if the convolutions cannot be fused now."""
        if self.dtype != torch.bfloat16 or self.device.type != "cpu":
            dtype = str(self.dtype).removeprefix("torch.")
            reason = f"it is {dtype} on {self.device.type}, but only bfloat16 on a CPU gains by it"
        elif not packing_supported():
            reason = "this CPU, or this build of torch, computes no bfloat16 with oneDNN"
        elif any(module.training for module in self.modules()):
            reason = "it is being trained, so call eval() first"
        elif any(hasattr(module, "_hf_hook") for module in self.modules()):
            reason = "accelerate's hooks (offloading, device maps) move its weights, so remove these first"
        else:
            return
        raise SDICError(f"The convolutions of {type(self).__name__} cannot be fused: {reason}.")

    @torch.no_grad()
    def fuse_convolutions(self, *inputs: torch.Tensor) -> None:
        """Fold BatchNorms into large convolutions before them, and pack the weights, until `unfuse_convolutions`.

        Results stay the same within the rounding of bfloat16. See `sdic_plugin.models.cpu.packing` for what a fused
        network refuses. Does nothing to a network that is fused already.

        Args:
            inputs: What the network gets for one photo of the usual size; the shapes alone count.

        Raises:
            SDICError: If that cannot be done, or would bring nothing.
        """
        self.check_fusable()
        if self.is_fused:
            return
        worthwhile = _worthwhile(self, inputs)
        packed = [_packed_parts(*each) for each in worthwhile]  # all of it first: a failure then changes nothing
        for (fusable, _), parts in zip(worthwhile, packed, strict=True):
            _fuse(fusable, parts)

    def unfuse_convolutions(self) -> None:
        """Bring every parameter back, as it was; does nothing to a network that is not fused."""
        for layer in list(self._fused_layers()):
            _bring_back(layer)

    def unfused_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value of every parameter and buffer, of fused layers as they were before; to be read only."""
        for path, module in self.named_modules():
            layer = module.plain if isinstance(module, FusedLayer) else module
            for name, tensor in (layer._parameters | layer._buffers).items():
                if tensor is not None:
                    yield f"{path}.{name}", tensor

    def _fused_layers(self) -> Iterator[FusedLayer]:
        return (module for module in self.modules() if isinstance(module, FusedLayer))

    def _refuse_if_fused(self, what: str) -> None:
        if self.is_fused:
            raise FusedWeightsError(_refusal(f"{type(self).__name__} cannot be {what}"))

    # Checked here as well as in the layers, so that nothing is half done.

    state_dict = _refused_while_fused(ModelMixin.state_dict, "saved")
    load_state_dict = _refused_while_fused(ModelMixin.load_state_dict, "loaded into")
    save_pretrained = _refused_while_fused(ModelMixin.save_pretrained, "saved")

    def train(self, mode: bool = True) -> Self:
        """As of `nn.Module`; refused while fused, but for `eval`."""
        if mode:
            self._refuse_if_fused("trained")
        return super().train(mode)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        for layer in self._fused_layers():
            layer.check_apply(fn)
        return super()._apply(fn, recurse)
