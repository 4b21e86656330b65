from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from testing.tiny_models import make_model

from sdic_plugin import SDICError, StyleGAN2Generator
from sdic_plugin.models.layers import FIRFilter, ModulatedConv2d, scaled_leaky_relu
from sdic_plugin.models.stylegan2 import StyledConv, channel_table, num_styles_of
from sdic_plugin.utils.seeds import seeded_rng


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found.detach().float() - wanted.detach().float()).norm() / wanted.detach().float().norm())


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Building blocks, against formulas written out.


def insert_zeros(x: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = x.shape
    wide = x.new_zeros(batch, channels, 2 * height, 2 * width)
    wide[:, :, ::2, ::2] = x
    return wide


def fir(x: torch.Tensor, before: int, after: int, gain: float) -> torch.Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    x = F.pad(x, (before, after, before, after))
    rows = sum(taps[i] * x[:, :, i : x.shape[2] - 3 + i] for i in range(4))
    return gain * sum(taps[i] * rows[:, :, :, i : x.shape[3] - 3 + i] for i in range(4))


def modulated_weights(layer: ModulatedConv2d, style: torch.Tensor) -> torch.Tensor:
    """Weights of every sample, [B, out, in, k, k]."""
    weight = layer.weight / math.sqrt(layer.weight[0].numel()) * style[:, None, :, None, None]
    if layer.demodulate:
        weight = weight / (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    return weight


def straightforward(layer: ModulatedConv2d, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """A group of weights per sample; upsampling by explicit zeros and a correlation with the mirrored kernel."""
    weight, batch = modulated_weights(layer, style), len(x)
    if layer.blur is None:
        padding = weight.shape[-1] // 2
    else:
        x, weight, padding = insert_zeros(x)[:, :, :-1, :-1], weight.flip(3, 4), 2
    merged = x.reshape(1, -1, *x.shape[2:])
    out = F.conv2d(merged, weight.flatten(0, 1), padding=padding, groups=batch)
    out = out.reshape(batch, -1, *out.shape[2:])
    return out if layer.blur is None else fir(out, 1, 1, gain=4)


@pytest.mark.parametrize(
    ("kernel_size", "demodulate", "upsample"),
    [(3, True, False), (3, True, True), (3, False, False), (3, False, True), (1, False, False)],
)
def test_modulated_convolution_equals_weights_per_sample(kernel_size, demodulate, upsample):
    torch.manual_seed(0)
    layer = ModulatedConv2d(5, 7, kernel_size, 6, demodulate=demodulate, upsample=upsample)
    x, style = random(3, 5, 8, 6), random(3, 5, seed=1)
    wanted = straightforward(layer, x, style)
    assert wanted.shape[2:] == ((16, 12) if upsample else (8, 6))
    torch.testing.assert_close(layer(x, style), wanted, rtol=1e-4, atol=1e-5)


def test_demodulation_in_float16_survives_large_styles():
    torch.manual_seed(0)
    layer = ModulatedConv2d(64, 4, 3, 6)
    x, style = 100 * random(2, 64, 8, 8), 3000 * random(2, 64, seed=1)
    wanted = layer(x, style)
    found = layer.half()(x.half(), style)
    assert found.dtype == torch.float16
    assert relative_error(found, wanted) < 0.01


def test_fir_filter_equals_the_sum_over_its_taps():
    x = random(2, 3, 6, 8)
    torch.testing.assert_close(FIRFilter()(x, padding=1), fir(x, 1, 1, gain=1))
    torch.testing.assert_close(FIRFilter()(x, padding=2), fir(x, 2, 2, gain=1))
    torch.testing.assert_close(FIRFilter(gain=4.0).upsample(x), fir(insert_zeros(x), 2, 1, gain=4))


def test_styled_convolution_adds_noise_then_bias_then_activates():
    torch.manual_seed(0)
    layer = StyledConv(4, 5, 6, 8, upsample=False)
    with torch.no_grad():
        layer.noise_strength.fill_(0.7)
        layer.bias.normal_()
    x, style, noise = random(2, 4, 8, 8), random(2, 6, seed=1), random(1, 1, 8, 8, seed=2)
    before = layer.conv(x, layer.conv.modulation(style)) + 0.7 * noise + layer.bias[:, None, None]
    wanted = torch.where(before > 0, before, 0.2 * before) * math.sqrt(2)
    torch.testing.assert_close(layer(x, layer.conv.modulation(style), noise), wanted)
    assert torch.equal(scaled_leaky_relu(before), layer(x, layer.conv.modulation(style), noise))


# Generator.


@pytest.mark.parametrize(
    ("resolution", "style_width", "mapping_layers", "feature_resolution"),
    [(8, 8, 1, 8), (32, 16, 8, 32), (32, 12, 2, 8), (64, 16, 4, 16), (128, 8, 3, 64)],
)
def test_generator_of_any_geometry(resolution, style_width, mapping_layers, feature_resolution):
    channels = {str(2**i): 20 - 2 * i for i in range(2, int(math.log2(resolution)) + 1)}
    generator = make_model(
        "generator",
        resolution=resolution,
        style_width=style_width,
        mapping_layers=mapping_layers,
        channels=channels,
        feature_resolution=feature_resolution,
    )
    assert generator.num_styles == 2 * int(math.log2(resolution)) - 2
    assert generator.feature_channels == channels[str(feature_resolution)]
    assert len(generator.mapping_network.layers) == mapping_layers
    with torch.no_grad():
        found = generator(generator.broadcast(generator.mapping(random(2, style_width))))
    assert found.image.shape == (2, 3, resolution, resolution)
    assert found.features.shape == (2, generator.feature_channels, feature_resolution, feature_resolution)


def test_published_channel_tables():
    assert channel_table(1024) == {
        4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32
    }  # fmt: skip
    assert channel_table(64, multiplier=1) == {4: 512, 8: 512, 16: 512, 32: 512, 64: 256}
    assert [num_styles_of(resolution) for resolution in (64, 256, 512, 1024)] == [10, 14, 16, 18]


def test_mapping_is_pixel_norm_and_equalised_layers():
    generator = make_model("generator")
    x = random(3, 16)
    found = generator.mapping(x)
    x = x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for layer in generator.mapping_network.layers:
        x = x @ (layer.weight * 0.01 / math.sqrt(16)).T + layer.bias * 0.01
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    torch.testing.assert_close(found, x)


def test_mapping_and_modulation_stay_in_float32_under_autocast():
    generator, z = make_model("generator"), random(2, 16)
    with torch.no_grad():
        w = generator.mapping(z)
        styles = generator.styles(generator.broadcast(w))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(generator.mapping(z), w)
            found = generator.styles(generator.broadcast(w))
            features = generator(generator.broadcast(w)).features
    assert all(torch.equal(one, other) for one, other in zip(found, styles, strict=True))
    assert features.dtype == torch.bfloat16


def test_truncation_pulls_towards_the_mean():
    generator, z = make_model("generator"), random(2, 16)
    w = generator.mapping(z)
    assert torch.equal(generator.mapping(z, truncation=1.0), w)
    assert torch.equal(generator.mapping(z, truncation=0.0), generator.w_avg.expand(2, -1))
    wanted = generator.w_avg + 0.7 * (w - generator.w_avg)
    torch.testing.assert_close(generator.mapping(z, truncation=0.7), wanted)


def test_mean_w_is_that_of_ten_thousand_samples():
    generator = make_model("generator")
    found = generator.estimate_w_avg().clone()
    z = torch.randn(10_000, 16, generator=seeded_rng(0))
    torch.testing.assert_close(found, generator.mapping(z).mean(dim=0))
    assert torch.equal(generator.state_dict()["w_avg"], found)
    assert not torch.equal(generator.estimate_w_avg(seed=1), found)


def forward_counts(generator: StyleGAN2Generator) -> dict[str, int]:
    counts = dict.fromkeys((name for name, module in generator.named_modules() if isinstance(module, StyledConv)), 0)

    def count(name: str):
        def add(*_: object) -> None:
            counts[name] += 1

        return add

    for name in counts:
        generator.get_submodule(name).register_forward_hook(count(name))
    return counts


@torch.no_grad()
def test_hook_is_the_upsampling_convolution_of_its_block():
    generator, latents = make_model("generator", feature_resolution=16), random(2, 10, 16)
    seen = []
    generator.blocks[2].up_conv.register_forward_hook(lambda *parts: seen.append(parts[2]))
    assert torch.equal(generator(latents).features, seen[0])


@torch.no_grad()
def test_features_are_read_replaced_and_computed_in_one_pass():
    generator, latents = make_model("generator"), random(2, 10, 16)
    plain = generator(latents)
    counts, given = forward_counts(generator), []

    def double(features: torch.Tensor) -> torch.Tensor:
        given.append(features)
        return 2 * features

    doubled = generator(latents, features=double)
    assert set(counts.values()) == {1}
    assert torch.equal(given[0], plain.features)
    # What is read is what was computed, not what went on.
    assert torch.equal(doubled.features, plain.features)
    assert torch.equal(doubled.image, generator(latents, features=2 * plain.features).image)
    assert not torch.allclose(doubled.image, plain.image, atol=1e-2)
    assert torch.equal(generator(latents, features=lambda features: features).image, plain.image)


@torch.no_grad()
def test_replaced_features_go_on_into_the_second_convolution():
    generator, latents, features = make_model("generator"), random(2, 10, 16), random(2, 10, 8, 8, seed=5)
    seen = []
    generator.blocks[1].conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    generator(latents, features=features)
    assert torch.equal(seen[0], features)


@torch.no_grad()
def test_stopping_at_the_features_computes_nothing_after_them():
    generator, latents = make_model("generator"), random(2, 10, 16)
    wanted, counts = generator(latents).features, forward_counts(generator)
    found = generator(latents, stop_at_features=True)
    assert found.image is None
    assert torch.equal(found.features, wanted)
    assert {name for name, count in counts.items() if count} == {"blocks.0.conv", "blocks.1.up_conv"}
    assert generator(latents, stop_at_features=True, return_dict=False)[0] is None


@torch.no_grad()
def test_noise_is_fixed_random_given_or_none():
    generator, latents = make_model("generator"), random(2, 10, 16)
    fixed = generator(latents).image
    assert torch.equal(generator(latents, noise="fixed").image, fixed)
    maps = [layer.noise for block in generator.blocks for layer in block.styled_convs()]
    assert torch.equal(generator(latents, noise=maps).image, fixed)
    per_image = [torch.cat([noise, -noise]) for noise in maps]
    found = generator(latents, noise=per_image).image
    torch.testing.assert_close(found[:1], fixed[:1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[1], fixed[1], atol=1e-2)
    none = generator(latents, noise="none").image
    assert not torch.allclose(none, fixed, atol=1e-2)
    for layer in (layer for block in generator.blocks for layer in block.styled_convs()):
        layer.noise_strength.zero_()
    assert torch.equal(generator(latents).image, none)


@torch.no_grad()
def test_random_noise_is_reproducible_and_differs_between_images():
    generator, latents = make_model("generator"), random(1, 10, 16).expand(2, -1, -1)
    draw = [generator(latents, noise="random", rng=torch.Generator().manual_seed(seed)).image for seed in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.allclose(draw[0], draw[2], atol=1e-2)
    assert not torch.allclose(draw[0][0], draw[0][1], atol=1e-2)
    assert not torch.equal(generator(latents, noise="random").image, generator(latents, noise="random").image)


@torch.no_grad()
def test_stylespace_renders_what_its_latents_render():
    generator, latents = make_model("generator"), random(2, 10, 16)
    styles = generator.styles(latents)
    # Inputs of every modulated layer: per block its styled convolutions, then ToRGB.
    assert [style.shape[1] for style in styles] == [12, 12, 12, 10, 10, 10, 8, 8, 8, 6, 6, 6, 4, 4]
    assert all(style.dtype == torch.float32 for style in styles)
    assert torch.equal(generator(styles=styles).image, generator(latents).image)


@torch.no_grad()
def test_every_layer_reads_its_own_row_of_the_latents():
    generator, latents = make_model("generator"), random(1, 10, 16)
    rows = [0, 1]
    for k in range(4):
        rows += [2 * k + 1, 2 * k + 2, 2 * k + 3]
    base = generator.styles(latents)
    for row in range(10):
        changed = latents.clone()
        changed[:, row] += 1
        moved = [not torch.equal(one, other) for one, other in zip(generator.styles(changed), base, strict=True)]
        assert moved == [layer_row == row for layer_row in rows]


@pytest.mark.parametrize("shape", [(2, 16), (2, 9, 16), (2, 10, 12)])
def test_latents_of_another_shape_are_refused(shape):
    generator = make_model("generator")
    with pytest.raises(SDICError, match=r"needs \[batch, 10, 16\]") as error:
        generator(torch.zeros(shape))
    assert str(list(shape)) in str(error.value)


def test_missing_latents_short_stylespace_and_odd_noise_are_refused():
    generator, latents = make_model("generator"), random(1, 10, 16)
    with pytest.raises(SDICError, match="latents of shape nothing"):
        generator()
    with pytest.raises(SDICError, match="13 styles, but has 14"):
        generator(styles=generator.styles(latents)[:-1])
    with pytest.raises(SDICError, match="2 noise maps were given, but this generator has 9"):
        generator(latents, noise=[torch.zeros(1, 1, 4, 4)] * 2)
    with pytest.raises(SDICError, match="noise='loud' is unknown"):
        generator(latents, noise="loud")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "The resolution is 48"),
        ({"resolution": 4}, "The resolution is 4"),
        ({"channels": {"4": 8, "8": 8, "32": 8}}, r"lacks the resolutions \[16, 64\]"),
        ({"feature_resolution": 4}, "feature_resolution is 4"),
        ({"feature_resolution": 128}, "feature_resolution is 128"),
        ({"content_rows": [4, 56]}, r"content_rows is \[4, 56\].*multiples of 8"),
        ({"content_rows": [8, 48]}, "5 rows of the feature map, but their number must be even"),
        ({"content_rows": [32, 32]}, "content_rows"),
        ({"content_rows": [8, 72]}, "content_rows"),
    ],
)
def test_impossible_generators_are_refused(changes, message):
    with pytest.raises(SDICError, match=message):
        make_model("generator", **changes)
