"""Small NVlabs pickles: the structure of stylegan2-ada-pytorch's files, made with networks written for these tests.

`torch_utils.persistence` objects are reduced to their class's source text and attributes; here the source text is a
trap, for nobody may run it. The networks' forward passes follow the published definition (zero insertion, filter, true
convolution, weights modulated per sample), not the way our layers compute.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

Z = 16
CHANNELS = {4: 12, 8: 10, 16: 8, 32: 6}


class EasyDict(dict):
    """A dict subclass under the name `dnnlib.util.EasyDict`."""


EasyDict.__module__ = "dnnlib.util"


def _reconstruct_persistent_obj(meta: dict) -> object:
    raise AssertionError("nobody calls this here")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent(nn.Module):
    """A module that is pickled as NVlabs' persistent objects are."""

    module_src = "raise SystemExit('the code of a pickle was run')"

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()
        self._init_args, self._init_kwargs = args, EasyDict(kwargs)

    def __reduce__(self) -> tuple:
        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.module_src,
            "class_name": type(self).__name__,
            "state": dict(self.__dict__),
        }
        return _reconstruct_persistent_obj, (meta,), None


def fir() -> torch.Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64


def filtered(x: torch.Tensor, kernel: torch.Tensor, up: int, padding: tuple[int, int], gain: float) -> torch.Tensor:
    """Insert zeros, pad, filter."""
    batch, channels, height, width = x.shape
    wide = x.new_zeros(batch, channels, height * up, width * up)
    wide[:, :, ::up, ::up] = x
    wide = F.pad(wide, (*padding, *padding))
    return F.conv2d(wide, kernel.expand(channels, 1, 4, 4) * gain, groups=channels)


def lrelu(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


class FullyConnectedLayer(Persistent):
    def __init__(self, inputs: int, outputs: int, activation: str = "linear", lr_multiplier: float = 1, bias=0.0):
        super().__init__(inputs, outputs)
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias) + 0.1 * torch.randn(outputs) / lr_multiplier)
        self.weight_gain = lr_multiplier / np.sqrt(inputs)
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x @ (self.weight * float(self.weight_gain)).T + self.bias * self.bias_gain
        return lrelu(x) if self.activation == "lrelu" else x


class MappingNetwork(Persistent):
    def __init__(self, c_dim: int, num_layers: int, lr_multiplier: float = 0.01) -> None:
        super().__init__(c_dim=c_dim)
        self.z_dim, self.c_dim, self.w_dim, self.num_layers = Z, c_dim, Z, num_layers
        if c_dim:
            self.embed = FullyConnectedLayer(c_dim, Z)
        for i in range(num_layers):
            inputs = Z * (2 if c_dim and i == 0 else 1)
            setattr(self, f"fc{i}", FullyConnectedLayer(inputs, Z, "lrelu", lr_multiplier))
        self.register_buffer("w_avg", torch.randn(Z))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        return x


class SynthesisLayer(Persistent):
    def __init__(self, inputs: int, outputs: int, resolution: int, up: int) -> None:
        super().__init__(inputs, outputs, resolution=resolution, up=up)
        self.resolution, self.up, self.use_noise, self.activation, self.conv_clamp = resolution, up, True, "lrelu", 256
        self.register_buffer("resample_filter", fir())
        self.act_gain = np.sqrt(2)
        self.affine = FullyConnectedLayer(Z, inputs, bias=1.0)
        # Memory that is not contiguous, as NVlabs' own for half precision.
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3).to(memory_format=torch.channels_last))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.tensor(0.3))
        self.bias = nn.Parameter(0.1 * torch.randn(outputs))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        weight = self.weight[None] * self.affine(w)[:, None, :, None, None]
        weight = weight / (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
        rows = []
        for sample, own in zip(x, weight, strict=True):
            if self.up == 2:
                wide = filtered(sample[None], self.resample_filter, 2, (3, 2), 4)
                rows.append(F.conv2d(wide, own.flip(2, 3)))
            else:
                rows.append(F.conv2d(sample[None], own, padding=1))
        noise = self.noise_const * self.noise_strength
        return lrelu(torch.cat(rows) + noise + self.bias[:, None, None])


class ToRGBLayer(Persistent):
    def __init__(self, inputs: int) -> None:
        super().__init__(inputs)
        self.affine = FullyConnectedLayer(Z, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(0.1 * torch.randn(3))
        self.weight_gain = 1 / np.sqrt(inputs)

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        styles = self.affine(w) * float(self.weight_gain)
        return torch.einsum("bihw,oi,bi->bohw", x, self.weight[:, :, 0, 0], styles) + self.bias[:, None, None]


class SynthesisBlock(Persistent):
    def __init__(self, resolution: int, architecture: str) -> None:
        super().__init__(resolution)
        self.resolution, self.architecture, self.img_channels = resolution, architecture, 3
        self.register_buffer("resample_filter", fir())
        outputs = CHANNELS[resolution]
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(outputs, 4, 4))
        else:
            self.conv0 = SynthesisLayer(CHANNELS[resolution // 2], outputs, resolution, 2)
        self.conv1 = SynthesisLayer(outputs, outputs, resolution, 1)
        self.torgb = ToRGBLayer(outputs)


class SynthesisNetwork(Persistent):
    def __init__(self, architecture: str) -> None:
        super().__init__()
        self.w_dim, self.img_resolution, self.img_channels = Z, max(CHANNELS), 3
        self.block_resolutions = list(CHANNELS)
        for resolution in CHANNELS:
            setattr(self, f"b{resolution}", SynthesisBlock(resolution, architecture))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        x, image, row = None, None, 0
        for resolution in CHANNELS:
            block = getattr(self, f"b{resolution}")
            if resolution == 4:
                x = block.const.expand(len(latents), -1, -1, -1)
            else:
                x, row = block.conv0(x, latents[:, row]), row + 1
            x, row = block.conv1(x, latents[:, row]), row + 1
            rgb = block.torgb(x, latents[:, row])
            image = rgb if image is None else rgb + filtered(image, block.resample_filter, 2, (2, 1), 4)
        return image


class Generator(Persistent):
    def __init__(self, c_dim: int = 0, num_layers: int = 2, architecture: str = "skip", lr_multiplier: float = 0.01):
        super().__init__(c_dim=c_dim, mapping_kwargs=EasyDict(num_layers=num_layers))
        self.z_dim, self.c_dim, self.w_dim, self.img_resolution, self.img_channels = Z, c_dim, Z, max(CHANNELS), 3
        self.synthesis = SynthesisNetwork(architecture)
        self.num_ws = 2 * len(CHANNELS)
        self.mapping = MappingNetwork(c_dim, num_layers, lr_multiplier)


class Conv2dLayer(Persistent):
    def __init__(self, inputs: int, outputs: int, kernel: int, down: int = 1, bias=True, activation="lrelu") -> None:
        super().__init__(inputs, outputs)
        self.activation, self.down, self.kernel = activation, down, kernel
        self.register_buffer("resample_filter", fir())
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(0.1 * torch.randn(outputs)) if bias else None
        self.weight_gain = 1 / np.sqrt(inputs * kernel**2)

    def forward(self, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        weight = self.weight * float(self.weight_gain)
        if self.down == 2:
            padding = 2 if self.kernel == 3 else 1
            x = F.conv2d(filtered(x, self.resample_filter, 1, (padding, padding), 1), weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=self.kernel // 2)
        if self.bias is not None:
            x = x + self.bias[:, None, None]
        return (lrelu(x) if self.activation == "lrelu" else x) * gain


class DiscriminatorBlock(Persistent):
    def __init__(self, resolution: int) -> None:
        super().__init__(resolution)
        self.architecture, self.img_channels = "resnet", 3
        self.register_buffer("resample_filter", fir())
        inputs, outputs = CHANNELS[resolution], CHANNELS[resolution // 2]
        if resolution == max(CHANNELS):
            self.fromrgb = Conv2dLayer(3, inputs, 1)
        self.conv0 = Conv2dLayer(inputs, inputs, 3)
        self.conv1 = Conv2dLayer(inputs, outputs, 3, down=2)
        self.skip = Conv2dLayer(inputs, outputs, 1, down=2, bias=False, activation="linear")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "fromrgb"):
            x = self.fromrgb(x)
        skip = self.skip(x, math.sqrt(0.5))
        return skip + self.conv1(self.conv0(x), math.sqrt(0.5))


class MinibatchStdLayer(Persistent):
    def __init__(self) -> None:
        super().__init__()
        self.group_size, self.num_channels = 4, 1


class DiscriminatorEpilogue(Persistent):
    def __init__(self) -> None:
        super().__init__()
        self.resolution, self.img_channels, self.architecture = 4, 3, "resnet"
        self.mbstd = MinibatchStdLayer()
        self.conv = Conv2dLayer(CHANNELS[4] + 1, CHANNELS[4], 3)
        self.fc = FullyConnectedLayer(CHANNELS[4] * 16, CHANNELS[4], "lrelu")
        self.out = FullyConnectedLayer(CHANNELS[4], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One group of the whole batch, of up to four."""
        deviation = (x.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], dim=1)
        return self.out(self.fc(self.conv(x).flatten(1)))


class Discriminator(Persistent):
    def __init__(self, c_dim: int = 0) -> None:
        super().__init__(c_dim=c_dim)
        self.c_dim, self.img_resolution, self.img_channels = c_dim, max(CHANNELS), 3
        for resolution in list(CHANNELS)[:0:-1]:
            setattr(self, f"b{resolution}", DiscriminatorBlock(resolution))
        if c_dim:
            self.mapping = MappingNetwork(c_dim, 2)
        self.b4 = DiscriminatorEpilogue()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for resolution in list(CHANNELS)[:0:-1]:
            x = getattr(self, f"b{resolution}")(x)
        return self.b4(x)


class AugmentPipe(Persistent):
    def __init__(self) -> None:
        super().__init__(xflip=1)
        self.register_buffer("p", torch.ones([]))


def make(network: type[Persistent], seed: int = 0, **options: object) -> Persistent:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return network(**options).eval().requires_grad_(False)


@contextlib.contextmanager
def modules() -> Iterator[None]:
    """The modules by whose names such a pickle is written, while it is written."""
    made = {
        name: types.ModuleType(name) for name in ("dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence")
    }
    made["dnnlib.util"].EasyDict = EasyDict
    made["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def dumps(content: object, protocol: int | None = None) -> bytes:
    with modules():
        return pickle.dumps(content, protocol)


def save(path: Path, protocol: int | None = None, **entries: object) -> Path:
    path.write_bytes(dumps(entries, protocol))
    return path


def snapshot(**changes: object) -> dict[str, object]:
    """The entries of a file as training writes them."""
    return {
        "training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", resolution=32),
        "G": make(Generator, 1),
        "D": make(Discriminator, 2),
        "G_ema": make(Generator, 3),
        "augment_pipe": make(AugmentPipe),
        **changes,
    }
