"""Small networks with random weights, for tests.

Every parameter that starts at zero or one is randomised, so that a test notices when one is left out or swapped. The
generator is larger (64) than the encoder's input (32), and no two neighbouring widths are equal, for the same reason.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sdic_plugin import (
    DICN,
    DIPN,
    E4EEncoder,
    FeatureTransport,
    SDICInversion,
    SDICPipeline,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)
from sdic_plugin.models.e4e_encoder import StyleHead
from sdic_plugin.models.irse import IRSEUnit
from sdic_plugin.models.layers import EqualizedConv2d, EqualizedLinear
from sdic_plugin.models.stylegan2 import StyledConv, ToRGB

CONFIGS = {
    "generator": {
        "resolution": 64,
        "style_width": 16,
        "mapping_layers": 2,
        "channels": {"4": 12, "8": 10, "16": 8, "32": 6, "64": 4},
        "feature_resolution": 8,
    },
    "encoder": {
        "image_size": 32,
        "num_styles": 10,
        "style_width": 16,
        "stage_channels": [4, 6, 8, 10],
        "stage_units": [1, 2, 1, 1],
        "head_channels": 6,
    },
    "dipn": {
        "branch_channels": [4, 6, 8, 10, 12],
        "matching_channels": 4,
        "volume_channels": [2, 4, 6, 8],
        "head_channels": 4,
    },
    "dicn": {
        "feature_channels": 10,
        "num_styles": 10,
        "style_width": 16,
        "condition_channels": 4,
        "condition_size": 8,
        "stem_channels": [4, 6],
        "strides": [2, 2],
    },
    "discriminator": {"resolution": 32, "channels": {"4": 12, "8": 10, "16": 8, "32": 6}},
    "transport": {"feature_channels": 10, "blocks": 1, "channels": 6},
}
TRAINED_COMPENSATION = {
    "branch_channels": [8, 8, 8, 8, 8],
    "matching_channels": 4,
    "volume_channels": [4, 4, 4, 4],
    "head_channels": 4,
    "condition_channels": 2,
    "condition_size": 16,
}
"""Settings of a DIPN and DICN that train in seconds, for styles 16 wide."""
CLASSES = {
    "generator": StyleGAN2Generator,
    "encoder": E4EEncoder,
    "dipn": DIPN,
    "dicn": DICN,
    "discriminator": StyleGAN2Discriminator,
    "transport": FeatureTransport,
}
DEPTH = {
    "residual_blocks": 1,
    "residual_channels": 6,
    "second_look_blocks": 1,
    "second_look_channels": 8,
    "second_looks": 2,
}
"""What a DICN has beyond the paper."""
COMPONENTS = ("encoder", "dipn", "dicn", "generator")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def make_model(name: str, seed: int = 0, **changes: object) -> nn.Module:
    """Build one network from its tiny configuration, with some values changed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLASSES[name](**{**CONFIGS[name], **changes})
        randomise(model)
        if name in ("encoder", "dipn", "dicn") and not changes:
            calibrate(model, name)
    return model.eval()


def make_pipeline(seed: int = 0, content_rows: list[int] | None = None, **options: object) -> SDICPipeline:
    """Build a pipeline of tiny networks."""
    generator = make_model("generator", seed, content_rows=content_rows, generator_id="tiny")
    others = {name: make_model(name, seed) for name in ("encoder", "dipn", "dicn")}
    return SDICPipeline(generator=generator, **others, **options)


def make_deep_pipeline(seed: int = 0, content_rows: list[int] | None = None, **options: object) -> SDICPipeline:
    """Build a pipeline with everything that goes beyond the paper."""
    pipe = make_pipeline(seed, content_rows, **options)
    dicn, transport = make_model("dicn", seed, **DEPTH), make_model("transport", seed)
    return SDICPipeline(**{**pipe.components, "dicn": dicn, "transport": transport}, **options)


def example_inputs(name: str, batch: int = 2) -> tuple[torch.Tensor, ...]:
    """Random inputs of the tiny network of that name, always the same."""
    rng = torch.Generator().manual_seed(1)
    image, initial = torch.randn(2, batch, 3, 32, 32, generator=rng).clamp(-1, 1)
    latents, features = torch.randn(batch, 10, 16, generator=rng), torch.randn(batch, 10, 8, 8, generator=rng)
    return {
        "generator": (latents,),
        "encoder": (image,),
        "dipn": (image, initial),
        "dicn": (image, features, latents),
        "discriminator": (image,),
        "transport": (features, features.flip(0), features.roll(1, dims=2)),
    }[name]


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Give random values to everything that starts at a constant."""
    for module in model.modules():
        if isinstance(module, NORMS):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
        elif isinstance(module, nn.PReLU):
            module.weight.uniform_(0.1, 0.5)
        elif isinstance(module, CONVOLUTIONS):
            # PyTorch's default fades out in a deep stack: the networks would hardly depend on their input.
            fan_in = module.in_channels * module.weight[0, 0].numel()
            module.weight.normal_(0, math.sqrt(2 / fan_in))
        elif isinstance(module, EqualizedLinear | EqualizedConv2d) and module.bias is not None:
            module.bias.add_(torch.randn_like(module.bias), alpha=0.1)
        elif isinstance(module, StyledConv):
            module.noise_strength.uniform_(0.2, 0.5)
            module.bias.normal_(0, 0.1)
        elif isinstance(module, ToRGB):
            # Most pixels must lie within [-1, 1], where clamping hides nothing, and some beyond.
            module.conv.weight.mul_(0.4)
            module.bias.normal_(0, 0.1)
        if isinstance(module, DICN):
            for last in (module.features.semantic[-1], module.latents.scale[-1], module.latents.shift[-1]):
                last.weight.mul_(0.2)
        if isinstance(module, StyleHead):
            module.linear.weight.mul_(0.4)
    for module in model.modules():
        if isinstance(module, IRSEUnit) and module.squeeze_excitation is not None:
            # With one hidden unit, an unlucky sign would cut the attention out of the network.
            module.squeeze_excitation.fc1.weight.abs_()
            module.norm2.bias.add_(0.5)
    for name, tensor in model.named_buffers():
        if name in ("w_avg", "latent_avg"):
            tensor.normal_()


@torch.no_grad()
def calibrate(model: nn.Module, name: str) -> None:
    """Fit the running statistics to random inputs, then change them.

    So signals neither fade out on their way through the network nor blow rounding errors up.
    """
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    for norm in norms:
        norm.momentum = 1.0  # forget what was there
    model.train()(*example_inputs(name, batch=4))
    for norm in norms:
        norm.momentum = 0.1
        norm.running_mean.add_(torch.randn_like(norm.running_mean), alpha=0.1)
        norm.running_var.mul_(torch.rand_like(norm.running_var) + 1.0)


# Looking into a pipeline.


def render(pipe: SDICPipeline, latents: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
    """The generator's image in [0, 1], by hand."""
    with torch.no_grad():
        return (pipe.generator(latents, features=features).image / 2 + 0.5).clamp(0, 1)


def hook_features(pipe: SDICPipeline, latents: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return pipe.generator(latents).features


def pixels(pipe: SDICPipeline, inversion: SDICInversion, **options: object) -> torch.Tensor:
    return pipe.edit(inversion, output_type="pt", **options).images


def continued_features(pipe: SDICPipeline, inversion: SDICInversion, **options: object) -> torch.Tensor:
    """What the layer after the hook really received."""
    seen = []
    handle = pipe.generator.blocks[1].conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pipe.edit(inversion, output_type="pt", **options)
    handle.remove()
    return torch.cat(seen)


def count_calls(pipe: SDICPipeline) -> dict[str, int]:
    counts = dict.fromkeys(COMPONENTS, 0)

    def counter(name: str):
        def add(*_: object) -> None:
            counts[name] += 1

        return add

    for name in COMPONENTS:
        getattr(pipe, name).register_forward_hook(counter(name))
    return counts


def make_smallest_pipeline(content_rows: list[int] | None = None) -> SDICPipeline:
    """A pipeline of as few layers as its classes allow, for what costs time per layer."""
    sizes = {"resolution": 8, "channels": {"4": 12, "8": 10}, "mapping_layers": 1, "content_rows": content_rows}
    return SDICPipeline(
        generator=make_model("generator", generator_id="smallest", **sizes),
        encoder=make_model("encoder", num_styles=4, stage_units=[1, 1, 1, 1]),
        dipn=make_model("dipn"),
        dicn=make_model("dicn", num_styles=4),
    )


HALF_PRECISIONS = [
    "bf16",
    pytest.param(
        "fp16",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")],
    ),
]
"""Values of `mixed_precision` that this machine trains in."""
